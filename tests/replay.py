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
# Relative, with a floor at a thousandth of the column's usual size for values that cross zero.
TOLERANCE: Final = 1e-9
SCALE_FLOOR: Final = 1e-3


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
    documents: Sequence[Mapping[str, Any]], expected: CandleBatch, specs: Sequence[IndicatorSpec]
) -> dict[str, float]:
    """Every candle is there once with its values, nothing besides, and indicators equal one pass over the whole series.

    Returns per indicator field the worst difference, relative to max(|value|, SCALE_FLOOR * rms of the column).
    """
    open_ms = np.array([to_ms(document["_id"]) for document in documents], np.int64)
    missing = np.setdiff1d(expected.open_ms, open_ms)
    extra = np.setdiff1d(open_ms, expected.open_ms)
    assert len(missing) == 0, f"{len(missing)} missing, the first at {missing[0]}"
    assert len(extra) == 0, f"{len(extra)} too many, the first at {extra[0]}"
    assert len(open_ms) == len(expected), "a candle is there twice"
    for name in PRICE_COLUMNS:
        stored = np.array([document[name] for document in documents])
        assert np.array_equal(stored, getattr(expected, name)), f"{name} differs"
    one_pass = compute_indicators(specs, CandleBatch.empty(), expected, None, history_is_whole=True)
    worst = {name: _worst_difference(documents, name, column) for name, column in one_pass.items()}
    assert max(worst.values(), default=0.0) <= TOLERANCE, worst
    return worst


def _worst_difference(documents: Sequence[Mapping[str, Any]], name: str, expected: FloatArray) -> float:
    stored = np.array([document.get("ind", {}).get(name, np.nan) for document in documents])
    assert np.array_equal(np.isnan(stored), np.isnan(expected)), f"{name} is there where it should not be, or the reverse"
    is_there = ~np.isnan(expected)
    if not is_there.any():
        return 0.0
    values = expected[is_there]
    floor = SCALE_FLOOR * float(np.sqrt(np.mean(values**2))) or 1.0
    return float(np.max(np.abs(stored[is_there] - values) / np.maximum(np.abs(values), floor)))
