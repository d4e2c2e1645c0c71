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

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
        self._is_whole = is_whole
        # Row of each block's first candle; the last is behind all.
        self._rows = np.append(np.flatnonzero(np.diff(blocks, prepend=-1)), len(numbers))
        # Of each block the first one of its section.
        self._firsts = _first_of_each(blocks[self._rows[:-1]] * BLOCK // SECTION)
        # Of a block whose beginning may not be here nobody can tell what it counts.
        self._usable = int(not is_whole and len(numbers) > 0 and int(numbers[0]) % BLOCK != 0)
        sizes = np.diff(self._rows)
        moves = [_count_moves(column, self._rows) for column in (candles.high, candles.low, candles.close)]
        # Of each block what is counted in the blocks before it; ascending.
        self._stored = _before(sizes)
        self._moving = _before(np.where(np.minimum.reduce(moves) > 0, sizes, 0))
        self._moves = [_before(counts) for counts in moves]

    def spans(self, reach: Reach, first_row: int) -> list[Span]:
        """What to give to TA-Lib for the values of the candles from `first_row` on; ascending.

        Raises:
            ValueError: candles are needed that are before the first one here.
        """
        if first_row >= int(self._rows[-1]):
            return []
        if not reach.candles:
            return [Span(first_row, first_row, int(self._rows[-1]))]
        first = self._block_of(first_row)
        starts = self._starts(reach, np.arange(first, len(self._rows) - 1))
        if starts[0] < self._usable and not self._is_whole:
            raise ValueError(f"of the {first_row} candles of history not enough are in whole blocks for {reach}")
        # What has the same start is computed at once.
        edges = [*np.flatnonzero(np.diff(starts, prepend=-2)).tolist(), len(starts)]
        rows, starts = self._rows, np.maximum(starts, 0)
        return [
            Span(int(rows[starts[low]]), max(first_row, int(rows[first + low])), int(rows[first + high]))
            for low, high in pairwise(edges)
        ]

    def needed_from(self, reach: Reach, row: int) -> int | None:
        """The first row that the values of the row's section and of all later ones need; None: one that is not here."""
        if not reach.candles:
            return row
        start = int(self._starts(reach, np.array([self._block_of(row)]))[0])
        if start < self._usable and not self._is_whole:
            return None
        return int(self._rows[max(0, start)])

    def _block_of(self, row: int) -> int:
        return int(np.searchsorted(self._rows, row, side="right")) - 1

    def _starts(self, reach: Reach, blocks: IntArray) -> IntArray:
        """The block that each of these starts with, ascending; -1 where it would have to be one before those here."""
        blocks = self._firsts[blocks]
        counted = self._moving if reach.is_moving else self._stored
        starts = _latest(counted, blocks, reach.candles)
        for moves in self._moves if reach.moves else ():
            starts = np.minimum(starts, _latest(moves, blocks, reach.moves))
        return np.maximum(starts, _latest(self._stored, blocks, HISTORY_CANDLES_MAX))


def _latest(before: IntArray, blocks: IntArray, needed: int) -> IntArray:
    """For each block the latest one from which on so much is counted up to it; -1 if there is none."""
    return np.asarray(np.searchsorted(before, before[blocks] - needed, side="right") - 1)


def _first_of_each(groups: IntArray) -> IntArray:
    """For each element of an ascending array where the first of its value is."""
    return np.asarray(np.searchsorted(groups, groups))


def _before(counts: IntArray) -> IntArray:
    """Of each block the sum of the counts of those before it."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))


def _count_moves(column: FloatArray, rows: IntArray) -> IntArray:
    """How often the column changes within each block."""
    if len(rows) == 1:
        return np.empty(0, np.int64)
    is_move: NDArray[np.bool_] = np.diff(column, prepend=column[:1]) != 0
    is_move[rows[:-1]] = False
    return np.add.reduceat(is_move.astype(np.int64), rows[:-1])
