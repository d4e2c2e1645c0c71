"""The candles of one symbol of one exchange, generated: every timeframe is made of the same minutes."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from local_emulator.simulator.market import Market
from local_emulator.simulator.noise import minute_candles, series_key
from local_emulator.simulator.rows import Rows, TickRows
from shared.domain.timeframes import DAY_MS, HOUR_MS, MINUTE_MS, TIMEFRAMES, Timeframe

MINUTE, HOUR, DAY = TIMEFRAMES["1m"], TIMEFRAMES["1h"], TIMEFRAMES["1d"]
# Length of a cached block by what it is made of. A block of minutes is 140 kB, one of hours 74 kB, one of days 12 kB.
BLOCK_MS: Final = {"1m": 2 * DAY_MS, "1h": 64 * DAY_MS, "1d": 256 * DAY_MS}
BLOCKS_MAX: Final = 600


class Series(Protocol):
    """Where the rows of a series come from."""

    first_ms: int

    def rows(self, timeframe: Timeframe, start_ms: int, end_ms: int, now_ms: int) -> Rows:
        """Rows with start_ms <= open time < end_ms as they are at `now_ms`, the running candle included, ascending."""
        ...


@dataclass(slots=True)
class BlockCache:
    """The blocks last used. Threads may make the same block twice, to the same result."""

    blocks: OrderedDict[tuple[int, str, int], TickRows] = field(default_factory=OrderedDict)

    def find(self, key: tuple[int, str, int]) -> TickRows | None:
        """The block if it is here."""
        return self.blocks.get(key)

    def keep(self, key: tuple[int, str, int], block: TickRows) -> None:
        """Remember the block, forget the oldest beyond the limit."""
        self.blocks[key] = block
        while len(self.blocks) > BLOCKS_MAX:
            self.blocks.popitem(last=False)


class GeneratedSeries:
    """Endless noise between listing and delisting. `omits_empty`: intervals without a trade are left out."""

    def __init__(self, seed: int, exchange: str, market: Market, omits_empty: bool, cache: BlockCache) -> None:
        self.market = market
        self.first_ms = market.listed_ms
        self._key = series_key(seed, exchange, market.symbol)
        self._omits_empty = omits_empty
        self._cache = cache

    def rows(self, timeframe: Timeframe, start_ms: int, end_ms: int, now_ms: int) -> Rows:
        """See Series."""
        closed_end_ms = timeframe.closed_end(now_ms)
        rows = self.closed(timeframe, start_ms, min(end_ms, closed_end_ms))
        if start_ms <= closed_end_ms < end_ms:
            rows = Rows.joined([rows, self._running(timeframe, now_ms)])
        return rows.traded() if self._omits_empty else rows

    def closed(self, timeframe: Timeframe, start_ms: int, end_ms: int) -> Rows:
        """Final values of the intervals that open in [start_ms, end_ms), empty ones included."""
        return self._aggregate(timeframe, timeframe.ceil(start_ms), timeframe.ceil(end_ms)).as_rows(self.market)

    def _aggregate(self, timeframe: Timeframe, start_ms: int, end_ms: int) -> TickRows:
        base = MINUTE if timeframe.step_ms < HOUR_MS else HOUR if timeframe.step_ms < DAY_MS else DAY
        start_ms = max(start_ms, self.market.listed_ms)
        end_ms = end_ms if self.market.delisted_ms is None else min(end_ms, self.market.delisted_ms)
        step = BLOCK_MS[base.name]
        parts = [self._block(base, number) for number in range(start_ms // step, -(-end_ms // step))]
        rows = TickRows.joined(parts).between(start_ms, end_ms)
        return rows if base is timeframe else rows.aggregated(timeframe)

    def _block(self, base: Timeframe, number: int) -> TickRows:
        place = (self._key, base.name, number)
        block = self._cache.find(place)
        if block is None:
            start_ms, length_ms = number * BLOCK_MS[base.name], BLOCK_MS[base.name]
            if base is DAY:
                hours = range(start_ms // BLOCK_MS["1h"], (start_ms + length_ms) // BLOCK_MS["1h"])
                block = TickRows.joined([self._block(HOUR, hour) for hour in hours]).aggregated(DAY)
            else:
                block = minute_candles(self._key, self.market, start_ms // MINUTE_MS, length_ms // MINUTE_MS).aggregated(base)
            self._cache.keep(place, block)
        return block

    def _running(self, timeframe: Timeframe, now_ms: int) -> Rows:
        """The candle that `now_ms` lies in, from the trades so far; none before the listing and after the end."""
        open_ms = timeframe.floor(now_ms)
        day_ms, hour_ms, minute_ms = (max(open_ms, frame.floor(now_ms)) for frame in (DAY, HOUR, MINUTE))
        pieces = [
            self._aggregate(DAY, open_ms, day_ms),
            self._aggregate(HOUR, day_ms, hour_ms),
            self._aggregate(MINUTE, hour_ms, minute_ms),
            _partial(self._aggregate(MINUTE, minute_ms, minute_ms + MINUTE_MS), (now_ms - minute_ms) / MINUTE_MS),
        ]
        return TickRows.joined(pieces).aggregated(timeframe).as_rows(self.market)


def _partial(minute: TickRows, share: float) -> TickRows:
    """The minute after `share` of it: never with its final volume, so that keeping it shows."""
    so_far = (minute.close - minute.open) * share + minute.open
    close = np.where(minute.volume > 0, so_far.astype(np.int64), minute.close)
    return TickRows(
        minute.open_ms,
        minute.open,
        np.maximum(np.maximum(minute.open, close), ((minute.high - minute.open) * share).astype(np.int64) + minute.open),
        np.minimum(np.minimum(minute.open, close), minute.open - ((minute.open - minute.low) * share).astype(np.int64)),
        close,
        (minute.volume * share).astype(np.int64),
    )
