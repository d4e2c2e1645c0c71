"""A refusal by the exchange stops its process at once, and is not forgotten if MongoDB is away when it comes."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import pytest
from pymongo import MongoClient

from local_emulator.simulator.process import start_simulator
from shared.domain.jobs import to_ms
from shared.domain.timeframes import MINUTE_MS
from shared.errors import StorageUnavailable
from shared.stores.database import storage_errors
from shared.usecases.grants import Grants, NoRoom, Refused
from shared.usecases.shared_grants import SharedGrants
from shared.wiring import Platform
from tests.factories import add_connector, add_job, run_once
from tests.waiting import wait_until

LIMIT_S: Final = 20.0
# Use-by of a second, so that what is not sent is not sent for the refusal's sake.
WIDE: Final = [(100_000, 200_000)]
# The driver does not try again by itself.
MAX_TIME_EXPIRED: Final = 50
Away = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def away(mongo_client: "MongoClient[dict[str, Any]]", database_name: str) -> Away:
    """While it lasts every write of a connector by the limiter fails, or every one after the first so many."""

    @contextmanager
    def lasting(after: int = 0) -> Iterator[None]:
        failing = {
            "failCommands": ["findAndModify"],
            "namespace": f"{database_name}.connectors",
            "errorCode": MAX_TIME_EXPIRED,
        }
        mongo_client.admin.command("configureFailPoint", "failCommand", mode={"skip": after}, data=failing)
        try:
            yield
        finally:
            mongo_client.admin.command("configureFailPoint", "failCommand", mode="off")

    return lasting


def make_grants(platform: Platform, store: SharedGrants, wait_ms_max: int = 0) -> Grants:
    return Grants(store, platform.connectors.get_connector("binance"), wait_ms_max)


def blocked_until_ms(platform: Platform) -> int:
    at = platform.connectors.get("binance")["blocked_until"]
    return 0 if at is None else to_ms(at)


# --- at once


def test_who_has_not_heard_of_it_uses_what_it_holds_and_is_granted_nothing_more(platform: Platform) -> None:
    add_connector(platform, windows=WIDE)
    told, other_instance = SharedGrants(platform.database), make_grants(platform, SharedGrants(platform.database))
    reservation = other_instance.acquire(1, 10)
    until_ms = told.block("binance", 30_000, "429")
    other_instance.acquire(1, 10)
    assert not reservation.is_late(), "took too long to tell anything"
    with pytest.raises(Refused) as refused:
        other_instance.acquire(100, 100)
    assert isinstance(refused.value.refusal, NoRoom)
    assert refused.value.refusal.at_ms == until_ms


def test_who_waits_for_its_moment_when_the_refusal_comes_does_not_send(platform: Platform) -> None:
    add_connector(platform, windows=WIDE)
    store = SharedGrants(platform.database)
    store.block("binance", 1_500, "429")
    waiting = make_grants(platform, store, wait_ms_max=5_000)
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        asked = pool.submit(waiting.acquire, 1, 1)
        connectors = platform.database.collection("connectors")
        wait_until(lambda: connectors.find_one({"_id": "binance", "limiter.last.granted": 1}))
        until_ms = store.block("binance", 30_000, "418")
        assert time.monotonic() - began < 1.5, "took too long to tell anything"
        error = asked.exception(LIMIT_S)
    assert isinstance(error, Refused)
    assert isinstance(error.refusal, NoRoom)
    assert error.refusal.at_ms == until_ms


# --- and not forgotten


def test_of_a_refusal_that_is_told_late_only_the_rest_is_kept(platform: Platform, away: Away) -> None:
    add_connector(platform, windows=WIDE)
    grants = make_grants(platform, store := SharedGrants(platform.database))
    with away():
        began = time.monotonic()
        with pytest.raises(StorageUnavailable), storage_errors():
            store.block("binance", 30_000, "429")
        wait_until(lambda: time.monotonic() > began + 0.3)
    with pytest.raises(Refused):
        grants.acquire(1, 1)
    left_ms = 30_000 - (time.monotonic() - began) * 1000
    assert abs(blocked_until_ms(platform) - platform.database.server_now_ms() - left_ms) < 200


def test_a_longer_refusal_that_was_not_told_outlasts_a_shorter_one_that_was(platform: Platform, away: Away) -> None:
    add_connector(platform, windows=WIDE)
    store = SharedGrants(platform.database)
    with away(), pytest.raises(StorageUnavailable), storage_errors():
        store.block("binance", 60_000, "418")
    store.block("binance", 1_000, "429")
    assert blocked_until_ms(platform) - platform.database.server_now_ms() > 50_000


def test_a_refusal_that_has_passed_untold_keeps_nobody(platform: Platform, away: Away) -> None:
    add_connector(platform, windows=WIDE)
    store = SharedGrants(platform.database)
    with away(), pytest.raises(StorageUnavailable), storage_errors():
        store.block("binance", 50, "429")
    passed = time.monotonic() + 0.05
    wait_until(lambda: time.monotonic() > passed)
    assert make_grants(platform, store).acquire(1, 1).granted == 1
    assert blocked_until_ms(platform) == 0


def test_a_run_that_is_refused_while_the_database_is_away_sends_nothing_more_when_it_is_back(
    platform: Platform, away: Away
) -> None:
    with start_simulator(freeze_at_ms=1_760_000_042_000, seed=3) as simulator:
        add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)
        job_id = add_job(platform, start_ms=1_759_999_980_000 - 50 * MINUTE_MS, indicators=[])
        simulator.set_faults({"exchange": "binance", "kind": "status", "status": 429, "retry_after_s": 40, "count": 1})
        with away(after=1):
            # The grant was booked; the refusal could not be.
            assert run_once(platform, job_id).outcome.value == "failed"
            assert blocked_until_ms(platform) == 0
        assert run_once(platform, job_id).outcome.value == "waiting"
        assert simulator.report()["binance"]["requests_total"] == 1
        assert blocked_until_ms(platform) - platform.database.server_now_ms() > 30_000
