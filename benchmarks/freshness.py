"""How long after its close a candle is stored and enriched, when many one-minute series close together.

Everything is as deployed, on one machine: mongod, the exchange simulator, tick and worker as processes of functions-framework
with their defaults and identity tokens, and the emulator's scheduler clock, which fires once a minute. The series stand just
before a close, each with as much history as the default indicators want, and wait for it as a run would have left them:
due a settle delay after that close.

    python -m benchmarks.freshness [--quick] [--json] [--series 200 1000]

The last line is one JSON object: `p50_ms`, `p99_ms`, `max_ms` for the first number of series, and under `series_1000` the
same for the second one; `settle_delay_ms`, before which nobody asks, is a part of them. A candle counts as stored at the wall
time that the database wrote into the log of its commit, read back by a change stream when all is over, so measuring costs
nothing meanwhile. Every stored candle is compared with the exchange's, every indicator with one pass over the whole history.

With `--quick` (200 series, one close) nobody waits for a full minute: the exchange's clock goes behind the database's, so that
its minute ends soon, and the scheduler is started at that moment, at which it fires. What has closed is decided by the earlier
of the two clocks (docs/decisions/0004), so the candle can be had from that moment on and no earlier. Without it (200 and 1,000
series, three closes each, the median of each figure) both clocks agree and the scheduler fires at the full minute.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import requests
from bson.timestamp import Timestamp

from local_emulator.identity import IdentityProvider
from local_emulator.mongod import start_mongod
from local_emulator.processes import HOST, Service, Supervisor, free_port
from local_emulator.scheduler import SchedulerClock
from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.domain.candles import CandleBatch, FloatArray
from shared.domain.indicators import DEFAULT_INDICATORS, compute_indicators
from shared.domain.jobs import to_datetime, to_ms
from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES
from shared.exchanges.catalog import load_spec
from shared.stores.candles import Series
from shared.wiring import Platform
from tests.factories import DEFAULT_DOCUMENTS, add_connector, add_job, make_platform

REPOSITORY: Final = Path(__file__).resolve().parent.parent
QUICK_SERIES: Final = (200,)
FULL_SERIES: Final = (200, 1_000)
# More than the default indicators read back.
HISTORY: Final = 1_150
# The exchange serves the overlap, the candles measured, and some more that never close here.
RECORDED: Final = 40
# From the end of the preparations to the close that is measured: the functions are idle by then.
LEAD_MS: Final = 2_500
# No full minute of the scheduler's in the middle of a measurement.
CLEAR_MS: Final = 15_000
START_LIMIT_S: Final = 40.0
DONE_LIMIT_S: Final = 40.0
POLL_S: Final = 0.2
WARM_CALLS: Final = 16
ROUNDS: Final = 3
# To prepare one series, at most.
SEED_MS: Final = 60
SCHEDULER: Final = "scheduler@bench.iam.gserviceaccount.com"
TICK: Final = "tick@bench.iam.gserviceaccount.com"
THREADS: Final = {"tick": 4, "worker": 8}


def symbol_of(number: int) -> str:
    """A made-up pair."""
    return f"S{number:04d}/USDT"


def make_candles(first_ms: int, count: int) -> CandleBatch:
    """A random walk; every series has the same one."""
    rng = np.random.default_rng(7)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.001, count))), 4)
    start = np.concatenate(([100.0], close[:-1]))
    high, low = np.round(np.maximum(start, close) * 1.001, 4), np.round(np.minimum(start, close) * 0.999, 4)
    volume = np.round(rng.gamma(2.0, 5.0, count), 3)
    return CandleBatch(first_ms + np.arange(count, dtype=np.int64) * MINUTE_MS, start, high, low, close, volume)


@dataclass(frozen=True)
class Stage:
    """Everything that runs. `candles` go from the first one stored to the last one that the exchange has recorded.

    `base_ms` is a full minute just past.
    """

    platform: Platform
    simulator: SimulatorProcess
    identity: IdentityProvider
    tick_url: str
    worker_url: str
    candles: CandleBatch
    values: dict[str, FloatArray]
    base_ms: int

    def scheduler(self) -> SchedulerClock:
        """Not started yet."""
        return SchedulerClock(self.tick_url, lambda: self.identity.token(SCHEDULER, self.tick_url), print)


@contextlib.contextmanager
def start_all(series_count: int, candles: CandleBatch, base_ms: int) -> Iterator[Stage]:
    """Processes up and warm, the exchange knows all series, the database is empty but for the connector."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mongod = start_mongod(folder / "db")
        stack.callback(mongod.stop)
        database = f"bench_{os.getpid()}"
        platform = make_platform(mongod.uri, database)
        stack.callback(platform.close)
        stack.callback(platform.database.client.drop_database, database)
        rows = write_recordings(folder, series_count, candles)
        simulator = stack.enter_context(start_simulator(seed=1, recordings=rows))
        identity = IdentityProvider([SCHEDULER, TICK])
        stack.callback(identity.stop)
        urls = {name: f"http://{HOST}:{free_port()}" for name in THREADS}
        shared = shared_settings(mongod.uri, database, identity, urls)
        supervisor = Supervisor()
        stack.callback(supervisor.stop)
        supervisor.start([function(name, urls[name], shared, folder) for name in THREADS], START_LIMIT_S)
        add_connector(platform, base_url=simulator.base_url("binance"))
        values = compute_indicators(DEFAULT_INDICATORS, TIMEFRAMES["1m"], CandleBatch.empty(), candles, None)
        stage = Stage(platform, simulator, identity, urls["tick"], urls["worker"], candles, values, base_ms)
        warm_up(stage)
        yield stage


def write_recordings(folder: Path, series_count: int, candles: CandleBatch) -> Path:
    """One file of the last candles, under the name of every series."""
    last = candles[-RECORDED:]
    columns = zip(last.open_ms, last.open, last.high, last.low, last.close, last.volume, strict=True)
    lines = [",".join(str(value.item()) for value in row) for row in columns]
    (folder / "candles.csv").write_text("\n".join(["ts_ms,open,high,low,close,volume", *lines]))
    names = {f"binance:{symbol_of(number)}:1m": "candles.csv" for number in range(series_count)}
    path = folder / "recordings.json"
    path.write_text(json.dumps(names))
    return path


def shared_settings(uri: str, database: str, identity: IdentityProvider, urls: dict[str, str]) -> dict[str, str]:
    """The environment of both functions; everything else stays at its default."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("CHANDLER_")},
        "MONGODB_URI": uri,
        "CHANDLER_DATABASE": database,
        "CHANDLER_CANDLES_DATABASE": database,
        "CHANDLER_IDENTITY_ISSUER": identity.issuer,
        "CHANDLER_IDENTITY_JWKS_URL": identity.jwks_url,
        "CHANDLER_TICK_AUDIENCE": urls["tick"],
        "CHANDLER_TICK_CALLERS": SCHEDULER,
        "CHANDLER_WORKER_AUDIENCE": urls["worker"],
        "CHANDLER_WORKER_CALLERS": TICK,
        "CHANDLER_WORKER_URL": urls["worker"],
        "CHANDLER_HOSTS_ALLOWED": HOST,
        "GCE_METADATA_HOST": identity.metadata_host(TICK),
        "NO_PROXY": f"{HOST},localhost",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def function(name: str, url: str, shared: dict[str, str], folder: Path) -> Service:
    """A function as the emulator starts it."""
    port = int(url.rsplit(":", 1)[1])
    script = Path(sys.executable).with_name("functions-framework")
    argv = (sys.executable, str(script), "--source", "main.py", "--target", name, "--host", HOST, "--port", str(port))
    own = {"THREADS": str(THREADS[name]), "CHANDLER_MONGODB_POOL_SIZE": str(2 * THREADS[name] + 1), "K_SERVICE": name}
    return Service(name, argv, port, {**shared, **own}, folder / f"{name}.log", REPOSITORY)


def warm_up(stage: Stage) -> None:
    """Both functions have connected: the worker by calls for a job that does not exist."""
    token = stage.identity.token(TICK, stage.worker_url)
    with requests.Session() as session:
        session.trust_env = False
        for _ in range(WARM_CALLS):
            call = {"job_id": "none", "fence": 1, "trigger": "warm-up"}
            session.post(stage.worker_url, json=call, headers={"Authorization": f"Bearer {token}"}, timeout=START_LIMIT_S)


def seed(stage: Stage, numbers: range, closed_ms: int) -> None:
    """Series with all candles that closed up to `closed_ms`, and their jobs, which nothing has made due yet."""
    platform = stage.platform
    end = int(np.searchsorted(stage.candles.open_ms, closed_ms))
    kept = slice(end - HISTORY, end)
    values = {name: column[kept] for name, column in stage.values.items()}
    for number in numbers:
        series = Series("binance", symbol_of(number), "1m")
        platform.candles.ensure_collection(series)
        # Before the candles: those that a job finds are computed again.
        add_job(
            platform,
            symbol_of(number),
            start_ms=int(stage.candles.open_ms[0]),
            cursor={"last_ts": to_datetime(closed_ms - MINUTE_MS)},
            next_run_at=to_datetime(2**41),
            indicators=DEFAULT_DOCUMENTS,
        )
        with platform.database.open_session() as session:
            platform.candles.insert(series, stage.candles[kept], values, session)


def measure(stage: Stage, numbers: range, closed_ms: int, edge_ms: int) -> dict[str, Any]:
    """Let the candles that close at `closed_ms` on the exchange's clock, `edge_ms` on the database's, come in."""
    platform = stage.platform
    jobs = platform.database.collection("jobs")
    due_ms = edge_ms + load_spec("binance").settle_delay_ms
    ids = [f"binance:{symbol_of(number).replace('/', '-')}:1m" for number in numbers]
    jobs.update_many({"_id": {"$in": ids}}, {"$set": {"next_run_at": to_datetime(due_ms)}})
    since: Timestamp = platform.database.client.admin.command("ping")["operationTime"]
    scheduler = stage.scheduler()
    sleep_until(edge_ms)
    scheduler.start()
    sleep_until(due_ms)
    want = to_datetime(closed_ms - MINUTE_MS)
    limit = time.monotonic() + DONE_LIMIT_S
    while jobs.count_documents({"_id": {"$in": ids}, "cursor.last_ts": want, "lock.run_id": None}) < len(ids):
        if time.monotonic() > limit:
            raise SystemExit("not all series were stored in time")
        time.sleep(POLL_S)
    scheduler.stop()
    return figures(stored_ms(stage, numbers, want, since), edge_ms)


def stored_ms(stage: Stage, numbers: range, open_at: Any, since: Timestamp) -> list[int]:
    """When each series' candle was committed, on the database's clock; raises SystemExit if one is not as it has to be."""
    row = int(np.searchsorted(stage.candles.open_ms, to_ms(open_at)))
    expected = {name: float(column[row]) for name, column in stage.values.items()}
    database = stage.platform.database.collection("jobs").database
    pipeline = [{"$match": {"operationType": "insert", "documentKey._id": open_at}}]
    times: dict[str, int] = {}
    with database.watch(pipeline, start_at_operation_time=since, max_await_time_ms=500) as stream:
        while len(times) < len(numbers):
            change = stream.try_next()
            if change is None:
                raise SystemExit(f"{len(times)} of {len(numbers)} candles are in the change stream")
            document = change["fullDocument"]
            is_right = document["close"] == stage.candles.close[row] and document.get("ind", {}).keys() == expected.keys()
            if not is_right or not np.allclose([document["ind"][name] for name in expected], list(expected.values()), 1e-9, 0):
                raise SystemExit(f"wrong candle or indicators in {change['ns']['coll']}: {document}")
            times[change["ns"]["coll"]] = to_ms(change["wallTime"])
    return list(times.values())


def figures(times_ms: list[int], edge_ms: int) -> dict[str, Any]:
    """Percentiles from the close on."""
    late_ms = np.array(times_ms) - edge_ms
    p50, p99 = np.percentile(late_ms, [50, 99])
    return {"series": len(times_ms), "p50_ms": round(p50), "p99_ms": round(p99), "max_ms": int(late_ms.max())}


def sleep_until(at_ms: int) -> None:
    """On the host's clock, which is the database's."""
    time.sleep(max(0.0, at_ms / 1000 - time.time()))


def host_ms() -> int:
    """The host's clock."""
    return time.time_ns() // 1_000_000


def next_edge(is_quick: bool) -> int:
    """A full minute; with `is_quick` a moment soon, unless a full minute is near: then that one."""
    soon_ms = host_ms() + LEAD_MS
    minute_ms = -(-soon_ms // MINUTE_MS) * MINUTE_MS
    return soon_ms if is_quick and minute_ms - soon_ms > CLEAR_MS else minute_ms


def run(stage: Stage, counts: Sequence[int], is_quick: bool) -> dict[str, Any]:
    """The figures of each number of series, smallest first; each time the missing ones are added."""
    results: list[dict[str, Any]] = []
    seeded = 0
    for count in counts:
        rounds: list[dict[str, Any]] = []
        for _ in range(1 if is_quick else ROUNDS):
            # With `is_quick` each close is a minute of the past, one after the other; else it is the close that comes.
            if is_quick:
                closed_ms = stage.base_ms - (len(counts) - 1 - len(results)) * MINUTE_MS
            else:
                closed_ms = next_edge(False) + (SEED_MS * (count - seeded) // MINUTE_MS + 1) * MINUTE_MS * (seeded < count)
            seed(stage, range(seeded, count), closed_ms - MINUTE_MS)
            seeded = count
            edge_ms = next_edge(True) if is_quick else closed_ms
            stage.simulator.clock(offset_ms=closed_ms - edge_ms)
            rounds.append(measure(stage, range(count), closed_ms, edge_ms))
        results.append({name: statistics.median_low(one[name] for one in rounds) for name in rounds[0]})
    return {**results[0], **{f"series_{result['series']}": result for result in results[1:]}}


def main() -> None:
    """The result on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 50 seconds")
    parser.add_argument("--json", action="store_true", help="nothing but the last line")
    parser.add_argument("--series", type=int, nargs="+", help="how many close together, smallest first")
    arguments = parser.parse_args()
    counts = sorted(arguments.series or (QUICK_SERIES if arguments.quick else FULL_SERIES))
    base_ms = host_ms() // MINUTE_MS * MINUTE_MS
    candles = make_candles(base_ms - (HISTORY + len(counts) + 1) * MINUTE_MS, HISTORY + RECORDED)
    with start_all(counts[-1], candles, base_ms) as stage:
        result = run(stage, counts, arguments.quick)
    if not arguments.json:
        print(f"{os.cpu_count()} cores for MongoDB, exchange, tick and worker together")
    print(json.dumps({**result, "settle_delay_ms": load_spec("binance").settle_delay_ms, "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
