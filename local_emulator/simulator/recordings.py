"""Recorded candles: CSV files `ts_ms,open,high,low,close,volume`, plain or gzip, one per exchange, symbol and timeframe.

A recording takes the place of the generated series of that key. Its holes are served as holes. The last row may be the
candle that was running when the recording was made.
"""

import csv
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from local_emulator.simulator.rows import COLUMNS, Rows
from shared.domain.candles import CandleBatch
from shared.domain.timeframes import TIMEFRAMES, Timeframe
from shared.errors import ConfigurationError

CSV_COLUMNS: Final = ("ts_ms", "open", "high", "low", "close", "volume")
ROWS_MAX: Final = 5_000_000


@dataclass(frozen=True, slots=True)
class RecordingKey:
    """Which series a file holds."""

    exchange: str
    symbol: str
    timeframe: str


def find_recordings(source: Path) -> dict[RecordingKey, Path]:
    """Which file holds which series.

    `source` is a folder of `{exchange}_{BASE-QUOTE}_{timeframe}.csv` (or `.csv.gz`), or a JSON file that maps
    `exchange:BASE/QUOTE:timeframe` to paths relative to itself.

    Raises:
        ConfigurationError: no such folder or file, or a name that says nothing.
    """
    if source.is_dir():
        files = sorted([*source.glob("*.csv"), *source.glob("*.csv.gz")])
        return {_key_of(file.name.split(".csv")[0].replace("-", "/"), "_"): file for file in files}
    if not source.is_file():
        raise ConfigurationError(f"recordings: {source} is neither a folder nor a file; name one that exists")
    return recordings_of(json.loads(source.read_text()), source.parent)


def recordings_of(mapping: dict[str, str], folder: Path) -> dict[RecordingKey, Path]:
    """From `exchange:BASE/QUOTE:timeframe` -> path relative to `folder`.

    Raises:
        ConfigurationError: a key is not of that form.
    """
    return {_key_of(name, ":"): folder / path for name, path in mapping.items()}


def _key_of(name: str, separator: str) -> RecordingKey:
    parts = name.split(separator)
    if len(parts) != 3 or parts[2] not in TIMEFRAMES or "/" not in parts[1]:
        raise ConfigurationError(f"recordings: {name!r} does not name an exchange, a symbol and a timeframe")
    return RecordingKey(*parts)


def read_recording(path: Path) -> CandleBatch:
    """All rows of the file, values exactly as written.

    Raises:
        ConfigurationError: the file is missing or not of the documented form.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", newline="") as file:
            lines = csv.reader(file)
            header = tuple(next(lines, ()))
            if header != CSV_COLUMNS:
                raise ConfigurationError(f"recordings: {path.name} begins with {header}, needs {CSV_COLUMNS}")
            rows = [(int(line[0]), *(float(value) for value in line[1:6])) for line in lines]
        return CandleBatch.from_rows(rows[:ROWS_MAX])
    except (OSError, ValueError, IndexError) as exc:
        raise ConfigurationError(f"recordings: {path.name} cannot be read: {exc}") from exc


class RecordedSeries:
    """One file as a series."""

    def __init__(self, candles: CandleBatch) -> None:
        self.candles = candles
        self.first_ms = int(candles.open_ms[0]) if len(candles) else 0

    def rows(self, timeframe: Timeframe, start_ms: int, end_ms: int, now_ms: int) -> Rows:
        """See Series. The running candle is a part of the recorded one, unless that is the last: it was running itself."""
        batch = self.candles.between(start_ms, min(end_ms, now_ms + 1))
        rows = Rows.of_batch(batch)
        if not len(batch):
            return rows
        open_ms = int(batch.open_ms[-1])
        if open_ms == self.candles.open_ms[-1] or timeframe.close(open_ms) <= now_ms:
            return rows
        columns = {name: getattr(rows, name).copy() for name in COLUMNS}
        share = (now_ms - open_ms) / (timeframe.close(open_ms) - open_ms)
        columns["volume"][-1] = np.round(columns["volume"][-1] * share, 8)
        columns["close"][-1] = columns["open"][-1]
        return Rows(**columns)
