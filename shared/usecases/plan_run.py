"""What one run asks for: all that has closed since the cursor, or of a backfill and a repair only what is not there.

A live job that is far behind the market (new, with a start long ago; or back from an outage) does not walk to it page by
page: it goes on from the newest page, so that its series is fresh at once, and leaves what it has passed over to its series'
history job, a backfill that runs after all live jobs.
"""

from dataclasses import dataclass, replace
from typing import Final

from pymongo.client_session import ClientSession

from shared.deadline import ServerClock
from shared.domain.connectors import Connector
from shared.domain.jobs import Job, JobKind, to_datetime
from shared.domain.windows import GapPlan, RangePlan, WindowPlan
from shared.exchanges.client import ExchangeClient
from shared.stores.candles import Series
from shared.stores.database import Database
from shared.stores.job_leases import JobLeases
from shared.telemetry import event
from shared.usecases.keep_ledger import SeriesLedger
from shared.usecases.series_jobs import SeriesHelpers, history_id

# A live job with more pages than this left to ask for is brought to the market's end. One page of the newest candles is asked
# for then, which is also the warm-up of most indicators.
CATCH_UP_PAGES_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class RunPlan:
    """`begins_ms`: where the series is known to begin, if the job began before it."""

    windows: WindowPlan
    begins_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RunPlanner:
    """Plans the runs of jobs."""

    database: Database
    leases: JobLeases
    ledger: SeriesLedger
    helpers: SeriesHelpers
    lease_ms: int

    def plan(
        self,
        job: Job,
        series: Series,
        connector: Connector,
        client: ExchangeClient,
        clock: ServerClock,
    ) -> RunPlan:
        """What a run asks for, from the job's cursor on."""
        grid, page_max = job.timeframe, client.spec.candles.limit_of(job.timeframe.name)
        if job.kind is JobKind.LIVE:
            return RunPlan(plan_live(job))
        if job.kind is JobKind.REPAIR:
            # What is younger may yet be published.
            end = grid.number(grid.closed_end(clock.now_ms() - connector.publish_grace_ms))
            return RunPlan(GapPlan(grid, self.ledger.plan_repair(series, job, page_max, end)))
        return self._plan_backfill(job, series, client.page_max(grid.name, job.start_ms))

    def _plan_backfill(self, job: Job, series: Series, page_max: int) -> RunPlan:
        grid = job.timeframe
        assert job.end_ms is not None
        known = (grid.ceil(job.start_ms), grid.ceil(job.end_ms))
        next_ms = known[0] if job.cursor_ms is None else grid.close(job.cursor_ms)
        first, end = grid.number(next_ms), grid.number(known[1])
        # Once begun, what the exchange no longer has is asked for: its answer writes that down.
        begins = self.ledger.begins(series, job) if job.cursor_ms is None else 0
        gaps = GapPlan(grid, self.ledger.plan_gaps(series, job, page_max, first, end, begins), known)
        is_before = job.cursor_ms is None and first < begins
        return RunPlan(gaps, grid.open_at(min(begins, end)) if is_before else None)

    def is_far(self, job: Job, cursor_ms: int | None, page_max: int, now_ms: int) -> bool:
        """Whether a live job with its cursor there is so far from the market's end that it has to be brought there."""
        if job.kind is not JobKind.LIVE or cursor_ms is None:
            return False
        grid = job.timeframe
        return grid.count(grid.close(cursor_ms), grid.closed_end(now_ms)) > CATCH_UP_PAGES_MAX * page_max

    def move_on(self, job: Job, fence: int, client: ExchangeClient, now_ms: int, session: ClientSession) -> Job:
        """Bring a live job to the market's end; returns it as it is then.

        Raises LeaseLost.
        """
        assert job.cursor_ms is not None
        grid = job.timeframe
        follows_ms = grid.shift(grid.closed_end(now_ms), -client.spec.candles.limit_of(grid.name))
        moved = replace(job, cursor_ms=grid.shift(follows_ms, -1), follows_ms=follows_ms)
        self.database.transact(lambda session: self._write_move(job, moved, fence, session), session)
        event("moved_on", job_id=job.job_id, from_ms=grid.close(job.cursor_ms), follows_ms=follows_ms)
        return moved

    def _write_move(self, job: Job, moved: Job, fence: int, session: ClientSession) -> None:
        """Let the job go on from where it is now to follow, and its series' history job ask for what is between."""
        assert job.cursor_ms is not None
        assert moved.cursor_ms is not None
        assert moved.follows_ms is not None
        grid = job.timeframe
        series_id = Series.of(job).series_id
        self.leases.record_page(
            job.job_id,
            fence,
            cursor=to_datetime(moved.cursor_ms),
            added={},
            facts={"follows_at": to_datetime(moved.follows_ms)},
            lease_ms=self.lease_ms,
            session=session,
        )
        # A history job that is done begins anew.
        history = self.helpers.series_jobs.read(history_id(job), session)
        for each in (job, None if history is None else Job.from_document(history)):
            if each is not None and each.asked_span is not None:
                first, end = each.asked_span
                self.ledger.asked.add_asked(series_id, grid.open_at(first), grid.open_at(end), session)
        self.helpers.want_history(job, grid.close(job.cursor_ms), moved.follows_ms, session)


def plan_live(job: Job) -> RangePlan:
    """All that has closed, from where the job itself asks on."""
    return RangePlan(job.timeframe, max(job.start_ms, job.follows_ms or 0), None)
