"""Live job, backfills, repair and enrich job of one series at work at the same moment: nothing wrong is left behind."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import pytest

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.truth import true_candles
from shared.deadline import Deadline
from shared.domain.coverage import IntervalState
from shared.domain.indicators import DEFAULT_INDICATORS
from shared.domain.jobs import to_datetime
from shared.domain.timeframes import MINUTE_MS
from shared.errors import LeaseLost, PlatformError, StorageUnavailable
from shared.stores.job_leases import DueJob
from shared.usecases.run_endings import RunLimits
from shared.wiring import Platform
from tests.factories import add_connector, add_job, run_until_caught_up, stored_documents
from tests.machines.series_scene import NOW_MS, WIDE, back
from tests.replay import assert_series_equals
from tests.waiting import HANG_S, wait_until

SEED: Final = 59
LENGTH: Final = 6_000
THREADS: Final = 5
RUNS_A_MINUTE: Final = 3
# Runs that die in the middle leave their lease to run out; here it is taken away.
DYING_SHARE: Final = 0.1


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with start_simulator(freeze_at_ms=NOW_MS, seed=SEED) as running:
        running.configure("binance", WIDE)
        yield running


def work(platform: Platform, seed: int, is_over: threading.Event, ended: list[str]) -> list[str]:
    """Claim and run whatever is active, as ticks and workers would, now and then under a lease that is taken away.

    Notes in `ended` which jobs' runs are over.
    """
    rng, failures = random.Random(seed), list[str]()
    jobs = platform.database.collection("jobs")
    while not is_over.is_set():
        active = [job["_id"] for job in platform.jobs.list_({"status": "active"})]
        job_id = rng.choice(active)
        free = {"_id": job_id, "lock.claim_id": {"$exists": False}}
        jobs.update_one(free, {"$set": {"next_run_at": to_datetime(0)}})
        try:
            for claimed in platform.leases.claim([DueJob(job_id)], f"test-{seed}", 60_000):
                if rng.random() < DYING_SHARE:
                    expired = to_datetime(0)
                    jobs.update_one({"_id": job_id}, {"$set": {"lock.expires_at": expired, "next_run_at": expired}})
                ended.append(job_id)
                platform.runner.run(job_id, claimed.fence, "test", Deadline.after(HANG_S))
        except LeaseLost:
            continue
        except StorageUnavailable:
            # Against four others one may lose for as long as it tries. It is claimed again, as when its lease has run out.
            give_up(platform, job_id)
        except PlatformError as exc:
            failures.append(f"{job_id}: {exc.code}: {exc.message}")
    return failures


def give_up(platform: Platform, job_id: str) -> None:
    """As if the time of the job's lease had passed: what its run left open is ended, as the claimer would."""
    session_id = platform.jobs.get(job_id)["lock"].get("session_id")
    platform.database.end_sessions([] if session_id is None else [session_id])
    held = {"_id": job_id, "lock.claim_id": {"$exists": True}}
    expired = {"lock.expires_at": to_datetime(0), "next_run_at": to_datetime(0)}
    platform.database.collection("jobs").update_one(held, {"$set": expired})


def play(platform: Platform, simulator: SimulatorProcess, seed: int, minutes: int) -> None:
    """So many minutes pass, each after some runs, however long those take."""
    rng = random.Random(seed)
    simulator.clock(now_ms=NOW_MS)
    simulator.set_faults()
    add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)
    limits = platform.runner.run_limits
    object.__setattr__(platform.runner, "run_limits", RunLimits(limits.lease_ms, 2, limits.wait_ms_max, 100))
    job_id = add_job(platform, start_ms=back(1_500))
    for first, last in ((LENGTH, 4_000), (4_010, 2_500), (2_500, 1_500)):
        add_job(platform, start_ms=back(first), end_ms=back(last))
    now_ms, is_over, ended = NOW_MS, threading.Event(), list[str]()
    with ThreadPoolExecutor(THREADS) as pool:
        workers = [pool.submit(work, platform, 1_000 * seed + number, is_over, ended) for number in range(THREADS)]
        for _ in range(minutes):
            first = rng.randrange(5, LENGTH)
            hidden = {"kind": "hide", "from_ms": back(first), "to_ms": back(first - 300), "share": rng.choice((0.2, 1.0))}
            simulator.set_faults(*([{"exchange": "binance", **hidden}] if rng.random() < 0.6 else []))
            now_ms += MINUTE_MS
            simulator.clock(now_ms=now_ms)
            enough = len(ended) + RUNS_A_MINUTE
            wait_until(lambda enough=enough: len(ended) >= enough or any(worker.done() for worker in workers))
        is_over.set()
        assert [failure for worker in workers for failure in worker.result()] == []
    simulator.set_faults()
    for _ in range(40):
        left = [job["_id"] for job in platform.jobs.list_({"status": "active"})]
        for each in left:
            # What the dying runs have left behind is under a lease still.
            give_up(platform, each)
            run_until_caught_up(platform, each)
        if left == [job_id]:
            break
    end_ms = now_ms // MINUTE_MS * MINUTE_MS
    truth = true_candles(SEED, "binance", "BTC/USDT", "1m", back(LENGTH), end_ms)
    told = platform.coverage_reader.read(job_id, back(LENGTH), end_ms, frozenset(), 100_000)
    # Three tries are minutes apart, and here they may all have come while a candle was hidden.
    believed = [run for run in told.runs if run.state is IntervalState.NO_TRADES]
    numbers = told.timeframe.numbers(truth.open_ms)
    is_absent = np.zeros(len(truth), np.bool_)
    for run in believed:
        is_absent |= (numbers >= run.first) & (numbers < run.end)
    assert_series_equals(stored_documents(platform, "binance", "BTC/USDT", "1m"), truth[~is_absent], DEFAULT_INDICATORS)
    kept = {IntervalState.STORED: int((~is_absent).sum()), IntervalState.NO_TRADES: int(is_absent.sum())}
    assert {state: count for state, count in told.counts.items() if count} == {s: c for s, c in kept.items() if c}
    found = platform.series_verifier.verify(job_id, back(LENGTH), end_ms)
    assert (found.ledger_differences_count, found.value_differences_count) == (0, 0)


def test_all_jobs_of_a_series_at_once_leave_it_as_one_pass(platform: Platform, simulator: SimulatorProcess) -> None:
    play(platform, simulator, 1, 25)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 8))
def test_all_jobs_of_a_series_at_once_for_longer(platform: Platform, simulator: SimulatorProcess, seed: int) -> None:
    play(platform, simulator, seed, 100)
