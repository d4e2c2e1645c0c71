"""Timeframes: the grid of open times of a series, in UTC milliseconds since the epoch.

Names are ccxt's (`1m` ... `1M`). Minutes to `3d` count from the epoch, weeks start on Monday 00:00 UTC, months follow the
calendar; so `1M` has no fixed length and every step goes through `shift`.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
WEEK_MS: Final = 7 * DAY_MS
# 1970-01-01 was a Thursday; the first Monday after the epoch is four days in.
MONDAY_ANCHOR_MS: Final = 4 * DAY_MS

IntArray: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Timeframe:
    """One grid. `step_ms` is the length of an interval, for `1M` the shortest possible one (28 days)."""

    name: str
    step_ms: int
    anchor_ms: int = 0
    is_calendar_month: bool = False

    def floor(self, at_ms: int) -> int:
        """Open time of the interval that contains `at_ms`."""
        if self.is_calendar_month:
            return _month_open_ms(_month_number(at_ms))
        return (at_ms - self.anchor_ms) // self.step_ms * self.step_ms + self.anchor_ms

    def floors(self, times_ms: IntArray) -> IntArray:
        """For each time the open time of the interval that contains it."""
        if self.is_calendar_month:
            months = times_ms.astype("datetime64[ms]").astype("datetime64[M]")
            return months.astype("datetime64[ms]").astype(np.int64)
        return np.asarray((times_ms - self.anchor_ms) // self.step_ms * self.step_ms + self.anchor_ms)

    def is_made_of(self, other: "Timeframe") -> bool:
        """Whether each interval is two or more whole ones of the other grid."""
        if other.is_calendar_month:
            return False
        if self.is_calendar_month:
            return DAY_MS % other.step_ms == 0
        is_aligned = (self.anchor_ms - other.anchor_ms) % other.step_ms == 0
        return self.step_ms > other.step_ms and self.step_ms % other.step_ms == 0 and is_aligned

    def ceil(self, at_ms: int) -> int:
        """The first open time that is not before `at_ms`."""
        floor_ms = self.floor(at_ms)
        return floor_ms if floor_ms == at_ms else self.shift(floor_ms, 1)

    def shift(self, open_ms: int, intervals_count: int) -> int:
        """The open time that many intervals later (earlier if negative) than the one at `open_ms`."""
        if self.is_calendar_month:
            return _month_open_ms(_month_number(open_ms) + intervals_count)
        return open_ms + intervals_count * self.step_ms

    def close(self, open_ms: int) -> int:
        """First millisecond after the interval that opens at `open_ms`, which is the next one's open time."""
        return self.shift(open_ms, 1)

    def closed_end(self, now_ms: int) -> int:
        """End (exclusive) of the intervals closed at `now_ms`: the open time of the running one."""
        return self.floor(now_ms)

    def count(self, start_ms: int, end_ms: int) -> int:
        """How many intervals open in [start_ms, end_ms)."""
        if end_ms <= start_ms:
            return 0
        first_ms, last_ms = self.ceil(start_ms), self.ceil(end_ms)
        if self.is_calendar_month:
            return _month_number(last_ms) - _month_number(first_ms)
        return (last_ms - first_ms) // self.step_ms

    def number(self, open_ms: int) -> int:
        """The interval's number on this grid: consecutive intervals have consecutive numbers."""
        return _month_number(open_ms) if self.is_calendar_month else (open_ms - self.anchor_ms) // self.step_ms

    def open_at(self, number: int) -> int:
        """Open time of the interval with that number."""
        return _month_open_ms(number) if self.is_calendar_month else self.anchor_ms + number * self.step_ms

    def numbers(self, opens_ms: IntArray) -> IntArray:
        """The number of each open time."""
        if self.is_calendar_month:
            return opens_ms.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
        return np.asarray((opens_ms - self.anchor_ms) // self.step_ms)

    def are_open_times(self, times_ms: IntArray) -> NDArray[np.bool_]:
        """For each time whether it lies on this grid."""
        if self.is_calendar_month:
            months = times_ms.astype("datetime64[ms]").astype("datetime64[M]")
            on_grid: NDArray[np.bool_] = months.astype("datetime64[ms]").astype(np.int64) == times_ms
            return on_grid
        return np.asarray((times_ms - self.anchor_ms) % self.step_ms == 0)

    def open_times(self, start_ms: int, end_ms: int) -> IntArray:
        """All open times in [start_ms, end_ms), ascending."""
        first_ms = self.ceil(start_ms)
        count = self.count(start_ms, end_ms)
        if self.is_calendar_month:
            months = np.arange(count) + _month_number(first_ms)
            return months.astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
        return np.asarray(first_ms + np.arange(count, dtype=np.int64) * self.step_ms)


def _month_number(at_ms: int) -> int:
    """Calendar months since January 1970 (UTC)."""
    return int(np.datetime64(at_ms, "ms").astype("datetime64[M]").astype(np.int64))


def _month_open_ms(month_number: int) -> int:
    return int(np.datetime64(month_number, "M").astype("datetime64[ms]").astype(np.int64))


TIMEFRAMES: Final[dict[str, Timeframe]] = {
    timeframe.name: timeframe
    for timeframe in (
        Timeframe("1m", MINUTE_MS),
        Timeframe("3m", 3 * MINUTE_MS),
        Timeframe("5m", 5 * MINUTE_MS),
        Timeframe("10m", 10 * MINUTE_MS),
        Timeframe("15m", 15 * MINUTE_MS),
        Timeframe("30m", 30 * MINUTE_MS),
        Timeframe("1h", HOUR_MS),
        Timeframe("2h", 2 * HOUR_MS),
        Timeframe("3h", 3 * HOUR_MS),
        Timeframe("4h", 4 * HOUR_MS),
        Timeframe("6h", 6 * HOUR_MS),
        Timeframe("8h", 8 * HOUR_MS),
        Timeframe("12h", 12 * HOUR_MS),
        Timeframe("1d", DAY_MS),
        Timeframe("3d", 3 * DAY_MS),
        Timeframe("1w", WEEK_MS, anchor_ms=MONDAY_ANCHOR_MS),
        Timeframe("1M", 28 * DAY_MS, is_calendar_month=True),
    )
}
