"""Real worker processes on one connector: the limit holds at the exchange's door, and killing them loses nothing."""

import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.truth import true_candles
from shared.domain.indicators import DEFAULT_INDICATORS
from shared.domain.jobs import to_ms
from shared.domain.timeframes import MINUTE_MS
from shared.wiring import Platform
from tests.factories import add_connector, add_job, run_until_settled, stored_documents
from tests.replay import assert_series_equals

ROOT: Final = Path(__file__).resolve().parents[2]
SEED: Final = 5
SYMBOLS: Final = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "DOGE/USDT", "ETH/BTC")
LIMIT: Final = 240
PERIOD_MS: Final = 10_000
PERIODS: Final = 2


def start_workers(
    count: int, mongodb_uri: str, database: str, seconds: float, lease_ms: int, pages_max: int
) -> list["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "tests.machines.work_loop", mongodb_uri, database]
    arguments = [str(seconds), str(lease_ms), str(pages_max)]
    return [subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(count)]


def seconds_until_weight(simulator: SimulatorProcess, weight: int) -> float:
    """Waits until so much weight has arrived in all; the monotonic time at which it had."""
    deadline = time.monotonic() + 90
    while simulator.report()["binance"]["windows"][0]["total"] < weight:
        assert time.monotonic() < deadline, "the workers make no progress"
        time.sleep(0.02)
    return time.monotonic()


def expire_leases(platform: Platform) -> None:
    """As if the time of all leases had passed: what their runs left open is ended, as the claimers would."""
    jobs = platform.database.collection("jobs")
    left_open = [job["lock"]["session_id"] for job in jobs.find({"lock.session_id": {"$exists": True}})]
    platform.database.end_sessions(left_open)
    past = datetime.now(UTC) - timedelta(seconds=1)
    jobs.update_many({}, {"$set": {"lock.expires_at": past, "next_run_at": past}})


@pytest.mark.alone
def test_eight_processes_never_break_the_limit_and_use_nine_tenths_of_it(
    platform: Platform, mongodb_uri: str, database_name: str
) -> None:
    with start_simulator(seed=SEED) as simulator:
        simulator.configure("binance", [(LIMIT, PERIOD_MS)])
        add_connector(platform, base_url=simulator.base_url("binance"), windows=[(LIMIT, PERIOD_MS)])
        long_ago_ms = 1_600_000_000_000
        for symbol in SYMBOLS:
            for timeframe in ("1m", "3m"):
                add_job(platform, symbol, timeframe, start_ms=long_ago_ms, indicators=[])
        workers = start_workers(8, mongodb_uri, database_name, 120, 60_000, 10)
        try:
            first_s = seconds_until_weight(simulator, LIMIT // 2)
            last_s = seconds_until_weight(simulator, LIMIT // 2 + PERIODS * LIMIT)
            report = simulator.report()["binance"]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
            expire_leases(platform)
    (window,) = report["windows"]
    assert window["over_limit"] == 0
    assert window["worst"] <= LIMIT
    assert report["throttled"] == 0
    # Weight comes in bursts, a period apart: from the middle of one to the middle of another, so that the phase is nothing.
    used = PERIODS * PERIOD_MS / 1000 / (last_s - first_s)
    assert used >= 0.9, f"only {used:.3f} of the limit used"


def test_workers_killed_in_the_middle_of_a_backlog_lose_and_double_nothing(
    platform: Platform, mongodb_uri: str, database_name: str
) -> None:
    kill_workers_again_and_again(platform, mongodb_uri, database_name, rounds=4, intervals=60_000, seed=3)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(4))
def test_workers_killed_many_times_lose_and_double_nothing(
    platform: Platform, mongodb_uri: str, database_name: str, seed: int
) -> None:
    # Seven in a row: one more and the job would go to `error`, as it should.
    kill_workers_again_and_again(platform, mongodb_uri, database_name, rounds=7, intervals=120_000, seed=seed)


def kill_workers_again_and_again(
    platform: Platform, mongodb_uri: str, database_name: str, *, rounds: int, intervals: int, seed: int
) -> None:
    """Two workers on two backlogs, killed after some requests, `rounds` times; then the rest is fetched and judged."""
    rng = random.Random(seed)
    now_ms = 1_760_000_042_000
    start_ms = now_ms // MINUTE_MS * MINUTE_MS - intervals * MINUTE_MS
    with start_simulator(seed=SEED, freeze_at_ms=now_ms) as simulator:
        simulator.configure("binance", [(100_000, 60_000)])
        simulator.set_faults({"exchange": "binance", "kind": "slow", "delay_ms": 30})
        add_connector(platform, base_url=simulator.base_url("binance"), windows=[(100_000, 60_000)])
        jobs = {symbol: add_job(platform, symbol, start_ms=start_ms) for symbol in SYMBOLS[:2]}
        for _ in range(rounds):
            workers = start_workers(2, mongodb_uri, database_name, 60, 30_000, 50)
            enough = simulator.report()["binance"]["requests_total"] + rng.randint(3, 14)
            deadline = time.monotonic() + 30
            while simulator.report()["binance"]["requests_total"] < enough:
                assert time.monotonic() < deadline, list(platform.database.collection("jobs").find())
                time.sleep(0.05)
            for worker in workers:
                worker.send_signal(signal.SIGKILL)
                worker.wait()
            expire_leases(platform)
        simulator.set_faults()
        for job_id in jobs.values():
            run_until_settled(platform, job_id)
        for symbol, job_id in jobs.items():
            expected = true_candles(SEED, "binance", symbol, "1m", start_ms, now_ms // MINUTE_MS * MINUTE_MS)
            assert_series_equals(stored_documents(platform, "binance", symbol, "1m"), expected, DEFAULT_INDICATORS)
            outcomes: list[str] = []
            # All but the newest page of the backlog is its history job's.
            for each in (job_id, f"{job_id}:history"):
                runs = [run["outcome"] for run in platform.runs.list_of_job(each, None, 500)]
                job = platform.jobs.get(each)
                made_ms = to_ms(job["created_at"]) if "created_at" in job else 0
                assert len(runs) == job["lock"]["fence"] - made_ms, "every attempt is in job_runs"
                outcomes += runs
            assert "lost" in outcomes
