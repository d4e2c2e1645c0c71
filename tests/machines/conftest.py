"""Fixtures for ticks (see tick_scene.py), for one simulated Binance, and for runs that are overtaken."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from pymongo import MongoClient

from local_emulator.identity import IdentityProvider
from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.usecases import dispatch_due_jobs
from shared.wiring import Platform
from tests.factories import add_connector, make_platform
from tests.machines.series_scene import NOW_MS, WIDE
from tests.machines.tick_scene import ACCOUNT, ONE_PASS_S, Receiver, TickEnd
from tests.overtaking import Overtake, overtake_write


@pytest.fixture(scope="module")
def identity() -> Iterator[IdentityProvider]:
    provider = IdentityProvider([ACCOUNT])
    yield provider
    provider.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_tick(
    platform: Platform, mongodb_uri: str, database_name: str, receiver: Receiver, identity: IdentityProvider
) -> Iterator[Callable[..., Platform]]:
    """Instances of the tick function on the test's database, whose worker is the receiver unless a setting says otherwise."""
    opened: list[Platform] = []

    def open_one(**settings: Any) -> Platform:
        defaults: dict[str, Any] = {
            "worker_url": receiver.url,
            "metadata_host": identity.metadata_host(ACCOUNT),
            "tick_budget_s": ONE_PASS_S,
            "mongodb_pool_size": 30,
        }
        opened.append(make_platform(mongodb_uri, database_name, **{**defaults, **settings}))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def endless_transactions(mongo_client: MongoClient[dict[str, Any]]) -> Iterator[None]:
    """The server ends no transaction by itself; by default it does after a minute."""
    name = "transactionLifetimeLimitSeconds"
    was = mongo_client.admin.command({"getParameter": 1, name: 1})[name]
    mongo_client.admin.command({"setParameter": 1, name: 3_600})
    yield
    mongo_client.admin.command({"setParameter": 1, name: was})


@pytest.fixture
def tick_end(monkeypatch: pytest.MonkeyPatch) -> TickEnd:
    """The test's ticks go on until it lets them end, however long their budget is."""
    end = TickEnd()

    class Deadlines:
        @staticmethod
        def after(_seconds: float) -> TickEnd:
            return end

    monkeypatch.setattr(dispatch_due_jobs, "Deadline", Deadlines)
    return end


@pytest.fixture
def overtake(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Overtake:
    """Does something when the next run has read and computed everything, and is about to write (for the `number`th time)."""
    return partial(overtake_write, platform, monkeypatch)


@pytest.fixture(scope="module")
def shared_simulator(request: pytest.FixtureRequest) -> Iterator[SimulatorProcess]:
    """One for all tests of a module, of the market that its `SEED` makes. Files with more exchanges have their own."""
    with start_simulator(freeze_at_ms=NOW_MS, seed=request.module.SEED) as running:
        yield running


@pytest.fixture
def simulator(shared_simulator: SimulatorProcess, platform: Platform) -> SimulatorProcess:
    """Frozen at NOW_MS, without faults and with all the weight one can use; `binance` points at it."""
    shared_simulator.set_faults()
    shared_simulator.clock(now_ms=NOW_MS)
    shared_simulator.configure("binance", WIDE)
    add_connector(platform, base_url=shared_simulator.base_url("binance"), windows=WIDE)
    return shared_simulator
