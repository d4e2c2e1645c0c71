"""Backfills as people order them: what one would cost, its parts for several workers, how far it has come, pause and end.

An ordered backfill is a document (stores/backfills.py) and one job of the kind `backfill` for each of its parts. Each asks for
what of its part is not there, so a part that is run again, or that overlaps with what others have stored, costs nothing twice.
A job of that kind that stands alone (what a live job has passed over, or one made with an end) is shown as a backfill too.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from pymongo.client_session import ClientSession

from shared.domain.backfills import SILENT_MS, BackfillStatus, PartPace, eta_seconds, pace_per_s
from shared.domain.connectors import ConnectorStatus, blocked_until_ms
from shared.domain.jobs import Job, JobKind, JobStatus, job_id_of, to_datetime, to_ms
from shared.domain.timeframes import TIMEFRAMES
from shared.errors import NotFound
from shared.exchanges.catalog import load_spec
from shared.stores.backfills import BackfillStore, summarize_part
from shared.stores.candles import Series
from shared.stores.connectors import ConnectorStore
from shared.stores.database import Database, Document
from shared.stores.jobs import JobStore
from shared.usecases.keep_ledger import SeriesLedger
from shared.usecases.manage_jobs import JobManager
from shared.usecases.plan_backfills import BackfillOrder, BackfillPlan, BackfillPlanner, check_others
from shared.usecases.plan_jobs import NewJob, plan_job
from shared.usecases.record_changes import Author, record_change
from shared.usecases.series_jobs import series_fields
from shared.usecases.steer_backfills import BackfillSteering

# Of an active backfill that a part of has failed: it does not end by itself.
ERROR: Final = "error"


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    """How far a backfill has come, at `now_ms`.

    `job_id`: for whose series it is. `status`: that of the document, or `error` where a part has failed; None: not ordered.
    `parts` are documents as `summarize_part` makes them, with `lease_ms` besides: for how long a silent worker's lease
    still runs. `plan` says what it came to when it was ordered; None where nobody ordered it. `eta_s`: seconds until nothing is
    left, None: not while it stands still. `is_connector_paused`, `blocked_ms` (for how long still, by the exchange; 0: not): it
    is active, but kept from running.
    """

    backfill_id: str
    job_id: str
    connector_id: str
    symbol: str
    timeframe: str
    start_ms: int
    end_ms: int
    status: str | None
    parts: Sequence[Document]
    plan: Mapping[str, Any] | None
    eta_s: float | None
    now_ms: int
    created_ms: int | None = None
    ended_ms: int | None = None
    is_connector_paused: bool = False
    blocked_ms: int = 0

    @property
    def wanted(self) -> int:
        """Intervals that it has had to ask for."""
        return sum(part["wanted"] for part in self.parts)

    @property
    def left(self) -> int:
        """Of these, how many it has not asked for yet."""
        return sum(part["left"] for part in self.parts)

    @property
    def is_lease_awaited(self) -> bool:
        """Nothing moves before a lease has run out."""
        waiting = [part for part in self.parts if part["status"] == JobStatus.ACTIVE]
        return bool(waiting) and all(part["lease_ms"] for part in waiting)


@dataclass(frozen=True, slots=True)
class BackfillManager:
    """Orders and reads backfills, and hands on what is decided of them."""

    database: Database
    connectors: ConnectorStore
    jobs: JobStore
    backfills: BackfillStore
    ledger: SeriesLedger
    job_manager: JobManager
    planner: BackfillPlanner
    steering: BackfillSteering
    lease_ms: int

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
            self.ledger.asked.note_change(Series.of(job).series_id, session)
            keeping = self.ledger.series_jobs.list_keeping(series_fields(job), session)
            check_others(plan, keeping)
            parts = [_part_document(plan, number) for number in range(len(plan.parts))]
            document = _document(plan, parts)
            # What is done may be ordered again, where something of it is missing again.
            self.job_manager.upkeep.remove_parts(self.backfills.list_parts(plan.backfill_id, session), session)
            self.backfills.put(document, session)
            for part in parts:
                self.job_manager.insert_within(part, author, session)
            target = f"backfills/{plan.backfill_id}"
            log = self.job_manager.audit_log
            record_change(log, author, "backfill.create", target, before=None, after=document, session=session)

        self.database.transact(write)
        return self.read(plan.backfill_id)

    def read(self, backfill_id: str) -> BackfillProgress:
        """How far it has come. Raises NotFound."""
        document = self.backfills.find(backfill_id)
        return self._alone(self._find_alone(backfill_id)) if document is None else self._ordered(document)

    def list_of(self, job_id: str) -> list[BackfillProgress]:
        """All of the series of that job, in order of their ids, also those its live job has made. Raises NotFound."""
        job = Job.from_document(self.jobs.get(job_id))
        keeping = self.ledger.series_jobs.list_keeping(series_fields(job))
        found = [self._ordered(document) for document in self.backfills.list_of(series_fields(job))]
        found += [self._alone(document) for document in keeping if _stands_alone(document)]
        return sorted(found, key=lambda progress: progress.backfill_id)

    def pause(self, backfill_id: str, author: Author) -> BackfillProgress:
        """Keep it from running: no page lands after this has returned. Raises NotFound, and Conflict if it has ended."""
        if self._is_ordered(backfill_id):
            self.steering.decide(backfill_id, BackfillStatus.PAUSED, author)
        else:
            self.job_manager.pause(backfill_id, None, author)
        return self.read(backfill_id)

    def resume(self, backfill_id: str, author: Author) -> BackfillProgress:
        """Let it go on from where it is, and parts that have failed too. Raises NotFound, and Conflict if it has ended."""
        if self._is_ordered(backfill_id):
            self.steering.decide(backfill_id, BackfillStatus.ACTIVE, author)
        else:
            self.job_manager.resume(backfill_id, None, author)
        return self.read(backfill_id)

    def cancel(self, backfill_id: str, author: Author) -> None:
        """End it; what it has stored stays, and what it had asked for stays known. One that has ended is forgotten.

        Raises NotFound.
        """
        document = self.backfills.find(backfill_id)
        if document is None:
            self._find_alone(backfill_id)
            self.job_manager.delete(backfill_id, None, author, with_candles=False)
        elif document["status"] in (BackfillStatus.DONE, BackfillStatus.CANCELLED):
            self.steering.forget(backfill_id, author)
        else:
            self.steering.decide(backfill_id, BackfillStatus.CANCELLED, author)

    def _is_ordered(self, backfill_id: str) -> bool:
        """Raises NotFound."""
        if self.backfills.find(backfill_id) is not None:
            return True
        self._find_alone(backfill_id)
        return False

    def _find_alone(self, backfill_id: str) -> Document:
        """Raises NotFound; a part of a backfill is none by itself."""
        with suppress(NotFound):
            found = self.jobs.get(backfill_id)
            if _stands_alone(found):
                return found
        raise NotFound(f"backfill {backfill_id} does not exist; those of a series are at /v1/jobs/{{id}}/backfills")

    def _ordered(self, document: Document) -> BackfillProgress:
        jobs = [] if document["ended_at"] else self.backfills.list_parts(document["_id"])
        if not jobs and not document["ended_at"]:
            # It has ended between the two.
            document = self.backfills.find(document["_id"]) or document
        parts = [self._part(job) for job in jobs] if jobs else [{**part, "lease_ms": 0} for part in document["parts"]]
        status = document["status"]
        if status == BackfillStatus.ACTIVE and any(part["status"] == ERROR for part in parts):
            status = ERROR
        elif status == BackfillStatus.ACTIVE and all(part["status"] == JobStatus.DONE for part in parts):
            # A worker of version 0.1.0 has ended the last one.
            status = BackfillStatus.DONE
        progress = BackfillProgress(
            backfill_id=document["_id"],
            job_id=document["job_id"],
            connector_id=document["connector_id"],
            symbol=document["symbol"],
            timeframe=document["timeframe"],
            start_ms=to_ms(document["start_at"]),
            end_ms=to_ms(document["end_at"]),
            status=status,
            parts=parts,
            plan=document["plan"],
            eta_s=None,
            now_ms=0,
            created_ms=to_ms(document["created_at"]),
            ended_ms=None if document["ended_at"] is None else to_ms(document["ended_at"]),
        )
        return self._with_eta(progress, jobs)

    def _alone(self, document: Document) -> BackfillProgress:
        job = Job.from_document(document)
        is_done = job.status is JobStatus.DONE and document.get("done_at")
        progress = BackfillProgress(
            backfill_id=job.job_id,
            job_id=job_id_of(job.connector_id, job.symbol, job.timeframe.name),
            connector_id=job.connector_id,
            symbol=job.symbol,
            timeframe=job.timeframe.name,
            start_ms=job.start_ms,
            end_ms=to_ms(document["end_at"]),
            status=job.status.value,
            parts=[self._part(document)],
            plan=None,
            eta_s=None,
            now_ms=0,
            created_ms=to_ms(document["created_at"]),
            ended_ms=to_ms(document["done_at"]) if is_done else None,
        )
        return self._with_eta(progress, [document])

    def _part(self, job: Document) -> Document:
        """The part as it is now."""
        left = self.ledger.count_left(job)
        part = summarize_part(job, left)
        lock, now_ms = job["lock"], self.database.server_now_ms()
        lease_ms = to_ms(lock["expires_at"]) - now_ms if lock.get("run_id") else 0
        is_silent = 0 < lease_ms <= self.lease_ms - SILENT_MS
        wanted = part["wanted"] if part["wanted"] is not None else _count_all(job)
        return {**part, "wanted": max(left, wanted), "lease_ms": lease_ms if is_silent else 0}

    def _with_eta(self, progress: BackfillProgress, jobs: Sequence[Document]) -> BackfillProgress:
        now_ms = self.database.server_now_ms()
        if progress.status != BackfillStatus.ACTIVE:
            return replace(progress, now_ms=now_ms, eta_s=0.0 if progress.status == BackfillStatus.DONE else None)
        connector = self.connectors.get(progress.connector_id)
        is_kept = connector["status"] == ConnectorStatus.PAUSED
        blocked_ms = max(0, blocked_until_ms(connector) - now_ms)
        paces = [
            PartPace(part["left"], _pace_of(job, now_ms), part["lease_ms"])
            for part, job in zip(progress.parts, jobs, strict=False)
        ]
        expected_s = None if progress.plan is None else progress.plan["expected_seconds"]
        share = progress.left / progress.wanted if progress.left else 0.0
        eta_s = eta_seconds(paces, None if expected_s is None else round(expected_s * share, 1))
        eta_s = None if eta_s is None or is_kept else eta_s + blocked_ms / 1000
        return replace(progress, now_ms=now_ms, eta_s=eta_s, is_connector_paused=is_kept, blocked_ms=blocked_ms)


def _stands_alone(document: Document) -> bool:
    return document["kind"] == JobKind.BACKFILL and "backfill_id" not in document


def _as_planned(plan: BackfillPlan) -> BackfillProgress:
    """How a backfill begins."""
    job = plan.job
    parts = [
        {**summarize_part(_part_document(plan, number), wanted), "lease_ms": 0}
        for number, wanted in enumerate(plan.part_wanted)
    ]
    return BackfillProgress(
        backfill_id=plan.backfill_id,
        job_id=job.job_id,
        connector_id=job.connector_id,
        symbol=job.symbol,
        timeframe=job.timeframe.name,
        start_ms=plan.start_ms,
        end_ms=plan.end_ms,
        status=None if parts else BackfillStatus.DONE,
        parts=parts,
        plan=_plan_document(plan),
        eta_s=plan.estimate.seconds if parts else 0.0,
        now_ms=plan.planned_ms,
    )


def _document(plan: BackfillPlan, parts: Sequence[Document]) -> Document:
    """The backfill's own; docs/state_machine.md shows one."""
    planned_at = to_datetime(plan.planned_ms)
    return {
        "_id": plan.backfill_id,
        **series_fields(plan.job),
        "connector_id": plan.job.connector_id,
        "job_id": plan.job.job_id,
        "start_at": to_datetime(plan.start_ms),
        "end_at": to_datetime(plan.end_ms),
        "status": BackfillStatus.ACTIVE.value,
        "is_paused_with_job": False,
        # Above those of all that were ordered before under this id: what somebody still does about them is late.
        "revision": plan.planned_ms,
        "is_carried_out": True,
        "decided_at": planned_at,
        "created_at": planned_at,
        "ended_at": None,
        "plan": _plan_document(plan),
        "parts": [summarize_part(part, part["wanted"]) for part in parts],
    }


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
    )
    return {
        **plan_job(new, job.exchange, load_spec(job.exchange), plan.planned_ms),
        "_id": f"{plan.backfill_id}:{number + 1}",
        "backfill_id": plan.backfill_id,
        "decision": plan.planned_ms,
        "wanted": plan.part_wanted[number],
    }


def _plan_document(plan: BackfillPlan) -> Document:
    """What is kept of the plan."""
    bound = plan.estimate.bound
    return {
        "counts": {state.value: count for state, count in plan.counts.items()},
        "requests": plan.estimate.requests,
        "weight": plan.estimate.weight,
        "expected_seconds": plan.estimate.seconds,
        "bound_by": None if bound is None else bound.value,
        "holes": [{"from": to_datetime(first_ms), "to": to_datetime(last_ms)} for first_ms, last_ms in plan.holes],
    }


def _pace_of(job: Document, now_ms: int) -> float | None:
    """Intervals a second that the part has asked for of late (`pace_stage`); None: it has not begun."""
    pace = job.get("pace")
    if pace is None or job["status"] != JobStatus.ACTIVE:
        return None
    return pace_per_s(job["totals"].get("asked", 0) - pace["from_asked"], now_ms - to_ms(pace["from_at"]))


def _count_all(job: Document) -> int:
    return TIMEFRAMES[job["timeframe"]].count(to_ms(job["start_at"]), to_ms(job["end_at"]))
