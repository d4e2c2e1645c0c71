"""Synthetic markets, and the law's two sides: indicators page by page, and of the series as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import talib

from shared.domain.candles import CandleBatch, FloatArray
from shared.domain.indicator_catalogue import CATALOGUE
from shared.domain.indicator_starts import BESIDES, BLOCK, HISTORY_CANDLES_MAX
from shared.domain.indicators import (
    IndicatorSpec,
    compute_indicators,
    cumulative_fields,
    history_candles_usual,
    history_from,
)
from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES

GRID = TIMEFRAMES["1m"]


def make_market(
    *,
    seed: int = 1,
    count: int = 3000,
    price: float = 30_000.0,
    volatility: float = 1e-3,
    tick: float = 0.01,
    still_mean: float = 0.0,
    steps: int = 0,
) -> CandleBatch:
    """A random walk on a price grid. `still_mean`: mean length of stretches without trades (flat candles, volume 0) after
    some eight busy candles each; `steps`: how many times the price jumps by some 30 percent, as over a hole."""
    random = np.random.default_rng(seed)
    returns = random.normal(0, volatility, count) * np.exp(random.normal(0, 0.3, count))
    returns[random.choice(count, steps, replace=False)] += random.normal(0, 0.3, steps)
    volume = np.round(random.lognormal(1, 1.2, count), 8)
    at = 0
    while still_mean and at < count:
        start = at + int(random.geometric(1 / 8))
        at = start + int(random.geometric(1 / still_mean))
        returns[start:at] = volume[start:at] = 0
    close = np.maximum(np.round(price * np.exp(np.cumsum(returns)) / tick), 1) * tick
    open_ = np.concatenate((close[:1], close[:-1]))
    if not still_mean:
        open_ = np.maximum(np.round(open_ * (1 + random.normal(0, volatility / 5, count)) / tick), 1) * tick
    top, bottom = np.maximum(open_, close), np.minimum(open_, close)
    up, down = np.abs(random.normal(0, volatility, (2, count)))
    is_busy = volume > 0
    high = np.where(is_busy, np.maximum(np.ceil(top * (1 + up) / tick) * tick, top), top)
    low = np.where(is_busy, np.minimum(np.maximum(np.floor(bottom * (1 - down) / tick), 1) * tick, bottom), bottom)
    return CandleBatch(np.arange(count, dtype=np.int64) * MINUTE_MS, open_, high, low, close, volume)


def make_markets(seed: int = 1, count: int = 3000) -> dict[str, CandleBatch]:
    """A liquid one, two micro-price coins, an illiquid one, one with holes, and one with long stretches of stillness."""
    return {
        "liquid": make_market(seed=seed, count=count),
        "micro": make_market(seed=seed + 1, count=count, price=2.3e-6, volatility=4e-3, tick=1e-9),
        "coarse": make_market(seed=seed + 2, count=count, price=1.2e-8, volatility=1e-2, tick=1e-10),
        "illiquid": make_market(seed=seed + 3, count=count, price=12.0, volatility=3e-3, still_mean=25),
        "holes": make_market(seed=seed + 4, count=count, price=900.0, volatility=2e-3, tick=0.1, steps=12),
        "still": make_market(seed=seed + 5, count=count, price=3.0, volatility=2e-2, tick=1e-3, still_mean=120, steps=4),
    }


def with_holes(series: CandleBatch, seed: int, shares: Sequence[float] = (0.01, 0.3)) -> CandleBatch:
    """Without some of the candles: a share that lies alone, and a share in long stretches."""
    random = np.random.default_rng(seed)
    count = len(series)
    is_kept = random.random(count) >= shares[0]
    left = int(shares[1] * count)
    while left > 0:
        length = min(left, int(random.integers(1, max(2, count // 5))))
        at = int(random.integers(0, count))
        is_kept[at : at + length] = False
        left -= length
    is_kept[0] = True
    return series[is_kept]


def random_cuts(seed: int, count: int, page_mean: int = 150) -> list[int]:
    """0 = the first page's start, ..., count: pages of 1 to twice the mean."""
    cuts = [0]
    random = np.random.default_rng(seed)
    while cuts[-1] < count:
        cuts.append(min(count, cuts[-1] + int(random.integers(1, 2 * page_mean))))
    return cuts


def read_history(specs: Sequence[IndicatorSpec], stored: CandleBatch) -> tuple[CandleBatch, bool]:
    """The tail of the stored candles, read as a run reads it, and whether it is all of them."""
    count = history_candles_usual(specs, GRID, int(stored.open_ms[-1]) + 1, 1) if len(stored) else 1
    while True:
        history, is_whole = stored[max(0, len(stored) - count) :], len(stored) < count
        if history_from(specs, GRID, history, max(0, len(history) - 1), is_whole=is_whole) is not None:
            return history, is_whole
        assert count < HISTORY_CANDLES_MAX + BESIDES + BLOCK + 1, "so many are always enough"
        count = min(2 * count, HISTORY_CANDLES_MAX + BESIDES + BLOCK + 1)


def compute_by_pages(specs: Sequence[IndicatorSpec], series: CandleBatch, cuts: Sequence[int]) -> dict[str, FloatArray]:
    """What is stored when the series comes in as the pages between the cuts."""
    pages: dict[str, list[FloatArray]] = {name: [] for spec in specs for name in spec.fields}
    carried: dict[str, float] | None = None
    for start, end in pairwise(cuts):
        history, is_whole = read_history(specs, series[:start])
        values = compute_indicators(specs, GRID, history, series[start:end], carried, history_is_whole=is_whole)
        for name, column in values.items():
            pages[name].append(column)
        carried = {name: float(values[name][-1]) for name in cumulative_fields(specs)}
    return {name: np.concatenate(columns) for name, columns in pages.items()}


def compute_as_a_whole(specs: Sequence[IndicatorSpec], series: CandleBatch) -> dict[str, FloatArray]:
    """The values that the series has."""
    return compute_indicators(specs, GRID, CandleBatch.empty(), series, None, history_is_whole=True)


def compute_in_one_pass(specs: Sequence[IndicatorSpec], series: CandleBatch) -> dict[str, FloatArray]:
    """By TA-Lib itself, begun with the series' first candle."""
    values: dict[str, FloatArray] = {}
    for spec in specs:
        outputs = getattr(talib, spec.name)(
            *(getattr(series, name) for name in CATALOGUE[spec.name].inputs), **dict(spec.params)
        )
        for name, output in zip(spec.fields, outputs if isinstance(outputs, tuple) else (outputs,), strict=True):
            column = output.astype(np.float64)
            if output.dtype.kind == "i":
                column[: spec.lookback] = np.nan
            column[~np.isfinite(column)] = np.nan
            values[name] = column
    return values


@dataclass(frozen=True, slots=True)
class Difference:
    """Worst difference of two columns: as part of max(|value|, 1e-3 rms), and as part of |value| alone."""

    scaled: float
    relative: float
    are_gaps_equal: bool


def worst_difference(paged: FloatArray, whole: FloatArray) -> Difference:
    """How far the pages are from one pass."""
    are_gaps_equal = bool(np.array_equal(np.isnan(paged), np.isnan(whole)))
    differing = np.flatnonzero(np.nan_to_num(paged) != np.nan_to_num(whole))
    if not are_gaps_equal or not len(differing):
        return Difference(0.0, 0.0, are_gaps_equal)
    largest = float(np.nanmax(np.abs(whole)))
    rms = largest * float(np.sqrt(np.nanmean((whole / largest) ** 2)))
    off, size = np.abs(paged - whole)[differing], np.abs(whole)[differing]
    with np.errstate(divide="ignore"):
        return Difference(float((off / np.maximum(size, 1e-3 * rms)).max()), float((off / size).max()), are_gaps_equal)


def assert_pages_equal_the_whole(specs: Sequence[IndicatorSpec], series: CandleBatch, cuts: Sequence[int]) -> None:
    """The law, bit for bit, for these specs, this series, these pages."""
    paged, whole = compute_by_pages(specs, series, cuts), compute_as_a_whole(specs, series)
    for name, column in whole.items():
        np.testing.assert_array_equal(paged[name], column, err_msg=name)
