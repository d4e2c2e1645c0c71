"""The law: values do not depend on how the history was paged."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.candles import CandleBatch
from shared.domain.indicators import DEFAULT_INDICATORS, resolve_indicators, warmup_candles
from tests.properties.indicator_markets import (
    TOLERANCE,
    assert_pages_equal_one_pass,
    compute_by_pages,
    compute_in_one_pass,
    make_market,
    make_markets,
    random_cuts,
    worst_difference,
)

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
CANDLES_COUNT = 2500
MARKETS = make_markets(seed=1, count=CANDLES_COUNT)


def recorded_series(name: str) -> CandleBatch:
    path = RECORDED / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip(f"no recorded candles beside the repository: {name}")
    with gzip.open(path, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", skiprows=1)
    return CandleBatch(table[:, 0].astype(np.int64), *(np.ascontiguousarray(table[:, column]) for column in range(1, 6)))


@settings(max_examples=60, deadline=None)
@given(
    market=st.sampled_from(sorted(MARKETS)),
    inner=st.sets(st.integers(1, CANDLES_COUNT - 1), min_size=1, max_size=12),
)
def test_the_default_indicators_are_the_same_for_any_cuts(market: str, inner: set[int]) -> None:
    assert_pages_equal_one_pass(DEFAULT_INDICATORS, MARKETS[market], [0, *sorted(inner), CANDLES_COUNT])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), page_mean=st.integers(5, 600), still_mean=st.sampled_from([0, 0, 10, 40, 150]))
def test_the_default_indicators_are_the_same_on_any_market(seed: int, page_mean: int, still_mean: int) -> None:
    market = make_market(seed=seed, count=CANDLES_COUNT, price=40.0, volatility=5e-3, still_mean=still_mean, steps=seed % 4)
    assert_pages_equal_one_pass(DEFAULT_INDICATORS, market, random_cuts(seed, CANDLES_COUNT, page_mean))


def test_pages_of_one_candle_equal_one_pass() -> None:
    market = make_market(seed=9, count=1600)
    assert_pages_equal_one_pass(DEFAULT_INDICATORS, market, [0, 1100, *range(1101, 1601)])


def test_cumulative_functions_go_on_bit_for_bit() -> None:
    specs = resolve_indicators([{"name": name} for name in ("OBV", "AD", "PVT", "CUMSUM")])
    assert warmup_candles(specs) == 1
    for market in MARKETS.values():
        paged = compute_by_pages(specs, market, random_cuts(3, CANDLES_COUNT, page_mean=20))
        for name, column in compute_in_one_pass(specs, market).items():
            np.testing.assert_array_equal(paged[name], column)


@pytest.mark.parametrize("name", ["BITFINEX_BTC-USD_1m_2016", "BITFINEX_ETH-USD_1m_2016", "COINBASE_BTC-USD_1h"])
def test_a_recorded_series_in_pages_of_a_thousand_equals_one_pass_relative(name: str) -> None:
    series = recorded_series(name)
    paged = compute_by_pages(DEFAULT_INDICATORS, series, [*range(0, len(series), 1000), len(series)])
    for field, column in compute_in_one_pass(DEFAULT_INDICATORS, series).items():
        difference = worst_difference(paged[field], column)
        print(f"{name} {field}: relative {difference.relative:.1e}, scaled {difference.scaled:.1e}")
        assert difference.are_gaps_equal, field
        assert difference.relative <= TOLERANCE, f"{field}: off by {difference.relative:.1e}"
