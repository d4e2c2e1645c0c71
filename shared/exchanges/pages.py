"""What one answer for candles is worth: which candles, up to where everything is known, where history begins. Pure."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from shared.domain.candles import CandleBatch
from shared.domain.timeframes import IntArray, Timeframe
from shared.errors import MalformedPage
from shared.exchanges.headers import read_clock_ms, read_usage
from shared.exchanges.rows import decode, decode_open_times, find_open_flags
from shared.exchanges.spec import CandlesRequest, EmptyIntervals, ExchangeSpec, Paging
from shared.exchanges.tables import find_rows
from shared.exchanges.transport import Answer

# Bounds that are snapped or taken otherwise than documented move a page by this many rows at most.
SNAP_ROWS: Final = 1


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """The answer to one request for candles.

    `candles` are closed and lie in [start_ms, end_ms) as asked. Everything that the exchange has in [start_ms,
    covered_end_ms) is among them; `covered_end_ms` is never beyond what has closed, nor before start_ms (then: nothing is
    covered). `exchange_now_ms` is an upper bound of the exchange's clock, None if it did not tell. `usage` are (period_ms,
    used weight) pairs. `history_start_ms`: the exchange has nothing older, and that is later than start_ms. `rows_count` are
    the rows received, before any was dropped. `missing_count` are intervals between the candles that have none, at an
    exchange that gives one for intervals without trades too: the answer is damaged, or its market was halted;
    `missing_before_count` those before the first candle, unless its history begins there. `disputed_ms` are open times of
    intervals for which the answer has rows that disagree: covered, and not among the candles; ascending.
    """

    candles: CandleBatch
    covered_end_ms: int
    exchange_now_ms: int | None
    usage: tuple[tuple[int, int], ...]
    history_start_ms: int | None
    rows_count: int
    missing_count: int = 0
    missing_before_count: int = 0
    disputed_ms: IntArray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def is_empty(self) -> bool:
        """Whether the exchange has nothing in the range."""
        return not len(self.candles) and not len(self.disputed_ms)

    @property
    def first_ms(self) -> int | None:
        """Open time of the first interval that it has something for; None without any."""
        firsts = [int(opens_ms[0]) for opens_ms in (self.candles.open_ms, self.disputed_ms) if len(opens_ms)]
        return min(firsts, default=None)

    @property
    def last_ms(self) -> int | None:
        """Open time of the last such interval; None without any."""
        lasts = [int(opens_ms[-1]) for opens_ms in (self.candles.open_ms, self.disputed_ms) if len(opens_ms)]
        return max(lasts, default=None)


@dataclass(frozen=True, slots=True)
class AskedRange:
    """What was asked for: intervals that open in [start_ms, end_ms), of which [first_ms, end_ms) in the request.

    `first_ms` is on the grid, and later than start_ms where the exchange's history cannot reach that far.
    """

    grid: Timeframe
    start_ms: int
    first_ms: int
    end_ms: int
    is_cut_by_history: bool = False


def empty_page(start_ms: int, covered_end_ms: int, history_start_ms: int | None = None) -> FetchedPage:
    """A page for which nothing had to be sent."""
    return FetchedPage(CandleBatch.empty(), max(start_ms, covered_end_ms), None, (), history_start_ms, 0)


def read_page(answer: Answer, spec: ExchangeSpec, request: CandlesRequest, asked: AskedRange) -> FetchedPage:
    """The candles of an answer and how far they cover the range.

    Raises:
        MalformedPage: the answer is not what was asked for.
    """
    grid = asked.grid
    rows = find_rows(answer.payload, spec)
    opens_ms = decode_open_times(rows, spec, grid)
    exchange_now_ms = read_clock_ms(answer.headers)
    # The range ends before what has not closed by the database's clock; here the exchange's own clock has its say.
    end_ms = asked.end_ms if exchange_now_ms is None else min(asked.end_ms, grid.closed_end(exchange_now_ms))
    if spec.rows.is_newest_row_open and len(opens_ms):
        # The clock may be past the end of an interval whose candle the exchange still is writing.
        end_ms = min(end_ms, int(opens_ms.max()))
    if spec.rows.closed is not None and len(opens_ms):
        is_open = find_open_flags(rows, spec)
        if is_open.any():
            end_ms = min(end_ms, int(opens_ms[is_open].min()))
    candles, disputed_ms = decode(rows, spec, grid, asked.start_ms, end_ms, opens_ms=opens_ms)
    given_ms = np.union1d(candles.open_ms, disputed_ms) if len(disputed_ms) else candles.open_ms
    if len(opens_ms):
        _check_bounds(opens_ms, spec, request, asked, is_any_inside=len(given_ms) > 0)
    is_filled = spec.empty_intervals is EmptyIntervals.FILLED
    covered_end_ms = end_ms
    if (is_filled or not spec.paging.is_by_window) and len(given_ms):
        covered_end_ms = min(end_ms, grid.close(int(given_ms[-1])))
    if spec.paging is Paging.LAST_N and not request.sends("start") and len(opens_ms):
        # All that there is. Where it ends before the range does, it is perhaps of an earlier moment (a cache).
        covered_end_ms = min(covered_end_ms, grid.close(int(opens_ms.max())))
    history_start_ms = _history_start_ms(opens_ms, spec, request, asked)
    is_begun = is_filled and history_start_ms is None and len(given_ms) > 0
    return FetchedPage(
        candles=candles,
        covered_end_ms=max(asked.start_ms, covered_end_ms),
        exchange_now_ms=exchange_now_ms,
        usage=read_usage(answer.headers, spec),
        history_start_ms=history_start_ms,
        rows_count=len(rows),
        missing_count=_missing_count(given_ms, grid) if is_filled else 0,
        missing_before_count=grid.count(asked.first_ms, int(given_ms[0])) if is_begun else 0,
        disputed_ms=disputed_ms,
    )


def _missing_count(given_ms: IntArray, grid: Timeframe) -> int:
    """How many intervals between the first that something is given for and the last have nothing."""
    if not len(given_ms):
        return 0
    return grid.count(int(given_ms[0]), int(given_ms[-1])) + 1 - len(given_ms)


def _check_bounds(
    opens_ms: IntArray, spec: ExchangeSpec, request: CandlesRequest, asked: AskedRange, *, is_any_inside: bool
) -> None:
    """That the rows answer what was asked for, and not another question (a cache, a parameter that was not read).

    A row next to the range is a bound taken otherwise. Rows on both sides of a window's end are the newest there are: some may
    lie in the range, but those before them are missing and would be taken for intervals without trades.

    Raises:
        MalformedPage: they do not.
    """
    grid = asked.grid
    slack = request.limit_of(grid.name) if spec.paging is Paging.WINDOW else SNAP_ROWS
    oldest_ms, newest_ms = int(opens_ms.min()), int(opens_ms.max())
    # Who is told an end only gives what is before it, however far back: a quiet market has nothing nearer.
    is_before = request.sends("start") and newest_ms < grid.shift(asked.first_ms, -slack) and not is_any_inside
    outermost_ms = newest_ms if spec.paging.is_by_window else oldest_ms
    is_behind = request.sends("end") and outermost_ms >= grid.close(grid.ceil(asked.end_ms))
    if is_before or is_behind:
        raise MalformedPage(
            f"{spec.name}: of {len(opens_ms)} rows from {oldest_ms} to {newest_ms} some or all lie outside of the range asked "
            f"for ({asked.start_ms} to {asked.end_ms}): the bounds were not honoured",
            exchange=spec.name,
        )


def _history_start_ms(opens_ms: IntArray, spec: ExchangeSpec, request: CandlesRequest, asked: AskedRange) -> int | None:
    """Where the exchange's history begins, if that is behind the start asked for, and the clock or the rows show it.

    Rows do where they are all there is: a full history, one without holes, or an exchange that is told no bound at all.
    """
    kept = spec.history_of(asked.grid.name)
    oldest_ms = int(opens_ms.min()) if len(opens_ms) else None
    if asked.is_cut_by_history:
        return asked.first_ms
    if oldest_ms is None or oldest_ms <= asked.first_ms:
        return None
    if spec.paging is Paging.LAST_N and not request.sends("start"):
        return oldest_ms
    is_whole = kept is not None and (len(opens_ms) >= kept or spec.empty_intervals is EmptyIntervals.FILLED)
    return oldest_ms if is_whole else None
