"""Candles per second of one worker's backfill, from the exchange (simulator, over HTTP) to MongoDB, with nine indicators.

    python -m benchmarks.ingest [--quick] [--json]

Four parts, all in one run; the last line is one JSON object with what they give:

- At the exchange's limit: 100 ms away and at Binance's rate (6,000 weight a minute, a page weighs 2), for two windows
  (`benchmarks/ingest_limit.py`). `candles_per_s`, and `of_exchange_limit`: the weight that the exchange has seen of what it
  allows. A window is 2,000 weight in 20 s (with `--quick` 900 in 9 s) instead of 6,000 in a minute, on both sides: the same
  rate, but each margin of 100 ms weighs three to seven times as much as it does at Binance. (Minutes of windows would need
  more candles than there were minutes since Binance began.)
- At full speed: no latency and no limit that binds, by turns with `insert_many` alone of the same documents into the same kind
  of collection, and with the script that a user would write with ccxt, TA-Lib and pymongo upserts (no rate limit, no lease, no
  audit, no resume). `worker_per_s`, `script_per_s`, `bare_insert_per_s` (medians), and the ratios `over_script` and
  `of_bare_insert`, each the median over rounds of the ratio within one round, since machines drift.
- `of_bare_insert_far` (and `far_per_s`): as at full speed, but 100 ms away.
- `memory_growth`: peak memory of the worker's process for a backfill four times as long (`benchmarks/ingest_memory.py`).

Targets: `over_script` of 5, and `of_bare_insert` of 0.7 or `of_exchange_limit` of 0.95, whichever binds first. (Two per cent of
a limit are never a backfill's: docs/decisions/0022.)
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import ccxt
import numpy as np
import talib
from pymongo import MongoClient, UpdateOne

from benchmarks.ingest_limit import SLOW, Share, measure_share
from benchmarks.ingest_memory import END_MS, NOW_MS, WIDE, measure_growth
from local_emulator.mongod import start_mongod
from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.domain.jobs import to_datetime
from shared.domain.timeframes import MINUTE_MS
from shared.stores.candles import Series
from tests.factories import add_connector, add_job, make_platform, run_once, stored_documents

SYMBOL: Final = "BTC/USDT"
SERIES: Final = Series("binance", SYMBOL, "1m")
PAGE: Final = 1_000
# The script takes every page alike, so that a part of them tells its rate.
SCRIPT_PART: Final = 3
# What the script reads back before a page, so that its averages have some history; the same for every peer's author.
SCRIPT_HISTORY: Final = 1_000


@dataclass(frozen=True)
class Size:
    """How long it all takes."""

    candles: int
    rounds: int
    window_s: int


QUICK: Final = Size(45_000, 3, 9)
FULL: Final = Size(100_000, 5, 20)


@dataclass(frozen=True)
class Bench:
    """What all contestants work with."""

    mongodb_uri: str
    simulator: SimulatorProcess
    candles: int

    def with_candles(self, candles: int) -> "Bench":
        """The same with another number of candles."""
        return replace(self, candles=candles)

    @property
    def start_ms(self) -> int:
        """Open time of the first candle."""
        return END_MS - self.candles * MINUTE_MS


@contextlib.contextmanager
def fresh_database(bench: Bench) -> Iterator[tuple["MongoClient[dict[str, Any]]", str]]:
    """A client and the name of an empty database, dropped afterwards."""
    name = f"bench_{uuid.uuid4().hex[:10]}"
    with MongoClient[dict[str, Any]](bench.mongodb_uri, w="majority", tz_aware=True) as client:
        yield client, name
        client.drop_database(name)


def run_worker(bench: Bench, wants_documents: bool = False) -> tuple[float, list[dict[str, Any]]]:
    """Our worker on one job, in one run: seconds, and the documents that it stored where they are wanted."""
    with fresh_database(bench) as (client, name):
        platform = make_platform(bench.mongodb_uri, name, worker_pages_max=100_000)
        try:
            add_connector(platform, base_url=bench.simulator.base_url("binance"), windows=WIDE)
            job_id = add_job(platform, SYMBOL, start_ms=bench.start_ms, end_ms=END_MS)
            with open(os.devnull, "w") as log, contextlib.redirect_stdout(log):
                began = time.perf_counter()
                run_once(platform, job_id)
                seconds = time.perf_counter() - began
            documents = stored_documents(platform, "binance", SYMBOL, "1m") if wants_documents else []
        finally:
            platform.close()
        stored = client[name][SERIES.collection_name].count_documents({})
    if stored != bench.candles:
        raise SystemExit(f"the worker stored {stored} of {bench.candles} candles")
    return seconds, documents


def run_bare_insert(bench: Bench, documents: list[dict[str, Any]]) -> float:
    """`insert_many` of the same documents, page by page, and nothing else: seconds."""
    with fresh_database(bench) as (client, name):
        collection = client[name].create_collection(
            SERIES.collection_name,
            clusteredIndex={"key": {"_id": 1}, "unique": True},
            storageEngine={"wiredTiger": {"configString": "block_compressor=zstd"}},
        )
        began = time.perf_counter()
        for first in range(0, len(documents), PAGE):
            collection.insert_many(documents[first : first + PAGE])
        return time.perf_counter() - began


def run_script(bench: Bench) -> float:
    """The usual script: fetch a page, compute over it and the history kept in memory, upsert candle by candle in bulk."""
    exchange = ccxt.binance({"enableRateLimit": False, "options": {"fetchMarkets": ["spot"], "fetchCurrencies": False}})
    exchange.urls["api"] = {
        name: url.replace("https://api.binance.com", bench.simulator.base_url("binance")) if isinstance(url, str) else url
        for name, url in exchange.urls["api"].items()
    }
    exchange.load_markets()
    with fresh_database(bench) as (client, name):
        collection = client[name]["candles"]
        since, history = bench.start_ms, []
        began = time.perf_counter()
        while since < END_MS:
            page = [row for row in exchange.fetch_ohlcv(SYMBOL, "1m", since=since, limit=PAGE) if row[0] < END_MS]
            if not page:
                break
            history = (history + page)[-(SCRIPT_HISTORY + PAGE) :]
            columns = script_indicators(np.array(history, dtype=float))
            offset = len(history) - len(page)
            collection.bulk_write(
                [
                    UpdateOne(
                        {"_id": to_datetime(row[0])},
                        {
                            "$set": {
                                "open": row[1],
                                "high": row[2],
                                "low": row[3],
                                "close": row[4],
                                "volume": row[5],
                                **{name: float(column[offset + index]) for name, column in columns.items()},
                            }
                        },
                        upsert=True,
                    )
                    for index, row in enumerate(page)
                ],
                ordered=False,
            )
            since = page[-1][0] + MINUTE_MS
        seconds = time.perf_counter() - began
        stored = collection.estimated_document_count()
    if stored != bench.candles:
        raise SystemExit(f"the script stored {stored} of {bench.candles} candles")
    return seconds


def script_indicators(rows: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> dict[str, Any]:
    """The same nine indicators, by TA-Lib's plain functions."""
    high, low, close, volume = (np.ascontiguousarray(rows[:, index]) for index in (2, 3, 4, 5))
    macd, signal, hist = talib.MACD(close, 12, 26, 9)
    upper, middle, lower = talib.BBANDS(close, 20, 2, 2)
    return {
        "sma_20": talib.SMA(close, 20),
        "ema_20": talib.EMA(close, 20),
        "ema_50": talib.EMA(close, 50),
        "rsi_14": talib.RSI(close, 14),
        "macd": macd,
        "macd_signal": signal,
        "macd_hist": hist,
        "bb_upper": upper,
        "bb_middle": middle,
        "bb_lower": lower,
        "atr_14": talib.ATR(high, low, close, 14),
        "adx_14": talib.ADX(high, low, close, 14),
        "obv": talib.OBV(close, volume),
    }


def run_rounds(bench: Bench, rounds: int, is_quiet: bool) -> dict[str, list[float]]:
    """All contestants by turns: candles a second of each, round by round."""
    bench.simulator.configure("binance", WIDE)
    rates: dict[str, list[float]] = {"worker": [], "bare": [], "script": [], "far": []}
    # At first all of them once, not counted: connections, caches, and the simulator's own pages.
    _, documents = run_worker(bench, wants_documents=True)
    run_bare_insert(bench.with_candles(PAGE), documents[:PAGE])
    run_script(bench.with_candles(PAGE))
    for _ in range(rounds):
        found = {"worker": bench.candles / run_worker(bench)[0], "bare": bench.candles / run_bare_insert(bench, documents)}
        found["script"] = bench.candles // SCRIPT_PART / run_script(bench.with_candles(bench.candles // SCRIPT_PART))
        bench.simulator.set_faults(SLOW)
        found["far"] = bench.candles / run_worker(bench)[0]
        bench.simulator.set_faults()
        for name, rate in found.items():
            rates[name].append(rate)
        if not is_quiet:
            print({name: f"{rate:,.0f}/s" for name, rate in found.items()})
    return rates


def summary(size: Size, rates: dict[str, list[float]], share: Share, memory: tuple[float, int]) -> dict[str, Any]:
    """The last line."""

    def ratio(name: str, peer: str) -> float:
        return round(statistics.median(one / other for one, other in zip(rates[name], rates[peer], strict=True)), 2)

    def median(name: str) -> int:
        return round(statistics.median(rates[name]))

    growth, peak_mib = memory
    return {
        "candles_per_s": round(share.candles_per_s),
        "of_exchange_limit": round(share.of_limit, 3),
        "of_bare_insert": ratio("worker", "bare"),
        "over_script": ratio("worker", "script"),
        "of_bare_insert_far": ratio("far", "bare"),
        "memory_growth": round(growth, 2),
        "worker_per_s": median("worker"),
        "script_per_s": median("script"),
        "bare_insert_per_s": median("bare"),
        "far_per_s": median("far"),
        "peak_mib": peak_mib,
        "over_limit": share.over_limit,
        "runs_at_limit": share.runs,
        "window_s": size.window_s,
        "candles": size.candles,
        "rounds": size.rounds,
    }


def main() -> None:
    """All parts; the result on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 50 seconds")
    parser.add_argument("--json", action="store_true", help="nothing but the last line")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        mongod = start_mongod(Path(folder))
        try:
            with start_simulator(seed=5, freeze_at_ms=NOW_MS) as simulator:
                rates = run_rounds(Bench(mongod.uri, simulator, size.candles), size.rounds, arguments.json)
                memory = measure_growth(mongod.uri, simulator.base_url("binance"))
                share = measure_share(mongod.uri, simulator, END_MS, size.window_s)
        finally:
            mongod.stop()
    print(json.dumps(summary(size, rates, share, memory)))


if __name__ == "__main__":
    main()
