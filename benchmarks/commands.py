"""MongoDB commands of one steady-state run: a job that follows the market and finds one new candle.

    python -m benchmarks.commands [--quick] [--json]

The last line is one JSON object: `commands` (the most that any of the runs sent), `names` in their order, and what a run
costs this process: `cpu_ms` and `elapsed_ms`, medians. Counted by the driver's own command monitoring, over everything that
the worker sends from the begin of the run to its end. The claim before it is the tick's: three commands for up to 200 jobs.
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from pymongo import MongoClient
from pymongo.monitoring import CommandListener, CommandStartedEvent

from local_emulator.mongod import start_mongod
from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.deadline import Deadline
from shared.domain.jobs import to_datetime
from shared.domain.timeframes import MINUTE_MS
from shared.stores.database import Database
from shared.wiring import Platform
from tests.factories import add_connector, add_job, claim, make_platform, run_until_caught_up

NOW_MS: Final = 1_760_000_042_000
HISTORY: Final = 2_000
QUICK_RUNS: Final = 50
FULL_RUNS: Final = 500


class Commands(CommandListener):
    """The names of commands that were sent, in order."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._lock = threading.Lock()

    def started(self, event: CommandStartedEvent) -> None:
        with self._lock:
            self.names.append(event.command_name)

    def succeeded(self, event: object) -> None:
        """Nothing: what is sent is what counts."""

    def failed(self, event: object) -> None:
        """Nothing: what is sent is what counts."""


def run_many(platform: Platform, commands: Commands, simulator: SimulatorProcess, runs: int) -> dict[str, Any]:
    """Catch up, then minute by minute."""
    add_connector(platform, base_url=simulator.base_url("binance"), windows=[(100_000, 60_000)])
    job_id = add_job(platform, start_ms=NOW_MS - HISTORY * MINUTE_MS)
    run_until_caught_up(platform, job_id)
    sent: list[list[str]] = []
    spent: list[tuple[float, float]] = []
    for _ in range(runs):
        simulator.clock(advance_ms=MINUTE_MS)
        platform.database.collection("jobs").update_one({"_id": job_id}, {"$set": {"next_run_at": to_datetime(0)}})
        claimed = claim(platform, job_id)
        commands.names.clear()
        began_cpu, began = time.process_time(), time.perf_counter()
        result = platform.runner.run(job_id, claimed.fence, "benchmark", Deadline.after(100))
        spent.append((time.process_time() - began_cpu, time.perf_counter() - began))
        sent.append(list(commands.names))
        if (result.outcome.value, result.candles, result.requests) != ("caught_up", 1, 1):
            raise SystemExit(f"this was no steady-state run: {result}")
    most = max(sent, key=len)
    cpu_s, elapsed_s = (statistics.median(values) for values in zip(*spent, strict=True))
    return {
        "commands": len(most),
        "names": most,
        "cpu_ms": round(cpu_s * 1000, 2),
        "elapsed_ms": round(elapsed_s * 1000, 2),
        "runs": runs,
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
        simulator = stack.enter_context(start_simulator(seed=5, freeze_at_ms=NOW_MS))
        simulator.configure("binance", [(100_000, 60_000)])
        platform = make_platform(mongod.uri, f"bench_{os.getpid()}")
        stack.callback(platform.close)
        client: MongoClient[dict[str, Any]] = MongoClient(
            mongod.uri, tz_aware=True, w="majority", retryWrites=True, event_listeners=[commands]
        )
        counted = Platform(platform.settings)
        counted.__dict__["database"] = Database(client, platform.settings)
        stack.callback(counted.close)
        stack.callback(client.drop_database, platform.settings.database)
        # The runs' own log lines are no result.
        with open(os.devnull, "w") as log, contextlib.redirect_stdout(log):
            result = run_many(counted, commands, simulator, QUICK_RUNS if arguments.quick else FULL_RUNS)
    if not arguments.json:
        print(", ".join(result["names"]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
