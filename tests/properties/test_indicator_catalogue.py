"""Every function of the engine is in the catalogue, as it describes it; what is offered is near one pass over the series."""

from collections.abc import Iterable, Mapping

import numpy as np
import pytest
import talib
from talib import abstract

from shared.domain.candles import PRICE_COLUMNS, CandleBatch
from shared.domain.indicator_catalogue import CATALOGUE
from shared.domain.indicator_functions import MA_NAMES, Kind
from shared.domain.indicators import IndicatorSpec, resolve_indicators
from tests.properties.indicator_markets import (
    compute_as_a_whole,
    compute_in_one_pass,
    make_market,
    make_markets,
    worst_difference,
)

SUPPORTED = sorted(name for name, function in CATALOGUE.items() if function.kind is not Kind.REFUSED)
CANDLES_COUNT = 3000
# Of max(|value|, a thousandth of the output's root mean square).
NEAR = 1e-9
# Candle patterns say -100, 0 or 100, and another one where a body is as long as the average it is compared with.
FLIPPING = frozenset(name for name in SUPPORTED if name.startswith("CDL"))
# Periods far from the defaults, where a rule fitted to the defaults would show.
OTHER_PARAMS: tuple[tuple[str, dict[str, float]], ...] = (
    ("EMA", {"timeperiod": 1}),
    ("EMA", {"timeperiod": 2}),
    ("EMA", {"timeperiod": 200}),
    ("SMA", {"timeperiod": 1000}),
    ("DEMA", {"timeperiod": 100}),
    ("TEMA", {"timeperiod": 100}),
    ("T3", {"timeperiod": 50, "vfactor": 0.0}),
    ("TRIX", {"timeperiod": 50}),
    ("RSI", {"timeperiod": 2}),
    ("RSI", {"timeperiod": 50}),
    ("ADX", {"timeperiod": 2}),
    ("ADX", {"timeperiod": 40}),
    ("ATR", {"timeperiod": 1}),
    ("MACD", {"fastperiod": 5, "slowperiod": 9, "signalperiod": 60}),
    ("STOCHRSI", {"timeperiod": 30, "fastk_period": 50}),
    ("TSI", {"firstperiod": 50, "secondperiod": 40}),
    ("KC", {"timeperiod": 10, "atrperiod": 40}),
    ("MASSI", {"fastperiod": 40}),
    ("ADOSC", {"fastperiod": 10, "slowperiod": 50}),
    ("KAMA", {"timeperiod": 2}),
    ("KAMA", {"timeperiod": 200}),
    ("SAR", {"acceleration": 0.005, "maximum": 0.01}),
    ("SAREXT", {"offsetonreverse": 0.01}),
    ("SUPERTREND", {"timeperiod": 20, "multiplier": 5.0}),
    ("BBANDS", {"timeperiod": 2}),
    ("BBANDS", {"timeperiod": 200}),
    ("CCI", {"timeperiod": 100}),
    ("MFI", {"timeperiod": 100}),
)


@pytest.fixture(scope="module")
def markets() -> Mapping[str, CandleBatch]:
    return make_markets(seed=101, count=CANDLES_COUNT)


def spec_of(name: str, **params: float) -> IndicatorSpec:
    (spec,) = resolve_indicators([{"name": name, "params": params, "as": "x"}])
    return spec


def test_the_catalogue_holds_every_function_of_the_engine_and_none_besides() -> None:
    assert sorted(CATALOGUE) == sorted(talib.get_functions())
    assert all(function.name == name for name, function in CATALOGUE.items())


def test_every_refusal_says_why() -> None:
    assert all(len(f.refusal) > 20 for f in CATALOGUE.values() if f.kind is Kind.REFUSED)


@pytest.mark.parametrize("name", SUPPORTED)
def test_inputs_parameters_and_outputs_are_the_engines(name: str, markets: Mapping[str, CandleBatch]) -> None:
    function, engine = CATALOGUE[name], abstract.Function(name)
    inputs = [
        column for columns in engine.input_names.values() for column in ([columns] if isinstance(columns, str) else columns)
    ]
    assert list(function.inputs) == inputs
    assert [parameter.name for parameter in function.parameters] == list(engine.parameters)
    assert [parameter.is_integer for parameter in function.parameters] == [
        isinstance(v, int) for v in engine.parameters.values()
    ]
    assert len(function.outputs) == len(engine.output_names)
    assert len(set(function.outputs)) == len(function.outputs)
    columns = {column: getattr(markets["liquid"], column) for column in PRICE_COLUMNS}
    params = dict(spec_of(name).params)
    by_engine = engine(columns, **params)
    ours = getattr(talib, name)(*(columns[column] for column in function.inputs), **params)
    for one, other in zip(*(x if isinstance(x, list | tuple) else (x,) for x in (by_engine, ours)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", SUPPORTED)
def test_the_engine_accepts_every_parameter_at_both_bounds(name: str) -> None:
    function = CATALOGUE[name]
    for parameter in function.parameters:
        assert parameter.low <= parameter.default <= parameter.high
        for value in (parameter.low, parameter.high):
            getattr(talib, name)(*(np.ones(3) for _ in function.inputs), **{parameter.name: type(parameter.default)(value)})


def assert_near_one_pass(spec: IndicatorSpec, markets: Iterable[CandleBatch]) -> None:
    """Wherever TA-Lib begins, it says nearly the same; or docs/indicators.md says of the function that it does not."""
    for market in markets:
        whole, one_pass = compute_as_a_whole([spec], market), compute_in_one_pass([spec], market)
        for field, column in one_pass.items():
            difference = worst_difference(whole[field], column)
            assert difference.are_gaps_equal, f"{field}: values are missing in other places"
            assert difference.scaled <= NEAR or spec.name in FLIPPING, f"{field}: off by {difference.scaled:.1e}"


@pytest.mark.parametrize("name", SUPPORTED)
def test_values_are_near_one_pass(name: str, markets: Mapping[str, CandleBatch]) -> None:
    assert_near_one_pass(spec_of(name), markets.values())


@pytest.mark.parametrize(("name", "params"), OTHER_PARAMS, ids=lambda value: str(value))
def test_values_are_near_one_pass_with_other_parameters(name: str, params: dict[str, float]) -> None:
    assert_near_one_pass(spec_of(name, **params), make_markets(seed=201, count=8000).values())


@pytest.mark.parametrize(
    ("name", "matype"),
    [
        (name, number)
        for name in SUPPORTED
        for number, ma_name in enumerate(MA_NAMES)
        if any(link.matype for link in CATALOGUE[name].cascade)
        and all(ma_name in link.allowed for link in CATALOGUE[name].cascade if link.matype)
    ],
)
def test_values_are_near_one_pass_with_every_ma_type_offered(
    name: str, matype: int, markets: Mapping[str, CandleBatch]
) -> None:
    matypes = {parameter.name: matype for parameter in CATALOGUE[name].parameters if parameter.is_matype}
    assert_near_one_pass(spec_of(name, **matypes), markets.values())


@pytest.mark.parametrize("still_mean", [60, 300, 1000])
def test_values_are_near_one_pass_however_long_the_market_stands_still(still_mean: int) -> None:
    specs = [spec_of(name) for name in SUPPORTED if spec_of(name).warmup > spec_of(name).lookback]
    market = make_market(seed=still_mean, count=6000, price=3.0, volatility=2e-2, tick=1e-3, still_mean=still_mean, steps=6)
    for spec in specs:
        assert_near_one_pass(spec, [market])
