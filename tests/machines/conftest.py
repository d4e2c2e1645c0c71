"""Fixtures for ticks (see tick_scene.py), and for runs that are overtaken."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local_emulator.identity import IdentityProvider
from shared.wiring import Platform
from tests.factories import make_platform
from tests.machines.tick_scene import ACCOUNT, ONE_PASS_S, Receiver


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
def overtake(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Does something when the next run has read and computed everything, and is about to write."""

    def arrange(what: Callable[[], object]) -> None:
        transact = platform.database.transact

        def overtaken(*args: Any, **options: Any) -> Any:
            monkeypatch.setattr(platform.database, "transact", transact)
            what()
            return transact(*args, **options)

        monkeypatch.setattr(platform.database, "transact", overtaken)

    return arrange
