"""Recorded candles are served exactly as the file has them, holes included."""

import gzip
from pathlib import Path

import pytest

from local_emulator.simulator.recordings import RecordedSeries, RecordingKey, find_recordings, read_recording
from local_emulator.simulator.select_rows import select_rows
from local_emulator.simulator.wire import Span
from local_emulator.simulator.wires import WIRES
from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES
from shared.errors import ConfigurationError

START_MS = 1_794_398_400_000
MINUTE = TIMEFRAMES["1m"]
# Minute 2 and 3 are missing.
ROWS = [(START_MS + minute * MINUTE_MS, 0.1 + minute, 9.3e-7, 1e-7, 123456.789, minute / 3) for minute in (0, 1, 4, 5, 6)]


def write(path: Path, rows: list[tuple[float, ...]] = ROWS) -> Path:
    text = "ts_ms,open,high,low,close,volume\n" + "".join(",".join(map(repr, row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_values_are_read_exactly(tmp_path: Path, name: str) -> None:
    batch = read_recording(write(tmp_path / name))
    assert [
        tuple(column)
        for column in zip(batch.open_ms, batch.open, batch.high, batch.low, batch.close, batch.volume, strict=True)
    ] == ROWS


def test_files_are_found_by_name_or_by_map(tmp_path: Path) -> None:
    first = write(tmp_path / "binance_BTC-USDT_1m.csv")
    second = write(tmp_path / "kraken_ETH-USD_1h.csv.gz")
    expected = {RecordingKey("binance", "BTC/USDT", "1m"): first, RecordingKey("kraken", "ETH/USD", "1h"): second}
    assert find_recordings(tmp_path) == expected
    mapping = tmp_path / "map.json"
    mapping.write_text('{"binance:BTC/USDT:1m": "binance_BTC-USDT_1m.csv", "kraken:ETH/USD:1h": "kraken_ETH-USD_1h.csv.gz"}')
    assert find_recordings(mapping) == expected


@pytest.mark.parametrize("content", ["", "time,open\n1,2\n", "ts_ms,open,high,low,close,volume\n1,a,2,3,4,5\n"])
def test_a_file_of_another_form_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"wrong\.csv"):
        read_recording(path)
    with pytest.raises(ConfigurationError):
        find_recordings(tmp_path / "nowhere")


def test_holes_stay_holes_and_the_future_is_hidden(tmp_path: Path) -> None:
    series = RecordedSeries(read_recording(write(tmp_path / "a.csv")))
    market = WIRES["binance"].markets[0]

    def opens(now_ms: int, limit: int, start_ms: int | None = None) -> list[int]:
        rows = select_rows(series, Span(market, MINUTE, start_ms, None, limit, start_ms is not None), now_ms)
        return [(open_ms - START_MS) // MINUTE_MS for open_ms in rows.open_ms.tolist()]

    end_ms = START_MS + 7 * MINUTE_MS
    assert opens(end_ms, 100) == [0, 1, 4, 5, 6]
    assert opens(end_ms, 3) == [4, 5, 6]
    assert opens(end_ms, 3, START_MS) == [0, 1, 4]
    assert opens(START_MS + 4 * MINUTE_MS - 1, 3) == [0, 1]
    assert opens(START_MS - 1, 3) == []


def test_the_candle_that_runs_in_the_middle_of_a_recording_is_a_part_of_it(tmp_path: Path) -> None:
    series = RecordedSeries(read_recording(write(tmp_path / "a.csv")))
    running = series.rows(MINUTE, START_MS, START_MS + 10 * MINUTE_MS, START_MS + 4 * MINUTE_MS + 30_000)
    assert running.volume[-1] == pytest.approx(4 / 6, abs=1e-8)
    last = series.rows(MINUTE, START_MS, START_MS + 10 * MINUTE_MS, START_MS + 6 * MINUTE_MS + 30_000)
    assert last.volume[-1] == 2.0
