"""How long a look at the ledger of completeness takes: 2.6 million candles (five years of minutes) with 1,000 holes.

    python -m benchmarks.coverage [--quick] [--json]

The last line is one JSON object: `p50_ms` and `p99_ms` of the answer of `GET /v1/jobs/{id}/coverage` without the HTTP around
it, all runs of intervals in it; `growth`, the median of it over that of a series with a tenth of the candles and as many holes,
in the same run by turns; `scan_ms`, what it takes to find the same holes by reading the open times of all candles.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from functions.admin_views import coverage_view
from local_emulator.mongod import start_mongod
from shared.domain.candles import CandleBatch
from shared.domain.coverage import Asked, settle
from shared.domain.jobs import to_datetime
from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES, IntArray
from shared.stores.candles import Series
from shared.wiring import Platform
from tests.factories import add_connector, add_job, make_platform

NOW_MS: Final = 1_760_000_042_000
CLOSED_MS: Final = NOW_MS // MINUTE_MS * MINUTE_MS
CANDLES: Final = 2_600_000
HOLES: Final = 1_000
HOLE_MAX: Final = 30
GRID: Final = TIMEFRAMES["1m"]
PAGE: Final = 50_000
QUICK_LOOKS: Final = 300
FULL_LOOKS: Final = 2_000


def fill(platform: Platform, symbol: str, candles: int) -> tuple[str, list[tuple[int, int]]]:
    """A series with its candles, and its ledger as pages would have written it; (job, holes in numbers of intervals)."""
    rng = random.Random(candles)
    end = GRID.number(CLOSED_MS)
    first = end - candles
    starts = sorted(rng.sample(range(1, candles // (2 * HOLE_MAX) - 1), HOLES))
    holes = [(first + at * 2 * HOLE_MAX, first + at * 2 * HOLE_MAX + rng.randint(1, HOLE_MAX)) for at in starts]
    is_there = np.ones(candles, np.bool_)
    for start, stop in holes:
        is_there[start - first : stop - first] = False
    series = Series("binance", symbol, "1m")
    platform.candles.ensure_collection(series)
    for page in range(0, candles, PAGE):
        numbers = first + page + np.flatnonzero(is_there[page : page + PAGE])
        store_page(platform, series, numbers, (first + page, first + min(page + PAGE, candles)))
    job_id = add_job(
        platform, symbol, start_ms=GRID.open_at(first), cursor={"last_ts": to_datetime(CLOSED_MS - MINUTE_MS)}, indicators=[]
    )
    return job_id, holes


def store_page(platform: Platform, series: Series, numbers: IntArray, span: tuple[int, int]) -> None:
    """Candles and what is missing between them, in one transaction."""
    values = np.full(len(numbers), 1.5)
    candles = CandleBatch(numbers * MINUTE_MS, values, values, values, values, values)
    changed = settle(Asked(*span, numbers), {}, np.empty(0, np.int64), is_repair=False)
    coverage = platform.ledger.coverage

    def write(session: Any) -> None:
        platform.candles.insert(series, candles, {}, session)
        known = coverage.read(series.series_id, *span, session)
        merged = {bucket: np.maximum(codes, known.get(bucket, codes)) for bucket, codes in changed.items()}
        coverage.write(series.series_id, merged, session)

    platform.database.transact(write)


def look(platform: Platform, job_id: str) -> tuple[float, dict[str, Any]]:
    """One answer, and the ms it took."""
    began = time.perf_counter()
    view = coverage_view(platform.coverage_reader.read(job_id, None, CLOSED_MS, frozenset(), 5_000))
    json.dumps(view)
    return (time.perf_counter() - began) * 1000, view


def scan(platform: Platform, symbol: str, candles: int) -> tuple[float, int]:
    """The holes by reading every candle's open time: ms, and how many there are."""
    series, grid = Series("binance", symbol, "1m"), GRID
    began = time.perf_counter()
    opens_ms = platform.candles.read_open_times(series, CLOSED_MS - candles * MINUTE_MS, CLOSED_MS)
    holes = int((np.diff(grid.numbers(opens_ms)) > 1).sum())
    return (time.perf_counter() - began) * 1000, holes


def run(looks: int) -> dict[str, Any]:
    """Both series by turns."""
    with tempfile.TemporaryDirectory(prefix="chandler-bench-") as folder, contextlib.ExitStack() as stack:
        mongod = start_mongod(Path(folder))
        stack.callback(mongod.stop)
        platform = make_platform(mongod.uri, f"bench_{os.getpid()}")
        stack.callback(platform.close)
        add_connector(platform)
        small_id, _ = fill(platform, "ETH/USDT", CANDLES // 10)
        large_id, holes = fill(platform, "BTC/USDT", CANDLES)
        small, large = [], []
        for _ in range(looks):
            small.append(look(platform, small_id)[0])
            took_ms, view = look(platform, large_id)
            large.append(took_ms)
        absent = sum(end - first for first, end in holes)
        assert view["counts"] == {
            "stored": CANDLES - absent, "no_trades": 0, "pending": 0, "missing": absent, "disputed": 0, "beyond_history": 0,
        }  # fmt: skip
        assert len(view["runs"]) == 2 * HOLES + 1
        scan_ms, found = scan(platform, "BTC/USDT", CANDLES)
        assert found == HOLES
    return {
        "candles": CANDLES,
        "holes": HOLES,
        "p50_ms": round(statistics.median(large), 2),
        "p99_ms": round(float(np.percentile(large, 99)), 2),
        "growth": round(statistics.median(large) / statistics.median(small), 2),
        "scan_ms": round(scan_ms),
        "over_scan": round(scan_ms / statistics.median(large)),
    }


def main() -> None:
    """Print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer looks")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    arguments = parser.parse_args()
    result = run(QUICK_LOOKS if arguments.quick else FULL_LOOKS)
    if not arguments.json:
        for name, value in result.items():
            print(f"{name:>12}  {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
