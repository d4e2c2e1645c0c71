"""The law: a value depends on the candles of the series and on nothing else, bit for bit."""

import random
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.candles import PRICE_COLUMNS, CandleBatch
from shared.domain.indicator_catalogue import CATALOGUE
from shared.domain.indicator_functions import Kind, Parameter
from shared.domain.indicator_starts import BLOCK, HISTORY_CANDLES_MAX, SECTION, Blocks, Reach
from shared.domain.indicators import (
    DEFAULT_INDICATORS,
    IndicatorSpec,
    compute_indicators,
    history_candles_usual,
    resolve_indicators,
)
from shared.domain.timeframes import TIMEFRAMES
from shared.errors import InvalidRequest
from tests.properties.indicator_markets import (
    GRID,
    assert_pages_equal_the_whole,
    compute_as_a_whole,
    compute_by_pages,
    compute_in_one_pass,
    make_market,
    make_markets,
    random_cuts,
    with_holes,
)
from tests.replay import DATA_DIR, read_recording

CANDLES_COUNT: Final = 2500
MARKETS: Final = make_markets(seed=1, count=CANDLES_COUNT)
OFFERED: Final = sorted(name for name, function in CATALOGUE.items() if function.kind is not Kind.REFUSED)
# Flat stretches of all lengths, volumes of 0, jumps, and prices from one end of what is traded to the other.
HARD_MARKETS: Final = {
    "flat at 1e-8": make_market(seed=21, count=4000, price=1e-8, volatility=4e-2, tick=1e-9, still_mean=90, steps=3),
    "flat at 1e8": make_market(seed=22, count=4000, price=1e8, volatility=1e-3, tick=0.5, still_mean=200, steps=3),
    "coarse": make_market(seed=23, count=4000, price=3e-7, volatility=5e-2, tick=1e-8, still_mean=12),
    "liquid": make_market(seed=24, count=4000, price=40_000.0, volatility=1e-3),
}
ALL_MARKETS: Final = [*HARD_MARKETS.values(), *(with_holes(market, n) for n, market in enumerate(HARD_MARKETS.values()))]


def random_spec(name: str, rng: random.Random) -> IndicatorSpec | None:
    """With parameters anywhere between their bounds, periods mostly short; None where they do not go together."""

    def value(parameter: Parameter) -> float:
        if parameter.is_matype:
            return rng.randint(0, 13)
        low, high = max(parameter.low, -1e3), min(parameter.high, 1e3)
        if not parameter.is_integer:
            return rng.choice([parameter.default, rng.uniform(low, high)])
        return int(min(high, low + rng.choice([rng.randint(0, 8), rng.randint(0, 60), rng.randint(0, 400)])))

    function = CATALOGUE[name]
    params = {parameter.name: value(parameter) for parameter in function.parameters}
    try:
        (spec,) = resolve_indicators([{"name": name, "params": params, "as": "x"}])
    except InvalidRequest:
        return None
    return spec


@settings(max_examples=60, deadline=None)
@given(
    market=st.sampled_from(sorted(MARKETS)),
    inner=st.sets(st.integers(1, CANDLES_COUNT - 1), min_size=1, max_size=12),
)
def test_the_default_indicators_are_the_same_for_any_cuts(market: str, inner: set[int]) -> None:
    assert_pages_equal_the_whole(DEFAULT_INDICATORS, MARKETS[market], [0, *sorted(inner), CANDLES_COUNT])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), page_mean=st.integers(5, 600), still_mean=st.sampled_from([0, 0, 10, 40, 150]))
def test_the_default_indicators_are_the_same_on_any_market(seed: int, page_mean: int, still_mean: int) -> None:
    market = make_market(seed=seed, count=CANDLES_COUNT, price=40.0, volatility=5e-3, still_mean=still_mean, steps=seed % 4)
    holed = with_holes(market, seed)
    assert_pages_equal_the_whole(DEFAULT_INDICATORS, holed, random_cuts(seed, len(holed), page_mean))


def test_pages_of_one_candle_equal_the_whole() -> None:
    market = make_market(seed=9, count=1600)
    assert_pages_equal_the_whole(DEFAULT_INDICATORS, market, [0, 1100, *range(1101, 1601)])


@pytest.mark.parametrize("name", OFFERED)
def test_every_function_with_any_parameters_is_the_same_for_any_pages(name: str) -> None:
    rng = random.Random(name)
    for spec in filter(None, (random_spec(name, rng) for _ in range(4))):
        for market in rng.sample(ALL_MARKETS, 2):
            assert_pages_equal_the_whole([spec], market, random_cuts(rng.randrange(10_000), len(market), page_mean=300))


def test_a_spec_has_the_same_values_whatever_else_is_in_the_list() -> None:
    names = ("RSI", "ADX", "KAMA", "SMA", "CCI", "CDLSHORTLINE", "STOCHRSI", "OBV")
    listed = resolve_indicators([{"name": name} for name in names])
    for market in HARD_MARKETS.values():
        together = compute_by_pages(listed, market, random_cuts(4, len(market)))
        for spec in listed:
            for field, column in compute_by_pages([spec], market, random_cuts(5, len(market))).items():
                np.testing.assert_array_equal(column, together[field])


def test_cumulative_functions_go_on_bit_for_bit_as_one_pass() -> None:
    specs = resolve_indicators([{"name": name} for name in ("OBV", "AD", "PVT", "CUMSUM")])
    assert history_candles_usual(specs, GRID, GRID.open_at(500), 1) == 1
    for market in (*MARKETS.values(), *HARD_MARKETS.values()):
        paged = compute_by_pages(specs, market, random_cuts(3, len(market), page_mean=20))
        for name, column in compute_in_one_pass(specs, market).items():
            np.testing.assert_array_equal(paged[name], column)


@pytest.mark.parametrize("path", sorted(DATA_DIR.glob("*.csv.gz")), ids=lambda path: path.name)
def test_a_recorded_series_has_the_same_values_for_any_pages(path: Path) -> None:
    series = read_recording(path)[-20_000:]
    names = [*("KAMA", "CCI", "BETA", "SAR", "STOCHRSI", "MFI"), *(name for name in OFFERED if name.startswith("CDL"))]
    specs = [*DEFAULT_INDICATORS, *resolve_indicators([{"name": name} for name in names[:41]])]
    for mean in (1_000, 4_000):
        assert_pages_equal_the_whole(specs, series, random_cuts(mean, len(series), mean))


# --- where a start lies


@st.composite
def series_with_change(draw: st.DrawFn) -> tuple[CandleBatch, CandleBatch, int]:
    """A series, the same with a candle more, less or another one, and where."""
    seed = draw(st.integers(0, 10_000))
    series = with_holes(make_market(seed=seed, count=3000, tick=1e-1, still_mean=draw(st.sampled_from([0, 30, 300]))), seed)
    row = draw(st.integers(0, len(series) - 1))
    at_ms = int(series.open_ms[row])
    is_kept = np.ones(len(series), np.bool_)
    if draw(st.booleans()):
        is_kept[row] = False
        return series, series[is_kept], at_ms
    changed = CandleBatch(series.open_ms, *(getattr(series, name).copy() for name in PRICE_COLUMNS))
    for name in PRICE_COLUMNS:
        getattr(changed, name)[row] *= 1.5
    return series, changed, at_ms


@settings(max_examples=60, deadline=None)
@given(series_with_change(), st.sampled_from(["RSI", "EMA", "SMA", "SAR", "ADX", "BBANDS", "MFI"]))
def test_a_change_is_not_felt_behind_the_first_section_that_starts_behind_it(
    change: tuple[CandleBatch, CandleBatch, int], name: str
) -> None:
    """What lets a recomputation end."""
    before, after, at_ms = change
    (spec,) = resolve_indicators([{"name": name, "as": "x"}])
    old, new = compute_as_a_whole([spec], before), compute_as_a_whole([spec], after)
    past = after.between(at_ms + 1, 2**62)
    blocks = Blocks(GRID, past, is_whole=False)
    settled = next((row for row in range(0, len(past), 16) if blocks.needed_from(spec.reach, row) is not None), len(past))
    behind = len(past) - settled
    for field in spec.fields:
        np.testing.assert_array_equal(old[field][len(before) - behind :], new[field][len(after) - behind :])


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    still_mean=st.sampled_from([0, 30, 300, 3000]),
    reach=st.builds(Reach, st.integers(1, 1500), st.booleans(), st.sampled_from([0, 400])),
)
def test_a_later_section_never_starts_earlier_and_each_has_what_it_needs(seed: int, still_mean: int, reach: Reach) -> None:
    series = with_holes(make_market(seed=seed, count=6000, still_mean=still_mean, tick=1e-1), seed)
    numbers = GRID.numbers(series.open_ms)
    spans = Blocks(GRID, series, is_whole=True).spans(reach, 0)
    assert [span.first for span in spans] == [0, *(span.end for span in spans[:-1])]
    assert spans[-1].end == len(series)
    assert [span.start for span in spans] == sorted(span.start for span in spans)
    for span in spans:
        if span.start > 0:
            assert numbers[span.start] // BLOCK > numbers[span.start - 1] // BLOCK
            first = int(np.searchsorted(numbers, numbers[span.first] // SECTION * SECTION))
            assert first - span.start >= reach.candles


def test_where_the_market_never_moves_no_more_is_read_than_agreed() -> None:
    count = HISTORY_CANDLES_MAX + 5_000
    still = CandleBatch(np.arange(count, dtype=np.int64) * 60_000, *(np.full(count, 7.0) for _ in range(4)), np.zeros(count))
    (rsi,) = resolve_indicators([{"name": "RSI"}])
    last = Blocks(GRID, still, is_whole=True).spans(rsi.reach, count - 1)[-1]
    assert HISTORY_CANDLES_MAX <= last.first - last.start <= HISTORY_CANDLES_MAX + BLOCK + SECTION


def test_too_little_history_is_refused_and_never_computed_from() -> None:
    market = make_market(seed=3, count=3000)
    (rsi,) = resolve_indicators([{"name": "RSI"}])
    with pytest.raises(ValueError, match="not enough"):
        compute_indicators([rsi], GRID, market[2_800:2_900], market[2_900:], None)


@pytest.mark.parametrize("timeframe", sorted(TIMEFRAMES))
def test_the_law_holds_on_every_grid(timeframe: str) -> None:
    grid, market = TIMEFRAMES[timeframe], make_market(seed=8, count=1500)
    first = grid.number(grid.floor(1_500_000_000_000)) if timeframe != "1M" else 0
    opens_ms = np.array([grid.open_at(first + number) for number in range(len(market))], np.int64)
    series = CandleBatch(opens_ms, *(getattr(market, name) for name in PRICE_COLUMNS))
    specs = resolve_indicators([{"name": "EMA", "params": {"timeperiod": 5}}, {"name": "RSI"}, {"name": "SMA"}])
    whole = compute_indicators(specs, grid, CandleBatch.empty(), series, None)
    for cut in (700, 1_023, 1_024, 1_025, 1_499):
        first_row = max(0, cut - history_candles_usual(specs, grid, int(series.open_ms[cut]), 1))
        history, is_whole = series[first_row:cut], first_row == 0
        for name, column in compute_indicators(specs, grid, history, series[cut:], None, history_is_whole=is_whole).items():
            np.testing.assert_array_equal(column, whole[name][cut:])
