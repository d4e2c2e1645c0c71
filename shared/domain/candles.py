"""A page or series of candles as numpy columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.domain.timeframes import IntArray

FloatArray: TypeAlias = NDArray[np.float64]

PRICE_COLUMNS: Final = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True, eq=False)
class CandleBatch:
    """Closed candles of one series: equal-length columns, open times in UTC ms, strictly ascending.

    Prices are in the quote currency, volume in the base currency.

    Raises:
        ValueError: columns of different lengths, or open times not strictly ascending.
    """

    open_ms: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray

    def __post_init__(self) -> None:
        if any(len(getattr(self, name)) != len(self.open_ms) for name in PRICE_COLUMNS):
            raise ValueError("candle columns differ in length")
        if len(self.open_ms) > 1 and not bool(np.all(self.open_ms[1:] > self.open_ms[:-1])):
            raise ValueError("open times are not strictly ascending")

    def __len__(self) -> int:
        return len(self.open_ms)

    def __getitem__(self, rows: "slice | NDArray[np.bool_]") -> "CandleBatch":
        """The rows of a slice (step 1) or a boolean mask, as views where numpy can."""
        return CandleBatch(
            self.open_ms[rows], self.open[rows], self.high[rows], self.low[rows], self.close[rows], self.volume[rows]
        )

    def between(self, start_ms: int, end_ms: int) -> "CandleBatch":
        """Candles with start_ms <= open time < end_ms."""
        first, last = np.searchsorted(self.open_ms, (start_ms, end_ms))
        return self[int(first) : int(last)]

    def then(self, later: "CandleBatch") -> "CandleBatch":
        """This batch followed by one that begins after it."""
        if not len(later):
            return self
        if not len(self):
            return later
        return CandleBatch(
            *(np.concatenate((getattr(self, name), getattr(later, name))) for name in ("open_ms", *PRICE_COLUMNS))
        )

    @classmethod
    def empty(cls) -> "CandleBatch":
        """No candles."""
        return cls(np.empty(0, np.int64), *(np.empty(0) for _ in PRICE_COLUMNS))

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[float]]) -> "CandleBatch":
        """From (open_ms, open, high, low, close, volume) rows in ascending order."""
        if not rows:
            return cls.empty()
        columns = list(zip(*rows, strict=True))
        return cls(np.array(columns[0], np.int64), *(np.array(column, np.float64) for column in columns[1:6]))
