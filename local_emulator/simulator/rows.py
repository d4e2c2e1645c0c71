"""Candles on their way to a client: plain columns, so that a fault may break every law that CandleBatch holds."""

from dataclasses import dataclass, field

import numpy as np

from local_emulator.simulator.market import Market
from shared.domain.candles import PRICE_COLUMNS, CandleBatch, FloatArray
from shared.domain.timeframes import IntArray, Timeframe

COLUMNS = ("open_ms", *PRICE_COLUMNS)


@dataclass(frozen=True, slots=True, eq=False)
class TickRows:
    """Candles as whole numbers (prices and volumes times 10 ** decimals), so that sums over intervals are exact."""

    open_ms: IntArray
    open: IntArray
    high: IntArray
    low: IntArray
    close: IntArray
    volume: IntArray

    def __len__(self) -> int:
        return len(self.open_ms)

    def between(self, start_ms: int, end_ms: int) -> "TickRows":
        """Rows with start_ms <= open time < end_ms."""
        first, last = np.searchsorted(self.open_ms, (start_ms, end_ms))
        return TickRows(*(getattr(self, name)[first:last] for name in COLUMNS))

    @classmethod
    def joined(cls, parts: "list[TickRows]") -> "TickRows":
        """One after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([np.empty(0, np.int64), *(getattr(p, name) for p in parts)]) for name in COLUMNS))

    def aggregated(self, timeframe: Timeframe) -> "TickRows":
        """The same trades in longer intervals; an interval that begins or ends outside the rows has only what is in them."""
        if not len(self):
            return self
        if timeframe.is_calendar_month:
            opens = self.open_ms.astype("datetime64[ms]").astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
        else:
            opens = self.open_ms - (self.open_ms - timeframe.anchor_ms) % timeframe.step_ms
        first = np.flatnonzero(np.diff(opens, prepend=opens[0] - 1))
        last = np.append(first[1:], len(opens)) - 1
        return TickRows(
            opens[first],
            self.open[first],
            np.maximum.reduceat(self.high, first),
            np.minimum.reduceat(self.low, first),
            self.close[last],
            np.add.reduceat(self.volume, first),
        )

    def as_rows(self, market: Market) -> "Rows":
        """As prices and volumes; each is the double nearest to the decimal number."""
        price, volume = 10.0**market.price_decimals, 10.0**market.volume_decimals
        return Rows(
            self.open_ms,
            self.open / price,
            self.high / price,
            self.low / price,
            self.close / price,
            self.volume / volume,
            has_ticks=True,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What a page will say. `has_ticks` tells that eight decimals show every value exactly."""

    open_ms: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    has_ticks: bool = field(default=False, kw_only=True)

    def __len__(self) -> int:
        return len(self.open_ms)

    def at(self, places: "IntArray | slice") -> "Rows":
        """The rows at these places, in their order."""
        return Rows(*(getattr(self, name)[places] for name in COLUMNS), has_ticks=self.has_ticks)

    def traded(self) -> "Rows":
        """Without the intervals that had no trade."""
        return self if bool(np.all(self.volume > 0)) else self.at(np.flatnonzero(self.volume > 0))

    def as_batch(self) -> CandleBatch:
        """As a checked batch."""
        return CandleBatch(self.open_ms, self.open, self.high, self.low, self.close, self.volume)

    @classmethod
    def of_batch(cls, batch: CandleBatch) -> "Rows":
        """From a checked batch."""
        return cls(*(getattr(batch, name) for name in COLUMNS))

    @classmethod
    def joined(cls, parts: "list[Rows]") -> "Rows":
        """One after the other; no parts make no rows."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.of_batch(CandleBatch.empty())
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS),
            has_ticks=all(part.has_ticks for part in parts),
        )
