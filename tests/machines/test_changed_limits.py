"""Limits that change, connectors that are made again, refusals by the exchange: nothing that was sent is forgotten by that."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from shared.domain.jobs import to_ms
from shared.domain.rates import KEPT_FOR_LIVE_PERCENT, Reservation
from shared.stores.limiter_windows import TAKEN_AWAY_MAX
from shared.usecases.grants import Grants, NoRoom, Refused
from shared.usecases.instance_limiter import InstanceLimiter
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import add_connector
from tests.limits import limiter_of, make_ask, set_clock

AUTHOR: Final = Author("ann", "admin", "req-1")
MINUTE: Final = (100, 60_000)
# Long enough for a machine that stands still for a while.
USE_BY_MS: Final = 600_000
# The limiter's clock may be ahead of the server's, and is then followed: from here on time passes as `ask_at` says.
AHEAD_MS: Final = 4_102_444_800_000
# Of a minute's log. AHEAD_MS is the end of one, and what counts to the end of a grain counts exactly as long as it was charged.
GRAIN_MS: Final = 500


def reserve(platform: Platform, need: int = 1, want: int = 1, **options: Any) -> Reservation:
    return platform.limits.reserve("binance", make_ask(need, want, **options))


def change(platform: Platform, limit: int, period_ms: int) -> None:
    fields = {"rate_limit": limit, "rate_limit_period_ms": period_ms}
    platform.connector_manager.patch("binance", fields, None, AUTHOR)


def ask_at(platform: Platform, after_ms: int, need: int = 1, is_live: bool = True) -> Reservation:
    """What the limiter says so long after AHEAD_MS."""
    set_clock(platform, AHEAD_MS + after_ms)
    return reserve(platform, need, is_live=is_live, use_by_ms=GRAIN_MS)


def log_periods(platform: Platform) -> list[int]:
    return [log["period_ms"] for log in limiter_of(platform)["logs"]]


def test_what_was_sent_before_and_meanwhile_leaves_a_window_that_comes_back_at_its_moment(platform: Platform) -> None:
    add_connector(platform, windows=[MINUTE])
    assert ask_at(platform, 0, need=100).granted == 100
    change(platform, 100, 100)
    # For the window of the moment all of it has left long ago.
    assert ask_at(platform, 10_000, need=40).granted == 40
    change(platform, *MINUTE)
    refused = ask_at(platform, 20_000)
    assert (refused.granted, refused.at_ms) == (0, AHEAD_MS + 60_500)
    assert ask_at(platform, 60_500, need=61).granted == 0
    assert ask_at(platform, 60_500, need=60).granted == 60
    assert ask_at(platform, 70_499).granted == 0
    assert ask_at(platform, 70_500, need=40).granted == 40


@pytest.mark.parametrize("is_live", [True, False])
def test_a_window_that_is_taken_away_is_remembered_for_its_period(platform: Platform, is_live: bool) -> None:
    add_connector(platform, windows=[MINUTE])
    ask_at(platform, 0)
    change(platform, 100, 100)
    for after_ms in (1_000, 31_000, 60_999):
        ask_at(platform, after_ms, is_live=is_live)
        assert log_periods(platform) == [100, 60_000]
    ask_at(platform, 61_000, is_live=is_live)
    assert log_periods(platform) == [100]


def test_a_window_longer_than_all_before_begins_with_what_is_remembered(platform: Platform) -> None:
    add_connector(platform, windows=[MINUTE])
    assert ask_at(platform, 0, need=100).granted == 100
    change(platform, 100, 100)
    ask_at(platform, 10_000, need=3)
    change(platform, 110, 600_000)
    assert ask_at(platform, 20_000, need=8).granted == 0
    assert ask_at(platform, 20_000, need=7).granted == 7


def test_not_more_windows_are_remembered_than_a_document_can_bear(platform: Platform) -> None:
    add_connector(platform, windows=[MINUTE])
    for number in range(TAKEN_AWAY_MAX + 5):
        reserve(platform)
        change(platform, 100, 70_000 + number)
    reserve(platform)
    assert len(limiter_of(platform)["logs"]) == 1 + TAKEN_AWAY_MAX


def test_backfills_leave_a_part_of_the_limit_to_live_jobs(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, 60_000)])
    kept = 1_000 * KEPT_FOR_LIVE_PERCENT // 100
    assert reserve(platform, want=2_000, is_live=False).granted == 1_000 - kept
    version = platform.connectors.get_connector("binance").version
    limiter = InstanceLimiter(platform.limits)
    assert limiter.reserve("binance", make_ask(is_live=False), version).granted == 0
    # By the same process, which remembers that denial.
    assert limiter.reserve("binance", make_ask(want=2_000), version).granted == kept
    assert limiter.reserve("binance", make_ask(), version).granted == 0


def test_backfills_leave_a_part_of_each_window_and_of_a_small_one_nothing(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, 60_000), (500, 1_000)])
    assert reserve(platform, want=1_000, use_by_ms=USE_BY_MS, is_live=False).granted == 490
    assert reserve(platform, want=1_000, use_by_ms=USE_BY_MS).granted == 10
    add_connector(platform, connector_id="small", windows=[(49, 60_000)])
    assert platform.limits.reserve("small", make_ask(want=100, use_by_ms=USE_BY_MS, is_live=False)).granted == 49


def test_a_backfills_request_that_needs_nearly_all_of_a_limit_is_sent(platform: Platform) -> None:
    add_connector(platform, windows=[(100, 60_000)])
    assert reserve(platform, need=99, want=99, is_live=False).granted == 99


def test_a_refusal_stops_all_runs_of_the_process_that_hold_a_grant(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, 600_000)])
    connector = platform.connectors.get_connector("binance")
    holders = [Grants(platform.limiter, connector, 0) for _ in range(3)]
    for holder in holders:
        holder.acquire(1, 100)
    platform.limiter.block("binance", 60_000, "429")
    for holder in holders:
        with pytest.raises(Refused) as refused:
            holder.acquire(1, 100)
        assert isinstance(refused.value.refusal, NoRoom)
        assert refused.value.refusal.wait_ms > 30_000
    platform.connector_manager.unblock("binance", AUTHOR)
    changed = platform.connectors.get_connector("binance")
    assert Grants(platform.limiter, changed, 0).acquire(1, 100).weight == 1


@contextmanager
def updates_fail(client: MongoClient[dict[str, Any]]) -> Iterator[None]:
    """MongoDB answers every findAndModify with an error that the driver does not try again."""
    failing = {"failCommands": ["findAndModify"], "errorCode": 11601}
    client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=failing)
    try:
        yield
    finally:
        client.admin.command("configureFailPoint", "failCommand", mode="off")


def test_a_block_that_could_not_be_stored_is_stored_before_anything_is_asked(
    platform: Platform, mongo_client: MongoClient[dict[str, Any]]
) -> None:
    add_connector(platform, windows=[MINUTE])
    limiter = InstanceLimiter(platform.limits)
    with updates_fail(mongo_client):
        with pytest.raises(PyMongoError):
            limiter.block("binance", 60_000, "418")
        with pytest.raises(PyMongoError):
            limiter.reserve("binance", make_ask())
    refused = limiter.reserve("binance", make_ask())
    assert refused.granted == 0
    assert refused.wait_ms > 30_000
    # Now everybody knows.
    assert platform.connectors.get("binance")["blocked_reason"] == "418"
    assert reserve(platform).granted == 0


def test_a_connector_that_is_made_again_waits_until_what_was_sent_has_passed(platform: Platform) -> None:
    manager = platform.connector_manager
    windows = {"rate_limit": 100, "rate_limit_period_ms": 60_000}
    manager.create("binance", "binance", windows, AUTHOR)
    assert reserve(platform, want=100, use_by_ms=USE_BY_MS).granted == 100
    manager.delete("binance", None, AUTHOR)
    made = manager.create("binance", "binance", windows, AUTHOR)
    assert "made again" in made["blocked_reason"]
    refused = reserve(platform)
    assert refused.granted == 0
    assert refused.wait_ms > USE_BY_MS


def test_a_connector_that_is_made_again_waits_for_what_a_window_taken_away_still_holds(platform: Platform) -> None:
    manager = platform.connector_manager
    manager.create("binance", "binance", {"rate_limit": 100, "rate_limit_period_ms": 600_000}, AUTHOR)
    reserve(platform)
    change(platform, 100, 100)
    # One that is settled and one that is not.
    reserve(platform, use_by_ms=1)
    newest = reserve(platform, use_by_ms=5_000)
    manager.delete("binance", None, AUTHOR)
    made = manager.create("binance", "binance", {"rate_limit": 100, "rate_limit_period_ms": 600_000}, AUTHOR)
    assert to_ms(made["blocked_until"]) == newest.charged_ms + 600_000


def test_a_connector_that_is_made_again_is_blocked_as_long_as_it_was(platform: Platform) -> None:
    manager = platform.connector_manager
    manager.create("binance", "binance", {}, AUTHOR)
    until_ms = platform.limits.block("binance", 3_600_000, "banned").until_ms
    manager.delete("binance", None, AUTHOR)
    manager.create("binance", "binance", {}, AUTHOR)
    assert reserve(platform).at_ms == until_ms


def test_a_connector_that_has_sent_nothing_is_made_again_free(platform: Platform) -> None:
    manager = platform.connector_manager
    for _ in range(2):
        assert manager.create("binance", "binance", {}, AUTHOR)["blocked_until"] is None
        manager.delete("binance", None, AUTHOR)
