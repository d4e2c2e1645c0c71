"""Decoding a full page of each exchange: our decoder beside ccxt's parser, on the same parsed JSON, in turns.

    python -m benchmarks.decode [--quick] [--json]

A page is what the simulator answers to the largest request for minutes. Both are timed from the parsed answer on: ours until
the page's checked columns (`read_page`), ccxt's until its list of rows (`fetch_ohlcv` with the answer handed in, so its own
building of the request is in it, as for every user). Also told, and not compared: parsing the JSON text, by the parser that we
use and by Python's own, which ccxt uses.

The last line is one JSON object: `exchanges` (how many), `mean_speedup` and `min_speedup` (ccxt's time over ours, medians of
all calls), `slowest` (whose that is), `by_exchange` {name: {rows, ours_us, ccxt_us, speedup}}, and `json_speedup`.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from pydantic_core import from_json

from shared.domain.timeframes import TIMEFRAMES
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.exchanges.pages import AskedRange, read_page
from shared.exchanges.transport import Answer
from tests.contract.bench import Bench
from tests.contract.cases import CASES
from tests.contract.ccxt_peer import open_ccxt
from tests.contract.frozen_market import NOW_MS

QUICK_ROUNDS: Final = 6
FULL_ROUNDS: Final = 40
CALLS_A_TURN: Final = 5
TIMEFRAME: Final = "1m"


def median_us(works: tuple[Callable[[], Any], ...], rounds: int) -> list[float]:
    """Median microseconds of each, in turns of a few calls, after one turn that does not count."""
    taken: list[list[float]] = [[] for _ in works]
    # What was made before (markets, modules) is not looked through while somebody is timed.
    gc.collect()
    gc.freeze()
    for number in range(-1, rounds):
        for work, times in zip(works, taken, strict=True):
            for _ in range(CALLS_A_TURN):
                began = time.perf_counter_ns()
                work()
                if number >= 0:
                    times.append((time.perf_counter_ns() - began) / 1_000)
    gc.unfreeze()
    return [statistics.median(times) for times in taken]


def compare(exchange: str, rounds: int) -> dict[str, float]:
    """One exchange's page."""
    case, spec, grid = CASES[exchange], load_spec(exchange), TIMEFRAMES[TIMEFRAME]
    rows = spec.candles.limit_of(TIMEFRAME)
    end_ms = grid.floor(NOW_MS)
    start_ms = grid.shift(end_ms, -rows)
    bench = Bench(exchange)
    bench.client().fetch_ohlcv(case.symbol, TIMEFRAME, start_ms, NOW_MS)
    text = bench.newest.body
    payload = json.loads(text)
    answer = Answer(payload, 200, {}, 1)
    asked = AskedRange(grid, start_ms, start_ms, end_ms)
    peer = open_ccxt(case, Bench(exchange))
    peer.fetch = lambda *_args, **_options: payload
    count = len(read_page(answer, spec, spec.candles, asked).candles)
    if abs(count - len(peer.fetch_ohlcv(case.symbol, TIMEFRAME, start_ms, rows))) > 1:
        raise SystemExit(f"{exchange}: the two did not read the same page")
    ours_us, ccxt_us, our_json_us, python_json_us = median_us(
        (
            lambda: read_page(answer, spec, spec.candles, asked),
            lambda: peer.fetch_ohlcv(case.symbol, TIMEFRAME, start_ms, rows),
            lambda: from_json(text),
            lambda: json.loads(text),
        ),
        rounds,
    )
    return {
        "rows": count,
        "ours_us": round(ours_us),
        "ccxt_us": round(ccxt_us),
        "speedup": round(ccxt_us / ours_us, 2),
        "json_speedup": python_json_us / our_json_us,
    }


def main() -> None:
    """Every exchange; the result on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 50 seconds")
    parser.add_argument("--json", action="store_true", help="nothing but the last line")
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for exchange in sorted(EXCHANGES):
        found[exchange] = compare(exchange, QUICK_ROUNDS if arguments.quick else FULL_ROUNDS)
        if not arguments.json:
            row = found[exchange]
            times = f"{row['ours_us']:8} us  ccxt {row['ccxt_us']:8} us"
            print(f"{exchange:14} {row['rows']:6} rows  {times}  {row['speedup']:6.1f} x")
    speedups = {exchange: row["speedup"] for exchange, row in found.items()}
    json_speedups = [row.pop("json_speedup") for row in found.values()]
    print(
        json.dumps(
            {
                "exchanges": len(found),
                "mean_speedup": round(statistics.mean(speedups.values()), 2),
                "min_speedup": min(speedups.values()),
                "slowest": min(speedups, key=lambda exchange: speedups[exchange]),
                "json_speedup": round(statistics.mean(json_speedups), 2),
                "by_exchange": found,
            }
        )
    )


if __name__ == "__main__":
    main()
