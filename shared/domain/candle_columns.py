"""Some columns of a stretch of candles, as readers ask for them: prices, indicators, and what resampling adds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.domain.candles import PRICE_COLUMNS, CandleBatch
from shared.domain.timeframes import IntArray

SOURCE_COUNT: Final = "source_count"
# Column names that are taken in every table, whatever an indicator is called.
RESERVED_COLUMNS: Final = frozenset({"open_at", "open_ms", "ind", SOURCE_COUNT, *PRICE_COLUMNS})

# Doubles, but for `source_count`.
Column: TypeAlias = NDArray[np.float64 | np.int64]


@dataclass(frozen=True, slots=True)
class CandleField:
    """One value of a candle: `open` ... `volume`, `source_count`, or an indicator's field."""

    name: str
    is_indicator: bool = False

    @property
    def column(self) -> str:
        """Its name in a flat table: the indicator `close` (an `as` may say so) makes way for the price."""
        return f"ind_{self.name}" if self.is_indicator and self.name in RESERVED_COLUMNS else self.name


PRICE_FIELDS: Final = tuple(CandleField(name) for name in PRICE_COLUMNS)


@dataclass(frozen=True, slots=True, eq=False)
class CandleColumns:
    """Columns of equal length: open times (UTC ms, ascending), and each field's values, NaN where one is absent."""

    open_ms: IntArray
    fields: tuple[CandleField, ...]
    values: tuple[Column, ...]

    def __len__(self) -> int:
        return len(self.open_ms)

    def first(self, count: int) -> "CandleColumns":
        """The first `count` rows."""
        return CandleColumns(self.open_ms[:count], self.fields, tuple(column[:count] for column in self.values))

    def to_batch(self) -> CandleBatch:
        """As a batch; the fields have to be PRICE_FIELDS."""
        return CandleBatch(self.open_ms, *(column.astype(np.float64, copy=False) for column in self.values))

    @classmethod
    def empty(cls, fields: Sequence[CandleField]) -> "CandleColumns":
        """No rows."""
        none, no_times = np.empty(0), np.empty(0, np.int64)
        return cls(no_times, tuple(fields), tuple(no_times if field.name == SOURCE_COUNT else none for field in fields))

    @classmethod
    def joined(cls, parts: Sequence["CandleColumns"], fields: Sequence[CandleField]) -> "CandleColumns":
        """One after the other."""
        if not parts:
            return cls.empty(fields)
        if len(parts) == 1:
            return parts[0]
        columns = zip(*(part.values for part in parts), strict=True)
        return cls(
            np.concatenate([part.open_ms for part in parts]), tuple(fields), tuple(np.concatenate(column) for column in columns)
        )
