"""Memory of a worker's process at its peak, for backfills of different lengths: each in a process of its own.

    python -m benchmarks.ingest_memory MONGODB_URI EXCHANGE_URL CANDLES

prints the peak in KiB. Nothing else is imported here, so that the process is as large as a worker's and no larger.
"""

import contextlib
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Final

from shared.domain.timeframes import MINUTE_MS
from tests.factories import add_connector, add_job, make_platform, run_once

NOW_MS: Final = 1_760_000_042_000
END_MS: Final = NOW_MS // MINUTE_MS * MINUTE_MS
# A limit that does not bind.
WIDE: Final = [(10_000_000, 60_000)]
# Long enough to have all pages in hand that a run ever has.
SHORT_CANDLES: Final = 40_000
LONG_FACTOR: Final = 4
PROCESS_S_MAX: Final = 120


def measure_growth(mongodb_uri: str, exchange_url: str) -> tuple[float, int]:
    """Peak of a backfill LONG_FACTOR times as long over the short one's; and the short one's in MiB."""
    short, long = (_peak_of(mongodb_uri, exchange_url, SHORT_CANDLES * factor) for factor in (1, LONG_FACTOR))
    return long / short, short // 1024


def _peak_of(mongodb_uri: str, exchange_url: str, candles: int) -> int:
    command = [sys.executable, "-m", "benchmarks.ingest_memory", mongodb_uri, exchange_url, str(candles)]
    folder = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=PROCESS_S_MAX)
    return int(done.stdout)


def _run(mongodb_uri: str, exchange_url: str, candles: int) -> None:
    name = f"bench_{uuid.uuid4().hex[:10]}"
    platform = make_platform(mongodb_uri, name, worker_pages_max=100_000)
    try:
        add_connector(platform, base_url=exchange_url, windows=WIDE)
        job_id = add_job(platform, start_ms=END_MS - candles * MINUTE_MS, end_ms=END_MS)
        with open(os.devnull, "w") as log, contextlib.redirect_stdout(log):
            result = run_once(platform, job_id)
        platform.database.client.drop_database(name)
    finally:
        platform.close()
    if result.candles != candles:
        raise SystemExit(f"the worker stored {result.candles} of {candles} candles")
    # getrusage would count the process that has started this one, too.
    (peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(peak)


if __name__ == "__main__":
    _run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
