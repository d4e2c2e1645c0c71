"""A series straight from MongoDB into numpy, Arrow and pandas: what is stored, and clear words for what is not."""

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from shared import load_series
from shared.domain.candles import PRICE_COLUMNS, CandleBatch
from shared.domain.timeframes import MINUTE_MS
from shared.errors import ConfigurationError, InvalidRequest, NotFound
from shared.load_series import load_arrow, load_numpy, load_pandas
from shared.stores.candles import Series
from shared.wiring import Platform
from tests.factories import add_candles, make_candles
from tests.upload import REPOSITORY

START_MS = 1_704_067_200_000
COUNT = 25_000
SERIES = Series("binance", "BTC/USDT", "1m")
Load = Callable[..., Any]


@pytest.fixture(scope="module")
def candles(shared_platform: Platform) -> CandleBatch:
    """More than a batch, with two layouts: indicators begin later, and one of them ends in between. Nobody changes them."""
    made = make_candles(START_MS, COUNT)
    rows = np.arange(COUNT)
    values = {
        "ema_20": np.where(rows < 19, np.nan, made.close + 0.5),
        "rsi_14": np.where((rows > 13) & (rows < 15_000), 50.0, np.nan),
    }
    add_candles(shared_platform, SERIES, made, values)
    return made


@pytest.fixture
def load(mongodb_uri: str, shared_platform: Platform) -> Load:
    name = shared_platform.settings.candles_database

    def call(function: Load, *args: Any, symbol: str = "BTC/USDT", timeframe: str = "1m", **options: Any) -> Any:
        return function(mongodb_uri, "binance", symbol, timeframe, *args, candles_database=name, **options)

    return call


def test_all_three_hold_what_is_stored(load: Load, candles: CandleBatch) -> None:
    fields = ["close", "ema_20", "rsi_14", "open"]
    columns, table, frame = (load(function, fields=fields) for function in (load_numpy, load_arrow, load_pandas))
    assert list(columns) == table.column_names == ["open_at", *fields]
    assert list(frame.columns) == fields
    assert columns["open_at"].astype(np.int64).tolist() == candles.open_ms.tolist()
    assert columns["close"].tolist() == candles.close.tolist()
    assert columns["open"].tolist() == candles.open.tolist()
    expected = np.where(np.arange(COUNT) < 19, np.nan, candles.close + 0.5)
    np.testing.assert_array_equal(columns["ema_20"], expected)
    assert np.isnan(columns["rsi_14"]).sum() == COUNT - 15_000 + 14
    assert table.schema.field("open_at").type == pa.timestamp("ms", tz="UTC")
    assert table.schema.metadata == {b"exchange": b"binance", b"symbol": b"BTC/USDT", b"timeframe": b"1m"}
    assert (table["ema_20"].null_count, table["close"].null_count) == (19, 0)
    assert frame.index[0] == pd.Timestamp("2024-01-01", tz="UTC")
    assert frame.index.name == "open_at"
    for name in fields:
        np.testing.assert_array_equal(frame[name].to_numpy(), columns[name])
        np.testing.assert_array_equal(table[name].to_numpy(), columns[name])
    assert list(load(load_numpy)) == ["open_at", *PRICE_COLUMNS]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2024-01-02", "2024-01-03T00:00:00Z"),
        (datetime.fromisoformat("2024-01-02"), datetime(2024, 1, 3, tzinfo=UTC)),
        (START_MS + 1440 * MINUTE_MS, pd.Timestamp("2024-01-03T01:00:00+01:00")),
    ],
)
def test_ranges_are_half_open_and_in_utc(load: Load, candles: CandleBatch, start: object, end: object) -> None:
    times = load(load_numpy, start, end)["open_at"]
    assert (len(times), str(times[0]), str(times[-1])) == (1440, "2024-01-02T00:00:00.000", "2024-01-02T23:59:00.000")


def test_a_higher_timeframe_is_put_together(load: Load, candles: CandleBatch) -> None:
    frame = load(load_pandas, resample_to="1h")
    whole, rest = divmod(COUNT, 60)
    assert rest
    assert list(frame.columns) == [*PRICE_COLUMNS, "source_count"]
    assert frame["source_count"].tolist() == [60] * whole
    plain = load(load_pandas).resample("1h").agg({"open": "first", "high": "max", "low": "min", "close": "last"})
    pd.testing.assert_frame_equal(frame[["open", "high", "low", "close"]], plain[:-1], check_freq=False)
    assert load(load_arrow, resample_to="1d", fields=["close"]).schema.metadata[b"timeframe"] == b"1d"
    # Of an hour in the past the last minute may be missing; that there are later ones says that it is over.
    assert len(load(load_numpy, "2024-01-01", "2024-01-01T00:30", resample_to="1h")["open_at"]) == 1


@pytest.mark.parametrize("rows_max", [1, 700, 6_000])
def test_several_readers_give_what_one_gives(
    load: Load, candles: CandleBatch, monkeypatch: pytest.MonkeyPatch, rows_max: int
) -> None:
    fields = ["close", "ema_20", "rsi_14"]
    ranges = [(None, None), (START_MS + 1, START_MS + 20_000 * MINUTE_MS), (START_MS - MINUTE_MS, START_MS + 40 * MINUTE_MS)]
    one = [load(load_arrow, *bounds, fields=fields) for bounds in ranges]
    # A range is cut where each reader has more than one reply to read.
    monkeypatch.setattr(load_series, "ONE_REPLY_MAX", rows_max)
    for bounds, expected in zip(ranges, one, strict=True):
        assert load(load_arrow, *bounds, fields=fields).equals(expected)


def test_an_empty_range_has_its_columns(load: Load, candles: CandleBatch) -> None:
    options = {"fields": ["close", "ema_20"]}
    assert load(load_numpy, "2030-01-01", **options)["ema_20"].tolist() == []
    assert load(load_arrow, "2030-01-01", **options).column_names == ["open_at", "close", "ema_20"]
    assert load(load_pandas, "2030-01-01", **options).shape == (0, 2)


def test_seconds_are_not_taken_for_ms(load: Load) -> None:
    with pytest.raises(InvalidRequest, match="looks like seconds"):
        load(load_numpy, 1_767_225_600)


def test_wrong_names_are_told_with_the_right_ones(load: Load, candles: CandleBatch) -> None:
    with pytest.raises(NotFound, match=r"binance BTC/USD 1m \(database .*\); there are candles_binance_BTC-USDT_1m"):
        load(load_numpy, symbol="BTC/USD")
    with pytest.raises(InvalidRequest, match=r"ema_21; the newest has open, high, low, close, volume, ema_20"):
        load(load_arrow, fields=["ema_21"])
    with pytest.raises(InvalidRequest, match="there are 1m, 3m"):
        load(load_numpy, timeframe="7m")
    with pytest.raises(InvalidRequest, match="'7m' is not made of whole intervals of 1m"):
        load(load_numpy, resample_to="7m")
    with pytest.raises(InvalidRequest, match="ema_20: put together are open, high"):
        load(load_numpy, resample_to="1h", fields=["ema_20"])
    with pytest.raises(InvalidRequest, match="'yesterday' is no time"):
        load(load_numpy, "yesterday")
    with pytest.raises(InvalidRequest, match="before end"):
        load(load_numpy, "2024-01-02", "2024-01-01")
    with pytest.raises(ConfigurationError, match="MONGODB_URI"):
        load_numpy("mongodb://ann:p@ss@host", "binance", "BTC/USDT", "1m")


def test_the_libraries_are_loaded_only_when_they_are_needed() -> None:
    script = "import sys, shared.load_series; print([name for name in ('pyarrow', 'pandas', 'flask') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"
