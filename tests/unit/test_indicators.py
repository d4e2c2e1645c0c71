"""Indicator specs from requests, and the edges of computing them."""

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import talib

from shared.domain.candles import CandleBatch, FloatArray
from shared.domain.indicator_starts import BESIDES, BLOCK, HISTORY_CANDLES_MAX, SECTION
from shared.domain.indicators import (
    DEFAULT_INDICATORS,
    ENGINE_VERSION,
    INDICATORS_MAX,
    compute_indicators,
    history_candles_usual,
    history_from,
    indicators_hash,
    resolve_indicators,
)
from shared.domain.timeframes import TIMEFRAMES
from shared.errors import InvalidRequest
from tests.waiting import HANG_S

GRID = TIMEFRAMES["1m"]


def make_candles(count: int = 60, *, first: int = 0, seed: int = 1) -> CandleBatch:
    random = np.random.default_rng(seed)
    close = 100 + np.cumsum(random.normal(0, 1, first + count))[first:]
    times = np.arange(first, first + count, dtype=np.int64) * 60_000
    return CandleBatch(times, close - 0.1, close + 1, close - 1, close, random.lognormal(0, 1, first + count)[first:])


def make_still_candles(count: int) -> CandleBatch:
    return CandleBatch(np.arange(count, dtype=np.int64) * 60_000, *(np.full(count, 7.0) for _ in range(4)), np.zeros(count))


def problems_of(requested: Sequence[Mapping[str, object]]) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        resolve_indicators(requested)
    return dict(caught.value.errors)


def test_the_engine_is_the_pinned_one() -> None:
    assert ENGINE_VERSION == "talib-0.8.2"


def test_the_default_indicators_are_nine() -> None:
    assert [spec.label for spec in DEFAULT_INDICATORS] == [
        "sma_20",
        "ema_20",
        "ema_50",
        "rsi_14",
        "macd_12_26_9",
        "bbands_20_2_2",
        "atr_14",
        "adx_14",
        "obv",
    ]


def test_parameters_left_away_are_written_out() -> None:
    (spec,) = resolve_indicators([{"name": "bbands", "params": {"timeperiod": 30.0}}])
    assert spec.to_document() == {
        "name": "BBANDS",
        "params": {"timeperiod": 30, "nbdevup": 2.0, "nbdevdn": 2.0, "matype": 0},
        "as": "bbands_30_2_2",
    }
    assert spec.fields == ("bbands_30_2_2_upper", "bbands_30_2_2_middle", "bbands_30_2_2_lower")


def test_a_document_resolves_to_the_spec_it_came_from() -> None:
    assert resolve_indicators([spec.to_document() for spec in DEFAULT_INDICATORS]) == DEFAULT_INDICATORS


@pytest.mark.parametrize(
    ("request_", "label"),
    [
        ({"name": "OBV"}, "obv"),
        ({"name": "SAR"}, "sar_0p02_0p2"),
        ({"name": "MA", "params": {"matype": 1}}, "ma_30_ema"),
        ({"name": "BBANDS", "params": {"nbdevup": -1e-7}}, "bbands_20_m1em07_2"),
        ({"name": "PPO"}, "ppo_12_26"),
        ({"name": "RSI", "as": "my_rsi"}, "my_rsi"),
    ],
)
def test_labels_are_identifiers_made_of_name_and_parameters(request_: Mapping[str, object], label: str) -> None:
    assert resolve_indicators([request_])[0].label == label


@pytest.mark.parametrize(
    ("request_", "field", "part"),
    [
        ({"name": "RSII"}, "name", "did you mean RSI?"),
        ({"name": 7}, "name", "unknown function 7"),
        ({}, "name", "unknown function None"),
        ({"name": "HT_SINE"}, "name", "Hilbert"),
        ({"name": "RSI", "params": {"period": 14}}, "params.period", "it has timeperiod"),
        ({"name": "RSI", "params": {"timeperiod": 1}}, "params.timeperiod", "2 to 100000"),
        ({"name": "RSI", "params": {"timeperiod": "14"}}, "params.timeperiod", "not a whole number"),
        ({"name": "RSI", "params": {"timeperiod": 14.5}}, "params.timeperiod", "not a whole number"),
        ({"name": "RSI", "params": {"timeperiod": True}}, "params.timeperiod", "not a whole number"),
        ({"name": "BBANDS", "params": {"nbdevup": float("nan")}}, "params.nbdevup", "not a number"),
        ({"name": "RSI", "params": [14]}, "params", "must be an object"),
        ({"name": "BBANDS", "params": {"matype": 7}}, "params.matype", "7 (mama)"),
        ({"name": "PPO", "params": {"matype": 0}}, "params.matype", "use one of 1 (ema)"),
        ({"name": "RSI", "params": {"timeperiod": 1000}}, "params", "shorter periods"),
        ({"name": "RSI", "as": "RSI"}, "as", "no name"),
        ({"name": "RSI", "as": "a" * 65}, "as", "no name"),
        ({"name": "RSI", "label": "x"}, "label", "only name, params and as"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(request_: Mapping[str, object], field: str, part: str) -> None:
    problems = problems_of([{"name": "OBV"}, request_])
    assert part in problems[f"indicators.1.{field}"]


def test_every_problem_is_told_at_once() -> None:
    assert set(problems_of([{"name": "X"}, {"name": "RSI", "params": {"a": 1, "timeperiod": 0}}])) == {
        "indicators.0.name",
        "indicators.1.params.a",
        "indicators.1.params.timeperiod",
    }


def test_two_specs_may_not_store_the_same_field() -> None:
    problems = problems_of([{"name": "RSI"}, {"name": "EMA"}, {"name": "RSI"}])
    assert "indicators.0" in problems["indicators.2.as"]
    assert problems_of([{"name": "MACD", "as": "m"}, {"name": "EMA", "as": "m_signal"}])


def test_more_than_fifty_are_refused() -> None:
    specs = [{"name": "EMA", "params": {"timeperiod": n + 2}} for n in range(INDICATORS_MAX + 1)]
    assert len(resolve_indicators(specs[:-1])) == INDICATORS_MAX
    assert "at most 50" in problems_of(specs)["indicators"]


def test_the_hash_changes_with_names_parameters_labels_and_nothing_else() -> None:
    one = indicators_hash(resolve_indicators([{"name": "EMA", "params": {"timeperiod": 20}}]))
    assert one == indicators_hash(resolve_indicators([{"name": "ema", "params": {"timeperiod": 20}, "as": "ema_20"}]))
    others = [{"name": "SMA", "params": {"timeperiod": 20}, "as": "ema_20"}, {"name": "EMA"}, {"name": "EMA", "as": "x"}]
    assert len({one, *(indicators_hash(resolve_indicators([other])) for other in others)}) == 4
    assert len(one) == 16


@pytest.mark.parametrize(
    ("name", "params", "candles"),
    [
        ("SMA", {"timeperiod": 20}, 19),
        ("RSI", {"timeperiod": 2}, 500),
        ("EMA", {"timeperiod": 200}, 3927),
        ("ADX", {"timeperiod": 14}, 683),
        ("TRIX", {"timeperiod": 30}, 1055),
        ("BBANDS", {"timeperiod": 50, "matype": 1}, 994),
        ("SAR", {}, 1000),
        ("KAMA", {"timeperiod": 200}, 5246),
        ("OBV", {}, 1),
        ("AVGPRICE", {}, 0),
    ],
)
def test_the_warm_up_follows_the_rule(name: str, params: Mapping[str, object], candles: int) -> None:
    (spec,) = resolve_indicators([{"name": name, "params": params}])
    assert spec.warmup == candles


def test_no_indicators_need_no_candles() -> None:
    assert history_candles_usual((), GRID, GRID.open_at(500), 2) == 2
    assert history_from((), GRID, make_candles(), 40, is_whole=False) == 40
    assert compute_indicators((), GRID, CandleBatch.empty(), make_candles(), None) == {}


def test_a_market_that_moves_needs_no_more_than_what_is_read_at_first() -> None:
    first = GRID.number(int(make_candles().open_ms[0]))
    counts = []
    for row in range(1_200, 1_200 + SECTION):
        count = history_candles_usual(DEFAULT_INDICATORS, GRID, GRID.open_at(first + row), 1)
        history = make_candles(row)[row - count :]
        assert history_from(DEFAULT_INDICATORS, GRID, history, len(history) - 1, is_whole=False) is not None
        counts.append(count)
    # EMA 50 needs 768 candles before a section. Besides, there may be a block to read, and what the section has already.
    assert (min(counts), max(counts)) == (768 + BLOCK + 1, 768 + BLOCK + SECTION)


def test_a_market_that_stood_still_needs_more_history_up_to_a_limit() -> None:
    (rsi,) = resolve_indicators([{"name": "RSI"}])
    moving, still = make_candles(2_000), make_still_candles(4_000)[2_000:]
    history = moving.then(still).then(make_candles(1, first=4_000))
    start = history_from([rsi], GRID, history, 4_000, is_whole=False)
    # Of what is moving so many candles, in whole blocks.
    assert start is not None
    assert 2_000 - rsi.reach.candles - BLOCK < start <= 2_000 - rsi.reach.candles + BLOCK
    assert history_from([rsi], GRID, history[1_800:], 2_200, is_whole=False) is None
    assert history_from([rsi], GRID, history[1_800:], 2_200, is_whole=True) == 0
    standing = make_still_candles(HISTORY_CANDLES_MAX + BESIDES + BLOCK + 1)
    assert history_from([rsi], GRID, standing, len(standing) - 1, is_whole=False) is not None
    (sma,) = resolve_indicators([{"name": "SMA"}])
    assert history_from([sma], GRID, make_still_candles(500), 499, is_whole=False) == 192


def test_values_come_for_the_page_only_and_are_nan_before_the_first() -> None:
    values = compute_indicators(DEFAULT_INDICATORS, GRID, CandleBatch.empty(), make_candles(60), None)
    assert set(values) == {field for spec in DEFAULT_INDICATORS for field in spec.fields}
    assert all(len(column) == 60 and column.dtype == np.float64 for column in values.values())
    assert int(np.isnan(values["sma_20"]).sum()) == 19
    assert int(np.isnan(values["ema_50"]).sum()) == 49
    assert not np.isnan(values["obv"]).any()


def test_an_empty_page_gives_empty_columns() -> None:
    values = compute_indicators(DEFAULT_INDICATORS, GRID, make_candles(), CandleBatch.empty(), None)
    assert {len(column) for column in values.values()} == {0}


def test_a_page_shorter_than_the_lookback_has_no_values_yet() -> None:
    specs = resolve_indicators([{"name": "ADX"}, {"name": "CDLMORNINGSTAR"}, {"name": "SUPERTREND"}])
    for column in compute_indicators(
        specs, GRID, make_candles(3), make_candles(2, first=3), None, history_is_whole=True
    ).values():
        assert np.isnan(column).all()


def test_integer_outputs_have_no_value_before_the_lookback_whatever_the_engine_puts_there() -> None:
    (spec,) = resolve_indicators([{"name": "CDLDOJI"}])
    whole = make_candles(40)
    (column,) = compute_indicators([spec], GRID, whole[:4], whole[4:], None, history_is_whole=True).values()
    assert int(np.isnan(column).sum()) == spec.lookback - 4
    assert set(column[~np.isnan(column)]) <= {-100.0, 0.0, 100.0}


def test_infinite_outputs_are_no_values() -> None:
    specs = resolve_indicators([{"name": "ACOS"}, {"name": "EXP"}])
    candles = make_candles(5)
    high = CandleBatch(candles.open_ms, *(np.full(5, 1e6) for _ in range(5)))
    assert all(np.isnan(column).all() for column in compute_indicators(specs, GRID, CandleBatch.empty(), high, None).values())


def test_a_cumulative_function_goes_on_from_the_value_carried() -> None:
    whole = make_candles(100)
    specs = resolve_indicators([{"name": "OBV"}, {"name": "AD"}])
    carried = {"obv": 1234.5, "ad": -77.25}
    values = compute_indicators(specs, GRID, whole[:50], whole[50:], carried)
    obv = talib.OBV(whole.close, whole.volume)
    np.testing.assert_allclose(values["obv"], obv[50:] - obv[49] + 1234.5, rtol=1e-12)
    ad = talib.AD(whole.high, whole.low, whole.close, whole.volume)
    np.testing.assert_allclose(values["ad"], ad[50:] - ad[49] - 77.25, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("carried", [None, {}, {"obv": float("nan")}, {"other": 1.0}])
def test_a_cumulative_function_without_carried_value_wants_the_whole_history(carried: Mapping[str, float] | None) -> None:
    whole = make_candles(100)
    (spec,) = resolve_indicators([{"name": "OBV"}])
    with pytest.raises(ValueError, match="obv"):
        compute_indicators([spec], GRID, whole[:50], whole[50:], carried)
    values = compute_indicators([spec], GRID, whole[:50], whole[50:], carried, history_is_whole=True)
    np.testing.assert_array_equal(values["obv"], talib.OBV(whole.close, whole.volume)[50:])


def test_a_candle_that_is_not_finite_is_refused_by_the_name_of_its_column() -> None:
    page = make_candles(30)
    page.close[3] = np.nan
    with pytest.raises(ValueError, match="close"):
        compute_indicators(DEFAULT_INDICATORS, GRID, CandleBatch.empty(), page, None)


def test_inputs_stay_as_they_were() -> None:
    history, page = make_candles(30), make_candles(30, first=30)
    copies = [column.copy() for batch in (history, page) for column in (batch.close, batch.high, batch.volume)]
    compute_indicators(DEFAULT_INDICATORS, GRID, history, page, {"obv": 5.0}, history_is_whole=True)
    for copy, column in zip(copies, [c for b in (history, page) for c in (b.close, b.high, b.volume)], strict=True):
        np.testing.assert_array_equal(copy, column)


def test_threads_compute_the_same_values() -> None:
    series = [make_candles(1500, seed=seed) for seed in range(4)]
    expected = [compute_indicators(DEFAULT_INDICATORS, GRID, CandleBatch.empty(), one, None) for one in series]
    results: list[list[dict[str, FloatArray]]] = [[] for _ in series]

    def work(number: int) -> None:
        for _ in range(50):
            results[number].append(compute_indicators(DEFAULT_INDICATORS, GRID, CandleBatch.empty(), series[number], None))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(series))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    for number, runs in enumerate(results):
        assert len(runs) == 50
        for values in runs:
            for name, column in values.items():
                np.testing.assert_array_equal(column, expected[number][name])
