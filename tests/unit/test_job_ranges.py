"""Which stretch a new job covers: defaults, the exchange's wall, and what is refused."""

from typing import Any

import pytest

from shared.domain.job_ranges import DEFAULT_INTERVALS, EARLIEST_MS, decide_kind, decide_start_ms, format_ms
from shared.domain.jobs import JobKind
from shared.domain.timeframes import HOUR_MS, TIMEFRAMES
from shared.errors import InvalidRequest

HOUR = TIMEFRAMES["1h"]
NOW_MS = 1_794_398_400_000 + 1_234


def start_ms(**changes: Any) -> int:
    arguments = {"kind": JobKind.LIVE, "start_ms": None, "end_ms": None, "now_ms": NOW_MS, "history_candles_max": None}
    return decide_start_ms(HOUR, **{**arguments, "exchange": "somewhere", **changes})


def fields_refused(**changes: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        start_ms(**changes)
    return [field for field, _ in caught.value.errors]


def test_the_default_start_is_some_intervals_back_as_far_as_the_exchange_goes() -> None:
    running_ms = NOW_MS // HOUR_MS * HOUR_MS
    assert start_ms() == running_ms - DEFAULT_INTERVALS * HOUR_MS
    assert start_ms(history_candles_max=720) == running_ms - DEFAULT_INTERVALS * HOUR_MS
    assert start_ms(history_candles_max=100) == running_ms - 100 * HOUR_MS
    assert start_ms(now_ms=EARLIEST_MS + HOUR_MS) == EARLIEST_MS


@pytest.mark.parametrize("given_ms", [EARLIEST_MS, NOW_MS - 1])
def test_a_start_between_the_first_block_and_now_is_taken_as_it_is(given_ms: int) -> None:
    assert start_ms(start_ms=given_ms) == given_ms


@pytest.mark.parametrize("given_ms", [0, EARLIEST_MS - 1, NOW_MS, NOW_MS + HOUR_MS])
def test_a_start_outside_of_that_is_refused(given_ms: int) -> None:
    assert fields_refused(start_ms=given_ms) == ["start_at"]


def test_the_wall_is_named() -> None:
    wall_ms = NOW_MS // HOUR_MS * HOUR_MS - 720 * HOUR_MS
    assert start_ms(start_ms=wall_ms, history_candles_max=720) == wall_ms
    with pytest.raises(InvalidRequest, match=format_ms(wall_ms)):
        start_ms(start_ms=wall_ms - 1, history_candles_max=720)


def test_a_backfill_needs_both_ends_in_order() -> None:
    kind = JobKind.BACKFILL
    assert fields_refused(kind=kind) == ["start_at", "end_at"]
    assert fields_refused(kind=kind, start_ms=NOW_MS - HOUR_MS) == ["end_at"]
    for end_ms in (NOW_MS - HOUR_MS, NOW_MS - 2 * HOUR_MS):
        assert fields_refused(kind=kind, start_ms=NOW_MS - HOUR_MS, end_ms=end_ms) == ["start_at", "end_at"]
    assert start_ms(kind=kind, start_ms=NOW_MS - HOUR_MS, end_ms=NOW_MS) == NOW_MS - HOUR_MS


def test_an_end_makes_a_backfill() -> None:
    assert (decide_kind(None, None), decide_kind(None, 1)) == (JobKind.LIVE, JobKind.BACKFILL)
    assert (decide_kind(JobKind.LIVE, None), decide_kind(JobKind.BACKFILL, None)) == (JobKind.LIVE, JobKind.BACKFILL)
    for kind, end_ms in ((JobKind.LIVE, 1), (JobKind.REPAIR, 1)):
        with pytest.raises(InvalidRequest):
            decide_kind(kind, end_ms)
