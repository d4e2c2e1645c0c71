"""The jobs that a series makes for itself: one asks again for what is missing, one computes again what has become stale."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from pymongo.client_session import ClientSession

from shared.domain.backfills import BackfillStatus
from shared.domain.jobs import PRIORITIES, Job, JobKind, JobStatus, to_datetime
from shared.domain.timeframes import TIMEFRAMES
from shared.errors import Conflict
from shared.stores.backfills import BackfillStore, summarize_part
from shared.stores.candles import CandleStore, Series
from shared.stores.database import Document
from shared.stores.series import ListState, SeriesStore
from shared.stores.series_jobs import SeriesJobs

# What is missing is asked for again after this long: an exchange that is behind needs minutes, not seconds.
REPAIR_APART_MS: Final = 600_000
# Changes come in groups (the pages of a repair): what depends on them is computed again once.
ENRICH_DELAY_MS: Final = 2_000
# Later than any candle.
FOREVER_MS: Final = 2**47


def series_fields(job: Job) -> Document:
    """What names a job's series among all jobs."""
    return {"exchange": job.exchange, "symbol": job.symbol, "timeframe": job.timeframe.name}


def helper_id(job: Job, kind: JobKind) -> str:
    """Id of the repair or enrich job of the series that a job keeps: `binance:BTC-USDT:1m:repair`.

    By the exchange and not by the connector: two at work on one series' values would overwrite each other's.
    """
    return f"{Series.of(job).series_id}:{kind.value}"


def helper_ids(job: Job) -> list[str]:
    """Ids of both."""
    return [helper_id(job, kind) for kind in (JobKind.REPAIR, JobKind.ENRICH)]


def history_id(job: Job) -> str:
    """Id of the backfill of what a series' live job has passed over: `binance:BTC-USDT:1m:history`."""
    return f"{Series.of(job).series_id}:history"


def helper_document(job: Job, kind: JobKind, start_ms: int, end_ms: int) -> Document:
    """The repair or enrich job of the series that `job` keeps, because of a stretch of it; its other times are the store's."""
    return {
        "_id": helper_id(job, kind),
        "connector_id": job.connector_id,
        **series_fields(job),
        "kind": kind.value,
        "status": JobStatus.ACTIVE.value,
        "priority": PRIORITIES[kind],
        "start_at": to_datetime(start_ms),
        "end_at": to_datetime(end_ms),
        "history_start_at": None,
        "run_requested": False,
        "cursor": {"last_ts": None},
        "lock": {"fence": 0},
        "abandoned": [],
        "attempt": 0,
        "last_error": None,
        "overlap": 0,
        "totals": {},
        "revision": 1,
    }


def is_task(document: Document) -> bool:
    """Whether a job is the series' own, or a part of a backfill, and none that somebody has made."""
    is_own = document["kind"] in (JobKind.REPAIR, JobKind.ENRICH) or document["_id"].endswith(":history")
    return is_own or "backfill_id" in document


def with_list(document: Document, listed: ListState) -> Document:
    """A job as people know it: with the indicators of its series, whose changes count in its revision."""
    return {**document, "indicators": listed.indicators, "revision": document["revision"] + listed.revision}


def refuse_chunk(document: Document, instead: str) -> None:
    """A part of a backfill stays as it was ordered, or what is told of the whole is not true any more. Raises Conflict."""
    if "backfill_id" in document:
        raise Conflict(f"job {document['_id']} is a chunk of backfill {document['backfill_id']}; {instead}")


@dataclass(frozen=True, slots=True)
class SeriesHelpers:
    """Wakes them, in the transaction that makes them needed."""

    series_jobs: SeriesJobs
    candles: CandleStore
    series: SeriesStore
    backfills: BackfillStore

    def want_repair(self, job: Job, start_ms: int, end_ms: int, session: ClientSession) -> None:
        """Intervals of [start_ms, end_ms) are missing."""
        self.series_jobs.wake(helper_document(job, JobKind.REPAIR, start_ms, end_ms), REPAIR_APART_MS, session)

    def want_history(self, job: Job, start_ms: int, end_ms: int, session: ClientSession) -> None:
        """A live job has passed over [start_ms, end_ms): the history job asks for what of it is not there."""
        document = {**helper_document(job, JobKind.BACKFILL, start_ms, end_ms), "_id": history_id(job)}
        self.series_jobs.extend_history(document, session)

    def take_turn(self, job: Job, session: ClientSession) -> None:
        """For the end of a backfill and the first page of a stretch behind: of two at once, each would not see the other's."""
        self.series.note_change(Series.of(job).series_id, session)

    def note_left(self, job: Job, cursor_ms: int | None, session: ClientSession) -> None:
        """A backfill stores nothing more, for now or ever: what is behind it may have been computed without its candles.

        Not told at each of its pages: they would keep a live job's pages from landing, to be computed again each time. And
        live jobs only: what is not a live job's looks by itself for candles that were stored before it meanwhile.
        """
        self.take_turn(job, session)
        start_ms = job.start_ms - 1 if cursor_ms is None else cursor_ms
        live = {**series_fields(job), "kind": JobKind.LIVE.value}
        self.series_jobs.next_epoch(live, job.start_ms, job.job_id, session)
        next_ms = self.candles.find_next_open(Series.of(job), start_ms, session)
        if next_ms is not None:
            self.want_enriching(job, next_ms, next_ms, session)

    def is_stopped(self, document: Document) -> bool:
        """Whether the job is a part of a backfill that is not to go on, of which it need not have been told yet.

        Who tells it waits for the job's document, which a backfill at full speed holds for most of the time.
        """
        return "backfill_id" in document and self.backfills.is_stopped(document["backfill_id"])

    def note_part_done(self, document: Document, status: str, session: ClientSession) -> None:
        """The run of a part ends with this status, behind the turn that `note_left` takes: of two at once the later one sees

        that all are done.
        """
        if "backfill_id" not in document or status != JobStatus.DONE:
            return
        backfill_id = document["backfill_id"]
        parts = self.backfills.list_parts(backfill_id, session)
        if all(part["status"] == JobStatus.DONE for part in parts):
            self.backfills.end(backfill_id, BackfillStatus.DONE, [summarize_part(part, 0) for part in parts], session)

    def note_codes(self, job: Job, end_ms: int, session: ClientSession) -> None:
        """The ledger speaks of intervals before `end_ms`: a live job that has not come there looks at it when it does."""
        self.series_jobs.raise_codes_until(series_fields(job), end_ms, job.job_id, session)

    def note_revised(self, job: Job, session: ClientSession) -> None:
        """Stored candles have changed together with their values."""
        self.series.touch_stale(Series.of(job).series_id, session)

    def note_page(self, job: Job, start_ms: int, session: ClientSession) -> None:
        """Candles from there on were stored by a job that does not follow the market: others may have read what was there.

        What a backfill stores they are told when it ends (`note_left`).
        """
        if job.kind is not JobKind.BACKFILL:
            self.series_jobs.next_epoch(series_fields(job), start_ms, job.job_id, session)

    def count_stale(self, series: Series) -> int:
        """How many candles of a series may get other values, at most: from the first that has changed to the last.

        Told from where they begin and end and from how many there are in all: to count a million takes a second.
        """
        stretches, grid = self.series.read_stale(series).stretches, TIMEFRAMES[series.timeframe]
        bounds = self.candles.find_bounds(series, stretches[0][0], FOREVER_MS) if stretches else None
        if bounds is None:
            return 0
        return min(grid.count(bounds[0], grid.close(bounds[1])), self.candles.estimate_count(series))

    def count_stale_by_exchange(self, series_max: int) -> Counter[str]:
        """The same summed over the first so many series that are stale."""
        counts: Counter[str] = Counter()
        for series in self.series.list_stale(series_max):
            counts[series.exchange] += self.count_stale(series)
        return counts

    def want_enriching(self, job: Job, start_ms: int, end_ms: int | None, session: ClientSession) -> None:
        """Candles of [start_ms, end_ms) have changed (None: to the end): what depends on them is stale from there on.

        An empty stretch means that something before it has changed, which the values in it were computed without.
        """
        document = helper_document(job, JobKind.ENRICH, start_ms, start_ms if end_ms is None else end_ms)
        self.series_jobs.wake(document, ENRICH_DELAY_MS, session)
        self.series.add_stale(Series.of(job).series_id, start_ms, end_ms, session)
