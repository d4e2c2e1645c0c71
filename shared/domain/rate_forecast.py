"""When the limiter will have room, if what is under way arrives as expected. It says when to ask again, and grants nothing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shared.domain.connectors import Caution, blocked_until_ms, booked_windows
from shared.domain.rates import CAREFUL_REQUESTS, EXPECTED_ANSWER_MS, KEPT_FOR_LIVE_PERCENT, UNSETTLED_MAX, Ask, BookedWindow


def forecast_room_ms(document: Mapping[str, Any], ask: Ask, now_ms: int) -> int:
    """The moment (UTC ms) at which the need will fit, by a connector document with its limits and its limiter's state.

    It is not before the end of a block nor before the newest booking: a later question is served later. While only a few
    requests may be under way, or as many grants are open as the limiter takes, it is when the next answer is expected.
    """
    caution = Caution.of(document, now_ms)
    windows = caution.usable(booked_windows(document), ask.need)
    if not ask.is_live:
        windows = [_without_kept(window, ask.need) for window in windows]
    last_at_ms = int(document.get("limiter", {}).get("last_at_ms", 0))
    at_ms = max(
        now_ms, last_at_ms, blocked_until_ms(document), *(window.expected_room_ms(ask.need, now_ms) for window in windows)
    )
    unsettled = windows[0].unsettled
    is_careful = caution.is_careful and sum(grant.weight for grant in unsettled) + ask.need > CAREFUL_REQUESTS * ask.need
    return max(at_ms, now_ms + EXPECTED_ANSWER_MS) if is_careful or len(unsettled) >= UNSETTLED_MAX else at_ms


def _without_kept(booked: BookedWindow, need: int) -> BookedWindow:
    """As background jobs see the window; all of it where a request needs nearly all of it."""
    limit = booked.window.limit
    lowered = limit - limit * KEPT_FOR_LIVE_PERCENT // 100
    return replace(booked, window=replace(booked.window, limit=lowered if lowered >= need else limit))
