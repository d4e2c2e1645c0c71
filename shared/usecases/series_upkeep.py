"""What the edits of a job mean for its series: the ledger, the jobs that the series makes for itself, values made again."""

from dataclasses import dataclass

from pymongo.client_session import ClientSession

from shared.domain.coverage import merge_spans
from shared.domain.jobs import Job, JobKind, JobStatus
from shared.stores.candles import Series
from shared.stores.database import Document
from shared.stores.revisions import RevisionStore
from shared.usecases.keep_ledger import SeriesLedger
from shared.usecases.series_jobs import SeriesHelpers, helper_id, series_fields

_HELPERS = (JobKind.REPAIR, JobKind.ENRICH)


@dataclass(frozen=True, slots=True)
class SeriesUpkeep:
    """Each method runs in the transaction of the edit."""

    ledger: SeriesLedger
    helpers: SeriesHelpers
    revisions: RevisionStore

    def on_pause(self, document: Document, session: ClientSession) -> None:
        """A live job is paused: nothing more is asked for its series."""
        self._move_helpers(document, JobStatus.ACTIVE, JobStatus.PAUSED, session)

    def on_resume(self, document: Document, session: ClientSession) -> None:
        """A live job goes on."""
        self._move_helpers(document, JobStatus.PAUSED, JobStatus.ACTIVE, session)

    def on_new_indicators(self, document: Document, session: ClientSession) -> None:
        """The job's list is another one: all its candles get their values again."""
        job = Job.from_document(document)
        if job.cursor_ms is not None:
            self.helpers.want_enriching(job, job.start_ms, None, session)

    def on_delete(self, document: Document, session: ClientSession) -> None:
        """The job is gone and its candles stay: so does what it had asked for. Its series' last job takes the helpers along."""
        job = Job.from_document(document)
        series = Series(job.exchange, job.symbol, job.timeframe.name)
        if job.asked_span is not None:
            grid = job.timeframe
            spans = [tuple(map(grid.number, span)) for span in self.ledger.asked.read_asked(series.series_id, session)]
            merged = merge_spans([*((first, end) for first, end in spans), job.asked_span])
            kept = [(grid.open_at(first), grid.open_at(end)) for first, end in merged]
            self.ledger.asked.write_asked(series.series_id, kept, session)
        keeping = self.ledger.series_jobs.list_keeping(series_fields(job), session)
        connectors = [other["connector_id"] for other in keeping if other["_id"] != job.job_id]
        helper_ids = [helper_id(job, kind) for kind in _HELPERS]
        if not connectors:
            self.ledger.series_jobs.delete(helper_ids, session)
            return
        # A pause that was the live job's ends with it.
        self.on_resume(document, session)
        if job.connector_id not in connectors:
            # Else the connector could not be deleted for them.
            self.ledger.series_jobs.reassign(helper_ids, connectors[0], session)

    def on_drop(self, document: Document, session: ClientSession) -> None:
        """The candles go: nothing is known of the series any more."""
        job = Job.from_document(document)
        series_id = Series(job.exchange, job.symbol, job.timeframe.name).series_id
        self.ledger.coverage.drop(series_id, session)
        self.ledger.asked.drop(series_id, session)
        self.revisions.drop(series_id, session)
        self.ledger.series_jobs.delete([helper_id(job, kind) for kind in _HELPERS], session)

    def _move_helpers(self, document: Document, before: JobStatus, after: JobStatus, session: ClientSession) -> None:
        if document["kind"] == JobKind.LIVE:
            job = Job.from_document(document)
            ids = [helper_id(job, kind) for kind in _HELPERS]
            self.ledger.series_jobs.move(ids, before.value, after.value, session)
