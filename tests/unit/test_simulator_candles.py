"""Generated candles: one truth of minutes, whatever is asked and however it is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_emulator.simulator.market import DELISTED_MS, LISTED_LATE_MS, LISTED_MS, Market
from local_emulator.simulator.series import BlockCache, GeneratedSeries
from local_emulator.simulator.truth import true_candles
from local_emulator.simulator.wires import WIRES
from shared.domain.candles import PRICE_COLUMNS, CandleBatch
from shared.domain.timeframes import DAY_MS, HOUR_MS, MINUTE_MS, TIMEFRAMES
from shared.errors import NotFound

NOON_MS = 1_794_398_400_000  # 2026-11-11 12:00 UTC
CACHE = BlockCache()


def candles(symbol: str, timeframe: str, start_ms: int, end_ms: int, exchange: str = "binance") -> CandleBatch:
    return true_candles(7, exchange, symbol, timeframe, start_ms, end_ms, CACHE)


def series(symbol: str, exchange: str = "binance") -> GeneratedSeries:
    wire = WIRES[exchange]
    market = next(market for market in wire.markets if market.symbol == symbol)
    return GeneratedSeries(7, exchange, market, wire.omits_empty, CACHE)


def assert_same(left: CandleBatch, right: CandleBatch) -> None:
    for name in ("open_ms", *PRICE_COLUMNS):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


@pytest.mark.parametrize("symbol", ["BTC/USDT", "ZEC/USDT", "KSM/USDT"])
@pytest.mark.parametrize("timeframe", [name for name in TIMEFRAMES if name != "1m"])
def test_every_timeframe_is_made_of_the_same_minutes(symbol: str, timeframe: str) -> None:
    frame = TIMEFRAMES[timeframe]
    start_ms = frame.floor(NOON_MS - 40 * DAY_MS)
    end_ms = frame.shift(start_ms, 1 if frame.is_calendar_month else min(40, max(1, 40 * DAY_MS // frame.step_ms - 1)))
    coarse, minutes = candles(symbol, timeframe, start_ms, end_ms), candles(symbol, "1m", start_ms, end_ms)
    assert coarse.open_ms.tolist() == frame.open_times(start_ms, end_ms).tolist()
    for row, open_ms in enumerate(coarse.open_ms.tolist()):
        inside = minutes.between(open_ms, frame.close(open_ms))
        assert coarse.open[row] == inside.open[0]
        assert coarse.close[row] == inside.close[-1]
        assert coarse.high[row] == inside.high.max()
        assert coarse.low[row] == inside.low.min()
        assert coarse.volume[row] == pytest.approx(inside.volume.sum(), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    symbol=st.sampled_from(["BTC/USDT", "ZEC/USDT", "KSM/USDT"]),
    timeframe=st.sampled_from(["1m", "15m", "1h", "1d", "1w"]),
    back=st.integers(1, 4_000),
    first=st.integers(1, 300),
    second=st.integers(1, 300),
)
def test_a_range_is_the_same_however_it_is_cut(symbol: str, timeframe: str, back: int, first: int, second: int) -> None:
    frame = TIMEFRAMES[timeframe]
    start_ms = max(LISTED_MS, frame.floor(NOON_MS) - back * frame.step_ms)
    middle_ms, end_ms = start_ms + first * frame.step_ms, start_ms + (first + second) * frame.step_ms
    whole = true_candles(7, "binance", symbol, timeframe, start_ms, end_ms)
    assert_same(whole, candles(symbol, timeframe, start_ms, middle_ms).then(candles(symbol, timeframe, middle_ms, end_ms)))


@pytest.mark.parametrize("market", WIRES["coinbase"].markets, ids=lambda market: market.symbol)
def test_candles_are_possible_and_read_back_exactly(market: Market) -> None:
    symbol = market.symbol
    batch = candles(symbol, "1m", DELISTED_MS - 2 * DAY_MS, DELISTED_MS, "binance" if symbol.endswith("USDT") else "coinbase")
    if symbol.startswith("NOVA"):
        assert len(batch) == 0
        return
    assert bool(np.all(batch.high >= np.maximum(batch.open, batch.close)))
    assert bool(np.all(batch.low <= np.minimum(batch.open, batch.close)))
    assert batch.low.min() > 0
    assert batch.volume.min() >= 0
    for name in PRICE_COLUMNS:
        assert [float(f"{value:.8f}") for value in getattr(batch, name).tolist()] == getattr(batch, name).tolist()


def test_the_close_of_a_candle_is_the_open_of_the_next() -> None:
    for symbol in ("BTC/USDT", "ZEC/USDT", "KSM/USDT"):
        batch = candles(symbol, "1m", NOON_MS - 3 * DAY_MS, NOON_MS)
        np.testing.assert_array_equal(batch.close[:-1], batch.open[1:])


def test_quiet_minutes_are_flat_where_they_are_filled_and_missing_where_they_are_left_out() -> None:
    filled = candles("KSM/USDT", "1m", NOON_MS - DAY_MS, NOON_MS, "kraken")
    assert len(filled) == 1440
    silent = filled.volume == 0
    assert silent.sum() > 1_300
    for name in ("open", "high", "low"):
        np.testing.assert_array_equal(getattr(filled, name)[silent], filled.close[silent])
    left_out = candles("KSM/USDT", "1m", NOON_MS - DAY_MS, NOON_MS, "coinbase")
    assert 0 < len(left_out) < 100
    assert left_out.volume.min() > 0
    assert len(candles("KSM/USDT", "1h", NOON_MS - 10 * DAY_MS, NOON_MS, "coinbase")) < 200


def test_series_begin_with_their_listing_and_end_with_their_delisting() -> None:
    late = candles("NOVA/USDT", "1h", 0, LISTED_LATE_MS + 3 * HOUR_MS)
    assert late.open_ms.tolist() == [LISTED_LATE_MS + hour * HOUR_MS for hour in range(3)]
    gone = candles("OMG/USDT", "1h", DELISTED_MS - 3 * HOUR_MS, NOON_MS)
    assert gone.open_ms.tolist() == [DELISTED_MS - hour * HOUR_MS for hour in (3, 2, 1)]
    month = candles("BTC/USDT", "1M", 0, NOON_MS)
    assert month.open_ms[0] == TIMEFRAMES["1M"].floor(LISTED_MS)
    assert month.open[0] == candles("BTC/USDT", "1m", LISTED_MS, LISTED_MS + MINUTE_MS).open[0]


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_the_running_candle_grows_from_the_minutes_so_far_and_never_equals_the_final_one(timeframe: str) -> None:
    frame = TIMEFRAMES[timeframe]
    now_ms = NOON_MS + 47 * MINUTE_MS + 31_000
    open_ms = frame.floor(now_ms)
    rows = series("BTC/USDT").rows(frame, open_ms, now_ms + 1, now_ms)
    assert rows.open_ms.tolist() == [open_ms]
    final = candles("BTC/USDT", timeframe, open_ms, frame.close(open_ms))
    assert rows.open[0] == final.open[0]
    assert 0 < rows.volume[0] < final.volume[0]
    assert rows.high[0] <= final.high[0]
    assert rows.low[0] >= final.low[0]
    minutes = candles("BTC/USDT", "1m", open_ms, NOON_MS + 47 * MINUTE_MS)
    if len(minutes):
        assert (
            minutes.volume.sum()
            < rows.volume[0]
            < minutes.volume.sum() + candles("BTC/USDT", "1m", now_ms - 31_000, now_ms).volume[0]
        )


def test_seed_exchange_and_symbol_each_make_another_series() -> None:
    args = ("1m", NOON_MS, NOON_MS + HOUR_MS)
    first = true_candles(7, "binance", "BTC/USDT", *args)
    assert_same(first, true_candles(7, "binance", "BTC/USDT", *args))
    for other in (true_candles(8, "binance", "BTC/USDT", *args), true_candles(7, "kraken", "BTC/USDT", *args)):
        assert not np.array_equal(first.close, other.close)


def test_what_is_not_there_is_named() -> None:
    for exchange, symbol, timeframe in (
        ("nowhere", "BTC/USDT", "1m"),
        ("binance", "BTC/EUR", "1m"),
        ("binance", "BTC/USDT", "7m"),
    ):
        with pytest.raises(NotFound):
            true_candles(7, exchange, symbol, timeframe, 0, 1)
