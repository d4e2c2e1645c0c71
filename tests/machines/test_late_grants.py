"""Grants that come too late are thrown away: no request leaves, as counted at the exchange's door."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from pymongo import MongoClient

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.domain.rates import USE_BY_MS
from shared.domain.timeframes import MINUTE_MS
from shared.exchanges.catalog import load_spec
from shared.usecases import send_requests
from shared.wiring import Platform
from tests.factories import add_connector, add_job, run_once
from tests.limits import booked
from tests.waiting import HANG_S, wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
NOW_MS: Final = 1_760_000_042_000
END_MS: Final = NOW_MS // MINUTE_MS * MINUTE_MS
WEIGHT: Final = load_spec("binance").candles_weight
MINUTE_WINDOW: Final = [(100_000, 60_000)]
SHORT_WINDOW: Final = [(100_000, 10_000)]
TOO_LATE_MS: Final = USE_BY_MS + 200


@pytest.fixture(scope="module")
def shared_simulator() -> Iterator[SimulatorProcess]:
    with start_simulator(freeze_at_ms=NOW_MS, seed=3) as running:
        yield running


@pytest.fixture
def simulator(shared_simulator: SimulatorProcess) -> SimulatorProcess:
    """Without faults, its windows empty."""
    shared_simulator.set_faults()
    shared_simulator.configure("binance", MINUTE_WINDOW)
    return shared_simulator


def arrived(simulator: SimulatorProcess) -> int:
    """Weight at the door since the simulator was configured."""
    return int(simulator.report()["binance"]["windows"][0]["total"])


def newest_booking(platform: Platform) -> str:
    document = platform.database.collection("connectors").find_one({"_id": "binance"})
    return str(document["limiter"]["last"]["reservation_id"]) if document else ""


@contextmanager
def slow_limiter(
    mongo_client: "MongoClient[dict[str, Any]]", database_name: str, delay_ms: int, mode: object
) -> Iterator[None]:
    """Each reservation is answered late: its command is held back on the server."""
    held = {
        "failCommands": ["findAndModify"],
        "namespace": f"{database_name}.connectors",
        "blockConnection": True,
        "blockTimeMS": delay_ms,
    }
    mongo_client.admin.command("configureFailPoint", "failCommand", mode=mode, data=held)
    try:
        yield
    finally:
        mongo_client.admin.command("configureFailPoint", "failCommand", mode="off")


def test_a_grant_whose_answer_was_held_back_is_thrown_away_and_asked_for_again(
    platform: Platform, mongo_client: "MongoClient[dict[str, Any]]", database_name: str, simulator: SimulatorProcess
) -> None:
    add_connector(platform, base_url=simulator.base_url("binance"), windows=MINUTE_WINDOW)
    job_id = add_job(platform, start_ms=END_MS - 10 * MINUTE_MS, end_ms=END_MS, indicators=[])
    with slow_limiter(mongo_client, database_name, TOO_LATE_MS, {"times": 1}):
        assert run_once(platform, job_id).outcome.value == "done"
    assert arrived(simulator) == WEIGHT
    # The late one was given back with the next question.
    wait_until(lambda: booked(platform) == WEIGHT)


def test_a_limiter_that_always_answers_late_lets_nothing_through(
    platform: Platform,
    mongo_client: "MongoClient[dict[str, Any]]",
    database_name: str,
    simulator: SimulatorProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each try asks three times, and is late each time.
    monkeypatch.setattr(send_requests, "FETCH_TRIES_MAX", 1)
    add_connector(platform, base_url=simulator.base_url("binance"), windows=SHORT_WINDOW)
    job_id = add_job(platform, start_ms=END_MS - 10 * MINUTE_MS, end_ms=END_MS, indicators=[])
    with slow_limiter(mongo_client, database_name, TOO_LATE_MS, "alwaysOn"):
        result = run_once(platform, job_id)
    assert result.outcome.value == "failed"
    assert platform.jobs.get(job_id)["last_error"]["code"] == "storage_unavailable"
    assert arrived(simulator) == 0
    wait_until(lambda: booked(platform) == 0)


# So long the connector is blocked while the worker is stopped. Where that comes too late on a slow machine, the next one tells.
BLOCKS_MS: Final = {"ETH/USDT": 2_500, "SOL/USDT": 9_000, "DOGE/USDT": 27_000}


def test_a_worker_stopped_while_it_waits_for_its_moment_does_not_send_when_it_goes_on(
    platform: Platform, mongodb_uri: str, database_name: str, simulator: SimulatorProcess
) -> None:
    """SIGSTOP after the reservation, SIGCONT when its use-by is over: asked for anew, and only that is sent."""
    add_connector(platform, base_url=simulator.base_url("binance"), windows=MINUTE_WINDOW)
    add_job(platform, "BTC/USDT", start_ms=END_MS - 10 * MINUTE_MS, end_ms=END_MS, indicators=[])
    command = [sys.executable, "-m", "tests.machines.work_loop", mongodb_uri, database_name, str(2 * HANG_S), "60000", "5"]
    environment = {**os.environ, "CHANDLER_WORKER_WAIT_MS_MAX": "30000"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as worker:
        try:
            # Its first job shows that it is up; then it finds the connector blocked, and the second job due.
            wait_until(lambda: arrived(simulator) == WEIGHT)
            assert any(stop_and_judge(platform, simulator, worker, symbol) for symbol in BLOCKS_MS), "never stopped in time"
            # Killed in a transaction, it would keep the database from being dropped for a minute.
            wait_until(lambda: {job["status"] for job in platform.jobs.list_({})} == {"done"})
        finally:
            worker.kill()


def stop_and_judge(platform: Platform, simulator: SimulatorProcess, worker: "subprocess.Popen[bytes]", symbol: str) -> bool:
    """False: it may have sent before it was stopped, which says nothing."""
    wait_until(lambda: {job["status"] for job in platform.jobs.list_({})} == {"done"})
    sent, before = arrived(simulator), booked(platform)
    until_ms = platform.limits.block("binance", BLOCKS_MS[symbol], "429").until_ms
    add_job(platform, symbol, start_ms=END_MS - 10 * MINUTE_MS, end_ms=END_MS, indicators=[])
    wait_until(lambda: booked(platform) >= before + WEIGHT)
    worker.send_signal(signal.SIGSTOP)
    is_in_time = platform.database.server_now_ms() < until_ms
    if is_in_time:
        wait_until(lambda: platform.database.server_now_ms() > until_ms + USE_BY_MS)
        assert arrived(simulator) == sent
        assert booked(platform) == before + WEIGHT
        first = newest_booking(platform)
    worker.send_signal(signal.SIGCONT)
    wait_until(lambda: arrived(simulator) == sent + WEIGHT)
    if is_in_time:
        assert newest_booking(platform) != first, "the grant of before was used"
    return is_in_time
