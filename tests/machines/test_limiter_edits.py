"""Limits that are edited on a real mongod: a window that is taken away is remembered, and what is kept for live jobs stays."""

from typing import Any, Final

import pytest

from shared.domain.rates import KEPT_FOR_LIVE_PERCENT, Reservation, Settlement
from shared.errors import ConfigurationError
from shared.stores.limiter_pipeline import TAKEN_AWAY_MAX
from shared.stores.rate_limits import RateLimitStore
from shared.wiring import Platform
from tests.factories import add_connector

# The limiter's clock may be ahead of the server's, and is then followed: from here on time passes as `ask_at` says.
AHEAD_MS: Final = 4_102_444_800_000
MINUTE: Final = (100, 60_000)
TENTH: Final = (100, 100)
USE_BY_MS: Final = 50
# So long that no grant comes to its charged moment, and no denial is asked again, while a test goes on.
LONG_USE_BY_MS: Final = 30_000


def set_limit(platform: Platform, limit: int, period_ms: int) -> None:
    fields = {"rate_limit": limit, "rate_limit_period_ms": period_ms}
    platform.database.collection("connectors").update_one({"_id": "binance"}, {"$set": fields})


def ask_at(platform: Platform, after_ms: int, need: int = 1, is_live: bool = True) -> Reservation:
    """What the limiter says so long after the beginning; by a store of its own, which remembers no denial."""
    clock = {"$set": {"limiter.clock_ms": AHEAD_MS + after_ms}}
    platform.database.collection("connectors").update_one({"_id": "binance"}, clock)
    return ask(RateLimitStore(platform.database), need=need, use_by_ms=USE_BY_MS, is_live=is_live)


def ask(store: RateLimitStore, need: int = 1, want: int = 1, use_by_ms: int = LONG_USE_BY_MS, **options: Any) -> Reservation:
    return store.reserve("binance", need=need, want=want, wait_ms_max=0, use_by_ms=use_by_ms, transit_ms=0, **options)


def log_periods(platform: Platform) -> list[int]:
    document = platform.database.collection("connectors").find_one({"_id": "binance"})
    assert document is not None
    return [log["period_ms"] for log in document["limiter"]["logs"]]


# --- windows that are taken away


def test_a_limit_that_was_changed_and_changed_back_has_forgotten_nothing(platform: Platform) -> None:
    add_connector(platform, windows=[MINUTE])
    assert ask_at(platform, 0, need=100).granted == 100
    set_limit(platform, *TENTH)
    # For the window of the moment all of it has left long ago.
    assert ask_at(platform, 10_000, need=40).granted == 40
    set_limit(platform, *MINUTE)
    first_leaves_ms = AHEAD_MS + USE_BY_MS + 60_000
    refused = ask_at(platform, 20_000)
    assert (refused.granted, refused.at_ms) == (0, first_leaves_ms)
    # What was granted meanwhile counts too.
    assert ask_at(platform, 60_000 + USE_BY_MS, need=61).granted == 0
    assert ask_at(platform, 60_000 + USE_BY_MS, need=60).granted == 60
    assert ask_at(platform, 70_000 + USE_BY_MS - 1).granted == 0
    assert ask_at(platform, 70_000 + USE_BY_MS, need=40).granted == 40


@pytest.mark.parametrize("is_live", [True, False])
def test_a_window_that_was_taken_away_is_remembered_for_its_period(platform: Platform, is_live: bool) -> None:
    add_connector(platform, windows=[MINUTE])
    ask_at(platform, 0)
    set_limit(platform, *TENTH)
    for after_ms in (1_000, 31_000, 60_999):
        ask_at(platform, after_ms, is_live=is_live)
        assert log_periods(platform) == [100, 60_000]
    ask_at(platform, 61_000, is_live=is_live)
    assert log_periods(platform) == [100]


def test_only_so_many_windows_are_remembered_and_the_newest_are(platform: Platform) -> None:
    add_connector(platform, windows=[MINUTE])
    periods = [60_000 + number for number in range(TAKEN_AWAY_MAX + 4)]
    for period_ms in periods:
        set_limit(platform, 100, period_ms)
        ask_at(platform, 0)
    assert log_periods(platform) == periods[::-1][: TAKEN_AWAY_MAX + 1]


def test_a_window_longer_than_all_before_begins_with_what_is_remembered(platform: Platform) -> None:
    add_connector(platform, windows=[MINUTE])
    assert ask_at(platform, 0, need=100).granted == 100
    set_limit(platform, *TENTH)
    ask_at(platform, 10_000, need=3)
    set_limit(platform, 110, 600_000)
    assert ask_at(platform, 20_000, need=8).granted == 0
    assert ask_at(platform, 20_000, need=7).granted == 7


# --- what is kept for live jobs


def test_who_is_not_live_leaves_some_of_each_window_to_those_who_are(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, 60_000), (500, 1_000)])
    store = RateLimitStore(platform.database)
    kept = 500 * KEPT_FOR_LIVE_PERCENT // 100
    assert ask(store, want=1_000, is_live=False).granted == 500 - kept
    assert ask(store, is_live=False).granted == 0
    assert ask(store, want=1_000).granted == kept
    assert ask(store).granted == 0


def test_a_live_job_is_granted_what_a_backfill_of_the_same_process_has_just_been_refused(platform: Platform) -> None:
    add_connector(platform, windows=[MINUTE])
    version = platform.connectors.get_connector("binance").version
    store = RateLimitStore(platform.database)
    held = ask(store, want=100, is_live=False, version=version)
    assert held.granted == 98
    refused = ask(store, is_live=False, version=version)
    assert refused.granted == 0
    # Not asked again: the denial is remembered, for backfills.
    assert ask(store, is_live=False, version=version).reservation_id == refused.reservation_id
    assert ask(store, want=5, version=version).granted == 2
    # And one that was said to a live job holds for all.
    denied = ask(store, version=version)
    assert denied.granted == 0
    assert ask(store, is_live=False, version=version).reservation_id == denied.reservation_id
    store.settle("binance", Settlement(held.reservation_id, 0, held.at_ms))
    assert ask(store, want=100, is_live=False, version=version).granted == 96


def test_what_only_the_whole_limit_can_serve_is_served_to_a_backfill_too(platform: Platform) -> None:
    add_connector(platform, windows=[MINUTE])
    assert ask_at(platform, 0, need=99, is_live=False).granted == 99
    assert ask_at(platform, 0, need=98, is_live=False).granted == 0
    with pytest.raises(ConfigurationError, match="weighs 101"):
        ask_at(platform, 0, need=101, is_live=False)


def test_of_a_small_limit_nothing_is_kept(platform: Platform) -> None:
    add_connector(platform, windows=[(49, 60_000)])
    assert ask(RateLimitStore(platform.database), want=100, is_live=False).granted == 49
