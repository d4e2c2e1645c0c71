"""What the view shows, read from MongoDB: it only reads, and needs nothing of the functions."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from pymongo.database import Database as MongoDatabase

from shared.domain.connectors import booked_windows
from shared.domain.job_ranges import format_ms
from shared.domain.jobs import KEEPING_KINDS, JobKind, to_ms
from shared.domain.timeframes import TIMEFRAMES, Timeframe
from shared.stores.candles import Series

JOBS_MAX: Final = 200
RUNS_MAX: Final = 60
# One interval may be closed and not stored yet without the job being behind.
FRESH_MS: Final = 10_000
ORDINARY_OUTCOMES: Final = frozenset({"caught_up", "more", "done", "waiting", "paused"})
# Of a backfill with several chunks: the first of these that any of them is in.
CHUNK_STATES: Final = ("error", "running", "retrying", "waiting", "paused", "done")

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ConnectorRow:
    """A connector's first window: weight used now of its limit, and how long nothing may be sent to it at all."""

    connector_id: str
    status: str
    used: int
    limit: int
    period_ms: int
    blocked_ms: int


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job, or all chunks of a backfill.

    `progress` from 0 (its start) to 1 (now); `lag_ms` since the first candle that is not stored here has closed.
    `stale`: of so many candles at most values are still to be computed.
    `stretch` is what a backfill covers, like `2026-01-01 … 2026-02-01`; empty for a live job.
    """

    job_id: str
    exchange: str
    symbol: str
    timeframe: str
    state: str
    progress: float
    lag_ms: int
    candles: int
    last_run_ms: int | None
    indicators: tuple[str, ...]
    stale: int
    error: str
    stretch: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look. `troubles` are (UTC seconds, text) of runs that did not end as they should, newest last."""

    at_ms: int
    connectors: tuple[ConnectorRow, ...]
    jobs: tuple[JobRow, ...]
    runs_count: int
    retired_candles: int
    troubles: tuple[tuple[float, str], ...]

    @property
    def candles(self) -> int:
        """Candles stored by all jobs together, those that are gone among them."""
        return self.retired_candles + sum(job.candles for job in self.jobs)

    @property
    def behind(self) -> int:
        """How many jobs are not where they should be."""
        return sum(job.state not in ("live", "done", "paused") for job in self.jobs)


def take_snapshot(database: "MongoDatabase[dict[str, Any]]") -> Snapshot:
    """Read connectors, jobs and recent runs."""
    now_ms = int(time.time() * 1000)
    runs = list(database["job_runs"].find({}).sort("finished_at", -1).limit(RUNS_MAX))
    last_runs = _last_runs(database)
    jobs = list(database["jobs"].find({"kind": {"$in": list(KEEPING_KINDS)}}).sort("_id", 1).limit(JOBS_MAX))
    series_ids = [_series_id(document) for document in jobs]
    series = {found["_id"]: found for found in database["series"].find({"_id": {"$in": series_ids}})}
    return Snapshot(
        at_ms=now_ms,
        connectors=tuple(_connector_row(document, now_ms) for document in database["connectors"].find({}).sort("_id", 1)),
        jobs=tuple(_job_rows(jobs, series, last_runs, now_ms)),
        runs_count=database["job_runs"].estimated_document_count(),
        retired_candles=sum(int(row.get("candles", 0)) for row in database["retired_totals"].find({}, {"candles": 1})),
        troubles=tuple(_trouble(run) for run in reversed(runs) if run.get("outcome") not in ORDINARY_OUTCOMES),
    )


def _connector_row(document: Document, now_ms: int) -> ConnectorRow:
    main, *_ = booked_windows(document)
    blocked_until = document.get("blocked_until")
    return ConnectorRow(
        connector_id=document["_id"],
        status=document["status"],
        used=main.used_at(now_ms),
        limit=main.window.limit,
        period_ms=main.window.period_ms,
        blocked_ms=0 if blocked_until is None else max(0, to_ms(blocked_until) - now_ms),
    )


def _last_runs(database: "MongoDatabase[dict[str, Any]]") -> dict[str, datetime]:
    """When each job was last run. In the order of the index, so that the server skips from job to job."""
    stages: list[dict[str, Any]] = [
        {"$sort": {"job_id": 1, "started_at": -1}},
        {"$group": {"_id": "$job_id", "at": {"$first": "$started_at"}}},
    ]
    return {row["_id"]: row["at"] for row in database["job_runs"].aggregate(stages) if row["at"] is not None}


def _series_id(job: Document) -> str:
    return Series(job["exchange"], job["symbol"], job["timeframe"]).series_id


def _job_rows(
    jobs: Iterable[Document], series: Mapping[str, Document], last_runs: Mapping[str, datetime], now_ms: int
) -> Iterator[JobRow]:
    """A row a job, but one for all chunks of a backfill."""
    for _, chunks in groupby(jobs, key=lambda document: document.get("backfill_id", document["_id"])):
        documents = list(chunks)
        owner = series.get(_series_id(documents[0]), {})
        rows = [_job_row(document, owner, last_runs.get(document["_id"]), now_ms) for document in documents]
        yield rows[0] if len(rows) == 1 else _backfill_row(documents, rows)


def _backfill_row(documents: Sequence[Document], rows: Sequence[JobRow]) -> JobRow:
    starts_ms, ends_ms = ([to_ms(document[name]) for document in documents] for name in ("start_at", "end_at"))
    lengths = [end_ms - start_ms for start_ms, end_ms in zip(starts_ms, ends_ms, strict=True)]
    states = [row.state for row in rows]
    done = sum(row.progress * length for row, length in zip(rows, lengths, strict=True))
    return replace(
        rows[0],
        job_id=str(documents[0]["backfill_id"]),
        state=next((state for state in CHUNK_STATES if state in states), states[0]),
        progress=_progress(int(done), sum(lengths)),
        candles=sum(row.candles for row in rows),
        last_run_ms=min((row.last_run_ms for row in rows if row.last_run_ms is not None), default=None),
        error=next((row.error for row in rows if row.error), ""),
        stretch=f"{_moment(min(starts_ms))} … {_moment(max(ends_ms))}",
    )


def _job_row(document: Document, series: Document, last_run_at: datetime | None, now_ms: int) -> JobRow:
    timeframe = TIMEFRAMES[document["timeframe"]]
    cursor_at: datetime | None = document["cursor"]["last_ts"]
    start_ms = to_ms(document["start_at"])
    end_at = document.get("end_at")
    end_ms = now_ms if end_at is None else to_ms(end_at)
    reached_ms = start_ms if cursor_at is None else timeframe.close(to_ms(cursor_at))
    is_behind = timeframe.close(reached_ms) <= min(now_ms - FRESH_MS, end_ms)
    last_error = document.get("last_error") or {}
    return JobRow(
        job_id=document["_id"],
        exchange=document["exchange"],
        symbol=document["symbol"],
        timeframe=document["timeframe"],
        state=_state(document, is_behind, now_ms),
        progress=_progress(reached_ms - start_ms, timeframe.floor(end_ms) - start_ms),
        lag_ms=max(0, min(now_ms, end_ms) - timeframe.close(reached_ms)),
        candles=int(document.get("totals", {}).get("candles", 0)),
        last_run_ms=None if last_run_at is None else max(0, now_ms - to_ms(last_run_at)),
        indicators=tuple(str(indicator.get("as") or indicator.get("name")) for indicator in series.get("indicators", ())),
        stale=_stale_count(series, timeframe, reached_ms),
        error=str(last_error.get("message") or last_error.get("code") or ""),
        stretch="" if end_at is None else f"{_moment(start_ms)} … {_moment(end_ms)}",
    )


def _stale_count(series: Document, timeframe: Timeframe, reached_ms: int) -> int:
    """From the first that has changed to where the job is; to count what is stored takes longer."""
    first_ms = min((to_ms(stretch["from"]) for stretch in series.get("stale", ())), default=reached_ms)
    return timeframe.count(first_ms, max(first_ms, reached_ms))


def _state(document: Document, is_behind: bool, now_ms: int) -> str:
    if document["status"] != "active":
        return str(document["status"])
    expires_at = document.get("lock", {}).get("expires_at")
    if expires_at is not None and to_ms(expires_at) > now_ms:
        return "running"
    if document.get("attempt", 0):
        return "retrying"
    if document["kind"] == JobKind.BACKFILL:
        return "waiting"
    return "behind" if is_behind else "live"


def _moment(at_ms: int) -> str:
    """Without the time where it is midnight."""
    return format_ms(at_ms)[:16].replace("T", " ").removesuffix(" 00:00")


def _progress(done_ms: int, whole_ms: int) -> float:
    return 1.0 if whole_ms <= 0 else min(1.0, max(0.0, done_ms / whole_ms))


def _trouble(run: Document) -> tuple[float, str]:
    error = run.get("error") or {}
    message = error.get("message") or error.get("code") or "" if isinstance(error, Mapping) else str(error)
    at = run.get("finished_at") or run.get("started_at")
    return (to_ms(at) / 1000 if at else 0.0, f"{run.get('job_id')} {run.get('outcome')} {message}".strip())
