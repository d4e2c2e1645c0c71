"""After a refusal: half of every limit, few requests under way, and both pass. On the limiter's own clock, which is moved."""

from typing import Final

import pytest

from shared.domain.rates import (
    CAREFUL_REQUESTS,
    EXPECTED_ANSWER_MS,
    RECOVERY_MS,
    SHARE_PERMILLE_ALL,
    SHARE_PERMILLE_MIN,
    Reservation,
)
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import add_connector
from tests.limits import limiter_of, make_ask, set_clock, settled

AHEAD_MS: Final = 4_102_444_800_000
LIMIT: Final = 1_000
PERIOD_MS: Final = 10_000
BLOCK_MS: Final = 2_000
# When nobody has to be careful any more.
CALM_MS: Final = BLOCK_MS + PERIOD_MS


def at(platform: Platform, after_ms: int) -> None:
    set_clock(platform, AHEAD_MS + after_ms)


def take_all(platform: Platform) -> int:
    """All that is granted now, and given back at once."""
    grant = platform.limits.reserve("binance", make_ask(want=10 * LIMIT))
    platform.limits.settle("binance", [settled(grant, 0, 0)])
    return grant.granted


def refuse(platform: Platform, after_ms: int, sent_ms: int = 0) -> None:
    at(platform, after_ms)
    platform.limits.block("binance", BLOCK_MS, "429", sent_ms)


@pytest.fixture
def connector(platform: Platform) -> str:
    return add_connector(platform, windows=[(LIMIT, PERIOD_MS)])


def test_a_refusal_halves_what_is_used_and_all_of_it_is_regained(platform: Platform, connector: str) -> None:
    at(platform, 0)
    assert take_all(platform) == LIMIT
    refuse(platform, 0)
    assert take_all(platform) == 0
    at(platform, CALM_MS)
    regained = PERIOD_MS * LIMIT // RECOVERY_MS
    assert take_all(platform) == LIMIT // 2 + regained
    at(platform, BLOCK_MS + RECOVERY_MS // 4)
    assert take_all(platform) == 3 * LIMIT // 4
    at(platform, BLOCK_MS + RECOVERY_MS // 2)
    assert take_all(platform) == LIMIT
    at(platform, BLOCK_MS + RECOVERY_MS)
    assert take_all(platform) == LIMIT


def test_refusals_of_what_was_under_way_with_the_first_halve_nothing_more(platform: Platform, connector: str) -> None:
    for after_ms in (0, 100, 1_999):
        refuse(platform, after_ms)
    at(platform, 1_999 + CALM_MS)
    assert take_all(platform) == LIMIT // 2 + PERIOD_MS * LIMIT // RECOVERY_MS


def test_a_limit_that_is_refused_again_and_again_is_found(platform: Platform, connector: str) -> None:
    for number in range(8):
        refuse(platform, number * BLOCK_MS)
    at(platform, 8 * BLOCK_MS)
    assert limiter_of(platform)["refusal"]["share"] == SHARE_PERMILLE_MIN
    at(platform, 7 * BLOCK_MS + CALM_MS)
    assert take_all(platform) == SHARE_PERMILLE_MIN + PERIOD_MS * LIMIT // RECOVERY_MS


@pytest.mark.parametrize("need", [1, 7])
def test_for_a_period_after_a_block_few_requests_may_be_under_way(platform: Platform, connector: str, need: int) -> None:
    refuse(platform, 0)
    at(platform, BLOCK_MS)

    def ask() -> Reservation:
        return platform.limits.reserve("binance", make_ask(need, 100, 1_000, PERIOD_MS))

    first = ask()
    assert first.granted == CAREFUL_REQUESTS * need
    refused = ask()
    assert refused.granted == 0
    # Asked again when an answer is expected, and not when the window has room.
    assert refused.at_ms == AHEAD_MS + BLOCK_MS + EXPECTED_ANSWER_MS
    platform.limits.settle("binance", [settled(first, need, AHEAD_MS + BLOCK_MS, returned=0)])
    assert ask().granted == need
    at(platform, CALM_MS - 1)
    assert ask().granted == 0
    at(platform, CALM_MS)
    assert ask().granted == 100


def test_one_request_is_always_possible(platform: Platform) -> None:
    """However little is left of a small limit."""
    add_connector(platform, windows=[(2, PERIOD_MS)])
    for number in range(8):
        refuse(platform, number * BLOCK_MS)
    at(platform, 9 * BLOCK_MS)
    assert platform.limits.reserve("binance", make_ask(need=2)).granted == 2


def test_what_had_left_after_a_refusal_was_known_is_counted(platform: Platform, connector: str) -> None:
    refuse(platform, 0, sent_ms=AHEAD_MS - 50)
    refuse(platform, 100, sent_ms=AHEAD_MS - 10)
    refuse(platform, 200, sent_ms=AHEAD_MS + 1)
    refuse(platform, 300)
    # A new one, after the block, begins anew.
    refuse(platform, 300 + BLOCK_MS, sent_ms=AHEAD_MS + 300 + BLOCK_MS)
    refusal = limiter_of(platform)["refusal"]
    assert (refusal["total"], refusal["after_total"]) == (5, 1)
    (row,) = platform.connectors.list_usage(AHEAD_MS)
    assert (row["caution"].refused_total, row["caution"].after_total) == (5, 1)


def test_what_was_under_way_with_the_first_and_is_refused_after_a_short_block_is_no_new_refusal(
    platform: Platform, connector: str
) -> None:
    """An answer may take longer than the exchange wants us to wait."""
    refuse(platform, 0, sent_ms=AHEAD_MS - 100)
    refuse(platform, BLOCK_MS + 100, sent_ms=AHEAD_MS - 90)
    refuse(platform, 2 * BLOCK_MS + 200, sent_ms=AHEAD_MS - 80)
    refusal = limiter_of(platform)["refusal"]
    assert (refusal["total"], refusal["after_total"], refusal["newest_ms"]) == (3, 0, AHEAD_MS)
    assert refusal["careful_until_ms"] == AHEAD_MS + CALM_MS
    # All of them are heeded for as long as they say.
    at(platform, 3 * BLOCK_MS + 199)
    assert take_all(platform) == 0
    at(platform, CALM_MS)
    (row,) = platform.connectors.list_usage(AHEAD_MS + CALM_MS)
    assert 500 < row["caution"].share_permille < 600


def test_the_caution_that_is_shown_is_the_one_that_is_kept(platform: Platform, connector: str) -> None:
    refuse(platform, 0)
    for after_ms in (BLOCK_MS, CALM_MS, BLOCK_MS + 77_777, BLOCK_MS + RECOVERY_MS):
        at(platform, after_ms)
        (row,) = platform.connectors.list_usage(AHEAD_MS + after_ms)
        caution = row["caution"]
        granted = take_all(platform)
        if caution.is_careful:
            assert granted == caution.requests_max == CAREFUL_REQUESTS
        else:
            assert granted == LIMIT * caution.share_permille // SHARE_PERMILLE_ALL


def test_who_ends_a_block_ends_all_of_it(platform: Platform, connector: str) -> None:
    refuse(platform, 0)
    at(platform, 1)
    platform.connector_manager.unblock("binance", Author("me", "admin", "test"))
    assert take_all(platform) == LIMIT


def test_a_connector_that_is_blocked_for_another_reason_is_not_careful(platform: Platform, connector: str) -> None:
    """One that is made again waits for what was sent before."""
    author = Author("me", "admin", "test")
    platform.limits.reserve("binance", make_ask(use_by_ms=600_000))
    platform.connector_manager.delete("binance", None, author)
    made = platform.connector_manager.create("binance", "binance", {}, author)
    assert made["blocked_until"] is not None
    now_ms = platform.database.server_now_ms()
    (row,) = platform.connectors.list_usage(now_ms)
    assert (row["caution"].share_permille, row["caution"].requests_max) == (SHARE_PERMILLE_ALL, None)
    # The first refusal there is a new one, though it comes during that block.
    platform.limits.block("binance", BLOCK_MS, "429", now_ms)
    assert limiter_of(platform)["refusal"]["after_total"] == 0
