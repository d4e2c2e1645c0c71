"""Make, change, run, pause, resume and delete jobs, each change with its audit entry in one transaction."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pymongo.client_session import ClientSession

from shared.deadline import Deadline
from shared.domain.connectors import Connector
from shared.domain.indicator_lists import IndicatorList
from shared.domain.indicators import resolve_indicators
from shared.domain.jobs import Job, JobStatus, to_datetime
from shared.domain.slots import pause_ledger, resume_ledger
from shared.errors import Conflict, InvalidRequest, NotFound, PlatformError
from shared.exchanges.catalog import load_spec
from shared.stores.alerts import AlertStore
from shared.stores.audit_log import AuditLog
from shared.stores.candles import CandleStore, Series
from shared.stores.connector_holds import ConnectorHolds
from shared.stores.connectors import ConnectorStore
from shared.stores.database import Database, Document, storage_errors
from shared.stores.jobs import JobStore, changed_by_others
from shared.telemetry import event
from shared.usecases.ask_exchange import ExchangeDesk
from shared.usecases.plan_jobs import NewJob, plan_end, plan_job
from shared.usecases.record_changes import Author, record_change
from shared.usecases.series_jobs import is_task, refuse_chunk, series_fields, with_list
from shared.usecases.series_upkeep import Decided, SeriesUpkeep
from shared.usecases.steer_backfills import BackfillSteering

# Each look at a series' ledger reads all its jobs.
SERIES_JOBS_MAX: Final = 200
# A deletion that is not finished after this long was somebody's who is gone. (Who still was at it would drop the candles of a
# job that is made again; the command that drops them gives up after ten seconds.)
LEFT_MS: Final = 60_000
# For so long a tick finishes deletions.
LEFT_S_MAX: Final = 3.0
# So many of the jobs that stand in the way are named.
JOBS_NAMED_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class JobChanges:
    """What a caller changes; None: as it is."""

    indicators: tuple[Mapping[str, Any], ...] | None = None
    overlap: int | None = None
    priority: int | None = None
    end_ms: int | None = None


@dataclass(frozen=True, slots=True)
class JobManager:
    """The edits of jobs. `revision` None: whatever it is now. It counts changes of the series' list too, whoever made them."""

    database: Database
    connectors: ConnectorStore
    holds: ConnectorHolds
    jobs: JobStore
    candles: CandleStore
    alerts: AlertStore
    audit_log: AuditLog
    upkeep: SeriesUpkeep
    desk: ExchangeDesk
    steering: BackfillSteering

    def create(self, new: NewJob, author: Author) -> Document:
        """A new job, due at once unless paused. The exchange is asked whether it has the symbol before anything is stored.

        Raises:
            InvalidRequest: connector, symbol, timeframe, indicators, kind or range; names the field.
            Conflict: the job is there already.
            RateLimitReached, ExchangeError: the exchange could not be asked; nothing was stored.
        """
        connector = self._connector_of(new)
        spec = load_spec(connector.exchange)
        document = plan_job(new, connector.exchange, spec, self.database.server_now_ms())
        if self.jobs.count({"_id": document["_id"]}):
            raise Conflict(f"job {document['_id']} exists already", job_id=document["_id"])
        self._check_market(connector, new.symbol)

        self.database.transact(lambda session: self.insert_within(document, author, session, new.asked_list()))
        return document

    def insert_within(
        self, document: Document, author: Author, session: ClientSession, asked: IndicatorList | None = None
    ) -> None:
        """Store a planned job that asks for these indicators, in a transaction. None: for those that the series has.

        Raises InvalidRequest if its connector is gone, or the indicators do not go with the series'; Conflict as `create`.
        """
        try:
            self.holds.share(document["connector_id"], session)
            self.connectors.get(document["connector_id"], session)
        except NotFound as exc:
            raise InvalidRequest.for_field("connector_id", exc.message) from exc
        series = series_fields(Job.from_document(document))
        if self.jobs.count({**series, "is_retiring": True}, session):
            raise Conflict("the candles of this series are being deleted; try again when that is done")
        if self.jobs.count(series, session) >= SERIES_JOBS_MAX:
            raise Conflict(f"the series has {SERIES_JOBS_MAX} jobs; delete backfills that are done (their candles stay)")
        self.jobs.insert(document, session)
        self.upkeep.on_create(document, asked, session)
        # A part of a backfill is in the entry of that.
        if not is_task(document):
            self._record(author, "create", document["_id"], None, document, session)

    def patch(self, job_id: str, changes: JobChanges, revision: int | None, author: Author) -> Document:
        """Change overlap, priority, or the end of a backfill; a later end makes one that is done active again.

        Also the indicators, which are the series': for all of its jobs, and for all that is stored.

        Raises:
            Conflict: indicators or an end for a task of the series.
            InvalidRequest, NotFound, PreconditionFailed.
        """
        fields: Document = {}
        wanted = changes.indicators
        listed = [] if wanted is None else [spec.to_document() for spec in resolve_indicators(wanted)]
        if changes.overlap is not None:
            fields["overlap"] = changes.overlap
        if changes.priority is not None:
            fields["priority"] = changes.priority
        if not fields and wanted is None and changes.end_ms is None:
            raise InvalidRequest("nothing to change: the body is empty")

        def write(session: ClientSession) -> Document:
            before = self._get_to_edit(job_id, session)
            if changes.end_ms is not None:
                refuse_chunk(before, "order another backfill for what is behind it")
            if wanted is not None and is_task(before):
                raise Conflict(f"job {job_id} is a task of its series; change the indicators at a job that somebody has made")
            moved = {} if changes.end_ms is None else plan_end(before, changes.end_ms)
            after = self.jobs.update(job_id, self._own_revision(before, revision, session), {**fields, **moved}, session)
            shown = self._shown(before, session)
            if wanted is not None:
                self.upkeep.set_list(Job.from_document(after), listed, listed, session)
            if after["status"] != before["status"]:
                after = self.jobs.make_due(job_id, session)
            self._record(author, "patch", job_id, shown, after, session)
            return after

        return self.database.transact(write)

    def delete(self, job_id: str, revision: int | None, author: Author, *, with_candles: bool) -> None:
        """Remove a job; a run on its way can write nothing more. The candles stay unless they are to go too.

        With its candles it is one decision, which stands once it is made, whoever else changes the job (`finish_deletion`).

        Raises:
            Conflict: the candles are to go, but another job keeps the same series.
            NotFound, PreconditionFailed: nothing was changed.
        """

        def write(session: ClientSession) -> Document | None:
            if with_candles:
                return self._retire(job_id, revision, listed, author, session)
            document = self.jobs.get(job_id, session)
            refuse_chunk(document, "cancel that")
            # What is decided already is finished by whoever has decided it, or by a tick.
            if not document.get("is_retiring"):
                self.delete_within(document, author, session, self._own_revision(document, revision, session))
            return None

        listed = 0 if revision is None else self._list_revision(self.jobs.get(job_id))

        retired = self.database.transact(write)
        if retired is not None:
            self._finish_deletion(retired)

    def _finish_deletion(self, document: Document) -> None:
        """Let the candles go, then the job that was decided to go with them. For who has decided that, or has taken it over.

        Were it the other way round, a job made again meanwhile would lose its first candles and not know it.
        """
        job_id = document["_id"]
        series = Series(document["exchange"], document["symbol"], document["timeframe"])
        self.candles.drop(series)
        # Instances that have seen the collection do not ask again; it must not come back unclustered.
        self.candles.ensure_collection(series)

        def write(session: ClientSession) -> None:
            retired = self.jobs.get(job_id, session)
            if not retired.get("is_retiring"):
                return
            self.jobs.delete(job_id, None, session)
            self.upkeep.on_delete(retired, session)
            self.upkeep.resolve_alerts(job_id, session)

        # Another one that finishes it at the same time has done all of this.
        with suppress(NotFound):
            self.database.transact(write)

    def finish_deletions_left(self) -> None:
        """Those whose author has died after the decision, as many as there is time for."""
        before = to_datetime(self.database.server_now_ms() - LEFT_MS)
        deadline = Deadline.after(LEFT_S_MAX)
        while deadline.remaining_ms() > 0 and (document := self.jobs.take_retiring(before)) is not None:
            try:
                with storage_errors():
                    self._finish_deletion(document)
            except PlatformError as exc:
                event("deletion_not_finished", "WARNING", job_id=document["_id"], error=exc.message)
            else:
                event("deletion_finished", "NOTICE", job_id=document["_id"])

    def delete_within(self, document: Document, author: Author, session: ClientSession, revision: int | None = None) -> None:
        """Remove a job and what it takes along, and leave its candles, in a transaction. Raises as `delete`."""
        self.jobs.delete(document["_id"], revision, session)
        self._record_backfills(author, "cancel", self.upkeep.on_delete(document, session), session)
        self._note_gone(document, author, "delete", session)

    def _note_gone(self, document: Document, author: Author, verb: str, session: ClientSession) -> None:
        self.upkeep.resolve_alerts(document["_id"], session)
        self._record(author, verb, document["_id"], document, None, session)

    def _retire(
        self, job_id: str, revision: int | None, listed: int, author: Author, session: ClientSession
    ) -> Document | None:
        """Decide that the job goes with its candles: no run is under way from then on, and nothing of the series is known.

        `listed`: so much of the revision is the list's. Returns the job as it was; None: that was decided before.
        """
        before = self.jobs.retire(job_id, None if revision is None else revision - listed, session)
        if revision is not None and self._list_revision(before, session) != listed:
            raise changed_by_others(job_id)
        refuse_chunk(before, "cancel that")
        before = self._shown(before, session)
        if before.get("is_retiring"):
            return None
        # No job of the series is made at the same time, by whichever connector.
        for connector_id in self.connectors.list_ids(before["exchange"], session):
            self.holds.exclude(connector_id, session)
        if others := self.upkeep.list_others(before, session):
            raise Conflict(
                f"{', '.join(others[:JOBS_NAMED_MAX])} keep the candles too; delete them first, or leave the candles"
            )
        self._record_backfills(author, "forget", self.upkeep.on_drop(before, session), session)
        self._note_gone(before, author, "delete_with_candles", session)
        return before

    def _get_to_edit(self, job_id: str, session: ClientSession) -> Document:
        """Raises NotFound, and Conflict where it is decided that the job goes."""
        document = self.jobs.get(job_id, session)
        if document.get("is_retiring"):
            raise Conflict(f"job {job_id} is being deleted with its candles")
        return document

    def run_now(self, job_id: str, author: Author) -> Document:
        """Make an active job due. Raises NotFound, and Conflict where it is not active."""

        def write(session: ClientSession) -> Document:
            before = self._get_to_edit(job_id, session)
            after = self.jobs.make_due(job_id, session)
            self._record(author, "run", job_id, before, after, session)
            return after

        return self.database.transact(write)

    def pause(self, job_id: str, revision: int | None, author: Author) -> Document:
        """Keep an active job from running; a run on its way ends with its page, that of a backfill without it.

        Raises:
            Conflict: it is in error or done, so there is nothing to pause.
            NotFound, PreconditionFailed.
        """
        now_ms = self.database.server_now_ms()

        def write(session: ClientSession) -> tuple[Document, list[Decided]]:
            before = self._get_to_edit(job_id, session)
            refuse_chunk(before, "pause that")
            status, own = before["status"], self._own_revision(before, revision, session)
            if status == JobStatus.PAUSED and own in (None, before["revision"]):
                return before, []
            if status not in (JobStatus.ACTIVE, JobStatus.PAUSED):
                raise Conflict(f"job {job_id} is {status}; only an active job can be paused")
            passed = pause_ledger(before, self.connectors.get_connector(before["connector_id"]), now_ms)
            after = self.jobs.update(job_id, own, {"status": JobStatus.PAUSED.value, **passed}, session)
            backfills = self.upkeep.on_pause(before, session)
            self._record(author, "pause", job_id, before, after, session)
            self._record_backfills(author, "pause", backfills, session)
            return after, backfills

        return self._carried_out(*self.database.transact(write))

    def resume(self, job_id: str, revision: int | None, author: Author) -> Document:
        """Let a paused job run again, or one in error try anew: failures forgotten, its alert resolved, due now.

        Raises:
            Conflict: it is done; nothing is left to run.
            NotFound, PreconditionFailed.
        """
        now_ms = self.database.server_now_ms()

        def write(session: ClientSession) -> tuple[Document, list[Decided]]:
            before = self._get_to_edit(job_id, session)
            refuse_chunk(before, "resume that")
            own = self._own_revision(before, revision, session)
            if before["status"] == JobStatus.ACTIVE and own in (None, before["revision"]):
                return before, []
            if before["status"] == JobStatus.DONE:
                raise Conflict(f"job {job_id} is done; give it a later end_at to go on")
            fresh = {
                "status": JobStatus.ACTIVE.value,
                "attempt": 0,
                "last_error": None,
                "pace": None,
                **resume_ledger(before, now_ms),
            }
            self.jobs.update(job_id, own, fresh, session)
            backfills = self.upkeep.on_resume(before, session)
            self.upkeep.resolve_alerts(job_id, session)
            after = self.jobs.make_due(job_id, session)
            self._record(author, "resume", job_id, before, after, session)
            self._record_backfills(author, "resume", backfills, session)
            return after, backfills

        return self._carried_out(*self.database.transact(write))

    def _carried_out(self, document: Document, backfills: Sequence[Decided]) -> Document:
        """The backfills that were paused or resumed with the job follow; what is left of that when we die, a tick does."""
        for before, _ in backfills:
            self.steering.follow(before["_id"])
        return document

    def _record_backfills(self, author: Author, verb: str, backfills: Sequence[Decided], session: ClientSession) -> None:
        """What an edit of their live job means for backfills is in the audit log under their own names."""
        for before, after in backfills:
            target = f"backfills/{before['_id']}"
            record_change(self.audit_log, author, f"backfill.{verb}", target, before=before, after=after, session=session)

    def _shown(self, document: Document, session: ClientSession) -> Document:
        """The job as people know it (`with_list`)."""
        if is_task(document) or "indicators" in document:
            return document
        return with_list(document, self.upkeep.helpers.series.read_state(Series.of(Job.from_document(document)), session))

    def _list_revision(self, document: Document, session: ClientSession | None = None) -> int:
        return self.upkeep.helpers.series.read_state(Series.of(Job.from_document(document)), session).revision

    def _own_revision(self, document: Document, revision: int | None, session: ClientSession) -> int | None:
        """What of an expected revision is the job's own; the rest of it has to be that of the series' list."""
        if revision is None or is_task(document):
            return revision
        return revision - self._list_revision(document, session)

    def _connector_of(self, new: NewJob) -> Connector:
        try:
            return self.connectors.get_connector(new.connector_id)
        except NotFound as exc:
            raise InvalidRequest.for_field("connector_id", exc.message) from exc

    def _check_market(self, connector: Connector, symbol: str) -> None:
        market = self.desk.find_market(connector, symbol)
        if market is None:
            where = f"GET /v1/connectors/{connector.connector_id}/symbols"
            raise InvalidRequest.for_field("symbol", f"{connector.exchange} has no {symbol}; its symbols are at {where}")
        if not market.is_active:
            raise InvalidRequest.for_field("symbol", f"{symbol} is not traded on {connector.exchange} now")

    def _record(
        self, author: Author, verb: str, job_id: str, before: Document | None, after: Document | None, session: ClientSession
    ) -> None:
        target = f"jobs/{job_id}"
        before, after = (None if each is None else self._shown(each, session) for each in (before, after))
        record_change(self.audit_log, author, f"job.{verb}", target, before=before, after=after, session=session)
