"""A database that is away: no grant, so no request, as counted at the exchange's door."""

import os
import shutil
import signal
import tempfile
import time
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
from shared.exchanges.catalog import load_spec
from tests.factories import add_connector, add_job, claim, make_platform
from tests.waiting import wait_until

NOW_MS: Final = 1_760_000_042_000
END_MS: Final = NOW_MS // MINUTE_MS * MINUTE_MS
LIMIT_S: Final = 30.0
WEIGHT: Final = load_spec("binance").candles_weight
# Use-by 100 ms and transit 250 ms.
SHORT_WINDOW: Final = [(100_000, 10_000)]


@pytest.fixture
def own_mongod() -> Iterator[RunningMongod]:
    """One that may be killed."""
    if os.environ.get("MONGODB_URI"):
        pytest.skip("MONGODB_URI names a server that is not ours to kill")
    folder = Path(tempfile.mkdtemp(prefix="chandler-mongod-"))
    mongod = start_mongod(folder)
    try:
        yield mongod
    finally:
        mongod.stop()
        shutil.rmtree(folder, ignore_errors=True)


def arrived(simulator: SimulatorProcess) -> int:
    """Weight at the door since the simulator was configured."""
    return int(simulator.report()["binance"]["windows"][0]["total"])


def test_no_request_leaves_while_the_database_is_away(own_mongod: RunningMongod) -> None:
    """Killed in the middle of a backlog: what was granted may still be used until its last moment, and nothing more."""
    platform = make_platform(own_mongod.uri, "chandler")
    with start_simulator(freeze_at_ms=NOW_MS, seed=3) as simulator, ThreadPoolExecutor(2) as pool:
        try:
            add_connector(platform, base_url=simulator.base_url("binance"), windows=SHORT_WINDOW)
            connector = platform.connectors.get_connector("binance")
            job_id = add_job(platform, start_ms=END_MS - 50_000 * MINUTE_MS, indicators=[])
            simulator.configure("binance", SHORT_WINDOW)
            simulator.set_faults({"exchange": "binance", "kind": "slow", "delay_ms": 200})
            claimed = claim(platform, job_id)
            pool.submit(platform.runner.run, job_id, claimed.fence, "test", Deadline.after(100))
            wait_until(lambda: arrived(simulator) >= 2 * WEIGHT)
            assert own_mongod.pid is not None
            os.kill(own_mongod.pid, signal.SIGKILL)
            killed_ms = time.monotonic() * 1000
            # A person asks too; time enough for the run to fetch ten pages more, if it did.
            person = pool.submit(platform.exchange_desk.ping, connector)
            wait_until(lambda: time.monotonic() * 1000 > killed_ms + 2_500)
            report = simulator.report()["binance"]
            assert not person.done() or isinstance(person.exception(), PyMongoError)
        finally:
            platform.close()
    # Use-by and transit of the grants that were held.
    assert report["last_arrival_ms"] <= killed_ms + 100 + 250
    # Fifty pages in all: it was not over before.
    assert report["windows"][0]["total"] < 20 * WEIGHT
