"""A refusal by the exchange stops its process at once, and is not forgotten if MongoDB is away when it comes."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import pytest
from pymongo import MongoClient

from local_emulator.simulator.process import start_simulator
from shared.deadline import elapsed_s
from shared.domain.jobs import to_ms
from shared.domain.rates import LOOK_AGAIN_MS
from shared.domain.timeframes import MINUTE_MS
from shared.errors import StorageUnavailable
from shared.stores.database import storage_errors
from shared.usecases.grants import Grants, NoRoom, Refused
from shared.usecases.instance_limiter import InstanceLimiter
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import add_connector, add_job, run_once
from tests.limits import limiter_of, make_ask, unsettled
from tests.waiting import HANG_S, wait_until

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


def make_grants(platform: Platform, store: InstanceLimiter, wait_ms_max: int = 0) -> Grants:
    return Grants(store, platform.connectors.get_connector("binance"), wait_ms_max)


def blocked_until_ms(platform: Platform) -> int:
    at = platform.connectors.get("binance")["blocked_until"]
    return 0 if at is None else to_ms(at)


# --- at once


def test_an_instance_that_has_not_heard_of_it_looks_before_it_sends_later_than_a_moment(platform: Platform) -> None:
    add_connector(platform, windows=WIDE)
    refused_instance, other_instance = InstanceLimiter(platform.limits), InstanceLimiter(platform.limits)
    grants = make_grants(platform, other_instance)
    permit = grants.acquire(1, 10)
    refused_instance.block("binance", 3_600_000, "429")
    until_ms = blocked_until_ms(platform)
    heard = permit.reservation.replied_s
    wait_until(lambda: elapsed_s() > heard + LOOK_AGAIN_MS / 1000)
    with pytest.raises(Refused) as refused:
        grants.acquire(1, 10)
    assert isinstance(refused.value.refusal, NoRoom)
    assert refused.value.refusal.at_ms == until_ms
    # What it held is given back; where its one request is nobody knows.
    wait_until(lambda: list(unsettled(platform).values()) == [1])


@pytest.mark.parametrize("is_same_instance", [True, False])
def test_nothing_is_sent_that_waits_for_its_moment_when_the_refusal_comes(platform: Platform, is_same_instance: bool) -> None:
    add_connector(platform, windows=WIDE)
    limiter = InstanceLimiter(platform.limits)
    other = limiter if is_same_instance else InstanceLimiter(platform.limits)
    # Where this machine is too slow for the short wait, the longer one tells.
    for wait_ms in (1_500, 6_000, 24_000):
        platform.limits.block("binance", wait_ms, "429")
        waiting = make_grants(platform, limiter, wait_ms_max=2 * wait_ms)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(waiting.acquire, 1, 1)
            wait_until(lambda asked=asked: asked.done() or limiter_of(platform).get("last", {}).get("granted") == 1)
            other.block("binance", 120_000, "418")
            until_ms = blocked_until_ms(platform)
            is_in_time = not asked.done()
            error = asked.exception(HANG_S)
        if is_in_time:
            assert isinstance(error, Refused)
            assert isinstance(error.refusal, NoRoom)
            assert error.refusal.at_ms == until_ms
            return
        platform.connector_manager.unblock("binance", Author("me", "admin", "test"))
    raise AssertionError("the refusal never came while it waited")


def test_a_grant_that_was_made_before_a_refusal_is_void_whenever_the_instance_hears_of_it(platform: Platform) -> None:
    """By any answer of the database, to whichever run."""
    add_connector(platform, windows=WIDE)
    limiter = InstanceLimiter(platform.limits)
    holder, other_run = make_grants(platform, limiter), make_grants(platform, limiter)
    holder.acquire(1, 10)
    platform.limits.block("binance", 30_000, "429")
    with pytest.raises(Refused):
        other_run.acquire(1, 1)
    with pytest.raises(Refused):
        holder.acquire(1, 1)


def test_each_refusal_is_counted_once_however_many_runs_ask_meanwhile(platform: Platform) -> None:
    add_connector(platform, windows=WIDE)
    limiter = InstanceLimiter(platform.limits)
    with ThreadPoolExecutor(12) as pool:
        for _ in range(4):
            asks = [pool.submit(limiter.reserve, "binance", make_ask()) for _ in range(4)]
            refused = pool.submit(limiter.block, "binance", 600_000, "429")
            asks += [pool.submit(limiter.reserve, "binance", make_ask()) for _ in range(4)]
            for each in (*asks, refused):
                each.result(HANG_S)
    assert limiter_of(platform)["refusal"]["total"] == 4


# --- and not forgotten


def test_of_a_refusal_that_is_told_late_only_the_rest_is_kept(platform: Platform, away: Away) -> None:
    add_connector(platform, windows=WIDE)
    grants = make_grants(platform, store := InstanceLimiter(platform.limits))
    with away():
        before_ms = platform.database.server_now_ms()
        with pytest.raises(StorageUnavailable), storage_errors():
            store.block("binance", 30_000, "429")
        refused_ms = platform.database.server_now_ms()
        wait_until(lambda: platform.database.server_now_ms() > refused_ms + 300)
    asked_ms = platform.database.server_now_ms()
    with pytest.raises(Refused):
        grants.acquire(1, 1)
    told_ms = platform.database.server_now_ms()
    # It ends when it would have ended if it had been told at once, but for the way of the word; told anew, 300 ms later.
    assert before_ms + 30_000 - 10 <= blocked_until_ms(platform) <= refused_ms + 30_000 + (told_ms - asked_ms)


def test_a_longer_refusal_that_was_not_told_outlasts_a_shorter_one_that_was(platform: Platform, away: Away) -> None:
    add_connector(platform, windows=WIDE)
    store = InstanceLimiter(platform.limits)
    before_ms = platform.database.server_now_ms()
    with away(), pytest.raises(StorageUnavailable), storage_errors():
        store.block("binance", 600_000, "418")
    store.block("binance", 1_000, "429")
    assert blocked_until_ms(platform) >= before_ms + 600_000 - 10


def test_a_refusal_that_has_passed_untold_keeps_nobody(platform: Platform, away: Away) -> None:
    add_connector(platform, windows=WIDE)
    store = InstanceLimiter(platform.limits)
    with away(), pytest.raises(StorageUnavailable), storage_errors():
        store.block("binance", 50, "429")
    passed = time.monotonic() + 0.05
    wait_until(lambda: time.monotonic() > passed)
    assert make_grants(platform, store).acquire(1, 1).weight == 1
    assert blocked_until_ms(platform) == 0


def test_a_run_that_is_refused_while_the_database_is_away_sends_nothing_more_when_it_is_back(
    platform: Platform, away: Away
) -> None:
    with start_simulator(freeze_at_ms=1_760_000_042_000, seed=3) as simulator:
        add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)
        job_id = add_job(platform, start_ms=1_759_999_980_000 - 50 * MINUTE_MS, indicators=[])
        simulator.set_faults({"exchange": "binance", "kind": "status", "status": 429, "retry_after_s": 600, "count": 1})
        before_ms = platform.database.server_now_ms()
        with away(after=1):
            # The grant was booked; the refusal could not be.
            assert run_once(platform, job_id).outcome.value == "failed"
            assert blocked_until_ms(platform) == 0
        assert run_once(platform, job_id).outcome.value == "waiting"
        assert simulator.report()["binance"]["requests_total"] == 1
        assert blocked_until_ms(platform) >= before_ms + 600_000 - 10
