"""The whole platform as users start it, in processes of its own, judged by the simulated exchange's own count and candles."""

import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from pymongo import MongoClient

from local_emulator.comparison import SeriesComparison, compare_candles, compare_job
from local_emulator.simulator.truth import true_candles
from local_emulator.snapshot import take_snapshot
from shared.domain.candles import CandleBatch
from shared.domain.jobs import to_datetime
from shared.stores.candle_documents import encode_candles
from tests.waiting import HANG_S

SEED = 3
HOUR_MS = 3_600_000
START_MS = 1_750_000_000_000 // HOUR_MS * HOUR_MS
CURSOR_MS = START_MS + 99 * HOUR_MS
JOB = {
    "_id": "binance:BTC-USDT:1h",
    "exchange": "binance",
    "symbol": "BTC/USDT",
    "timeframe": "1h",
    "kind": "live",
    "status": "active",
    "start_at": to_datetime(START_MS),
    "end_at": None,
    "cursor": {"last_ts": to_datetime(CURSOR_MS)},
    "totals": {"candles": 100},
}


def run_emulator(*words: str) -> "subprocess.CompletedProcess[str]":
    """A command of the emulator, with a mongod of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "MONGODB_URI"}
    return subprocess.run(
        [sys.executable, "-m", "local_emulator", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


def truth() -> CandleBatch:
    return true_candles(SEED, "binance", "BTC/USDT", "1h", START_MS, CURSOR_MS + HOUR_MS)


def test_a_demo_catches_up_with_every_candle_and_within_every_limit() -> None:
    # A slow machine does not get through it in so few seconds: then it has more.
    for seconds in (15, 60, 200):
        ended = run_emulator("demo", "--seconds", str(seconds), "--seed", str(SEED))
        verdict = json.loads(ended.stdout.splitlines()[-1])
        assert {name: verdict[name] for name in ("errors", "over_limit", "missing", "duplicates")} == {
            "errors": 0,
            "over_limit": 0,
            "missing": 0,
            "duplicates": 0,
        }, ended.stderr
        if verdict["caught_up"] == verdict["jobs"]:
            break
    assert verdict["caught_up"] == verdict["jobs"] == 12, ended.stderr
    assert verdict["candles"] >= 24_400
    assert verdict["runs"] >= 12
    assert ended.returncode == 0


def test_exec_gives_the_command_its_surroundings_and_returns_its_code() -> None:
    script = (
        "import os, sys, requests\n"
        "url, token = os.environ['CHANDLER_ADMIN_URL'], os.environ['CHANDLER_TOKEN']\n"
        "answer = requests.get(f'{url}/v1/connectors', headers={'Authorization': f'Bearer {token}'}, timeout=60)\n"
        "base_urls = {item['base_url'] for item in answer.json()['items']}\n"
        "print(base_urls == {os.environ['CHANDLER_SIMULATOR_URL'] + '/' + name for name in ('binance','coinbase','kraken')})\n"
        "print(requests.get(f'{url}/v1/connectors', timeout=60).status_code)\n"
        "sys.exit(7)\n"
    )
    ended = run_emulator("exec", "--", sys.executable, "-c", script)
    assert (ended.returncode, ended.stdout.split()) == (7, ["True", "401"]), ended.stderr


@pytest.mark.parametrize("words", [("token", "--role", "king"), ("exec", "--")])
def test_what_makes_no_sense_is_refused_before_anything_starts(words: tuple[str, ...]) -> None:
    assert run_emulator(*words).returncode == 2


def test_the_comparison_counts_missing_unknown_and_wrong_candles() -> None:
    candles = truth()
    assert compare_candles(candles, candles) == SeriesComparison(100, 0, 0, 0)
    is_kept = np.arange(100) != 40
    assert compare_candles(candles[is_kept], candles) == SeriesComparison(99, 1, 0, 0)
    assert compare_candles(candles, candles[is_kept]) == SeriesComparison(100, 0, 1, 0)
    volume = candles.volume.copy()
    volume[7] = np.nextafter(volume[7], np.inf)
    wrong = CandleBatch(candles.open_ms, candles.open, candles.high, candles.low, candles.close, volume)
    assert compare_candles(wrong, candles) == SeriesComparison(100, 0, 0, 1)


def test_a_job_is_compared_from_its_start_to_its_cursor(mongo_client: MongoClient[dict[str, Any]], database_name: str) -> None:
    database = mongo_client[database_name]
    database["candles_binance_BTC-USDT_1h"].insert_many(encode_candles(truth()[:98], {}))
    assert compare_job(database, JOB, SEED) == SeriesComparison(98, 2, 0, 0)
    assert compare_job(database, {**JOB, "cursor": {"last_ts": None}}, SEED) == SeriesComparison(0, 0, 0, 0)


def test_the_view_shows_what_the_database_holds(mongo_client: MongoClient[dict[str, Any]], database_name: str) -> None:
    database = mongo_client[database_name]
    now_ms = int(time.time() * 1000)
    database["jobs"].insert_one(JOB)
    database["connectors"].insert_one(
        {
            "_id": "binance",
            "status": "active",
            "rate_limit": 6000,
            "rate_limit_period_ms": 60_000,
            "blocked_until": to_datetime(now_ms + 30_000),
            "limiter": {
                "logs": [{"period_ms": 60_000, "entries": [{"t": now_ms - 61_000, "w": 5}, {"t": now_ms + 1_000, "w": 8}]}]
            },
        }
    )
    stale = [{"from": to_datetime(CURSOR_MS - 9 * HOUR_MS), "to": to_datetime(CURSOR_MS - HOUR_MS)}]
    database["series"].insert_one({"_id": JOB["_id"], "indicators": [{"name": "EMA", "as": "ema_20"}], "stale": stale})
    run = {"job_id": JOB["_id"], "outcome": "failed", "error": {"message": "timed out"}}
    database["job_runs"].insert_one({**run, "started_at": to_datetime(now_ms - 9_000), "finished_at": to_datetime(now_ms)})
    snapshot = take_snapshot(database)
    passed_ms = int(time.time() * 1000) - now_ms + 1
    (connector,), (job,) = snapshot.connectors, snapshot.jobs
    assert (connector.used, connector.limit) == (8, 6000)
    assert 0 <= 30_000 - connector.blocked_ms <= passed_ms
    assert (job.state, job.candles, job.indicators, job.stale) == ("behind", 100, ("ema_20",), 10)
    assert 0 < job.progress < 1
    assert 0 <= job.lag_ms - (now_ms - CURSOR_MS - 2 * HOUR_MS) <= passed_ms
    assert job.last_run_ms is not None
    assert 0 <= job.last_run_ms - 9_000 <= passed_ms
    assert [text for _, text in snapshot.troubles] == ["binance:BTC-USDT:1h failed timed out"]
