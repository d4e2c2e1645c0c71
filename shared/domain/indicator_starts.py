"""From which candle on TA-Lib is given a series, so that a value depends on the series and on nothing else.

TA-Lib's functions begin afresh at each call, and what they give depends on where they began: by the rest of a decaying average,
or by the rounding of a running sum. So that must not follow from how the candles came in. Intervals are taken by their numbers:
64 are a block, and four blocks a section. All values of a section are computed from one start: the first candle of the latest
block with enough candles from there up to the section. What is enough is counted in whole blocks, by their own candles only. So
a later section never starts earlier, and a candle that changes leaves the values of all sections that start behind it as they
were.

Longer sections cost less where many candles come at once, and are more to read where one does: the candles before it in its
section.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from shared.domain.candles import CandleBatch, FloatArray
from shared.domain.timeframes import IntArray, Timeframe

BLOCK: Final = 64
SECTION: Final = 4 * BLOCK
# SAR needs up to 256 moving candles until a reversal that both starts share.
MOVES_MIN: Final = 400
# A market that stood still for longer is read no further: its old ratio is worth no more reads. No spec may need more.
HISTORY_CANDLES_MAX: Final = 20_000
# Besides those that are counted the rest of the block that they begin in has to be read, and what is there of the section.
BESIDES: Final = BLOCK + SECTION


@dataclass(frozen=True, slots=True)
class Reach:
    """How much of the series before a section a function has to be given.

    `candles`: so many. `is_moving`: blocks in which high, low or close stays the same do not count, as averages of ratios (RSI,
    ADX) forget nothing there. `moves`: high, low and close have to have moved so often. HISTORY_CANDLES_MAX are always enough.
    """

    candles: int
    is_moving: bool = False
    moves: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """TA-Lib is given the candles from row `start` to `end` (exclusive), for the values of those from row `first` on."""

    start: int
    first: int
    end: int


class Blocks:
    """The blocks of a series, or of its end. `is_whole`: the series has no candle before the first one here."""

    def __init__(self, grid: Timeframe, candles: CandleBatch, *, is_whole: bool) -> None:
        numbers = grid.numbers(candles.open_ms)
        blocks = numbers // BLOCK
        starts = _firsts(blocks)
        sections = blocks[starts] * BLOCK // SECTION
        rows = [*starts.tolist(), len(numbers)]
        sizes = np.array([end - start for start, end in pairwise(rows)], np.int64)
        moves = [_count_moves(column, starts) for column in (candles.high, candles.low, candles.close)]
        self._is_whole = is_whole
        # Row of each block's first candle; the last is behind all.
        self._rows: list[int] = rows
        # Of each section the first block.
        self._sections: list[int] = _firsts(sections).tolist()
        # Of a block whose beginning may not be here nobody can tell what it counts.
        self._usable = int(not is_whole and len(numbers) > 0 and int(numbers[0]) % BLOCK != 0)
        # Of each block what is counted in the blocks before it; ascending.
        self._stored = _before(sizes)
        self._moving = _before(np.where(np.minimum.reduce(moves) > 0, sizes, 0))
        self._moves = [_before(counts) for counts in moves]

    def spans(self, reach: Reach, first_row: int) -> list[Span]:
        """What to give to TA-Lib for the values of the candles from `first_row` on; ascending.

        Raises:
            ValueError: candles are needed that are before the first one here.
        """
        end = self._rows[-1]
        if first_row >= end:
            return []
        if not reach.candles:
            return [Span(first_row, first_row, end)]
        first = self._section_of(first_row)
        ends = [self._rows[block] for block in self._sections[first + 1 :]] + [end]
        found: list[Span] = []
        for section, end in zip(self._sections[first:], ends, strict=True):
            start = self._start(reach, section)
            if start is None:
                raise ValueError(f"of the {first_row} candles of history not enough are in whole blocks for {reach}")
            if found and found[-1].start == start:
                # What has the same start is computed at once.
                found[-1] = Span(start, found[-1].first, end)
            else:
                found.append(Span(start, found[-1].end if found else first_row, end))
        return found

    def needed_from(self, reach: Reach, row: int) -> int | None:
        """The first row that the values of the row's section and of all later ones need; None: one that is not here."""
        return self._start(reach, self._sections[self._section_of(row)]) if reach.candles else row

    def _section_of(self, row: int) -> int:
        return bisect_right(self._sections, bisect_right(self._rows, row) - 1) - 1

    def _start(self, reach: Reach, section: int) -> int | None:
        """The row that the section of this first block starts with; None: it would have to be before those here."""
        block = _latest(self._moving if reach.is_moving else self._stored, section, reach.candles)
        for moves in self._moves if reach.moves else ():
            block = min(block, _latest(moves, section, reach.moves))
        block = max(block, _latest(self._stored, section, HISTORY_CANDLES_MAX))
        if block < self._usable and not self._is_whole:
            return None
        return self._rows[max(0, block)]


def _latest(before: list[int], section: int, needed: int) -> int:
    """The latest block from which on so much is counted up to the section; -1 if there is none."""
    return bisect_right(before, before[section] - needed) - 1


def _before(counts: IntArray) -> list[int]:
    """Of each block the sum of the counts of those before it."""
    return [0, *np.cumsum(counts).tolist()]


def _firsts(numbers: IntArray) -> IntArray:
    """The rows where a number is another one than before. (np.diff takes several times as long.)"""
    is_first = np.ones(len(numbers), np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=is_first[1:])
    return np.flatnonzero(is_first)


def _count_moves(column: FloatArray, starts: IntArray) -> IntArray:
    """How often the column changes within each block."""
    if not len(starts):
        return np.empty(0, np.int64)
    is_move = np.zeros(len(column), np.bool_)
    np.not_equal(column[1:], column[:-1], out=is_move[1:])
    is_move[starts] = False
    return np.add.reduceat(is_move, starts, dtype=np.int64)
