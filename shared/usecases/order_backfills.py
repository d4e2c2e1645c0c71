"""Backfills as people order them: what one would cost, its parts for several workers, how far it has come, pause and end.

A backfill is one or more jobs of the kind `backfill` that share a `backfill_id`, each with a part of the range. Each asks for
what of its part is not there, so a part that is run again, or that overlaps with what others have stored, costs nothing twice.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pymongo.client_session import ClientSession

from shared.domain.backfills import eta_seconds, status_of
from shared.domain.connectors import ConnectorStatus, blocked_until_ms
from shared.domain.jobs import Job, JobKind, JobStatus, job_id_of, to_datetime, to_ms
from shared.domain.timeframes import TIMEFRAMES
from shared.errors import Conflict, NotFound
from shared.exchanges.catalog import load_spec
from shared.stores.candles import Series
from shared.stores.connectors import ConnectorStore
from shared.stores.database import Database, Document
from shared.stores.jobs import JobStore
from shared.usecases.keep_ledger import SeriesLedger
from shared.usecases.manage_jobs import JobManager, NewJob, plan_job
from shared.usecases.plan_backfills import (
    BackfillOrder,
    BackfillPlan,
    BackfillPlanner,
    backfill_id_of,
    check_others,
    wanted_of,
)
from shared.usecases.record_changes import Author
from shared.usecases.series_jobs import series_fields


@dataclass(frozen=True, slots=True)
class PartProgress:
    """One job of a backfill; `left` of `wanted` intervals are still to be asked for."""

    document: Document
    wanted: int
    left: int


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    """How far a backfill has come, at `now_ms`.

    `job`: for whose series it is. `status` None: it is not ordered (yet). `plan` says what it came to when it was ordered; None
    where nobody ordered it. `eta_s`: seconds until nothing is left, None: not while it stands still. `is_connector_paused`,
    `blocked_ms` (for how long still, by the exchange; 0: not): it is active, but kept from running.
    """

    backfill_id: str
    job: Job
    start_ms: int
    end_ms: int
    status: JobStatus | None
    parts: Sequence[PartProgress]
    plan: Mapping[str, Any] | None
    eta_s: float | None
    is_connector_paused: bool
    blocked_ms: int
    now_ms: int

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
    job_manager: JobManager
    planner: BackfillPlanner

    def preview(self, job_id: str, order: BackfillOrder) -> BackfillProgress:
        """How it would begin. One for which nothing is to be asked is done, without parts. Raises as BackfillPlanner.plan."""
        return _as_planned(self.planner.plan(job_id, order))

    def create(self, job_id: str, order: BackfillOrder, author: Author) -> BackfillProgress:
        """Order it: the jobs of its parts, due at once. One for which nothing is to be asked is not made.

        Raises:
            Conflict: as BackfillPlanner.plan; or the series has too many jobs.
            NotFound, InvalidRequest: as BackfillPlanner.plan.
        """
        plan = self.planner.plan(job_id, order)
        if not plan.parts:
            return _as_planned(plan)
        job = plan.job

        def write(session: ClientSession) -> None:
            self.jobs.get(job.job_id, session)
            self.ledger.asked.take_turn(Series.of(job).series_id, session)
            keeping = self.ledger.series_jobs.list_keeping(series_fields(job), session)
            check_others(plan, keeping)
            parts = [_part_document(plan, number) for number in range(len(plan.parts))]
            # What is done may be ordered again, where something of it is missing again.
            for document in keeping:
                if backfill_id_of(document) == plan.backfill_id:
                    self.job_manager.delete_within(document, author, session)
            for part in parts:
                self.job_manager.insert_within(part, author, session)

        self.database.transact(write)
        return self.read(plan.backfill_id)

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
                passed = document["totals"].get("passed", 0)
                pace = {"pace_at": to_datetime(self.database.server_now_ms()), "pace_left": left, "pace_passed": passed}
                with suppress(Conflict, NotFound):
                    self.job_manager.resume(document["_id"], None, author, pace)
        return self.read(backfill_id)

    def cancel(self, backfill_id: str, author: Author) -> None:
        """End it; what it has stored stays, and what it had asked for stays known. Raises NotFound."""
        for document in self._parts_of(backfill_id):
            with suppress(NotFound):
                self.database.transact(partial(self._cancel_part, document["_id"], author))

    def _cancel_part(self, job_id: str, author: Author, session: ClientSession) -> None:
        self.job_manager.delete_within(self.jobs.get(job_id, session), author, session)

    def _each(self, backfill_id: str, status: JobStatus, act: Callable[[str], Any]) -> BackfillProgress:
        for document in self._parts_of(backfill_id):
            # One that ends at this moment has nothing to be paused; one that is gone neither.
            with suppress(Conflict, NotFound):
                if document["status"] == status:
                    act(document["_id"])
        return self.read(backfill_id)

    def _parts_of(self, backfill_id: str) -> list[Document]:
        # A chunk is none by itself.
        alone = {"_id": backfill_id, "backfill_id": {"$exists": False}}
        condition = {"$or": [{"backfill_id": backfill_id}, alone], "kind": JobKind.BACKFILL.value}
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
        # Each part by itself: one that was resumed has another pace than one that never stood still.
        paces = [_pace_of(part, now_ms) for part in parts]
        longest_ms = max(elapsed_ms for elapsed_ms, _ in paces)
        done = round(longest_ms * sum(done / max(1, elapsed_ms) for elapsed_ms, done in paces))
        connector = self.connectors.get(documents[0]["connector_id"])
        is_kept = connector["status"] == ConnectorStatus.PAUSED
        blocked_ms = max(0, blocked_until_ms(connector) - now_ms) if status is JobStatus.ACTIVE else 0
        plan = documents[0].get("plan")
        eta_s, expected_s = None, None if plan is None else plan["expected_seconds"]
        is_any_paused = any(document["status"] == JobStatus.PAUSED for document in documents)
        if status is JobStatus.DONE or (status is JobStatus.ACTIVE and not is_kept and not is_any_paused):
            share = left / sum(part.wanted for part in parts) if left else 0.0
            eta_s = eta_seconds(left, done, longest_ms, None if expected_s is None else round(expected_s * share, 1))
            eta_s = None if eta_s is None else eta_s + blocked_ms / 1000
        job = Job.from_document(documents[0])
        ordered_for = job_id_of(job.connector_id, job.symbol, job.timeframe.name) if plan is None else plan["job_id"]
        return BackfillProgress(
            backfill_id=backfill_id,
            job=replace(job, job_id=ordered_for),
            start_ms=min(to_ms(each["start_at"]) for each in (*documents, *([plan] if plan else []))),
            end_ms=max(to_ms(document["end_at"]) for document in documents),
            status=status,
            parts=parts,
            plan=plan,
            eta_s=eta_s,
            is_connector_paused=is_kept and status is JobStatus.ACTIVE,
            blocked_ms=blocked_ms,
            now_ms=now_ms,
        )

    def _left(self, document: Document) -> int:
        """How many intervals the part has still to ask for."""
        job = Job.from_document(document)
        if job.status is JobStatus.DONE or job.end_ms is None:
            return 0
        grid = job.timeframe
        start_ms = grid.ceil(job.start_ms) if job.cursor_ms is None else grid.close(job.cursor_ms)
        return wanted_of(self.planner.read_runs(job, start_ms, grid.ceil(job.end_ms)))


def _as_planned(plan: BackfillPlan) -> BackfillProgress:
    """How a backfill begins."""
    parts = [PartProgress(_part_document(plan, number), wanted, wanted) for number, wanted in enumerate(plan.part_wanted)]
    return BackfillProgress(
        backfill_id=plan.backfill_id,
        job=plan.job,
        start_ms=plan.start_ms,
        end_ms=plan.end_ms,
        status=None if parts else JobStatus.DONE,
        parts=parts,
        plan=_plan_document(plan),
        eta_s=plan.estimate.seconds if parts else 0.0,
        is_connector_paused=False,
        blocked_ms=0,
        now_ms=plan.planned_ms,
    )


def _part_document(plan: BackfillPlan, number: int) -> Document:
    """The job of one of the plan's parts."""
    job, (start_ms, end_ms) = plan.job, plan.parts[number]
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
    return {
        **plan_job(new, job.exchange, load_spec(job.exchange), plan.planned_ms),
        "_id": f"{plan.backfill_id}:{number + 1}",
        "backfill_id": plan.backfill_id,
        "wanted": plan.part_wanted[number],
        "plan": _plan_document(plan),
    }


def _plan_document(plan: BackfillPlan) -> Document:
    """What its parts keep of the plan."""
    bound = plan.estimate.bound
    return {
        "job_id": plan.job.job_id,
        "start_at": to_datetime(plan.start_ms),
        "counts": {state.value: count for state, count in plan.counts.items()},
        "requests": plan.estimate.requests,
        "weight": plan.estimate.weight,
        "expected_seconds": plan.estimate.seconds,
        "bound_by": None if bound is None else bound.value,
        "holes": [{"from": to_datetime(first_ms), "to": to_datetime(last_ms)} for first_ms, last_ms in plan.holes],
    }


def _pace_of(part: PartProgress, now_ms: int) -> tuple[int, int]:
    """For how long (ms) the part has been at work, and how many intervals it has asked for, without those passed at once."""
    document = part.document
    before = document.get("pace_left")
    passed = document["totals"].get("passed", 0) - document.get("pace_passed", 0)
    done = (part.wanted if before is None else before) - part.left - passed
    return now_ms - to_ms(document.get("pace_at") or document["created_at"]), max(0, done)


def _all_of(document: Document) -> int:
    grid = TIMEFRAMES[document["timeframe"]]
    return grid.count(to_ms(document["start_at"]), to_ms(document["end_at"]))
