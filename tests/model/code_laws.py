"""Laws of the protocol as short scenes on the real stores and the real mongod. Each wants an active connector `binance`."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pymongo.errors import PyMongoError

from shared.deadline import Deadline
from shared.domain.jobs import run_id_of, to_datetime
from shared.domain.rates import SKEW_MS, Reservation, Settlement
from shared.errors import LeaseLost
from shared.stores.job_leases import Claim, DueJob
from shared.usecases.grants import Grants
from shared.usecases.instance_limiter import InstanceLimiter
from shared.wiring import Platform
from tests.factories import add_job, claim
from tests.limits import grain_end_ms, limiter_of, logged, make_ask, set_clock, set_fields, settled, unsettled
from tests.waiting import HANG_S, wait_until

LEASE_MS: Final = 60_000
USE_BY_MS: Final = 100
IN_DOUBT_MS: Final = 1_900
AHEAD_MS: Final = 4_102_444_800_000
PERIOD_MS: Final = 60_000
LIMIT: Final = 30
CALLS: Final = 40


def expire(platform: Platform, job_id: str) -> None:
    """As if the lease's time had passed."""
    past = to_datetime(0)
    platform.database.collection("jobs").update_one({"_id": job_id}, {"$set": {"lock.expires_at": past, "next_run_at": past}})


def later(**delta: float) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(**delta)


def is_refused(call: Callable[[], object]) -> bool:
    """Whether the lease was found lost."""
    try:
        call()
    except LeaseLost:
        return True
    return False


def begin(platform: Platform, claimed: Claim) -> dict[str, Any]:
    run_id = run_id_of(claimed.job_id, claimed.fence)
    return platform.leases.begin(claimed.job_id, claimed.fence, run_id, LEASE_MS)


def record_page(platform: Platform, claimed: Claim, cursor: datetime | None = None, lease_ms: int = LEASE_MS) -> str:
    return platform.database.transact(
        lambda session: platform.leases.record_page(
            claimed.job_id, claimed.fence, cursor=cursor, added={}, lease_ms=lease_ms, session=session
        )
    )


def finish(platform: Platform, claimed: Claim, cursor: datetime | None = None, **changes: Any) -> None:
    fields: dict[str, Any] = {
        "status": None, "next_run_at": later(hours=1), "attempt": 0, "last_error": None, "added": {}, "facts": {}
    }  # fmt: skip
    fields.update(changes)
    platform.database.transact(
        lambda session: platform.leases.finish(claimed.job_id, claimed.fence, cursor=cursor, session=session, **fields)
    )


def an_old_fence_writes_nothing(platform: Platform) -> None:
    job_id = add_job(platform)
    old = claim(platform, job_id)
    begin(platform, old)
    expire(platform, job_id)
    new = claim(platform, job_id)
    begin(platform, new)
    assert is_refused(lambda: record_page(platform, old, later(hours=1)))
    assert is_refused(lambda: finish(platform, old, later(hours=1)))
    job = platform.jobs.get(job_id)
    assert (job["cursor"]["last_ts"], job["lock"]["run_id"]) == (None, run_id_of(job_id, new.fence))


def a_claim_is_begun_once(platform: Platform) -> None:
    claimed = claim(platform, add_job(platform))
    begin(platform, claimed)
    assert is_refused(lambda: begin(platform, claimed))


def a_run_that_goes_on_is_not_given_back(platform: Platform) -> None:
    claimed = claim(platform, add_job(platform))
    begin(platform, claimed)
    assert not platform.leases.give_back(claimed.job_id, claimed.fence, 0)
    assert not is_refused(lambda: record_page(platform, claimed))


def a_claim_is_given_back_by_its_own_fence_only(platform: Platform) -> None:
    job_id = add_job(platform)
    old = claim(platform, job_id)
    expire(platform, job_id)
    new = claim(platform, job_id)
    assert not platform.leases.give_back(job_id, old.fence, 0)
    assert not is_refused(lambda: begin(platform, new))


def a_run_that_has_ended_is_not_given_back(platform: Platform) -> None:
    claimed = claim(platform, add_job(platform))
    begin(platform, claimed)
    finish(platform, claimed)
    planned_at = platform.jobs.get(claimed.job_id)["next_run_at"]
    assert not platform.leases.give_back(claimed.job_id, claimed.fence, 0)
    assert platform.jobs.get(claimed.job_id)["next_run_at"] == planned_at


def a_lease_that_has_not_run_out_is_not_taken(platform: Platform) -> None:
    job_id = add_job(platform)
    claimed = claim(platform, job_id)
    assert platform.leases.claim([DueJob(job_id)], "another", LEASE_MS) == []
    begin(platform, claimed)
    assert platform.leases.claim([DueJob(job_id)], "another", LEASE_MS) == []


def a_lease_that_has_run_out_is_taken(platform: Platform) -> None:
    job_id = add_job(platform)
    begin(platform, claim(platform, job_id))
    expire(platform, job_id)
    assert len(platform.leases.claim([DueJob(job_id)], "another", LEASE_MS)) == 1


def what_a_dead_worker_left_open_is_ended(platform: Platform) -> None:
    job_id = add_job(platform)
    dead = claim(platform, job_id)
    with platform.database.open_session() as session:
        session_id = session.session_id["id"]
        platform.leases.begin(job_id, dead.fence, run_id_of(job_id, dead.fence), LEASE_MS, session_id)
        expire(platform, job_id)
        session.start_transaction()
        platform.leases.record_page(job_id, dead.fence, cursor=later(), added={}, lease_ms=LEASE_MS, session=session)
        taken = platform.leases.claim([DueJob(job_id, session_id)], "another", LEASE_MS)
        with suppress(PyMongoError):
            session.commit_transaction()
    assert [one.fence for one in taken] == [dead.fence + 1]
    assert platform.jobs.get(job_id)["cursor"]["last_ts"] is None


def every_begun_run_is_written_down(platform: Platform) -> None:
    job_id = add_job(platform)
    lost = claim(platform, job_id)
    begin(platform, lost)
    expire(platform, job_id)
    # So that the next run ends without asking any exchange.
    worn_out = {"$set": {"attempt": platform.settings.attempts_max}}
    platform.database.collection("jobs").update_one({"_id": job_id}, worn_out)
    last = claim(platform, job_id)
    platform.runner.run(job_id, last.fence, "test", Deadline.after(60))
    runs = {run["_id"]: run["outcome"] for run in platform.runs.list_of_job(job_id, None, 10)}
    assert runs == {run_id_of(job_id, lost.fence): "lost", run_id_of(job_id, last.fence): "error"}


def a_job_made_again_outnumbers_the_old_one(platform: Platform) -> None:
    job_id = add_job(platform, created_at=to_datetime(platform.database.server_now_ms()))
    old = claim(platform, job_id)
    platform.database.transact(lambda session: platform.jobs.delete(job_id, None, session))
    # Made again later than the old one's claim, as any two requests are.
    add_job(platform, created_at=to_datetime(platform.database.server_now_ms() + 1))
    assert claim(platform, job_id).fence > old.fence


def the_cursor_only_moves_forward(platform: Platform) -> None:
    claimed = claim(platform, add_job(platform))
    begin(platform, claimed)
    far, near = later(hours=2), later(hours=1)
    record_page(platform, claimed, far)
    # As after a commit whose result was unknown: the run ends with the cursor that it knew before.
    finish(platform, claimed, near)
    assert platform.jobs.get(claimed.job_id)["cursor"]["last_ts"] == far


def a_page_renews_the_lease(platform: Platform) -> None:
    claimed = claim(platform, add_job(platform))
    began = begin(platform, claimed)
    record_page(platform, claimed, lease_ms=10 * LEASE_MS)
    job = platform.jobs.get(claimed.job_id)
    assert job["lock"]["expires_at"] > began["lock"]["expires_at"] + timedelta(milliseconds=LEASE_MS)
    assert job["next_run_at"] == job["lock"]["expires_at"]


def the_cursor_stays_where_its_page_does_not_land(platform: Platform) -> None:
    claimed = claim(platform, add_job(platform))
    begin(platform, claimed)

    def write(session: Any) -> None:
        platform.leases.record_page(
            claimed.job_id, claimed.fence, cursor=later(), added={}, lease_ms=LEASE_MS, session=session
        )  # fmt: skip
        raise ZeroDivisionError("in place of candles that cannot be written")

    with suppress(ZeroDivisionError):
        platform.database.transact(write)
    assert platform.jobs.get(claimed.job_id)["cursor"]["last_ts"] is None


def reserve(platform: Platform, want: int = 1, told: Sequence[Settlement] = ()) -> Reservation:
    return platform.limits.reserve("binance", make_ask(1, want, 0, USE_BY_MS, IN_DOUBT_MS), told)


def booked_of(platform: Platform) -> list[tuple[int, int]]:
    """All that counts in the first window, settled or not: (counts until, weight), ascending."""
    open_ones = [(grant["t"], grant["w"]) for grant in limiter_of(platform)["unsettled"]]
    return sorted([*logged(platform), *open_ones])


def booked_from(platform: Platform, moment_ms: int) -> int:
    """What counts until that moment or longer."""
    return sum(weight for until_ms, weight in booked_of(platform) if until_ms >= moment_ms)


@contextmanager
def held_up(platform: Platform) -> Iterator[None]:
    """A transaction holds the connector's document: whoever asks the limiter waits for its end, with the `$$NOW` of before."""
    with platform.database.open_session() as session:
        session.start_transaction()
        platform.connectors.get_to_edit("binance", session)
        yield
        session.abort_transaction()


def no_more_is_granted_in_a_period_than_the_limit(platform: Platform) -> None:
    """Whether the grants have been settled or not. Time stands still for it."""
    set_clock(platform, AHEAD_MS)
    granted, told = 0, []
    for turn in range(CALLS):
        grant = reserve(platform, want=3, told=told)
        granted += grant.granted
        told = [settled(grant, grant.granted, grant.at_ms)] if turn % 2 and grant.granted else []
    assert granted == LIMIT


def every_grant_counts_to_its_last_moment(platform: Platform) -> None:
    """While nobody settles it."""
    grants = [reserve(platform) for _ in range(LIMIT)]
    for grant in grants:
        due = sum(other.granted for other in grants if other.charged_ms >= grant.charged_ms)
        assert booked_from(platform, grant.charged_ms) >= due


def merging_never_makes_an_entry_leave_earlier(platform: Platform) -> None:
    set_clock(platform, AHEAD_MS)
    grants = [reserve(platform) for _ in range(LIMIT)]
    told = [settled(grant, 1, grant.charged_ms - number) for number, grant in enumerate(grants)]
    platform.limits.settle("binance", told)
    assert len(booked_of(platform)) < LIMIT
    for settlement in told:
        due = sum(other.arrived for other in told if other.arrived_by_ms >= settlement.arrived_by_ms)
        assert booked_from(platform, settlement.arrived_by_ms) >= due


def a_grant_that_nobody_settles_counts_for_a_period_after_its_last_moment(platform: Platform) -> None:
    grant = reserve(platform, want=LIMIT)
    for moment_ms in (grant.charged_ms - 1, grant.charged_ms, grant.charged_ms + PERIOD_MS - 1):
        set_clock(platform, moment_ms)
        assert reserve(platform).granted == 0
    set_clock(platform, grain_end_ms(grant.charged_ms, PERIOD_MS) + PERIOD_MS)
    assert reserve(platform, want=LIMIT).granted == LIMIT


def what_was_not_sent_is_free_again_and_only_once(platform: Platform) -> None:
    grant = reserve(platform, want=LIMIT)
    told = settled(grant, 20, grant.at_ms)
    assert reserve(platform, 6, [told]).granted == 6
    assert [reserve(platform, want=6).granted for _ in range(2)] == [4, 0]
    for _ in range(2):
        assert reserve(platform, LIMIT, [told]).granted == 0
    assert sum(weight for _, weight in booked_of(platform)) == LIMIT


def what_is_told_is_told_of_its_own_grant(platform: Platform) -> None:
    """Others may be of the same weight."""
    first, second, third = (reserve(platform, want=5) for _ in range(3))
    platform.limits.settle("binance", [settled(second, 0, 0)])
    assert unsettled(platform) == {first.reservation_id: 5, third.reservation_id: 5}


def what_is_told_part_by_part_counts_once_however_often_it_is_told(platform: Platform) -> None:
    """The second word of a grant is right after the first one only."""
    grant = reserve(platform, want=12)
    first = settled(grant, 4, grant.at_ms, returned=2)
    second = Settlement(grant.reservation_id, 6, 0, 3, grant.at_ms, grant.charged_ms)
    for told in ([first], [first], [second], [second], [first, second]):
        platform.limits.settle("binance", told)
    assert sum(weight for _, weight in booked_of(platform)) == 7


def an_arrival_that_is_told_late_moves_the_charge(platform: Platform) -> None:
    grant = reserve(platform, want=LIMIT)
    set_clock(platform, grant.charged_ms)
    reserve(platform)
    late_ms = grant.charged_ms + PERIOD_MS // 2
    set_clock(platform, late_ms)
    platform.limits.settle("binance", [settled(grant, LIMIT, late_ms)])
    set_clock(platform, late_ms + PERIOD_MS - 1)
    assert reserve(platform).granted == 0


def what_was_sent_counts_from_its_arrival_or_later(platform: Platform) -> None:
    """Also if the grant was decided with a `$$NOW` that was long gone when its holder heard of it."""
    # A grain of 10 ms, so that rounding does not hide it.
    set_fields(platform, rate_limit_period_ms=1_200)
    limiter = InstanceLimiter(platform.limits)
    grants = Grants(limiter, platform.connectors.get_connector("binance"), 0)
    with ThreadPoolExecutor(1) as pool:
        with held_up(platform):
            asked = pool.submit(grants.acquire, 1, LIMIT)
            held_until_ms = platform.database.server_now_ms() + 100
            wait_until(lambda: platform.database.server_now_ms() >= held_until_ms)
        permit = asked.result(HANG_S)
    arrived_ms = platform.database.server_now_ms()
    assert arrived_ms > permit.reservation.at_ms, "too slow to judge"
    grants.note_answer(permit)
    grants.close()
    wait_until(lambda: sum(weight for _, weight in booked_of(platform)) == 1)
    assert booked_from(platform, arrived_ms + SKEW_MS) == 1


def a_request_without_an_answer_counts_to_its_last_moment(platform: Platform) -> None:
    grants = Grants(InstanceLimiter(platform.limits), platform.connectors.get_connector("binance"), 0)
    first, second = grants.acquire(2, 6), grants.acquire(2, 6)
    grants.note_answer(second)
    grants.close()
    wait_until(lambda: sum(weight for _, weight in booked_of(platform)) <= 4)
    assert booked_from(platform, first.reservation.charged_ms) == 2


def a_share_settles_no_more_than_itself(platform: Platform) -> None:
    limiter = InstanceLimiter(platform.limits)
    ask = make_ask(1, 2, 0, USE_BY_MS, IN_DOUBT_MS)
    with ThreadPoolExecutor(3) as pool:
        with held_up(platform):
            asks = [pool.submit(limiter.reserve, "binance", ask) for _ in range(3)]
            wait_until(lambda: limiter.waiting_count == 2)
        grants = [ask.result(HANG_S) for ask in asks]
    ids = [grant.reservation_id for grant in grants]
    shares = [grant for grant in grants if ids.count(grant.reservation_id) == 2]
    limiter.note_returned("binance", shares[0], 2)
    limiter.report_now("binance")
    wait_until(lambda: sum(weight for _, weight in booked_of(platform)) < 6)
    assert sum(weight for _, weight in booked_of(platform)) == 4
    limiter.note_arrived("binance", shares[1], 1, 0)
    wait_until(lambda: len(logged(platform)) == 1)
    assert sum(weight for _, weight in booked_of(platform)) == 4


def the_limiters_clock_never_goes_back(platform: Platform) -> None:
    ahead_ms = platform.database.server_now_ms() + 10 * PERIOD_MS
    set_clock(platform, ahead_ms)
    assert reserve(platform).clock_ms >= ahead_ms
    assert booked_of(platform)[-1][0] >= ahead_ms + USE_BY_MS + IN_DOUBT_MS


def all_windows_hold_at_once(platform: Platform) -> None:
    assert reserve(platform, want=LIMIT).granted == LIMIT // 3


def a_block_stops_every_grant(platform: Platform) -> None:
    until_ms = platform.limits.block("binance", PERIOD_MS, "418").until_ms
    refused = reserve(platform)
    assert (refused.granted, refused.at_ms) == (0, until_ms)
