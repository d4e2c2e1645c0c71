"""What is known of every interval of a job's series: stored, no trades, pending, missing, or beyond the exchange's history."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shared.domain.coverage import IntervalState, Run, count_states
from shared.domain.jobs import Job
from shared.domain.timeframes import IntArray, Timeframe
from shared.errors import InvalidRequest
from shared.exchanges.spec import ExchangeSpec
from shared.stores.candles import CandleStore, Series
from shared.stores.database import Database
from shared.stores.jobs import JobStore
from shared.usecases.keep_ledger import SeriesLedger


@dataclass(frozen=True, slots=True)
class Coverage:
    """[start_ms, end_ms) of a series. `counts` are of all of it; `runs` (in numbers of intervals) may be fewer than there are.

    `next_start_ms`: where the runs that are not shown begin, None: all are.
    """

    job_id: str
    timeframe: Timeframe
    start_ms: int
    end_ms: int
    counts: Mapping[IntervalState, int]
    runs: Sequence[Run]
    next_start_ms: int | None


@dataclass(frozen=True, slots=True)
class CoverageReader:
    """Reads by job."""

    database: Database
    jobs: JobStore
    candles: CandleStore
    ledger: SeriesLedger
    spec_of: Callable[[str], ExchangeSpec]

    def read(
        self, job_id: str, start_ms: int | None, end_ms: int | None, states: frozenset[IntervalState], runs_max: int
    ) -> Coverage:
        """Intervals that open in [start, end): by default all that the job asks for, and all that is stored of its series.

        So from its start, or the first candle if that is earlier, to the last closed one; a job with an end has none after it.

        `runs` are those in one of `states` (empty: in any), at most `runs_max`.

        Raises:
            NotFound: no such job.
            InvalidRequest: the start is not before the end.
        """
        job = Job.from_document(self.jobs.get(job_id))
        if start_ms is not None and end_ms is not None and start_ms >= end_ms:
            raise InvalidRequest.for_field("start", "has to be before end")
        grid, now_ms = job.timeframe, self.database.server_now_ms()
        closed_ms = grid.closed_end(now_ms)
        series = Series.of(job)
        asked_first_ms, asked_last_ms = self._whole_range(series, job, closed_ms)
        first_ms = grid.ceil(asked_first_ms if start_ms is None else start_ms)
        last_ms = max(first_ms, min(closed_ms, grid.ceil(asked_last_ms if end_ms is None else end_ms)))
        wanted = (grid.number(first_ms), grid.number(last_ms))
        runs = self.ledger.read_runs(series, job, *wanted, self._begins(series, job, now_ms))
        shown = [run for run in runs if not states or run.state in states]
        rest = shown[runs_max:]
        return Coverage(
            job_id, grid, first_ms, last_ms, count_states(runs), shown[:runs_max], grid.open_at(rest[0].first) if rest else None
        )

    def read_as_of_one_moment(self, job_id: str, start_ms: int, end_ms: int) -> tuple[Sequence[Run], IntArray]:
        """Every interval of [start, end), and the open times of its candles, as of one moment, while pages may land.

        Raises NotFound.
        """
        job = Job.from_document(self.jobs.get(job_id))
        series, grid = Series.of(job), job.timeframe
        wanted = (grid.number(grid.ceil(start_ms)), grid.number(grid.ceil(end_ms)))
        begins = self._begins(series, job, self.database.server_now_ms())
        return self.database.read_snapshot(
            lambda session: (
                self.ledger.read_runs(series, job, *wanted, begins, session),
                self.candles.read_open_times(series, start_ms, end_ms, session),
            )
        )

    def _whole_range(self, series: Series, job: Job, closed_ms: int) -> tuple[int, int]:
        """All that the job asks for and all that is stored, whoever has stored it."""
        asked_end_ms = closed_ms if job.end_ms is None else job.end_ms
        stored = self.candles.find_bounds(series, 0, closed_ms)
        if stored is None:
            return job.start_ms, asked_end_ms
        return min(job.start_ms, stored[0]), max(asked_end_ms, job.timeframe.close(stored[1]))

    def _begins(self, series: Series, job: Job, now_ms: int) -> int:
        """The first interval that can be had: what the exchange keeps, or where the market began."""
        grid = job.timeframe
        kept = self.spec_of(job.exchange).history_of(grid.name)
        wall = 0 if kept is None else grid.number(grid.floor(now_ms)) - kept
        return max(wall, self.ledger.begins(series, job))
