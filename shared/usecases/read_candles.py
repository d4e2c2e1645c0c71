"""Read the stored candles of a job, a stretch of time at once."""

from dataclasses import dataclass

from shared.domain.jobs import Job, to_ms
from shared.errors import InvalidRequest
from shared.stores.candles import CandleStore, Series
from shared.stores.database import Document
from shared.stores.jobs import JobStore

# The end of the year 9999, which is as far as dates go.
LATEST_MS = 253_402_300_799_999


@dataclass(frozen=True, slots=True)
class CandlePage:
    """Candle documents in order of time; `next_start_ms` (UTC) is where the next page begins, None: that was all."""

    documents: list[Document]
    next_start_ms: int | None


@dataclass(frozen=True, slots=True)
class CandleReader:
    """Reads by job."""

    jobs: JobStore
    candles: CandleStore

    def read(self, job_id: str, start_ms: int | None, end_ms: int | None, limit: int) -> CandlePage:
        """Candles with start <= open time < end; by default over the job's own range.

        Raises:
            NotFound: no such job.
            InvalidRequest: the start is not before the end.
        """
        job = Job.from_document(self.jobs.get(job_id))
        if start_ms is not None and end_ms is not None and start_ms >= end_ms:
            raise InvalidRequest.for_field("start", "has to be before end")
        first_ms = job.start_ms if start_ms is None else start_ms
        last_ms = LATEST_MS if job.end_ms is None else job.end_ms
        series = Series(job.exchange, job.symbol, job.timeframe.name)
        # One more than asked for says whether there are more.
        found = list(self.candles.iterate_documents(series, first_ms, last_ms if end_ms is None else end_ms, limit + 1))
        next_start_ms = to_ms(found[limit]["_id"]) if len(found) > limit else None
        return CandlePage(found[:limit], next_start_ms)
