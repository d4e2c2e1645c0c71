"""A series out of MongoDB into Arrow and pandas, beside `list(find())`, pymongoarrow and ArcticDB; and its export over HTTP.

    python -m benchmarks.read [--quick] [--json]

A million candles of a minute (open, high, low, close, volume) in a collection as workers make them. Each round reads them all,
by turns: `load_arrow`, `load_pandas`, `list(find())`, and `find_arrow_all` of pymongoarrow. ArcticDB reads as many from its own
store (LMDB, on the same disk, no server), in a process of its own; it is installed beside the others where that works.

Then the admin function, in a process as deployed, exports a tenth of the series and all of it, in each form; told are its
throughput and the highest resident memory of the serving process while it did.

The last line is one JSON object: `arrow_over_find`, `pandas_over_find`, `pymongoarrow_over_find` (times as fast, medians of the
rounds' ratios), `arrow_s`, `pandas_s`, `find_s`, `pymongoarrow_s`, `arcticdb_s` (medians; null: not to be had), `export` {form:
{candles_per_s, peak_mb_tenth, peak_mb_whole}}, and `export_growth_mb`: what ten times the candles cost in memory, at worst.
"""

import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pymongo import MongoClient

from local_emulator.mongod import start_mongod
from shared.domain.jobs import to_datetime
from shared.domain.timeframes import MINUTE_MS
from shared.load_series import load_arrow, load_pandas
from shared.stores.candles import Series
from tests.factories import add_candles, add_connector, add_job, make_candles, make_platform
from tests.serving import ServedAdmin, serve_admin
from tests.upload import REPOSITORY

CANDLES: Final = 1_000_000
START_MS: Final = 1_577_836_800_000
SERIES: Final = Series("binance", "BTC/USDT", "1m")
DATABASE: Final = "bench_read"
QUICK_ROUNDS: Final = 2
FULL_ROUNDS: Final = 7
TENTHS: Final = 4
FORMS: Final = ("csv", "ndjson", "json", "arrow", "parquet")
# Beside our environment, whose pins it does not take; numpy is ours.
PEER_DIR: Final = REPOSITORY / ".venv" / "arcticdb-peer"
PEER_PACKAGES: Final = (
    "arcticdb==6.28.2",
    "pandas==2.3.3",
    "protobuf==6.33.6",
    "msgpack",
    "pyyaml",
    "attrs",
    "pytz",
    "python-dateutil",
    "six",
    "tzdata",
)
PEER_INSTALL_LIMIT_S: Final = 45.0
PEER_READ_LIMIT_S: Final = 60.0


def fill(uri: str) -> None:
    """The series, its job and its connector."""
    platform = make_platform(uri, DATABASE)
    try:
        candles = make_candles(START_MS, CANDLES)
        add_connector(platform)
        add_job(platform, start_ms=START_MS, indicators=[], cursor={"last_ts": to_datetime(int(candles.open_ms[-1]))})
        add_candles(platform, SERIES, candles, {})
    finally:
        platform.close()


def readers(uri: str, client: "MongoClient[dict[str, Any]]") -> dict[str, Callable[[], Any]]:
    """Each reads the whole series, its connections included where it opens its own."""
    with warnings.catch_warnings():
        # Its wheel says of pyarrow's objects that they are not as large as when it was built.
        warnings.simplefilter("ignore")
        from pymongoarrow.api import Schema, find_arrow_all
    collection = client[DATABASE][SERIES.collection_name]
    schema = Schema({"_id": datetime, **dict.fromkeys(("open", "high", "low", "close", "volume"), float)})
    series = (uri, SERIES.exchange, SERIES.symbol, SERIES.timeframe)
    return {
        "arrow": lambda: load_arrow(*series, candles_database=DATABASE),
        "pandas": lambda: load_pandas(*series, candles_database=DATABASE),
        "find": lambda: list(collection.find()),
        "pymongoarrow": lambda: find_arrow_all(collection, {}, schema=schema),
    }


def read_by_turns(uri: str, rounds: int, is_quiet: bool) -> dict[str, list[float]]:
    """Seconds of each, one a round."""
    taken: dict[str, list[float]] = {}
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        works = readers(uri, client)
        # Modules, connections, and the server's cache.
        works["arrow"](), works["pandas"]()
        for _ in range(rounds):
            for name, work in works.items():
                gc.collect()
                began = time.perf_counter()
                count = len(work())
                taken.setdefault(name, []).append(time.perf_counter() - began)
                if count != CANDLES:
                    raise SystemExit(f"{name} read {count} of {CANDLES} candles")
            if not is_quiet:
                print({name: f"{times[-1]:.2f} s" for name, times in taken.items()})
    return taken


def read_by_arcticdb(rounds: int, folder: str, is_quiet: bool) -> float | None:
    """Median seconds; None where it cannot be installed or does not run."""
    try:
        if not PEER_DIR.exists():
            install = (
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--target",
                str(PEER_DIR),
                *PEER_PACKAGES,
            )
            subprocess.run(install, check=True, capture_output=True, timeout=PEER_INSTALL_LIMIT_S)
        done = subprocess.run(
            (sys.executable, "-m", "benchmarks.arcticdb_peer", str(CANDLES), str(rounds), folder),
            check=True,
            capture_output=True,
            text=True,
            timeout=PEER_READ_LIMIT_S,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(PEER_DIR)},
        )
    except (subprocess.SubprocessError, OSError) as exc:
        if not is_quiet:
            print(f"ArcticDB: not to be had here: {exc} {getattr(exc, 'stderr', '') or ''}")
        return None
    return statistics.median(json.loads(done.stdout.splitlines()[-1])["read_s"])


def peak_mb(process_id: int) -> float:
    """The highest resident memory of a process since `forget_peak`."""
    (line,) = [line for line in Path(f"/proc/{process_id}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def forget_peak(process_id: int) -> None:
    """Begin anew with what is resident now (Linux: proc(5), clear_refs)."""
    Path(f"/proc/{process_id}/clear_refs").write_text("5")


def export(served: ServedAdmin, form: str, count: int) -> tuple[float, float]:
    """Seconds, and the serving process's peak in MB."""
    process_id = served.process_id()
    forget_peak(process_id)
    began = time.perf_counter()
    end_ms = START_MS + count * MINUTE_MS
    with served.get(f"/v1/jobs/binance:BTC-USDT:1m/export?format={form}&end={end_ms}") as response:
        response.raise_for_status()
        lines, sent = 0, 0
        for piece in response.iter_content(1 << 20):
            lines += piece.count(b"\n")
            sent += len(piece)
    if form == "csv" and lines != count + 1:
        raise SystemExit(f"the export had {lines} lines")
    if not sent:
        raise SystemExit("the export had no bytes")
    return time.perf_counter() - began, peak_mb(process_id)


def export_in_every_form(uri: str, folder: Path, forms: tuple[str, ...], is_quiet: bool) -> dict[str, dict[str, float]]:
    """What is told of each form."""
    found: dict[str, dict[str, float]] = {}
    with serve_admin(uri, DATABASE, folder) as served:
        for form in forms:
            # The first ones load what is needed, and the allocator comes to rest, which takes it a batch or two.
            tenth_mb = max(export(served, form, CANDLES // 10)[1] for _ in range(TENTHS))
            seconds, whole_mb = export(served, form, CANDLES)
            found[form] = {
                "candles_per_s": round(CANDLES / seconds),
                "peak_mb_tenth": round(tenth_mb),
                "peak_mb_whole": round(whole_mb),
            }
            if not is_quiet:
                print(form, found[form])
    return found


def main() -> None:
    """All of it; the result on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 50 seconds")
    parser.add_argument("--json", action="store_true", help="nothing but the last line")
    arguments = parser.parse_args()
    rounds = QUICK_ROUNDS if arguments.quick else FULL_ROUNDS
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        arcticdb_s = read_by_arcticdb(rounds + 1, f"{folder}/arcticdb", arguments.json)
        mongod = start_mongod(Path(folder) / "mongod")
        stack.callback(mongod.stop)
        fill(mongod.uri)
        taken = read_by_turns(mongod.uri, rounds, arguments.json)
        forms = ("csv", "arrow", "parquet") if arguments.quick else FORMS
        exports = export_in_every_form(mongod.uri, Path(folder), forms, arguments.json)
    ratios = {
        f"{name}_over_find": round(
            statistics.median(find / own for find, own in zip(taken["find"], taken[name], strict=True)), 2
        )
        for name in ("arrow", "pandas", "pymongoarrow")
    }
    seconds = {f"{name}_s": round(statistics.median(times), 2) for name, times in taken.items()}
    print(
        json.dumps(
            {
                **ratios,
                **seconds,
                "arcticdb_s": None if arcticdb_s is None else round(arcticdb_s, 2),
                "export": exports,
                "export_growth_mb": max(form["peak_mb_whole"] - form["peak_mb_tenth"] for form in exports.values()),
                "candles": CANDLES,
                "rounds": rounds,
            }
        )
    )


if __name__ == "__main__":
    main()
