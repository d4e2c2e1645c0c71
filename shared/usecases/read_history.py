"""The stored candles before a page, as many as its indicators need, with the values that cumulative ones continue from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.domain.candles import CandleBatch, FloatArray
from shared.domain.indicator_starts import BESIDES, BLOCK, HISTORY_CANDLES_MAX
from shared.domain.indicators import (
    IndicatorSpec,
    compute_indicators,
    cumulative_fields,
    history_candles_usual,
    history_from,
)
from shared.domain.timeframes import TIMEFRAMES, Timeframe
from shared.stores.candles import CandleStore, Series, StoredCandles

# How many candles of history are read at a time where a cumulative indicator has to start from the beginning.
SEED_CHUNK: Final = 50_000


@dataclass(frozen=True, slots=True)
class History:
    """Candles before some moment, with the columns of cumulative fields; `is_whole`: there are none before them."""

    stored: StoredCandles
    is_whole: bool

    def before(self, end_ms: int) -> "History":
        """Only the candles that open before that moment."""
        candles = self.stored.candles.between(0, end_ms)
        values = {name: column[: len(candles)] for name, column in self.stored.values.items()}
        return History(StoredCandles(candles, values), self.is_whole)

    def then(self, candles: CandleBatch, values: Mapping[str, FloatArray], fields: Sequence[str]) -> "History":
        """These candles after it; `fields` are the columns that are kept."""
        absent = np.full(len(candles), np.nan)
        joined = {name: np.concatenate((self.stored.values[name], values.get(name, absent))) for name in fields}
        return History(StoredCandles(self.stored.candles.then(candles), joined), self.is_whole)

    def newest(self, count: int) -> "History":
        """The last `count` of the candles."""
        candles, values = self.stored.candles, self.stored.values
        if len(candles) <= count:
            return self
        return History(StoredCandles(candles[-count:], {name: column[-count:] for name, column in values.items()}), False)


@dataclass(frozen=True, slots=True)
class HistoryReader:
    """Reads of one series for one list of indicators."""

    candles: CandleStore
    series: Series
    specs: tuple[IndicatorSpec, ...]

    @property
    def grid(self) -> Timeframe:
        """The series' timeframe."""
        return TIMEFRAMES[self.series.timeframe]

    def read_before(self, before_ms: int, extra: int) -> History:
        """What the values of a page behind it need, also of one that begins `extra` candles sooner.

        More is read where the market stood still.
        """
        fields = cumulative_fields(self.specs)
        count = history_candles_usual(self.specs, self.grid, before_ms, extra)
        while True:
            tail = self.candles.read_tail(self.series, before_ms, count, fields)
            history = History(tail, is_whole=len(tail.candles) < count)
            if self.needed_from(history, extra) is not None:
                return history
            # So many are enough however the market stands.
            count = min(2 * count, HISTORY_CANDLES_MAX + BESIDES + BLOCK + extra)

    def needed_from(self, history: History, extra: int) -> int | None:
        """The first row that is needed for a page that begins `extra` candles before the end or later; None: it is not here."""
        candles = history.stored.candles
        row = max(0, len(candles) - extra)
        return history_from(self.specs, self.grid, candles, row, is_whole=history.is_whole)

    def compute(self, history: History, page: CandleBatch) -> dict[str, FloatArray]:
        """The page's values, given what is stored directly before it. Raises what `compute_indicators` and TA-Lib raise."""
        candles, carried = history.stored.candles, None
        if len(candles):
            carried = {name: float(column[len(candles) - 1]) for name, column in history.stored.values.items()}
            if not history.is_whole and _lacks(carried, cumulative_fields(self.specs)):
                carried = self._seed_from_beginning(int(candles.open_ms[-1]) + 1)
        return compute_indicators(self.specs, self.grid, candles, page, carried, history_is_whole=history.is_whole)

    def _seed_from_beginning(self, end_ms: int) -> dict[str, float]:
        """Cumulative values at the last candle before `end_ms`, from the series' first candle on, in chunks."""
        specs = tuple(spec for spec in self.specs if set(spec.fields) & set(cumulative_fields(self.specs)))
        carried: dict[str, float] | None = None
        last = CandleBatch.empty()
        start_ms = 0
        while True:
            chunk = self.candles.read_range(self.series, start_ms, end_ms, (), limit=SEED_CHUNK).candles
            if not len(chunk):
                return carried or {}
            values = compute_indicators(specs, self.grid, last, chunk, carried, history_is_whole=not len(last))
            carried = {name: float(column[-1]) for name, column in values.items()}
            last = chunk[-1:]
            start_ms = int(chunk.open_ms[-1]) + 1


def _lacks(carried: Mapping[str, float], fields: Sequence[str]) -> bool:
    return any(not np.isfinite(carried.get(name, np.nan)) for name in fields)
