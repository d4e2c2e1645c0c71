"""Candles per second of one worker, from the exchange (simulator, over HTTP) to MongoDB, with nine indicators.

Beside it, in the same run and by turns: `insert_many` alone of the same documents into the same kind of collection, and the
script that a user would write with ccxt, TA-Lib and pymongo upserts (no rate limit, no lease, no audit, no resume).

    python -m benchmarks.ingest [--quick] [--json]

The last line is one JSON object: `candles_per_s` (median of the rounds), `script_per_s`, `bare_insert_per_s`, and the ratios
`over_script` and `of_bare_insert`, each the median over rounds of the ratio within one round, since machines drift.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ccxt
import numpy as np
import talib
from pymongo import MongoClient, UpdateOne

from local_emulator.mongod import start_mongod
from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.domain.jobs import to_datetime
from shared.domain.timeframes import MINUTE_MS
from shared.stores.candles import Series
from tests.factories import add_connector, add_job, make_platform, run_once, stored_documents

SYMBOL: Final = "BTC/USDT"
SERIES: Final = Series("binance", SYMBOL, "1m")
NOW_MS: Final = 1_760_000_042_000
END_MS: Final = NOW_MS // MINUTE_MS * MINUTE_MS
PAGE: Final = 1_000
# What the script reads back before a page, so that its averages have some history; the same for every peer's author.
SCRIPT_HISTORY: Final = 1_000
# A limit that does not bind: this measures the way of a candle, not the waiting.
WIDE: Final = [(10_000_000, 60_000)]
QUICK: Final = (30_000, 3)
FULL: Final = (100_000, 5)


@dataclass(frozen=True)
class Bench:
    """What all contestants work with."""

    mongodb_uri: str
    simulator: SimulatorProcess
    candles: int

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


def run_worker(bench: Bench) -> tuple[float, list[dict[str, Any]]]:
    """Our worker on one job: seconds, and the documents that it stored."""
    with fresh_database(bench) as (_, name):
        platform = make_platform(bench.mongodb_uri, name, worker_pages_max=100_000)
        try:
            add_connector(platform, base_url=bench.simulator.base_url("binance"), windows=WIDE)
            job_id = add_job(platform, SYMBOL, start_ms=bench.start_ms)
            with open(os.devnull, "w") as log, contextlib.redirect_stdout(log):
                began = time.perf_counter()
                run_once(platform, job_id)
                seconds = time.perf_counter() - began
            documents = stored_documents(platform, "binance", SYMBOL, "1m")
        finally:
            platform.close()
    if len(documents) != bench.candles:
        raise SystemExit(f"the worker stored {len(documents)} of {bench.candles} candles")
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


def main() -> None:
    """Rounds of all three by turns; the result on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 50 seconds")
    parser.add_argument("--json", action="store_true", help="nothing but the last line")
    arguments = parser.parse_args()
    candles, rounds = QUICK if arguments.quick else FULL
    rates: dict[str, list[float]] = {"worker": [], "bare": [], "script": []}
    with tempfile.TemporaryDirectory() as folder:
        mongod = start_mongod(Path(folder))
        try:
            with start_simulator(seed=5, freeze_at_ms=NOW_MS) as simulator:
                simulator.configure("binance", [(10_000_000, 60_000)])
                # One more at first, not counted: connections, caches, and the simulator's own pages.
                for number in range(rounds + 1):
                    bench = Bench(mongod.uri, simulator, candles if number else PAGE * 5)
                    worker_s, documents = run_worker(bench)
                    seconds = {"worker": worker_s, "bare": run_bare_insert(bench, documents), "script": run_script(bench)}
                    if not number:
                        continue
                    for name, value in seconds.items():
                        rates[name].append(bench.candles / value)
                    if not arguments.json:
                        print({name: f"{bench.candles / value:,.0f}/s" for name, value in seconds.items()})
        finally:
            mongod.stop()
    ratios = {
        name: [worker / peer for worker, peer in zip(rates["worker"], rates[name], strict=True)] for name in ("bare", "script")
    }
    print(
        json.dumps(
            {
                "candles_per_s": round(statistics.median(rates["worker"])),
                "script_per_s": round(statistics.median(rates["script"])),
                "bare_insert_per_s": round(statistics.median(rates["bare"])),
                "over_script": round(statistics.median(ratios["script"]), 2),
                "of_bare_insert": round(statistics.median(ratios["bare"]), 2),
                "candles": candles,
                "rounds": rounds,
            }
        )
    )


if __name__ == "__main__":
    main()
