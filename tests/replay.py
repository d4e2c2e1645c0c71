"""Recorded candles for replay, and what a store must hold after it."""

import csv
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from shared.domain.candles import PRICE_COLUMNS, CandleBatch, FloatArray
from shared.domain.indicators import IndicatorSpec, compute_indicators
from shared.domain.jobs import to_ms
from shared.domain.timeframes import TIMEFRAMES

# Real recordings, not part of the project; tests that want them run where they are.
DATA_DIR: Final = Path(__file__).resolve().parents[2] / "shared" / "data"


def read_recording(path: Path) -> CandleBatch:
    """All rows of a gzipped CSV file (ts_ms,open,high,low,close,volume)."""
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return CandleBatch(
        np.array([int(row[0]) for row in rows], np.int64),
        *(np.array([float(row[index]) for row in rows]) for index in range(1, 6)),
    )


def closed_at(candles: CandleBatch, timeframe: str, now_ms: int) -> CandleBatch:
    """Those closed at that moment."""
    closes = np.array([TIMEFRAMES[timeframe].close(int(open_ms)) for open_ms in candles.open_ms], np.int64)
    return candles[closes <= now_ms]


def assert_series_equals(
    documents: Sequence[Mapping[str, Any]], expected: CandleBatch, specs: Sequence[IndicatorSpec], timeframe: str = "1m"
) -> None:
    """Every candle is there once, nothing besides, and bit for bit with the values that the whole series has."""
    open_ms = np.array([to_ms(document["_id"]) for document in documents], np.int64)
    missing = np.setdiff1d(expected.open_ms, open_ms)
    extra = np.setdiff1d(open_ms, expected.open_ms)
    assert len(missing) == 0, f"{len(missing)} missing, the first at {missing[0]}"
    assert len(extra) == 0, f"{len(extra)} too many, the first at {extra[0]}"
    assert len(open_ms) == len(expected), "a candle is there twice"
    for name in PRICE_COLUMNS:
        stored = np.array([document[name] for document in documents])
        assert np.array_equal(stored, getattr(expected, name)), f"{name} differs"
    for name, column in values_of(expected, specs, timeframe).items():
        values = np.array([document.get("ind", {}).get(name, np.nan) for document in documents])
        rows = np.flatnonzero((values != column) & ~(np.isnan(values) & np.isnan(column)))
        assert not len(rows), (
            f"{name} differs {len(rows)} times, first at row {rows[0]}: {values[rows[0]]!r}, {column[rows[0]]!r}"
        )


def values_of(series: CandleBatch, specs: Sequence[IndicatorSpec], timeframe: str = "1m") -> dict[str, FloatArray]:
    """The values of a series of which there is no candle before the first one."""
    return compute_indicators(specs, TIMEFRAMES[timeframe], CandleBatch.empty(), series, None, history_is_whole=True)
