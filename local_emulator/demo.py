"""`demo`: everything without a terminal, in a fresh state directory, judged at the end.

The result, one line of JSON: `jobs`; `caught_up`, how many of them are at the newest closed candle; `candles` stored; `runs`
recorded; `errors` = runs that failed or lost their lease, jobs in error, candles with other values than the exchange's, and
processes that had to be started again; `over_limit` = requests that came beyond a limit, by the simulator's count; `missing` =
candles that the exchange has and the database has not, up to each job's cursor; `duplicates` = candles stored that the
exchange does not have (the same candle twice cannot be: the open time is the key).
"""

import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from local_emulator.comparison import compare_job
from local_emulator.emulator import Emulator
from shared.domain.jobs import JobKind, JobStatus, to_ms
from shared.domain.timeframes import TIMEFRAMES

# A candle that closed this short a time ago need not be stored yet: settle delay, the worker's start, a busy machine.
FRESH_MS: Final = 15_000
# A job that is behind at the end gets this long to catch up.
GRACE_S: Final = 8.0
POLL_S: Final = 0.25
FAILED_OUTCOMES: Final = ("failed", "error", "lost", "not_started")


@dataclass(frozen=True, slots=True)
class DemoResult:
    """See the module."""

    jobs: int
    caught_up: int
    candles: int
    runs: int
    errors: int
    over_limit: int
    missing: int
    duplicates: int

    @property
    def is_good(self) -> bool:
        """Every job caught up and nothing went wrong."""
        faults = self.errors + self.over_limit + self.missing + self.duplicates
        return 0 < self.jobs == self.caught_up and self.candles > 0 and faults == 0

    def to_json(self) -> dict[str, int]:
        """As printed."""
        return asdict(self)


def run_demo(emulator: Emulator, seconds: float) -> DemoResult:
    """Let the running emulator work that long, wait a little for stragglers, then judge."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(POLL_S, max(0.0, end - time.monotonic())))
    grace_end = time.monotonic() + GRACE_S
    while time.monotonic() < grace_end and not _is_settled(emulator):
        time.sleep(POLL_S)
    return judge(emulator)


def is_caught_up(job: dict[str, Any], now_ms: float) -> bool:
    """Whether the job's cursor is at the newest candle that should be stored by now."""
    timeframe = TIMEFRAMES[job["timeframe"]]
    cursor_at = job["cursor"]["last_ts"]
    newest_ms = timeframe.shift(timeframe.closed_end(int(now_ms) - FRESH_MS), -1)
    return cursor_at is not None and to_ms(cursor_at) >= newest_ms


def judge(emulator: Emulator) -> DemoResult:
    """Count and compare everything."""
    database = emulator.client[emulator.database]
    # Before the candles: what is stored up to a cursor cannot become less while this reads.
    jobs = _jobs(emulator)
    now_ms = time.time() * 1000
    series = [compare_job(database, job, emulator.seed) for job in jobs]
    failed_runs = database["job_runs"].count_documents({"outcome": {"$in": list(FAILED_OUTCOMES)}})
    jobs_in_error = sum(job["status"] == "error" for job in jobs)
    report = emulator.simulator_report()
    return DemoResult(
        jobs=len(jobs),
        caught_up=sum(is_caught_up(job, now_ms) for job in jobs),
        candles=sum(one.candles_count for one in series),
        runs=database["job_runs"].count_documents({}),
        errors=failed_runs + jobs_in_error + sum(one.wrong_count for one in series) + emulator.supervisor.restarts_count,
        over_limit=count_over_limit(report),
        missing=sum(one.missing_count for one in series),
        duplicates=sum(one.extra_count for one in series),
    )


def count_over_limit(report: dict[str, Any]) -> int:
    """Arrivals beyond a limit in any window of any exchange, from the simulator's report."""
    return sum(int(window["over_limit"]) for exchange in report["exchanges"].values() for window in exchange["windows"])


def _jobs(emulator: Emulator) -> list[dict[str, Any]]:
    return list(emulator.client[emulator.database]["jobs"].find({"kind": JobKind.LIVE.value}).sort("_id", 1))


def _is_settled(emulator: Emulator) -> bool:
    """Whether the jobs are caught up, and what they had passed over is there."""
    now_ms = time.time() * 1000
    if not all(is_caught_up(job, now_ms) for job in _jobs(emulator)):
        return False
    on_its_way = {"kind": JobKind.BACKFILL.value, "status": JobStatus.ACTIVE.value}
    return emulator.client[emulator.database]["jobs"].count_documents(on_its_way) == 0
