"""Claims, leases and fences on a real mongod."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from pymongo.errors import PyMongoError

from shared.deadline import Deadline
from shared.domain.jobs import to_datetime
from shared.errors import LeaseLost
from shared.stores.job_leases import Claim
from shared.wiring import Platform
from tests.factories import add_connector, add_job, claim

SYMBOLS = [f"C{index}/USDT" for index in range(40)]


@pytest.fixture(autouse=True)
def connector(platform: Platform) -> None:
    add_connector(platform)


def now() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=1)


def due_ids(platform: Platform, at: datetime, limit: int) -> list[str]:
    return [job.job_id for job in platform.leases.list_due("binance", at, limit)]


def finish(platform: Platform, job_id: str, fence: int, next_run_at: datetime) -> None:
    """The last write of a run."""
    platform.database.transact(
        lambda session: platform.leases.finish(
            job_id, fence, status=None, next_run_at=next_run_at, attempt=0, last_error=None,
            cursor=None, added={}, facts={}, session=session,
        )
    )  # fmt: skip


def expire(platform: Platform, job_id: str) -> None:
    """As if the lease's time had passed."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    platform.database.collection("jobs").update_one({"_id": job_id}, {"$set": {"lock.expires_at": past, "next_run_at": past}})


def test_forty_threads_claim_each_job_once(platform: Platform) -> None:
    job_ids = [add_job(platform, symbol) for symbol in SYMBOLS]
    claims: list[Claim] = []
    lock = threading.Lock()

    def work() -> None:
        mine = platform.leases.claim(platform.leases.list_due("binance", now(), 40), "thread", 60_000)
        with lock:
            claims.extend(mine)

    threads = [threading.Thread(target=work) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed.job_id for claimed in claims) == sorted(job_ids)
    assert {claimed.fence for claimed in claims} == {1}


def test_a_claimed_job_is_not_due_and_falls_due_when_its_lease_ends(platform: Platform) -> None:
    job_id = add_job(platform)
    claim(platform, job_id, lease_ms=60_000)
    assert due_ids(platform, now(), 10) == []
    assert not platform.leases.has_due(now())
    assert due_ids(platform, now() + timedelta(seconds=61), 10) == [job_id]


@pytest.mark.usefixtures("endless_transactions")
def test_a_transaction_that_a_dead_worker_left_open_does_not_hold_up_who_takes_over(platform: Platform) -> None:
    job_id = add_job(platform)
    dead = claim(platform, job_id)
    with platform.database.open_session() as session:
        platform.leases.begin(job_id, dead.fence, f"{job_id}#1", 60_000, session.session_id["id"])
        expire(platform, job_id)
        session.start_transaction()
        platform.leases.record_page(job_id, dead.fence, cursor=now(), added={}, lease_ms=60_000, session=session)
        # The document as it was committed last: due, and held by a transaction that nobody will end.
        (taken,) = platform.leases.claim(platform.leases.list_due("binance", now(), 10), "next", 60_000)
        assert taken.fence == dead.fence + 1
        with pytest.raises(PyMongoError):
            session.commit_transaction()
    assert platform.jobs.get(job_id)["cursor"]["last_ts"] is None


def test_a_claim_can_be_begun_once(platform: Platform) -> None:
    job_id = add_job(platform)
    claimed = claim(platform, job_id)
    platform.leases.begin(job_id, claimed.fence, "run", 60_000)
    with pytest.raises(LeaseLost):
        platform.leases.begin(job_id, claimed.fence, "run", 60_000)


def test_an_overtaken_worker_can_write_nothing(platform: Platform) -> None:
    job_id = add_job(platform)
    old = claim(platform, job_id)
    platform.leases.begin(job_id, old.fence, "old", 60_000)
    expire(platform, job_id)
    new = claim(platform, job_id)
    assert new.fence == old.fence + 1
    with pytest.raises(LeaseLost):
        platform.database.transact(
            lambda session: platform.leases.record_page(
                job_id, old.fence, cursor=now(), added={}, lease_ms=60_000, session=session
            )
        )
    assert not platform.leases.give_back(job_id, old.fence, 0)
    assert platform.jobs.get(job_id)["cursor"]["last_ts"] is None


def test_a_claim_given_back_is_due_again_and_keeps_its_slot(platform: Platform) -> None:
    job_id = add_job(platform)
    slot = platform.jobs.get(job_id)["next_run_at"]
    claimed = claim(platform, job_id)
    assert platform.leases.give_back(job_id, claimed.fence, 0)
    job = platform.jobs.get(job_id)
    assert job["lock"] == {"fence": 1}
    assert job["next_run_at"] >= slot
    again = claim(platform, job_id)
    assert again.fence == 2


def test_a_claim_whose_worker_has_begun_cannot_be_given_back(platform: Platform) -> None:
    job_id = add_job(platform)
    claimed = claim(platform, job_id)
    platform.leases.begin(job_id, claimed.fence, "run", 60_000)
    assert not platform.leases.give_back(job_id, claimed.fence, 0)


def test_a_run_that_has_ended_is_not_given_back_and_keeps_its_schedule(platform: Platform) -> None:
    job_id = add_job(platform)
    claimed = claim(platform, job_id)
    platform.leases.begin(job_id, claimed.fence, "run", 60_000)
    later = now() + timedelta(hours=1)
    finish(platform, job_id, claimed.fence, later)
    assert not platform.leases.give_back(job_id, claimed.fence, 0)
    assert abs(platform.jobs.get(job_id)["next_run_at"] - later) < timedelta(milliseconds=1)


def test_a_lost_lease_is_noted_with_its_slot_and_counts_as_an_attempt(platform: Platform) -> None:
    job_id = add_job(platform)
    first = claim(platform, job_id)
    document = platform.leases.begin(job_id, first.fence, f"{job_id}#1", 60_000)
    expire(platform, job_id)
    claim(platform, job_id)
    job = platform.jobs.get(job_id)
    assert [lost["fence"] for lost in job["abandoned"]] == [1]
    assert job["lock"]["scheduled_at"] == document["lock"]["scheduled_at"]
    assert job["attempt"] == 1


def test_a_job_whose_workers_keep_dying_ends_in_error_with_an_alert(platform: Platform) -> None:
    job_id = add_job(platform)
    for _ in range(platform.settings.attempts_max):
        claimed = claim(platform, job_id)
        platform.leases.begin(job_id, claimed.fence, f"{job_id}#{claimed.fence}", 60_000)
        expire(platform, job_id)
    last = claim(platform, job_id)
    result = platform.runner.run(job_id, last.fence, "test", Deadline.after(60))
    assert result.outcome.value == "error"
    assert platform.jobs.get(job_id)["status"] == "error"
    assert [alert["subject"] for alert in platform.alerts.list_("open", 10)] == [f"jobs/{job_id}"]
    outcomes = [run["outcome"] for run in platform.runs.list_of_job(job_id, None, 100)]
    assert sorted(outcomes) == ["error"] + ["lost"] * platform.settings.attempts_max


def test_paused_jobs_and_jobs_of_the_future_are_not_due(platform: Platform) -> None:
    add_job(platform, "A/USDT", status="paused")
    add_job(platform, "B/USDT", next_run_at=now() + timedelta(hours=1))
    assert due_ids(platform, now(), 10) == []


def test_live_jobs_go_before_backfills_and_longer_due_ones_before_others(platform: Platform) -> None:
    backfill = add_job(platform, "A/USDT", start_ms=0, end_ms=60_000, next_run_at=to_datetime(1))
    late = add_job(platform, "B/USDT", next_run_at=to_datetime(3))
    early = add_job(platform, "C/USDT", next_run_at=to_datetime(2))
    assert due_ids(platform, now(), 10) == [early, late, backfill]


def test_the_search_for_due_jobs_examines_only_what_it_returns(platform: Platform) -> None:
    for index in range(300):
        add_job(platform, f"F{index}/USDT", next_run_at=now() + timedelta(hours=1))
    due = [add_job(platform, symbol) for symbol in SYMBOLS[:10]]
    platform.database.client.get_database(platform.settings.database).command("profile", 2)
    assert sorted(due_ids(platform, now(), 10)) == sorted(due)
    platform.database.client.get_database(platform.settings.database).command("profile", 0)
    entry = platform.database.collection("system.profile").find_one(
        {"keysExamined": {"$exists": True}, "ns": {"$regex": r"\.jobs$"}}
    )
    assert entry is not None
    assert entry["docsExamined"] == 0
    assert entry["keysExamined"] <= 14


def test_run_now_makes_a_waiting_job_due_and_is_remembered_while_one_runs(platform: Platform) -> None:
    job_id = add_job(platform, next_run_at=now() + timedelta(hours=1))
    platform.database.transact(lambda session: platform.jobs.make_due(job_id, session))
    claimed = claim(platform, job_id)
    platform.leases.begin(job_id, claimed.fence, "run", 60_000)
    platform.database.transact(lambda session: platform.jobs.make_due(job_id, session))
    assert due_ids(platform, now(), 10) == []
    finish(platform, job_id, claimed.fence, now() + timedelta(hours=1))
    assert due_ids(platform, now(), 10) == [job_id]
