"""What the edits of a job mean for its series: the ledger, the jobs that the series makes for itself, values made again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pymongo.client_session import ClientSession

from shared.domain.backfills import BackfillStatus
from shared.domain.coverage import merge_spans
from shared.domain.indicator_lists import IndicatorList, extend_fields, give_meanings
from shared.domain.jobs import Job, JobKind, JobStatus
from shared.stores.backfills import BackfillStore, summarize_part
from shared.stores.candles import Series
from shared.stores.database import Document
from shared.stores.revisions import RevisionStore
from shared.usecases.keep_ledger import SeriesLedger, disputed_subject
from shared.usecases.plan_jobs import plan_list
from shared.usecases.series_jobs import SeriesHelpers, helper_ids, history_id, series_fields

# A backfill as it was before an edit of its live job, and as it is after it; None: it is gone.
Decided: TypeAlias = tuple[Document, Document | None]


@dataclass(frozen=True, slots=True)
class SeriesUpkeep:
    """Each method runs in the transaction of the edit."""

    ledger: SeriesLedger
    helpers: SeriesHelpers
    revisions: RevisionStore
    backfills: BackfillStore

    def on_pause(self, document: Document, session: ClientSession) -> list[Decided]:
        """A live job is paused: nothing more is asked for its series. A backfill is: what is behind it waits no longer.

        Returns the ordered backfills that are paused with it, as they were and are; to be carried out after the commit.
        """
        self._move_helpers(document, JobStatus.ACTIVE, JobStatus.PAUSED, session)
        self.leave(document, session)
        with_job = {"is_paused_with_job": True}
        return [
            (before, self.backfills.decide(before["_id"], BackfillStatus.PAUSED, session, with_job))
            for before in self._ordered_for(document, {"status": BackfillStatus.ACTIVE.value}, session)
        ]

    def on_resume(self, document: Document, session: ClientSession) -> list[Decided]:
        """A live job goes on, and so do the backfills that were paused with it, which are returned as by `on_pause`."""
        self._move_helpers(document, JobStatus.PAUSED, JobStatus.ACTIVE, session)
        paused = {"status": BackfillStatus.PAUSED.value, "is_paused_with_job": True}
        return [
            (before, self.backfills.decide(before["_id"], BackfillStatus.ACTIVE, session))
            for before in self._ordered_for(document, paused, session)
        ]

    def set_list(
        self, job: Job, wanted: IndicatorList, asked: IndicatorList, session: ClientSession, *, is_made: bool = False
    ) -> bool:
        """Give the series another list of indicators, of which `asked` were named. Returns whether it had another one.

        `is_made`: the job is being made, and has not read any list yet.

        All of its candles get their values again then, whoever has stored them, and no run that has begun stores values of the
        old one for good.

        Raises:
            InvalidRequest: a label has stood for another indicator in the candles.
        """
        series, store = Series.of(job), self.helpers.series
        known = store.read_list(series, session)
        if wanted == known:
            store.note_change(series.series_id, session)
            return False
        first_ms = self.helpers.candles.find_next_open(series, -1, session)
        # Without candles a label has not stood for anything. What is on its way is computed anew.
        fields = {} if first_ms is None else extend_fields(store.read_fields(series, session), known)
        keeping = self.helpers.series_jobs.list_keeping(series.named, session)
        jobs = [Job.from_document(each) for each in keeping]
        backfills = [each for each in jobs if each.kind is JobKind.BACKFILL and not (is_made and each.job_id == job.job_id)]
        store.write_list(series, wanted, give_meanings(fields, wanted, asked), session, is_untold=bool(backfills))
        self.helpers.series_jobs.tell_live(series.named, session)
        if first_ms is None:
            # A backfill may be about to store the first candle, with the values of the old list.
            first_ms = min((each.start_ms for each in backfills), default=None)
        self._want_all(job, first_ms, session)
        return True

    def on_create(self, document: Document, asked: IndicatorList | None, session: ClientSession) -> None:
        """A job that asks for these indicators (None: it names none), perhaps over candles that are there already.

        Where no job has kept them any more, what was still to be done for them went with the last one. So all values are
        computed again, which writes those that are other ones, and what the ledger says is missing is asked for again.

        Raises:
            InvalidRequest: the indicators do not go with those that the series has.
        """
        job, jobs = Job.from_document(document), self.helpers.series_jobs
        series = Series.of(job)
        others = [each for each in jobs.list_keeping(series.named, session) if each["_id"] != job.job_id]
        if others and asked is None:
            # A change of the list at the same time would not see this job.
            self.helpers.series.note_change(series.series_id, session)
            return
        known = self.helpers.series.read_list(series, session) if others else None
        is_other = self.set_list(job, plan_list(known, asked), asked or [], session, is_made=True)
        if others:
            return
        if not is_other:
            self._want_all(job, self.helpers.candles.find_next_open(series, -1, session), session)
        spans = self.ledger.repair_spans(series, session)
        if spans:
            start_ms, end_ms = job.timeframe.open_at(spans[0][0]), job.timeframe.open_at(spans[-1][1])
            self.helpers.want_repair(job, start_ms, end_ms, session)

    def _want_all(self, job: Job, first_ms: int | None, session: ClientSession) -> None:
        """All values of the series are to be computed again, from its first candle on; None: there is none."""
        if first_ms is not None:
            self.helpers.want_enriching(job, first_ms, None, session)

    def on_delete(self, document: Document, session: ClientSession) -> list[Decided]:
        """The job is gone and its candles stay: so does what it had asked for. Its series' last job takes the helpers along.

        A live job takes its history job along in any case, and the backfills that were ordered for it, which are returned as by
        `on_pause`.
        """
        job = Job.from_document(document)
        backfills = self._backfills_of(job, session)
        cancelled: list[Decided] = []
        for before in self._ordered_for(document, {"ended_at": None}, session):
            parts = [each for each in backfills if each.get("backfill_id") == before["_id"]]
            summaries = [summarize_part(each, self.ledger.count_left(each)) for each in parts]
            self.backfills.end(before["_id"], BackfillStatus.CANCELLED, summaries, session)
            cancelled.append((before, self.backfills.find(before["_id"], session)))
        self._keep_asked([job], session)
        self.remove_parts(backfills, session)
        self.leave(document, session)
        keeping = self.ledger.series_jobs.list_keeping(series_fields(job), session)
        connectors = [other["connector_id"] for other in keeping if other["_id"] != job.job_id]
        if not connectors:
            self.ledger.series_jobs.delete(helper_ids(job), session)
            # Nobody asks for its candles any more, or computes anything.
            self.helpers.series.clear_stale(Series.of(job).series_id, session)
            self.ledger.alerts.resolve(disputed_subject(Series.of(job)), session)
            return cancelled
        # A pause that was the live job's ends with it.
        self._move_helpers(document, JobStatus.PAUSED, JobStatus.ACTIVE, session)
        if job.connector_id not in connectors:
            # Else the connector could not be deleted for them.
            self.ledger.series_jobs.reassign(helper_ids(job), connectors[0], session)
        return cancelled

    def remove_parts(self, documents: Sequence[Document], session: ClientSession) -> None:
        """Remove jobs of backfills; what they have stored stays, and what they had asked for stays known."""
        for document in documents:
            self.leave(document, session)
            self.resolve_alerts(document["_id"], session)
        self.ledger.series_jobs.delete([document["_id"] for document in documents], session)
        self._keep_asked([Job.from_document(document) for document in documents], session)

    def _keep_asked(self, jobs: list[Job], session: ClientSession) -> None:
        """What they had asked for stays known."""
        spans = [job.asked_span for job in jobs if job.asked_span is not None]
        if not spans:
            return
        grid = jobs[0].timeframe
        series_id = Series(jobs[0].exchange, jobs[0].symbol, grid.name).series_id
        for start_ms, end_ms in self.ledger.asked.read_asked(series_id, session):
            spans.append((grid.number(start_ms), grid.number(end_ms)))
        kept = [(grid.open_at(first), grid.open_at(end)) for first, end in merge_spans(spans)]
        self.ledger.asked.write_asked(series_id, kept, session)

    def on_drop(self, document: Document, session: ClientSession) -> list[Decided]:
        """The candles go, and the backfills that a live job takes along, which are returned: nothing is known of the series."""
        job = Job.from_document(document)
        series_id = Series.of(job).series_id
        self.ledger.coverage.drop(series_id, session)
        self.ledger.alerts.resolve(disputed_subject(Series.of(job)), session)
        self.ledger.asked.drop(series_id, session)
        self.revisions.drop(series_id, session)
        tasks = [*helper_ids(job), history_id(job), *(each["_id"] for each in self._backfills_of(job, session))]
        for task_id in tasks:
            self.resolve_alerts(task_id, session)
        self.ledger.series_jobs.delete(tasks, session)
        gone = self._ordered_for(document, {}, session)
        self.backfills.delete([before["_id"] for before in gone], session)
        return [(before, None) for before in gone]

    def resolve_alerts(self, job_id: str, session: ClientSession) -> None:
        """Those of one job: that it has stopped, and that candles of its range are lost."""
        for subject in (f"jobs/{job_id}", f"jobs/{job_id}/history"):
            self.ledger.alerts.resolve(subject, session)

    def list_others(self, document: Document, session: ClientSession) -> list[str]:
        """Ids of the jobs that keep the same series and do not go with this one."""
        job = Job.from_document(document)
        own = {job.job_id, history_id(job), *(each["_id"] for each in self._backfills_of(job, session))}
        keeping = self.ledger.series_jobs.list_keeping(series_fields(job), session)
        return sorted(each["_id"] for each in keeping if each["_id"] not in own)

    def _move_helpers(self, document: Document, before: JobStatus, after: JobStatus, session: ClientSession) -> None:
        if document["kind"] != JobKind.LIVE:
            return
        job = Job.from_document(document)
        history = self.ledger.series_jobs.read(history_id(job), session)
        ids = [*helper_ids(job), history_id(job)]
        self.ledger.series_jobs.move(ids, before.value, after.value, session)
        if history is not None and after is JobStatus.PAUSED:
            self.leave(history, session)

    def _ordered_for(self, document: Document, condition: Document, session: ClientSession) -> list[Document]:
        """The backfills that were ordered for a live job, those that meet the condition."""
        job = Job.from_document(document)
        if job.kind is not JobKind.LIVE:
            return []
        return self.backfills.list_of({**series_fields(job), "connector_id": job.connector_id, **condition}, session)

    def _backfills_of(self, job: Job, session: ClientSession) -> list[Document]:
        """Of a live job: its history job, and the parts of backfills that were ordered by its connector."""
        if job.kind is not JobKind.LIVE:
            return []
        keeping = self.ledger.series_jobs.list_keeping(series_fields(job), session)
        return [each for each in keeping if each["_id"] == history_id(job) or _is_ordered_by(each, job)]

    def leave(self, document: Document, session: ClientSession) -> None:
        """A backfill that is not done stores nothing more, for now or ever."""
        if document["kind"] == JobKind.BACKFILL and document["status"] != JobStatus.DONE:
            job = Job.from_document(document)
            self.helpers.note_left(job, job.cursor_ms, session)


def _is_ordered_by(document: Document, job: Job) -> bool:
    """Whether it is a chunk of a backfill that was ordered for that live job; another connector's are for its own."""
    return "backfill_id" in document and bool(document["connector_id"] == job.connector_id)
