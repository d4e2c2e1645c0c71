"""Timeframes: floor, ceil, shift, count and open_times tell of one and the same grid, months and weeks included."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.jobs import to_datetime
from shared.domain.timeframes import DAY_MS, TIMEFRAMES, Timeframe

EARLIEST_MS = 0
LATEST_MS = 4_102_444_800_000  # 2100
times = st.integers(EARLIEST_MS, LATEST_MS)
frames = st.sampled_from(sorted(TIMEFRAMES)).map(TIMEFRAMES.__getitem__)
steps = st.integers(-300, 300)


@given(frames, times)
def test_every_moment_lies_in_one_interval(frame: Timeframe, at_ms: int) -> None:
    open_ms = frame.floor(at_ms)
    assert open_ms <= at_ms < frame.close(open_ms)
    assert frame.floor(open_ms) == open_ms == frame.ceil(open_ms)
    assert frame.floor(frame.close(open_ms) - 1) == open_ms
    assert frame.ceil(at_ms) == (open_ms if at_ms == open_ms else frame.close(open_ms))
    assert frame.closed_end(at_ms) == open_ms


@given(frames, times, steps, steps)
def test_shifts_add_up_and_go_back(frame: Timeframe, at_ms: int, first: int, second: int) -> None:
    open_ms = frame.floor(at_ms)
    assert frame.shift(frame.shift(open_ms, first), second) == frame.shift(open_ms, first + second)
    assert frame.shift(open_ms, 0) == open_ms
    assert frame.close(open_ms) == frame.shift(open_ms, 1)
    assert (frame.shift(open_ms, first) > open_ms) == (first > 0)


@given(frames, times, st.integers(0, 300))
def test_a_count_is_the_number_of_shifts(frame: Timeframe, at_ms: int, count: int) -> None:
    open_ms = frame.floor(at_ms)
    assert frame.count(open_ms, frame.shift(open_ms, count)) == count
    assert frame.count(frame.shift(open_ms, count), open_ms) == 0


@given(frames, times, st.integers(0, 400), st.data())
def test_open_times_are_the_grid_between_two_moments(frame: Timeframe, start_ms: int, width: int, data: st.DataObject) -> None:
    end_ms = start_ms + width * frame.step_ms + data.draw(st.integers(0, frame.step_ms - 1))
    opens = frame.open_times(start_ms, end_ms).tolist()
    walked = []
    at_ms = frame.ceil(start_ms)
    while at_ms < end_ms:
        walked.append(at_ms)
        at_ms = frame.close(at_ms)
    assert opens == walked
    assert frame.count(start_ms, end_ms) == len(walked)


@given(frames, st.lists(times, min_size=1, max_size=20), st.sets(st.integers(0, 19)))
def test_open_times_are_recognised(frame: Timeframe, moments: list[int], on_grid: set[int]) -> None:
    mixed = [frame.floor(at_ms) if index in on_grid else at_ms for index, at_ms in enumerate(moments)]
    expected = [frame.floor(at_ms) == at_ms for at_ms in mixed]
    assert frame.are_open_times(np.array(mixed, np.int64)).tolist() == expected


@given(times)
def test_weeks_begin_on_monday_and_months_on_the_first(at_ms: int) -> None:
    at = to_datetime(at_ms)
    monday = to_datetime(TIMEFRAMES["1w"].floor(at_ms))
    assert (monday.weekday(), monday.hour, monday.minute, monday.second, monday.microsecond) == (0, 0, 0, 0, 0)
    assert (at - monday).days < 7
    assert to_datetime(TIMEFRAMES["1M"].floor(at_ms)) == datetime(at.year, at.month, 1, tzinfo=UTC)
    following = (at.year + at.month // 12, at.month % 12 + 1)
    assert to_datetime(TIMEFRAMES["1M"].close(TIMEFRAMES["1M"].floor(at_ms))) == datetime(*following, 1, tzinfo=UTC)


@given(times, st.sampled_from([name for name in TIMEFRAMES if name not in ("1w", "1M")]))
def test_up_to_three_days_the_grid_counts_from_the_epoch(at_ms: int, name: str) -> None:
    frame = TIMEFRAMES[name]
    assert frame.floor(at_ms) % frame.step_ms == 0
    if DAY_MS % frame.step_ms == 0:
        assert frame.floor(at_ms // DAY_MS * DAY_MS) == at_ms // DAY_MS * DAY_MS


@pytest.mark.parametrize("name", sorted(TIMEFRAMES))
def test_a_month_has_at_least_its_step_and_others_exactly(name: str) -> None:
    frame = TIMEFRAMES[name]
    opens = frame.open_times(946_684_800_000, 946_684_800_000 + 400 * max(frame.step_ms, DAY_MS) // 10)
    widths = np.diff(opens)
    assert (widths >= frame.step_ms).all()
    assert frame.is_calendar_month or (widths == frame.step_ms).all()


@given(frames, st.lists(times, max_size=20))
def test_floors_are_the_floor_of_each(frame: Timeframe, moments_ms: list[int]) -> None:
    assert frame.floors(np.array(moments_ms, np.int64)).tolist() == [frame.floor(at_ms) for at_ms in moments_ms]


@given(frames, frames, times)
def test_a_grid_made_of_another_opens_and_closes_with_it(target: Timeframe, source: Timeframe, at_ms: int) -> None:
    open_ms = target.floor(at_ms)
    if target.is_made_of(source):
        assert source.floor(open_ms) == open_ms
        assert source.count(open_ms, target.close(open_ms)) >= 2
