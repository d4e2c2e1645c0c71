"""Both ends of the wire: a venue that says what a test tells it, with our client; and a simulator that stands still."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.exchanges.catalog import load_spec
from shared.exchanges.client import ExchangeClient
from shared.exchanges.http_session import open_session
from shared.exchanges.spec import ExchangeSpec
from tests.contract import frozen_market
from tests.contract.loopback_venue import NOW_MS, Venue

Connect = Callable[..., ExchangeClient]


@pytest.fixture
def venue() -> Iterator[Venue]:
    server = Venue()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def connect(venue: Venue) -> Iterator[Connect]:
    """A client of that exchange (name or spec) that talks to the venue; options as ExchangeClient's."""
    session = open_session()

    def connect(spec: str | ExchangeSpec = "binance", *, now_ms: int = NOW_MS, **options: Any) -> ExchangeClient:
        found = load_spec(spec) if isinstance(spec, str) else spec
        return ExchangeClient(found, session=session, now_ms=lambda: now_ms, base_url=venue.url + "/", **options)

    yield connect
    session.close()


@pytest.fixture(scope="module")
def process() -> Iterator[SimulatorProcess]:
    with start_simulator(seed=frozen_market.SEED, freeze_at_ms=frozen_market.NOW_MS) as simulator:
        yield simulator


@pytest.fixture
def simulator(process: SimulatorProcess) -> SimulatorProcess:
    """Without faults and without punishment, at the frozen moment."""
    process.set_faults()
    process.clock(now_ms=frozen_market.NOW_MS)
    for exchange, window in frozen_market.DEFAULT_WINDOWS.items():
        process.configure(exchange, [window], punish=False)
    return process
