"""Prices out of nothing: minute candles of a symbol as a pure function of (seed, exchange, symbol, minute).

No state runs from one minute to the next, so any range costs the same. The logarithm of the price at a minute is the sum
of value noise on a lattice of days (nine octaves, 1 to 256 days, amplitude growing with the root of the length as in a
random walk), of hours and of minutes. Hash: splitmix64 (Steele, Lea, Flood 2014).
"""

import hashlib
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from local_emulator.simulator.market import Market
from local_emulator.simulator.rows import TickRows
from shared.domain.candles import FloatArray
from shared.domain.timeframes import DAY_MS, HOUR_MS, MINUTE_MS, IntArray

HashArray: TypeAlias = NDArray[np.uint64]

HOUR_MINUTES: Final = HOUR_MS // MINUTE_MS
DAY_MINUTES: Final = DAY_MS // MINUTE_MS
DAY_HOURS: Final = DAY_MS // HOUR_MS
DAY_OCTAVES: Final = 9
# Standard moves of the logarithm of the price, of the order of a liquid coin's.
DAY_MOVE: Final = 0.02
HOUR_MOVE: Final = 0.004
MINUTE_MOVE: Final = 0.0005
WICK_MOVE: Final = 0.0006

GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
MIX_2: Final = np.uint64(0x94D049BB133111EB)


def series_key(seed: int, exchange: str, symbol: str) -> int:
    """The number that all noise of a series grows from."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{exchange}:{symbol}".encode(), digest_size=8).digest())


def minute_candles(key: int, market: Market, first_minute: int, count: int) -> TickRows:
    """All minutes from `first_minute` (minutes since the epoch), those without a trade flat at the previous close."""
    if market.trade_share >= 1:
        return _candles(key, market, first_minute, count)
    # The first minute of every day has a trade, so from the day before on every previous close is known.
    begin = first_minute // DAY_MINUTES * DAY_MINUTES - DAY_MINUTES
    rows = _with_silence(key, market, _candles(key, market, begin, first_minute - begin + count))
    return rows.between(first_minute * MINUTE_MS, (first_minute + count) * MINUTE_MS)


def _candles(key: int, market: Market, first_minute: int, count: int) -> TickRows:
    minutes = np.arange(first_minute, first_minute + count + 1, dtype=np.int64)
    noise = _hash(key, 1, minutes)
    levels = _hour_lattice_between(key, first_minute, count + 1)
    levels += _bits(noise, 0, 20) * (2 * MINUTE_MOVE) - MINUTE_MOVE
    np.exp(levels, out=levels)
    levels *= market.price_usual * 10**market.price_decimals
    ticks = np.maximum(np.rint(levels).astype(np.int64), 2)
    opens, closes, noise = ticks[:-1], ticks[1:], noise[:-1]
    highs = np.maximum(opens, closes) + (_bits(noise, 20, 12) * WICK_MOVE * levels[:-1]).astype(np.int64)
    lows = np.minimum(opens, closes) - (_bits(noise, 32, 12) * WICK_MOVE * levels[:-1]).astype(np.int64)
    volume_usual = market.volume_usual * 10**market.volume_decimals
    volumes = ((0.1 + 3 * _bits(noise, 44, 20) ** 3) * volume_usual).astype(np.int64) + 1
    return TickRows(minutes[:-1] * MINUTE_MS, opens, highs, np.maximum(lows, 1), closes, volumes)


def _with_silence(key: int, market: Market, rows: TickRows) -> TickRows:
    minutes = rows.open_ms // MINUTE_MS
    traded = (_bits(_hash(key, 2, minutes), 0, 20) < market.trade_share) | (minutes % DAY_MINUTES == 0)
    last_traded = np.maximum.accumulate(np.where(traded, np.arange(len(rows)), 0))
    close = rows.close[last_traded]
    before = np.concatenate((rows.open[:1], close[:-1]))
    return TickRows(
        rows.open_ms,
        before,
        np.where(traded, np.maximum(rows.high, before), before),
        np.where(traded, np.minimum(rows.low, before), before),
        close,
        np.where(traded, rows.volume, 0),
    )


def _hour_lattice_between(key: int, first_minute: int, count: int) -> FloatArray:
    """Levels at minutes, straight between the hours."""
    first = first_minute // HOUR_MINUTES
    hours = np.arange(first, (first_minute + count) // HOUR_MINUTES + 2, dtype=np.int64)
    levels = _day_lattice_between(key, int(hours[0]), len(hours))
    levels += _bits(_hash(key, 3, hours), 0, 32) * (2 * HOUR_MOVE) - HOUR_MOVE
    return _refined(levels, HOUR_MINUTES)[first_minute - first * HOUR_MINUTES :][:count]


def _day_lattice_between(key: int, first_hour: int, count: int) -> FloatArray:
    """Levels at hours, straight between the days."""
    first = first_hour // DAY_HOURS
    days = np.arange(first, (first_hour + count) // DAY_HOURS + 2, dtype=np.int64)
    levels = np.zeros(len(days))
    for octave in range(DAY_OCTAVES):
        length = 2**octave
        cells = days // length
        left, right = (_bits(_hash(key, 16 + octave, at), 0, 32) for at in (cells, cells + 1))
        share = (days - cells * length) / length
        levels += DAY_MOVE * length**0.5 * (2 * (left + (right - left) * share) - 1)
    return _refined(levels, DAY_HOURS)[first_hour - first * DAY_HOURS :][:count].copy()


def _refined(levels: FloatArray, steps: int) -> FloatArray:
    """Straight lines between the levels, `steps` points each; the last level is the end and left out."""
    return (levels[:-1, None] + np.diff(levels)[:, None] * (np.arange(steps) / steps)).ravel()


def _hash(key: int, stream: int, places: IntArray) -> HashArray:
    start = np.uint64((key + stream * 0xD1342543DE82EF95) % 2**64)
    mixed = places.astype(np.uint64) * GOLDEN + start
    mixed = (mixed ^ (mixed >> np.uint64(30))) * MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * MIX_2
    return mixed ^ (mixed >> np.uint64(31))


def _bits(noise: HashArray, first: int, count: int) -> FloatArray:
    """Some of the bits as numbers in [0, 1)."""
    return ((noise >> np.uint64(first)) & np.uint64(2**count - 1)).astype(np.float64) / 2.0**count
