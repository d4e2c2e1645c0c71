"""What to ask of the exchange next, and how far the cursor may move for an answer. All times are UTC ms, ranges half open."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Final, Protocol

from shared.domain.timeframes import Timeframe

# While the newest candle is missing, ask again when it is this much older, so that a series without trades is not asked
# every second and a late one is still had soon.
PENDING_RETRY_FACTOR: Final = 4


@dataclass(frozen=True, slots=True)
class Window:
    """[start_ms, end_ms) to be asked of the exchange; from `new_ms` on it has not been asked before.

    `closed_end_ms`: up to where intervals had closed when this was planned. A job's own end may lie before it.
    """

    start_ms: int
    new_ms: int
    end_ms: int
    closed_end_ms: int


def plan_window(
    timeframe: Timeframe, *, first_ms: int, cursor_ms: int | None, end_ms: int | None, overlap: int, now_ms: int
) -> Window | None:
    """The next window: from the cursor, with `overlap` candles read again, to the last closed one. None: nothing is due.

    `first_ms` is the job's start (not below it, also by overlap), `end_ms` its end or None.
    """
    new_ms = timeframe.ceil(first_ms) if cursor_ms is None else timeframe.shift(cursor_ms, 1)
    closed_end_ms = timeframe.closed_end(now_ms)
    window_end_ms = closed_end_ms if end_ms is None else min(closed_end_ms, timeframe.ceil(end_ms))
    if new_ms >= window_end_ms:
        return None
    start_ms = max(timeframe.ceil(first_ms), timeframe.shift(new_ms, -overlap))
    return Window(start_ms, new_ms, window_end_ms, closed_end_ms)


class WindowPlan(Protocol):
    """Which windows a job asks for, one after the other."""

    def next_window(self, cursor_ms: int | None, overlap: int, now_ms: int) -> Window | None:
        """The next one after the cursor, None if nothing is due."""

    def has_more(self, cursor_ms: int | None) -> bool:
        """Whether a window that ends before the end of all that has closed is not the last one."""

    def windows_ahead(self, cursor_ms: int | None, page_max: Callable[[int], int], now_ms: int) -> Iterator[Window]:
        """Those after the cursor as far as they are known before any is answered; `page_max`: start_ms -> intervals of one."""

    def pass_known(self, cursor_ms: int | None) -> int | None:
        """The cursor, moved past all that need not be asked for."""


@dataclass(frozen=True, slots=True)
class RangePlan:
    """All of a range: see `plan_window`."""

    timeframe: Timeframe
    first_ms: int
    end_ms: int | None

    def next_window(self, cursor_ms: int | None, overlap: int, now_ms: int) -> Window | None:
        """See WindowPlan."""
        return plan_window(
            self.timeframe,
            first_ms=self.first_ms,
            cursor_ms=cursor_ms,
            end_ms=self.end_ms,
            overlap=overlap,
            now_ms=now_ms,
        )

    def has_more(self, cursor_ms: int | None) -> bool:
        """Never: each window reaches to the end."""
        return False

    def windows_ahead(self, cursor_ms: int | None, page_max: Callable[[int], int], now_ms: int) -> Iterator[Window]:
        """None: who follows the market asks for one page."""
        return iter(())

    def pass_known(self, cursor_ms: int | None) -> int | None:
        """All of it is asked for."""
        return cursor_ms


@dataclass(frozen=True, slots=True)
class GapPlan:
    """Only these stretches [start_ms, end_ms), ascending; nothing is read again.

    `known`: all other intervals of that stretch are known, so that the cursor may pass them; None: it may not.
    """

    timeframe: Timeframe
    gaps: Sequence[tuple[int, int]]
    known: tuple[int, int] | None = None

    def next_window(self, cursor_ms: int | None, overlap: int, now_ms: int) -> Window | None:
        """See WindowPlan: the first gap that is not behind the cursor, or what is left of it."""
        closed_end_ms = self.timeframe.closed_end(now_ms)
        for start_ms, gap_end_ms in self._left(cursor_ms):
            end_ms = min(gap_end_ms, closed_end_ms)
            if start_ms < end_ms:
                return Window(start_ms, start_ms, end_ms, closed_end_ms)
        return None

    def has_more(self, cursor_ms: int | None) -> bool:
        """Whether a gap ends behind the cursor."""
        return next(self._left(cursor_ms), None) is not None

    def windows_ahead(self, cursor_ms: int | None, page_max: Callable[[int], int], now_ms: int) -> Iterator[Window]:
        """See WindowPlan."""
        closed_end_ms = self.timeframe.closed_end(now_ms)
        for start_ms, gap_end_ms in self._left(cursor_ms):
            while start_ms < (end_ms := min(gap_end_ms, closed_end_ms)):
                page_end_ms = min(end_ms, self.timeframe.shift(start_ms, page_max(start_ms)))
                yield Window(start_ms, start_ms, page_end_ms, closed_end_ms)
                start_ms = page_end_ms

    def pass_known(self, cursor_ms: int | None) -> int | None:
        """See WindowPlan: to before the next gap, or to the end of what is known."""
        if self.known is None:
            return cursor_ms
        first_ms, end_ms = self.known
        start_ms, _ = next(self._left(cursor_ms), (end_ms, end_ms))
        if start_ms <= first_ms:
            return cursor_ms
        passed_ms = self.timeframe.shift(start_ms, -1)
        return passed_ms if cursor_ms is None else max(cursor_ms, passed_ms)

    def _left(self, cursor_ms: int | None) -> Iterator[tuple[int, int]]:
        """What of the gaps is not behind the cursor."""
        next_ms = 0 if cursor_ms is None else self.timeframe.close(cursor_ms)
        first = bisect_right(self.gaps, next_ms, key=itemgetter(1))
        for start_ms, end_ms in islice(self.gaps, first, None):
            yield max(start_ms, next_ms), end_ms


@dataclass(frozen=True, slots=True)
class Advance:
    """Where the cursor stands after a page (None: not moved yet) and whether the newest intervals are still waited for.

    `closed_end_ms`: up to where intervals had closed when the page was planned, also by the exchange's clock.
    """

    cursor_ms: int | None
    closed_end_ms: int
    is_pending: bool
    is_caught_up: bool


def decide_advance(
    timeframe: Timeframe,
    window: Window,
    *,
    cursor_ms: int | None,
    last_given_ms: int | None,
    covered_end_ms: int,
    now_ms: int,
    grace_ms: int,
) -> Advance:
    """Move the cursor past what the answer covers. `last_given_ms`: the last interval that the answer has something for.

    An interval without a candle that closed less than `grace_ms` ago is not passed, unless a later candle is there: the
    exchange may yet publish it. An older one is, or a quiet market would be asked for the same for ever. `now_ms` is when
    the page was asked for, by the database's or the exchange's clock, whichever is behind.
    """
    settled_end_ms = min(covered_end_ms, timeframe.closed_end(max(0, now_ms - grace_ms)))
    passed_end_ms = max(settled_end_ms, window.new_ms)
    if last_given_ms is not None:
        passed_end_ms = max(passed_end_ms, timeframe.close(last_given_ms))
    closed_end_ms = min(window.closed_end_ms, timeframe.closed_end(now_ms))
    due_end_ms = min(window.end_ms, closed_end_ms)
    passed_end_ms = min(passed_end_ms, max(due_end_ms, window.new_ms))
    moved_ms = timeframe.shift(passed_end_ms, -1) if passed_end_ms > window.new_ms else cursor_ms
    is_asked_to_end = covered_end_ms >= due_end_ms
    return Advance(
        cursor_ms=moved_ms,
        closed_end_ms=closed_end_ms,
        is_pending=is_asked_to_end and passed_end_ms < due_end_ms,
        is_caught_up=is_asked_to_end,
    )


def plan_next_run_ms(timeframe: Timeframe, *, closed_end_ms: int, is_pending: bool, now_ms: int, settle_delay_ms: int) -> int:
    """When a job that is caught up runs again: a settle delay after the next close, seen from when its page was planned.

    The answer may come after that close; then the time is near or past, and the job is due at once. While the newest candle
    is still waited for: when its age has grown by PENDING_RETRY_FACTOR, if that comes first. `now_ms`: when it was asked for.
    """
    next_run_ms = timeframe.close(closed_end_ms) + settle_delay_ms
    if is_pending:
        age_ms = max(now_ms - closed_end_ms, settle_delay_ms, 500)
        next_run_ms = min(next_run_ms, closed_end_ms + PENDING_RETRY_FACTOR * age_ms)
    return next_run_ms
