"""A replica set of three under load: its primary steps down and is killed, and nothing is lost, doubled or over the limit."""

import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from pymongo.errors import PyMongoError

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.truth import true_candles
from shared.domain.indicators import DEFAULT_INDICATORS
from shared.domain.jobs import run_id_of
from shared.domain.timeframes import MINUTE_MS
from shared.errors import LeaseLost, StorageUnavailable
from shared.stores.database import storage_errors
from shared.stores.job_leases import DueJob
from shared.wiring import Platform
from tests.factories import add_connector, add_job, make_platform, stored_documents
from tests.faults.replica_set import ReplicaSet, start_replica_set
from tests.faults.wrong_clock import find_libfaketime, preload_environment
from tests.limits import make_ask
from tests.machines.test_worker_processes import start_workers
from tests.replay import assert_series_equals
from tests.waiting import HANG_S, wait_until

SEED: Final = 5
NOW_MS: Final = 1_760_000_042_000
END_MS: Final = NOW_MS // MINUTE_MS * MINUTE_MS
LIMIT: Final = 240
PERIOD_MS: Final = 10_000
DATABASE: Final = "failover"
LEASE_MS: Final = 40_000
WORKERS: Final = 4
# Weight that arrives between two disturbances: a third of what the limit allows in ten seconds.
LOAD: Final = 80
# Candles that each job lacks. All of it takes over a minute at the limit, more than the disturbances need.
LIVE: Final = {"BTC/USDT": 130_000, "ETH/USDT": 130_000, "SOL/USDT": 130_000, "DOGE/USDT": 130_000}
BACKFILLS: Final = {"ETH/BTC": 120_000, "XRP/USDT": 120_000}
# Clocks of hosts that nobody watches differ by seconds.
BEHIND_S: Final = 3.0
Books = dict[str, Any]

pytestmark = pytest.mark.soak


@pytest.fixture
def replica_set(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ReplicaSet]:
    """Three members; the clock of the last one is so many seconds behind as the test's parameter says, if it has one."""
    behind_s, library = getattr(request, "param", 0.0), find_libfaketime()
    last = preload_environment(library, -behind_s) if behind_s and library else None
    with start_replica_set(tmp_path, (None, None, last)) as started:
        yield started


@pytest.fixture
def platform(replica_set: ReplicaSet) -> Iterator[Platform]:
    """A platform that knows all members, as an instance in production would."""
    made = make_platform(replica_set.uri, DATABASE)
    yield made
    made.close()


@pytest.fixture
def simulator() -> Iterator[SimulatorProcess]:
    """An exchange whose time stands still, so that a live job comes to an end."""
    with start_simulator(seed=SEED, freeze_at_ms=NOW_MS) as started:
        started.configure("binance", [(LIMIT, PERIOD_MS)])
        yield started


def arrived(simulator: SimulatorProcess) -> int:
    """Weight so far."""
    return int(simulator.report()["binance"]["weight_total"])


def wait_for_load(simulator: SimulatorProcess, jobs: Callable[[], object]) -> None:
    """Until workers have fetched some more."""
    before = arrived(simulator)
    wait_until(lambda: arrived(simulator) >= before + LOAD, jobs)


def assert_limit_held(simulator: SimulatorProcess) -> None:
    report = simulator.report()["binance"]
    (window,) = report["windows"]
    assert (window["over_limit"], report["throttled"]) == (0, 0), report
    assert window["worst"] <= LIMIT


def jobs_of(platform: Platform) -> list[Books]:
    return list(platform.database.collection("jobs").find())


def is_at_end(job: Books) -> bool:
    """Caught up or done, and nobody at work on it."""
    if job["kind"] != "live":
        return bool(job["status"] == "done")
    has_all = job["cursor"]["last_ts"] is not None and job["cursor"]["last_ts"].timestamp() * 1000 >= END_MS - MINUTE_MS
    return has_all and "claim_id" not in job["lock"]


def all_at_end(platform: Platform) -> bool:
    try:
        return all(is_at_end(job) for job in jobs_of(platform))
    except PyMongoError:
        return False


def brief(platform: Platform) -> list[object]:
    """What a failed assertion tells of the jobs."""
    return [(job["_id"], job["cursor"], job["lock"], job["attempt"], job["last_error"]) for job in jobs_of(platform)]


def assert_books_agree(platform: Platform, symbol: str, job_id: str, start_ms: int) -> None:
    """Candles equal the truth, the cursor stands at the end, and each claim that ever was is in job_runs."""
    expected = true_candles(SEED, "binance", symbol, "1m", start_ms, END_MS)
    assert_series_equals(stored_documents(platform, "binance", symbol, "1m"), expected, DEFAULT_INDICATORS)
    job = platform.jobs.get(job_id)
    assert job["cursor"]["last_ts"].timestamp() * 1000 == END_MS - MINUTE_MS
    runs = list(platform.database.collection("job_runs").find({"job_id": job_id}))
    fence = job["lock"]["fence"]
    assert {run["_id"] for run in runs} == {run_id_of(job_id, number) for number in range(1, fence + 1)}
    # A run that was lost had its pages counted by the job, not by itself.
    stored = [each["totals"].get("candles", 0) for each in jobs_of(platform) if each["_id"] in (job_id, f"{job_id}:history")]
    assert sum(stored) == len(expected)
    assert job["totals"]["runs"] == sum(run["outcome"] not in ("lost", "not_started") for run in runs)


def assert_collections_are_clustered(platform: Platform) -> None:
    """A collection that was made again by its first insert, after a failover forgot it, would not be."""
    database = platform.database.collection("jobs").database
    series = list(database.list_collections(filter={"name": {"$regex": "^candles_"}}))
    assert len(series) == len(LIVE) + len(BACKFILLS)
    assert all("clusteredIndex" in found["options"] for found in series)


def test_step_downs_and_kills_of_the_primary_lose_nothing_double_nothing_and_keep_the_limit(
    replica_set: ReplicaSet, platform: Platform, simulator: SimulatorProcess
) -> None:
    add_connector(platform, base_url=simulator.base_url("binance"), windows=[(LIMIT, PERIOD_MS)])
    starts = {symbol: END_MS - count * MINUTE_MS for symbol, count in {**LIVE, **BACKFILLS}.items()}
    jobs = {
        symbol: add_job(platform, symbol, start_ms=start_ms, end_ms=END_MS if symbol in BACKFILLS else None)
        for symbol, start_ms in starts.items()
    }

    def told() -> object:
        return brief(platform)

    workers = start_workers(WORKERS, replica_set.uri, DATABASE, 2 * HANG_S, LEASE_MS, 20)
    try:
        for disturbance in ("step down", "kill", "step down", "kill", "step down"):
            wait_for_load(simulator, told)
            assert not all_at_end(platform), "nothing is left to be disturbed"
            if disturbance == "step down":
                replica_set.step_down()
            else:
                killed = replica_set.kill_primary()
                wait_for_load(simulator, told)
                killed.start_again()
                replica_set.wait_whole()
        wait_until(lambda: all_at_end(platform), told)
        assert [worker.poll() for worker in workers] == [None] * WORKERS, "workers live through it"
    finally:
        end_workers(workers)
    assert_limit_held(simulator)
    outcomes = Counter(run["outcome"] for run in platform.database.collection("job_runs").find())
    print(outcomes, simulator.report()["binance"]["windows"])
    for symbol, job_id in jobs.items():
        assert_books_agree(platform, symbol, job_id, starts[symbol])
        assert platform.jobs.get(job_id)["status"] == ("done" if symbol in BACKFILLS else "active")
    assert_collections_are_clustered(platform)


def end_workers(workers: list["subprocess.Popen[bytes]"]) -> None:
    for worker in workers:
        worker.kill()
        worker.wait()


def test_what_no_majority_knows_is_no_grant_and_no_run(replica_set: ReplicaSet, platform: Platform) -> None:
    """The primary that has lost the others still takes writes for a moment; nothing may be done on the strength of them."""
    add_connector(platform, windows=[(LIMIT, PERIOD_MS)])
    job_id = add_job(platform)
    (taken,) = platform.leases.claim([DueJob(job_id)], "before", LEASE_MS)
    cut_off, *others = sorted(replica_set.members, key=lambda member: member.state() != "primary")
    for member in others:
        member.freeze()
    with pytest.raises(StorageUnavailable), storage_errors():
        reserve(platform)
    with pytest.raises((StorageUnavailable, LeaseLost)), storage_errors():
        platform.leases.begin(job_id, taken.fence, run_id_of(job_id, taken.fence), LEASE_MS)
    cut_off.kill()
    for member in others:
        member.thaw()
    replica_set.primary()
    # What was refused left no trace: all of the limit is free, and the claim can be begun.
    with storage_errors():
        assert reserve(platform) == LIMIT
        platform.leases.begin(job_id, taken.fence, run_id_of(job_id, taken.fence), LEASE_MS)


def reserve(platform: Platform) -> int:
    """Weight granted of all that the limit allows."""
    return platform.limits.reserve("binance", make_ask(want=LIMIT)).granted


@pytest.mark.skipif(find_libfaketime() is None, reason="needs libfaketime: requirements-dev.txt has it for x86-64 Linux")
@pytest.mark.parametrize("replica_set", [BEHIND_S], indirect=True)
def test_a_new_primary_whose_clock_is_behind_neither_sets_the_limiter_back_nor_lets_more_through(
    replica_set: ReplicaSet, platform: Platform, simulator: SimulatorProcess
) -> None:
    slow = replica_set.members[-1]
    assert time.time() - slow.command("hello")["localTime"].timestamp() > BEHIND_S * 0.9
    add_connector(platform, base_url=simulator.base_url("binance"), windows=[(LIMIT, PERIOD_MS)])
    for symbol in LIVE:
        add_job(platform, symbol, start_ms=END_MS - 300_000 * MINUTE_MS, indicators=[])

    def told() -> object:
        return brief(platform)

    workers = start_workers(WORKERS, replica_set.uri, DATABASE, 2 * HANG_S, LEASE_MS, 20)
    try:
        clocks = ClockWatch(platform)
        wait_until(lambda: clocks.look() and arrived(simulator) >= LIMIT, told)
        right_ms = platform.database.server_now_ms()
        replica_set.make_primary(slow)
        before = arrived(simulator)
        # Three periods and a half, so that all that was booked by the old clock has left in the meantime.
        wait_until(lambda: clocks.look() and arrived(simulator) >= before + 3.5 * LIMIT, told)
        assert slow.state() == "primary"
        assert clocks.seen_ms[-1] > right_ms + PERIOD_MS, "by the new clock it goes on"
        assert clocks.seen_ms == sorted(clocks.seen_ms), "the limiter's clock went back"
    finally:
        end_workers(workers)
    assert_limit_held(simulator)


class ClockWatch:
    """Notes the limiter's clock, look by look, through a failover."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.seen_ms: list[int] = []

    def look(self) -> bool:
        """True, so that it can stand in a condition."""
        with contextlib.suppress(PyMongoError):
            (connector,) = self._platform.database.collection("connectors").find()
            self.seen_ms.append(int(connector["limiter"]["clock_ms"]))
        return True
