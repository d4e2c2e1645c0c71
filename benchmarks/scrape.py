"""How long a scrape of the metrics takes over 10,000 jobs and 50,000 runs of the last minutes.

    python -m benchmarks.scrape [--quick] [--json]

The last line is one JSON object: `p50_ms` and `p99_ms` of the answer in Prometheus' format, without the HTTP around it; `jobs`,
`runs`; `reads`, the MongoDB commands of one scrape. `find_ms` (median), in the same run by turns: reading all job documents and
adding them up in Python, which is a part of what a scrape tells.
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from pymongo import MongoClient

from benchmarks.commands import Commands
from local_emulator.mongod import start_mongod
from shared.domain.jobs import to_datetime
from shared.stores.database import Database
from shared.wiring import Platform
from tests.factories import add_connector, add_job, make_platform

JOBS: Final = 10_000
RUNS: Final = 50_000
# So long ago the oldest run has ended: all of them are recent for as long as the benchmark takes.
RUNS_WITHIN_MS: Final = 120_000
TOTALS: Final = {"runs": 3, "failures": 1, "candles": 30, "requests": 3, "weight": 6, "revisions": 1}
QUICK_LOOKS: Final = 40
FULL_LOOKS: Final = 300
# The peer is slower: its median needs no more.
PEER_EVERY: Final = 5


def fill(platform: Platform) -> None:
    """Live jobs of one connector, all of them at the market's end, and their runs."""
    add_connector(platform)
    now = to_datetime(platform.database.server_now_ms())
    template = platform.jobs.get(add_job(platform, totals=TOTALS, cursor={"last_ts": now}))
    jobs = [{**template, "_id": f"binance:S{i}-USDT:1m", "symbol": f"S{i}/USDT"} for i in range(1, JOBS)]
    runs = [
        {
            "_id": i,
            "connector_id": "binance",
            "outcome": "caught_up",
            "finished_at": now - timedelta(milliseconds=i % RUNS_WITHIN_MS),
        }
        for i in range(RUNS)
    ]
    platform.database.collection("jobs").insert_many(jobs, ordered=False)
    platform.database.collection("job_runs").insert_many(runs, ordered=False)


def add_up(platform: Platform) -> int:
    """The peer: candles of all jobs by connector and status, from the documents themselves."""
    candles: Counter[tuple[str, str]] = Counter()
    for job in platform.database.collection("jobs").find():
        candles[job["connector_id"], job["status"]] += job["totals"].get("candles", 0)
    return candles.total()


def timed(call: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def measure(platform: Platform, commands: Commands, looks: int) -> dict[str, Any]:
    """Scrapes, each by a registry of its own as each instance has one, and now and then the peer."""

    def scrape() -> bytes:
        registry = CollectorRegistry()
        registry.register(platform.metrics)
        return generate_latest(registry)

    text = scrape().decode()
    if f'chandler_candles_stored_total{{connector="binance"}} {JOBS * TOTALS["candles"]:.1f}' not in text:
        raise SystemExit("the scrape does not say what the database holds")
    if add_up(platform) != JOBS * TOTALS["candles"]:
        raise SystemExit("the peer does not say what the database holds")
    took, peer = [], []
    for number in range(looks):
        took.append(timed(scrape))
        if number % PEER_EVERY == 0:
            peer.append(timed(lambda: add_up(platform)))
    commands.names.clear()
    list(platform.metrics.collect())
    return {
        "p50_ms": round(statistics.median(took), 1),
        "p99_ms": round(float(np.percentile(took, 99)), 1),
        "jobs": JOBS,
        "runs": RUNS,
        "reads": len(commands.names),
        "find_ms": round(statistics.median(peer), 1),
    }


def main() -> None:
    """The result on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 50 seconds")
    parser.add_argument("--json", action="store_true", help="nothing but the last line")
    arguments = parser.parse_args()
    commands = Commands()
    with contextlib.ExitStack() as stack:
        mongod = start_mongod(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.callback(mongod.stop)
        platform = make_platform(mongod.uri, f"bench_{os.getpid()}")
        stack.callback(platform.close)
        client: MongoClient[dict[str, Any]] = MongoClient(
            mongod.uri, tz_aware=True, w="majority", retryWrites=True, event_listeners=[commands]
        )
        counted = Platform(platform.settings)
        counted.__dict__["database"] = Database(client, platform.settings)
        stack.callback(counted.close)
        stack.callback(client.drop_database, platform.settings.database)
        fill(platform)
        result = measure(counted, commands, QUICK_LOOKS if arguments.quick else FULL_LOOKS)
    if not arguments.json:
        print(f"a scrape: {result['p50_ms']} ms; all job documents added up in Python: {result['find_ms']} ms")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
