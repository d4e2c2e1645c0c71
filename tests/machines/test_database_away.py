"""A database that is away: no grant, so no request, as counted at the exchange's door."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from pymongo.errors import PyMongoError

from local_emulator.mongod import RunningMongod, start_mongod
from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.deadline import Deadline
from shared.domain.timeframes import MINUTE_MS
from shared.errors import StorageUnavailable
from shared.exchanges.catalog import load_spec
from shared.stores import database
from shared.usecases import send_requests
from tests.factories import add_connector, add_job, claim, make_platform
from tests.limits import booked
from tests.waiting import HANG_S, wait_until

NOW_MS: Final = 1_760_000_042_000
END_MS: Final = NOW_MS // MINUTE_MS * MINUTE_MS
WEIGHT: Final = load_spec("binance").candles_weight
# Nothing that was booked leaves the window before it is looked at.
WIDE: Final = [(100_000, 3_600_000)]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """What a mongod leaves behind when it is killed."""
    folder = Path(tempfile.mkdtemp(prefix="chandler-mongod-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own_mongod(data_dir: Path) -> Iterator[RunningMongod]:
    """One that may be killed."""
    if os.environ.get("MONGODB_URI"):
        pytest.skip("MONGODB_URI names a server that is not ours to kill")
    mongod = start_mongod(data_dir)
    try:
        yield mongod
    finally:
        mongod.stop()


def arrived(simulator: SimulatorProcess) -> int:
    """Weight at the door since the simulator was configured."""
    return int(simulator.report()["binance"]["windows"][0]["total"])


def test_no_request_leaves_while_the_database_is_away(
    own_mongod: RunningMongod, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a backlog: what was granted by then may still be sent, and nothing more until all give up."""
    # They do so sooner than else.
    monkeypatch.setattr(database, "OPERATION_TIMEOUT_MS", 2_500)
    monkeypatch.setattr(database, "SERVER_SELECTION_TIMEOUT_MS", 1_000)
    monkeypatch.setattr(database, "TRANSACTION_TRIES_MAX", 2)
    monkeypatch.setattr(send_requests, "FETCH_TRIES_MAX", 1)
    platform = make_platform(own_mongod.uri, "chandler")
    with start_simulator(freeze_at_ms=NOW_MS, seed=3) as simulator, ThreadPoolExecutor(2) as pool:
        try:
            add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)
            connector = platform.connectors.get_connector("binance")
            # Nobody gets to its end before the database is killed.
            job_id = add_job(platform, start_ms=END_MS - 2_000_000 * MINUTE_MS, indicators=[])
            simulator.configure("binance", WIDE)
            simulator.set_faults({"exchange": "binance", "kind": "slow", "delay_ms": 200})
            claimed = claim(platform, job_id)
            running = pool.submit(platform.runner.run, job_id, claimed.fence, "test", Deadline.after(HANG_S))
            wait_until(lambda: running.done() or arrived(simulator) >= 2 * WEIGHT)
            assert own_mongod.pid is not None
            os.kill(own_mongod.pid, signal.SIGKILL)
            # A person asks too. Both give up.
            person = pool.submit(platform.exchange_desk.ping, connector)
            assert isinstance(person.exception(HANG_S), PyMongoError)
            assert isinstance(running.exception(HANG_S), StorageUnavailable)
            total = arrived(simulator)
        finally:
            platform.close()
    again = start_mongod(data_dir)
    try:
        platform = make_platform(again.uri, "chandler")
        assert 2 * WEIGHT <= total <= booked(platform), "a request was sent without a grant"
        platform.close()
    finally:
        again.stop()
