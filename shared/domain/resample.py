"""Candles of a higher timeframe out of those of a lower one: first open, highest high, lowest low, last close, summed volume.

Works chunk by chunk and keeps nothing but the candles of the bucket that is still open, so a series of any length needs no
more memory than one bucket. How the series was cut into chunks changes nothing, not even the last bit of a volume: a bucket is
computed once, over all its candles.
"""

from dataclasses import dataclass

import numpy as np

from shared.domain.candles import CandleBatch
from shared.domain.timeframes import IntArray, Timeframe
from shared.errors import InvalidRequest


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """Candles of the higher timeframe, and of how many lower ones each is made (fewer than it could hold: some are missing)."""

    candles: CandleBatch
    source_count: IntArray


class Resampler:
    """From one grid to another whose intervals are two or more whole ones of it."""

    def __init__(self, source: Timeframe, target: Timeframe) -> None:
        """Raises InvalidRequest where the target's intervals are not whole multiples."""
        if not target.is_made_of(source):
            raise InvalidRequest.for_field("timeframe", f"{target.name} is not made of whole intervals of {source.name}")
        self._source = source
        self._target = target
        self._open_bucket = CandleBatch.empty()

    def feed(self, candles: CandleBatch) -> Buckets:
        """Take candles that come after those before, and give the buckets that they end."""
        seen = self._open_bucket.then(candles)
        if not len(seen):
            return _to_buckets(seen, self._target)
        last_bucket_ms = self._target.floor(int(seen.open_ms[-1]))
        ended_count = int(np.searchsorted(seen.open_ms, last_bucket_ms))
        self._open_bucket = seen[ended_count:]
        return _to_buckets(seen[:ended_count], self._target)

    def finish(self, known_end_ms: int) -> Buckets:
        """The last bucket if it is closed, after which nothing can be fed.

        It is if its end is not after `known_end_ms`, up to which it is known that no more candles than came exist; or if the
        candle that ends with it was among them.
        """
        last, self._open_bucket = self._open_bucket, CandleBatch.empty()
        if len(last):
            last_ms = int(last.open_ms[-1])
            is_closed = self._target.close(self._target.floor(last_ms)) <= max(known_end_ms, self._source.close(last_ms))
            last = last if is_closed else CandleBatch.empty()
        return _to_buckets(last, self._target)


def _to_buckets(candles: CandleBatch, target: Timeframe) -> Buckets:
    """All candles in their buckets, none of which may go on elsewhere."""
    if not len(candles):
        return Buckets(candles, np.empty(0, np.int64))
    buckets_ms = target.floors(candles.open_ms)
    starts = np.flatnonzero(np.diff(buckets_ms, prepend=buckets_ms[0] - 1))
    ends = np.append(starts[1:], len(candles))
    return Buckets(
        CandleBatch(
            buckets_ms[starts],
            candles.open[starts],
            np.maximum.reduceat(candles.high, starts),
            np.minimum.reduceat(candles.low, starts),
            candles.close[ends - 1],
            np.add.reduceat(candles.volume, starts),
        ),
        ends - starts,
    )
