"""Each outcome of a run, as docs/state_machine.md lists it: produced by a real run, and followed by what its row says."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.deadline import Deadline
from shared.domain.connectors import ConnectorStatus
from shared.domain.jobs import RunOutcome, to_datetime
from shared.domain.timeframes import MINUTE_MS
from shared.errors import StorageUnavailable
from shared.stores import database
from shared.stores.job_leases import DueJob
from shared.usecases.send_requests import PAGE_RESERVE_MS
from shared.wiring import Platform
from tests.factories import NOSUCH, add_job, claim, make_platform, put_list
from tests.machines.state_scene import (
    CLOSED_MS,
    JOB_ID,
    LEASE_MS,
    NOW_MS,
    begin,
    expire,
    job_of,
    make_job,
    reserve,
    reset,
    rows,
    try_claim,
    update,
)
from tests.waiting import HANG_S, wait_until


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with start_simulator(freeze_at_ms=NOW_MS, seed=5) as running:
        yield running


@pytest.fixture
def scene(shared_platform: Platform, simulator: SimulatorProcess) -> Platform:
    reset(shared_platform, simulator)
    return shared_platform


OUTCOMES: Final = {row[0].strip("`"): row[1:] for row in rows("Run: ", "Outcome")}
ATTEMPT: Final = 3


def run_again(platform: Platform, deadline_s: float = 100) -> dict[str, Any]:
    """One run of a job with ATTEMPT failed ones behind it; its document in job_runs."""
    update(platform, attempt=ATTEMPT, next_run_at=to_datetime(0))
    claimed = try_claim(platform)
    platform.runner.run(JOB_ID, claimed.fence, "test", Deadline.after(deadline_s))
    (run,) = platform.database.collection("job_runs").find({"fence": claimed.fence})
    return dict(run)


def assert_as_in_the_table(platform: Platform, run: dict[str, Any], outcome: str, attempt: int) -> None:
    _, next_run, counted = OUTCOMES[outcome]
    job = job_of(platform)
    assert job is not None
    assert run["outcome"] == outcome
    assert job["attempt"] == attempt
    word = {0: "0", ATTEMPT: "unchanged", ATTEMPT + 1: "+ 1"}[attempt]
    assert word in [re.split(r" (?=after|when|if|at)", part)[0] for part in counted.split("; ")]
    is_due = bool(platform.leases.claim([DueJob(JOB_ID)], "test", LEASE_MS))
    assert is_due == (next_run == "now")
    assert next_run.split(":")[0] in ("now", "later", "never")
    assert (job["status"] == "active") == (next_run != "never")


def live_job(platform: Platform, candles: int = 50) -> None:
    add_job(platform, start_ms=CLOSED_MS - candles * MINUTE_MS, indicators=[])


def test_the_table_lists_the_outcomes_of_the_code() -> None:
    assert list(OUTCOMES) == [outcome.value for outcome in RunOutcome]


def test_caught_up(scene: Platform) -> None:
    live_job(scene)
    # The simulator stands still in the past, so "the next close" is as far behind as its clock: the run says later than that.
    assert_as_in_the_table(scene, run_again(scene), "caught_up", 0)


def test_more_when_time_is_up(scene: Platform) -> None:
    live_job(scene)
    run = run_again(scene, deadline_s=PAGE_RESERVE_MS / 1000 - 1)
    assert_as_in_the_table(scene, run, "more", ATTEMPT)


def test_more_after_so_many_pages(scene: Platform, mongodb_uri: str) -> None:
    live_job(scene, candles=2_500)
    one_page = make_platform(mongodb_uri, scene.settings.database, worker_pages_max=1)
    try:
        assert_as_in_the_table(one_page, run_again(one_page), "more", 0)
    finally:
        one_page.close()


def test_waiting(scene: Platform) -> None:
    live_job(scene)
    scene.database.collection("connectors").update_one({"_id": "binance"}, {"$set": {"rate_limit": 2}})
    assert reserve(scene, want=2).granted == 2
    assert_as_in_the_table(scene, run_again(scene), "waiting", ATTEMPT)


def test_throttled(scene: Platform, simulator: SimulatorProcess) -> None:
    live_job(scene)
    simulator.set_faults({"exchange": "binance", "kind": "status", "status": 429, "retry_after_s": 30, "count": 1})
    assert_as_in_the_table(scene, run_again(scene), "throttled", ATTEMPT)


def test_paused(scene: Platform) -> None:
    live_job(scene)
    status = {"$set": {"status": ConnectorStatus.PAUSED.value}}
    scene.database.collection("connectors").update_one({"_id": "binance"}, status)
    assert_as_in_the_table(scene, run_again(scene), "paused", ATTEMPT)


def test_done(scene: Platform) -> None:
    make_job(scene, "active")
    assert_as_in_the_table(scene, run_again(scene), "done", 0)


def test_failed(scene: Platform, simulator: SimulatorProcess) -> None:
    live_job(scene)
    simulator.set_faults({"exchange": "binance", "kind": "status", "status": 503})
    run = run_again(scene)
    # A backoff may be as short as nothing at all: judged by what was planned.
    update(scene, next_run_at=to_datetime(2**41))
    assert_as_in_the_table(scene, run, "failed", ATTEMPT + 1)


def test_error(scene: Platform) -> None:
    live_job(scene)
    put_list(scene, [NOSUCH])
    assert_as_in_the_table(scene, run_again(scene), "error", ATTEMPT + 1)


@pytest.mark.parametrize(("outcome", "attempt"), [("lost", ATTEMPT + 1), ("not_started", ATTEMPT)])
def test_a_lease_that_runs_out_is_written_down_by_the_next_run(scene: Platform, outcome: str, attempt: int) -> None:
    live_job(scene)
    update(scene, attempt=ATTEMPT)
    abandoned = claim(scene, JOB_ID)
    if outcome == "lost":
        begin(scene, abandoned.fence)
    expire(scene)
    taken = claim(scene, JOB_ID)
    job = job_of(scene)
    assert job is not None
    assert job["attempt"] == attempt
    assert OUTCOMES[outcome][2] == {ATTEMPT: "unchanged", ATTEMPT + 1: "+ 1 at the claim"}[attempt]
    assert scene.runs.list_of_job(JOB_ID, None, 10) == []
    scene.runner.run(JOB_ID, taken.fence, "test", Deadline.after(60))
    runs = {run["fence"]: run["outcome"] for run in scene.runs.list_of_job(JOB_ID, None, 10)}
    assert runs == {abandoned.fence: outcome, taken.fence: "caught_up"}


def test_a_command_that_a_takeover_interrupts_is_no_fault_of_ours(scene: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run then tries to end, and finds its lease lost or its own."""
    live_job(scene)
    jobs = scene.database.collection("jobs")
    slow = {"$where": "sleep(300000) || true"}
    # Nothing but the takeover ends it.
    monkeypatch.setattr(database, "TRANSACTION_TIMEOUT_S", HANG_S)
    admin = scene.database.client.admin

    def is_under_way(session_id: Any) -> bool:
        running = admin.aggregate([{"$currentOp": {}}, {"$match": {"lsid.id": session_id["id"], "op": "query"}}])
        return bool(list(running))

    with scene.database.open_session() as session, ThreadPoolExecutor(1) as pool:
        session_id = session.session_id
        write = pool.submit(scene.database.transact, lambda inside: list(jobs.find(slow, session=inside)), session)
        wait_until(lambda: is_under_way(session_id))
        scene.database.end_sessions([session_id["id"]])
        with pytest.raises(StorageUnavailable):
            write.result(HANG_S)
        # The session can be used again, as the end of the run does.
        scene.database.transact(lambda inside: jobs.find_one({}, session=inside), session)
