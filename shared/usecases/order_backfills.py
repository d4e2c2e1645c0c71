"""Backfills as people order them: what one would cost, its parts for several workers, how far it has come, pause and end.

A backfill is one or more jobs of the kind `backfill` that share a `backfill_id`, each with a part of the range. Each asks for
what of its part is not there, so a part that is run again, or that overlaps with what others have stored, costs nothing twice.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pymongo.client_session import ClientSession

from shared.domain.backfills import (
    Estimate,
    LimitRoom,
    decide_workers,
    estimate,
    eta_seconds,
    split_range,
    status_of,
    workers_of_use,
)
from shared.domain.connectors import Connector, ConnectorStatus, booked_windows
from shared.domain.coverage import IntervalState, Run, count_states
from shared.domain.indicators import cumulative_fields
from shared.domain.job_ranges import EARLIEST_MS, format_ms
from shared.domain.jobs import Job, JobKind, JobStatus, to_datetime, to_ms
from shared.domain.timeframes import TIMEFRAMES, Timeframe
from shared.domain.windows import GapPlan
from shared.errors import Conflict, InvalidRequest, NotFound
from shared.exchanges.catalog import load_spec
from shared.exchanges.client import ExchangeClient
from shared.stores.candles import Series
from shared.stores.connectors import ConnectorStore
from shared.stores.database import Database, Document
from shared.stores.job_summaries import JobSummaries
from shared.stores.jobs import JobStore
from shared.usecases.keep_ledger import WANTED_STATES, SeriesLedger
from shared.usecases.manage_jobs import JobManager, NewJob, plan_job
from shared.usecases.record_changes import Author
from shared.usecases.resolve_specs import SpecLists
from shared.usecases.send_requests import OpenExchange
from shared.usecases.series_jobs import series_fields


@dataclass(frozen=True, slots=True)
class BackfillOrder:
    """[start_ms, end_ms) to be asked for; `end_ms` None: up to the last closed interval. `workers` None: as many as help."""

    start_ms: int
    end_ms: int | None
    workers: int | None


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """What an order comes to. `counts` are of all its intervals, `parts` the stretches of its workers (none: all is there)."""

    backfill_id: str
    job_id: str
    timeframe: Timeframe
    start_ms: int
    end_ms: int
    counts: Mapping[IntervalState, int]
    wanted: int
    estimate: Estimate
    parts: Sequence[tuple[int, int]]
    planned_ms: int


@dataclass(frozen=True, slots=True)
class PartProgress:
    """One job of a backfill; `left` of `wanted` intervals are still to be asked for."""

    document: Document
    wanted: int
    left: int


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    """How far a backfill has come. `eta_s`: seconds until nothing is left, None: not while it stands still.

    `is_connector_paused`: it is active, but kept from running.
    """

    backfill_id: str
    status: JobStatus
    parts: Sequence[PartProgress]
    eta_s: float | None
    is_connector_paused: bool

    @property
    def wanted(self) -> int:
        """Intervals that it has had to ask for."""
        return sum(part.wanted for part in self.parts)

    @property
    def left(self) -> int:
        """Of these, how many it has not asked for yet."""
        return sum(part.left for part in self.parts)


@dataclass(frozen=True, slots=True)
class BackfillManager:
    """Orders, reads and steers backfills."""

    database: Database
    connectors: ConnectorStore
    jobs: JobStore
    ledger: SeriesLedger
    summaries: JobSummaries
    job_manager: JobManager
    open_exchange: OpenExchange
    spec_lists: SpecLists

    def plan(self, job_id: str, order: BackfillOrder) -> BackfillPlan:
        """What the order comes to, for the series of that job. Nothing is asked of the exchange.

        Raises:
            NotFound: no such job.
            Conflict: another backfill of the series that is not done wants some of the same.
            InvalidRequest: names `from` or `to`: not in order, not in the past, or before anything was traded.
        """
        now_ms = self.database.server_now_ms()
        job = Job.from_document(self.jobs.get(job_id))
        start_ms, end_ms = self._check_range(job, order, now_ms)
        grid = job.timeframe
        connector = self.connectors.get(job.connector_id)
        client = self.open_exchange(Connector.from_document(connector), lambda: now_ms)
        page_max = partial(client.page_max, grid.name)
        kept = client.spec.history_of(grid.name)
        wall_ms = 0 if kept is None else grid.shift(grid.floor(now_ms), -kept)
        begins_ms = max(wall_ms, grid.open_at(self.ledger.begins(_series_of(job), job)))
        runs = self._runs(job, start_ms, end_ms, wall_ms)
        gaps = GapPlan(grid, self.ledger.gaps_of(runs, grid, page_max(start_ms)))
        pages = [(page.new_ms, page.end_ms) for page in gaps.windows_ahead(None, page_max, now_ms)]
        wanted = _wanted_of(runs)
        weight = sum(client.weight(grid.name, grid.count(*page)) for page in pages)
        has_cumulative = bool(cumulative_fields(self.spec_lists.resolve(job.indicators)))
        rooms = self._rooms(connector, client, now_ms)
        of_use = workers_of_use(len(pages), weight, rooms)
        workers = decide_workers(order.workers, len(pages), of_use, has_cumulative=has_cumulative)
        plan = BackfillPlan(
            backfill_id=_id_of(job, start_ms, end_ms),
            job_id=job_id,
            timeframe=grid,
            start_ms=start_ms,
            end_ms=end_ms,
            counts=count_states(runs),
            wanted=wanted,
            estimate=estimate(len(pages), weight, wanted, rooms, workers),
            parts=split_range(max(start_ms, begins_ms), end_ms, pages, workers) if pages else (),
            planned_ms=now_ms,
        )
        if plan.parts:
            self._check_others(plan, self.ledger.series_jobs.list_keeping(series_fields(job)))
        return plan

    def create(self, job_id: str, order: BackfillOrder, author: Author) -> BackfillPlan:
        """Order it: the jobs of its parts, due at once. One for which nothing is to be asked is not made.

        Raises:
            Conflict: as `plan`; or the series has too many jobs.
            NotFound, InvalidRequest: as `plan`.
        """
        plan = self.plan(job_id, order)
        if not plan.parts:
            return plan
        job = Job.from_document(self.jobs.get(job_id))

        def write(session: ClientSession) -> None:
            self.ledger.asked.take_turn(_series_of(job).series_id, session)
            keeping = self.ledger.series_jobs.list_keeping(series_fields(job), session)
            self._check_others(plan, keeping)
            parts = [self._part(job, plan, start_ms, end_ms) for start_ms, end_ms in plan.parts]
            # What is done may be ordered again, where something of it is missing again.
            part_ids = {part["_id"] for part in parts}
            for document in keeping:
                if backfill_id_of(document) == plan.backfill_id or document["_id"] in part_ids:
                    self.job_manager.delete_within(document, author, session)
            for part in parts:
                self.job_manager.insert_within(part, author, session)

        self.database.transact(write)
        return plan

    def read(self, backfill_id: str) -> BackfillProgress:
        """How far it has come. Raises NotFound."""
        return self._progress(backfill_id, self._parts_of(backfill_id))

    def list_of(self, job_id: str) -> list[BackfillProgress]:
        """All of the series of that job, in order of their ids, also those its live job has made. Raises NotFound."""
        job = Job.from_document(self.jobs.get(job_id))
        found: dict[str, list[Document]] = {}
        for document in self.ledger.series_jobs.list_keeping(series_fields(job)):
            if document["kind"] == JobKind.BACKFILL:
                found.setdefault(backfill_id_of(document), []).append(document)
        return [self._progress(backfill_id, found[backfill_id]) for backfill_id in sorted(found)]

    def pause(self, backfill_id: str, author: Author) -> BackfillProgress:
        """Keep its parts from running; those on their way end with their page. Raises NotFound."""
        return self._each(backfill_id, JobStatus.ACTIVE, lambda job_id: self.job_manager.pause(job_id, None, author))

    def resume(self, backfill_id: str, author: Author) -> BackfillProgress:
        """Let the parts that are paused or in error go on from where they are. Raises NotFound."""
        for document in self._parts_of(backfill_id):
            if document["status"] in (JobStatus.PAUSED, JobStatus.ERROR):
                left = self._left(document)
                pace = {"pace_at": to_datetime(self.database.server_now_ms()), "pace_left": left}
                with suppress(Conflict, NotFound):
                    self.job_manager.resume(document["_id"], None, author, pace)
        return self.read(backfill_id)

    def cancel(self, backfill_id: str, author: Author) -> None:
        """End it; what it has stored stays, and what it had asked for stays known. Raises NotFound."""
        for document in self._parts_of(backfill_id):
            with suppress(NotFound):
                self.job_manager.delete(document["_id"], None, author, with_candles=False)

    def _each(self, backfill_id: str, status: JobStatus, act: Callable[[str], Any]) -> BackfillProgress:
        for document in self._parts_of(backfill_id):
            # One that ends at this moment has nothing to be paused; one that is gone neither.
            with suppress(Conflict, NotFound):
                if document["status"] == status:
                    act(document["_id"])
        return self.read(backfill_id)

    def _parts_of(self, backfill_id: str) -> list[Document]:
        condition = {"$or": [{"backfill_id": backfill_id}, {"_id": backfill_id}], "kind": JobKind.BACKFILL.value}
        found = self.jobs.list_(condition)
        if not found:
            raise NotFound(f"backfill {backfill_id} does not exist; those of a series are at /v1/jobs/{{id}}/backfills")
        return sorted(found, key=lambda document: document["start_at"])

    def _progress(self, backfill_id: str, documents: Sequence[Document]) -> BackfillProgress:
        now_ms = self.database.server_now_ms()
        parts = []
        for document in documents:
            left = self._left(document)
            parts.append(PartProgress(document, max(left, document.get("wanted", _all_of(document))), left))
        status = status_of([JobStatus(document["status"]) for document in documents])
        left = sum(part.left for part in parts)
        resumed = [part for part in parts if part.document.get("pace_left") is not None]
        # Since it was resumed, if it was; what was done before says nothing of the pace.
        since = max(to_ms(part.document.get("pace_at") or part.document["created_at"]) for part in resumed or parts)
        before = sum(part.document["pace_left"] for part in resumed) if resumed else sum(part.wanted for part in parts)
        done = before - sum(part.left for part in resumed or parts)
        is_kept = self.connectors.get_connector(documents[0]["connector_id"]).status is ConnectorStatus.PAUSED
        eta_s, expected_s = None, documents[0].get("expected_s")
        if status is JobStatus.DONE or (status is JobStatus.ACTIVE and not is_kept):
            share = left / sum(part.wanted for part in parts) if left else 0.0
            eta_s = eta_seconds(left, done, now_ms - since, None if expected_s is None else round(expected_s * share, 1))
        return BackfillProgress(backfill_id, status, parts, eta_s, is_kept and status is JobStatus.ACTIVE)

    def _left(self, document: Document) -> int:
        """How many intervals the part has still to ask for."""
        job = Job.from_document(document)
        if job.status is JobStatus.DONE or job.end_ms is None:
            return 0
        grid = job.timeframe
        start_ms = grid.ceil(job.start_ms) if job.cursor_ms is None else grid.close(job.cursor_ms)
        runs = self._runs(job, start_ms, grid.ceil(job.end_ms))
        return _wanted_of(runs)

    def _runs(self, job: Job, start_ms: int, end_ms: int, wall_ms: int = 0) -> list[Run]:
        """The states of these intervals; before `wall_ms` the exchange has nothing any more."""
        grid, series = job.timeframe, _series_of(job)
        if start_ms >= end_ms:
            return []
        begins = max(self.ledger.begins(series, job), grid.number(wall_ms))
        return self.ledger.read_runs(series, job, grid.number(start_ms), grid.number(end_ms), begins)

    def _check_range(self, job: Job, order: BackfillOrder, now_ms: int) -> tuple[int, int]:
        grid = job.timeframe
        closed_ms = grid.closed_end(now_ms)
        end_ms = closed_ms if order.end_ms is None else grid.ceil(order.end_ms)
        if end_ms > closed_ms:
            raise InvalidRequest.for_field("to", f"lies ahead; the last closed interval ends at {format_ms(closed_ms)}")
        start_ms = grid.ceil(order.start_ms)
        if start_ms >= closed_ms:
            raise InvalidRequest.for_field("from", f"lies ahead; the last closed interval ends at {format_ms(closed_ms)}")
        if start_ms >= end_ms:
            raise InvalidRequest.for_field("from", f"{format_ms(order.start_ms)} is not before `to`, {format_ms(end_ms)}")
        if start_ms < EARLIEST_MS:
            raise InvalidRequest.for_field("from", f"nothing was traded before {format_ms(EARLIEST_MS)}")
        return start_ms, end_ms

    def _rooms(self, connector: Document, client: ExchangeClient, now_ms: int) -> list[LimitRoom]:
        """The connector's windows, and what its live jobs take of each."""
        per_ms = sum(
            count * client.spec.live_weight / TIMEFRAMES[timeframe].step_ms
            for timeframe, count in self.summaries.count_live(connector["_id"]).items()
        )
        return [
            LimitRoom(booked.window, booked.free_at(now_ms), per_ms * booked.window.period_ms)
            for booked in booked_windows(connector)
        ]

    def _check_others(self, plan: BackfillPlan, keeping: Sequence[Document]) -> None:
        for document in keeping:
            if document["kind"] != JobKind.BACKFILL or document["status"] == JobStatus.DONE:
                continue
            cursor_at = document["cursor"]["last_ts"]
            next_ms = to_ms(document["start_at"]) if cursor_at is None else plan.timeframe.close(to_ms(cursor_at))
            if next_ms < plan.end_ms and to_ms(document["end_at"]) > plan.start_ms:
                other = backfill_id_of(document)
                raise Conflict(
                    f"backfill {other} asks for some of these intervals already; see GET /v1/backfills/{other}, "
                    "wait for it or cancel it",
                    backfill_id=other,
                )

    def _part(self, job: Job, plan: BackfillPlan, start_ms: int, end_ms: int) -> Document:
        new = NewJob(
            connector_id=job.connector_id,
            symbol=job.symbol,
            timeframe=job.timeframe.name,
            overlap=0,
            kind=JobKind.BACKFILL,
            start_ms=start_ms,
            end_ms=end_ms,
            indicators=tuple(job.indicators),
        )
        document = plan_job(new, job.exchange, load_spec(job.exchange), plan.planned_ms)
        runs = self._runs(job, start_ms, end_ms)
        return {
            **document,
            "backfill_id": plan.backfill_id,
            "wanted": _wanted_of(runs),
            "expected_s": plan.estimate.seconds,
        }


def backfill_id_of(document: Document) -> str:
    """The backfill that a job is a part of; one that was made otherwise is one by itself."""
    return str(document.get("backfill_id", document["_id"]))


def _id_of(job: Job, start_ms: int, end_ms: int) -> str:
    first, end = (format_ms(at_ms)[:16].replace("-", "").replace(":", "") for at_ms in (start_ms, end_ms))
    return f"{_series_of(job).series_id}:backfill:{first}-{end}"


def _series_of(job: Job) -> Series:
    return Series(job.exchange, job.symbol, job.timeframe.name)


def _wanted_of(runs: Sequence[Run]) -> int:
    """How many of the intervals a backfill asks for."""
    return sum(run.end - run.first for run in runs if run.state in WANTED_STATES)


def _all_of(document: Document) -> int:
    grid = TIMEFRAMES[document["timeframe"]]
    return grid.count(to_ms(document["start_at"]), to_ms(document["end_at"]))
