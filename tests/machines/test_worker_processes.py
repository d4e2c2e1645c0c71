"""Real worker processes on one connector: the limit holds at the exchange's door, and killing them loses nothing."""

import random
import signal
import subprocess
import sys
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
from tests.waiting import HANG_S, SOAK_HANG_S, wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
SEED: Final = 5
SYMBOLS: Final = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "DOGE/USDT", "ETH/BTC")
LIMIT: Final = 60
PERIOD_MS: Final = 3_000
PERIODS: Final = 4
# Requests of the killed workers beyond those after which they are killed: so many the exchange answers, and then no more.
ANSWERED_LATE: Final = 12


def start_workers(
    count: int, mongodb_uri: str, database: str, seconds: float, lease_ms: int, pages_max: int
) -> list["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "tests.machines.work_loop", mongodb_uri, database]
    arguments = [str(seconds), str(lease_ms), str(pages_max)]
    return [subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(count)]


def arrived(simulator: SimulatorProcess) -> int:
    """Weight in all."""
    return int(simulator.report()["binance"]["windows"][0]["total"])


def expire_leases(platform: Platform) -> None:
    """As if the time of all leases had passed: what their runs left open is ended, as the claimers would."""
    jobs = platform.database.collection("jobs")
    left_open = [job["lock"]["session_id"] for job in jobs.find({"lock.session_id": {"$exists": True}})]
    platform.database.end_sessions(left_open)
    past = datetime.now(UTC) - timedelta(seconds=1)
    jobs.update_many({}, {"$set": {"lock.expires_at": past, "next_run_at": past}})


def test_eight_processes_get_on_for_periods_and_never_break_the_limit(
    platform: Platform, mongodb_uri: str, database_name: str
) -> None:
    """How much of it they use: benchmarks/limits.py."""
    with start_simulator(seed=SEED) as simulator:
        simulator.configure("binance", [(LIMIT, PERIOD_MS)])
        add_connector(platform, base_url=simulator.base_url("binance"), windows=[(LIMIT, PERIOD_MS)])
        long_ago_ms = 1_600_000_000_000
        for symbol in SYMBOLS:
            for timeframe in ("1m", "3m"):
                add_job(platform, symbol, timeframe, start_ms=long_ago_ms, indicators=[])
        workers = start_workers(8, mongodb_uri, database_name, 2 * HANG_S, 60_000, 10)
        try:
            for period in range(1, PERIODS + 1):
                wait_until(lambda least=period * LIMIT: arrived(simulator) >= least, simulator.report)
            report = simulator.report()["binance"]
            assert [worker.poll() for worker in workers] == [None] * len(workers)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
            expire_leases(platform)
    (window,) = report["windows"]
    assert window["over_limit"] == 0
    assert window["worst"] <= LIMIT
    assert report["throttled"] == 0


def test_workers_killed_in_the_middle_of_a_backlog_lose_and_double_nothing(
    platform: Platform, mongodb_uri: str, database_name: str
) -> None:
    # Coinbase's pages hold 300: as many of them as elsewhere, for a third of the candles.
    kill_workers_again_and_again(platform, mongodb_uri, database_name, "coinbase", rounds=4, intervals=50 * 300, seed=3)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_HANG_S)
@pytest.mark.parametrize("seed", range(4))
def test_workers_killed_many_times_lose_and_double_nothing(
    platform: Platform, mongodb_uri: str, database_name: str, seed: int
) -> None:
    # Seven in a row: one more and the job would go to `error`, as it should.
    kill_workers_again_and_again(platform, mongodb_uri, database_name, "binance", rounds=7, intervals=120_000, seed=seed)


def kill_workers_again_and_again(
    platform: Platform, mongodb_uri: str, database_name: str, exchange: str, *, rounds: int, intervals: int, seed: int
) -> None:
    """Two workers on two backlogs, killed after some requests, `rounds` times; then the rest is fetched and judged."""
    rng = random.Random(seed)
    now_ms = 1_760_000_042_000
    closed_ms = now_ms // MINUTE_MS * MINUTE_MS
    start_ms = closed_ms - intervals * MINUTE_MS
    with start_simulator(seed=SEED, freeze_at_ms=now_ms) as simulator:
        simulator.configure(exchange, [(100_000, 60_000)])
        add_connector(platform, exchange, base_url=simulator.base_url(exchange), windows=[(100_000, 60_000)])
        jobs = {symbol: add_job(platform, symbol, connector_id=exchange, start_ms=start_ms) for symbol in SYMBOLS[:2]}

        def requests_total() -> int:
            return int(simulator.report()[exchange]["requests_total"])

        for _ in range(rounds):
            few = rng.randint(3, 14)
            # However late this sees how far they are, they do not get to the end.
            answered = {"exchange": exchange, "kind": "slow", "delay_ms": 30, "count": few + ANSWERED_LATE}
            simulator.set_faults(answered, {"exchange": exchange, "kind": "slow", "delay_ms": 86_400_000})
            enough = requests_total() + few
            workers = start_workers(2, mongodb_uri, database_name, 2 * HANG_S, 40_000, 50)
            wait_until(lambda least=enough: requests_total() >= least, lambda: platform.jobs.list_({}))
            for worker in workers:
                worker.send_signal(signal.SIGKILL)
                worker.wait()
            expire_leases(platform)
        simulator.set_faults()
        for job_id in jobs.values():
            run_until_settled(platform, job_id)
        for symbol, job_id in jobs.items():
            expected = true_candles(SEED, exchange, symbol, "1m", start_ms, closed_ms)
            assert_series_equals(stored_documents(platform, exchange, symbol, "1m"), expected, DEFAULT_INDICATORS)
            outcomes: list[str] = []
            # All but the newest page of the backlog is its history job's.
            for each in (job_id, f"{job_id}:history"):
                runs = [run["outcome"] for run in platform.runs.list_of_job(each, None, 500)]
                job = platform.jobs.get(each)
                made_ms = to_ms(job["created_at"]) if "created_at" in job else 0
                assert len(runs) == job["lock"]["fence"] - made_ms, "every attempt is in job_runs"
                outcomes += runs
            assert "lost" in outcomes
