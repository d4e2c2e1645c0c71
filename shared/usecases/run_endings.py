"""Why a run ends and what that means for its job: outcome, next run, failures in a row. Decides, and writes nothing."""

import random
from dataclasses import dataclass, field
from typing import Final

from shared.domain.connectors import Connector
from shared.domain.jobs import Job, JobKind, RunOutcome, plan_backoff_ms
from shared.domain.windows import plan_next_run_ms
from shared.errors import ExchangeThrottled, PlatformError, Retry
from shared.exchanges.headers import DATE_CUT_MS
from shared.stores.database import Document
from shared.usecases.enrich_series import Enriched
from shared.usecases.fetch_pages import NothingDue, Page
from shared.usecases.grants import ConnectorPaused, NoRoom
from shared.usecases.send_requests import TimeIsUp
from shared.usecases.series_jobs import REPAIR_APART_MS

# A paused connector's jobs look again this much later; resuming the connector makes them due at once.
PAUSED_CONNECTOR_MS: Final = 60_000
# A job that waits for the limit comes back this share of the longest wait early, to book the moment and be there on time.
COME_BACK_EARLY: Final = 2
# A part of a backfill that was stopped looks again this much later, should its job not have been told until then.
DECISION_AWAITED_MS: Final = 15_000
# An enrich job that waits for a backfill looks again this much later.
BACKFILL_AWAITED_MS: Final = 15_000


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What one run may take."""

    lease_ms: int
    pages_max: int
    wait_ms_max: int
    attempts_max: int


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a run ends and what that means for the job. `facts` are fields of the job to be set besides."""

    outcome: RunOutcome
    next_run_ms: int
    attempt: int
    status: str | None = None
    error: PlatformError | None = None
    asked_end_ms: int | None = None  # everything that had closed by then has been asked for
    facts: Document = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunEndings:
    """The endings of one job's runs."""

    job: Job
    limits: RunLimits
    rng: random.Random

    def after_page(self, page: Page, connector: Connector, now_ms: int) -> Ending:
        """The run ends with this page: caught up, or as many pages as one run may take."""
        if not page.advance.is_caught_up:
            return Ending(RunOutcome.MORE, now_ms, 0)
        if self.job.kind is JobKind.REPAIR:
            return self._pass_ending(now_ms)
        if self._is_done(page.cursor_ms):
            return Ending(RunOutcome.DONE, now_ms, 0, status="done")
        next_run_ms = plan_next_run_ms(
            self.job.timeframe,
            closed_end_ms=page.advance.closed_end_ms,
            is_pending=page.advance.is_pending,
            now_ms=page.now_ms,
            settle_delay_ms=connector.settle_delay_ms,
        )
        if page.exchange_behind_ms:
            # By the exchange's clock, or the job would be due all the while that this one has not got there. Its header is cut
            # to seconds, so it is behind by up to one more.
            next_run_ms += page.exchange_behind_ms + DATE_CUT_MS
        return Ending(RunOutcome.CAUGHT_UP, next_run_ms, 0, asked_end_ms=page.advance.closed_end_ms)

    def without_page(self, step: object, connector: Connector, now_ms: int, cursor_ms: int | None, attempt: int) -> Ending:
        """There was no (further) page, and `step` says why. `attempt`: failed runs in a row before this one."""
        if isinstance(step, NoRoom):
            early_ms = self.limits.wait_ms_max // COME_BACK_EARLY
            return Ending(RunOutcome.WAITING, max(now_ms, step.at_ms - early_ms), attempt)
        if isinstance(step, ConnectorPaused):
            return self.paused(now_ms, attempt)
        if isinstance(step, NothingDue):
            if self.job.kind is JobKind.REPAIR:
                # Without a cursor it was at the begin of a pass: nothing is missing any more.
                return Ending(RunOutcome.DONE, now_ms, 0, status="done") if cursor_ms is None else self._pass_ending(now_ms)
            if self._is_done(cursor_ms):
                return Ending(RunOutcome.DONE, now_ms, 0, status="done")
            grid = self.job.timeframe
            wanted_ms = grid.ceil(self.job.start_ms) if cursor_ms is None else grid.shift(cursor_ms, 1)
            next_run_ms = max(now_ms, grid.close(wanted_ms) + connector.settle_delay_ms)
            return Ending(RunOutcome.CAUGHT_UP, next_run_ms, 0, asked_end_ms=wanted_ms)
        assert isinstance(step, TimeIsUp)
        return Ending(RunOutcome.MORE, now_ms, attempt)

    def enriched(self, done: Enriched, now_ms: int) -> Ending:
        """An enrich job has worked off what was stale, or as much as it could."""
        if done is Enriched.DONE:
            return Ending(RunOutcome.DONE, now_ms, 0, status="done")
        if done is Enriched.WAITS:
            return Ending(RunOutcome.CAUGHT_UP, now_ms + BACKFILL_AWAITED_MS, 0)
        return Ending(RunOutcome.PAUSED if done is Enriched.PAUSED else RunOutcome.MORE, now_ms, 0)

    def paused(self, now_ms: int, attempt: int) -> Ending:
        """The connector is paused."""
        return Ending(RunOutcome.PAUSED, now_ms + PAUSED_CONNECTOR_MS, attempt)

    def stopped(self, now_ms: int) -> Ending:
        """The job was paused, or a backfill that it is a part of, of which its job need not know yet."""
        return Ending(RunOutcome.PAUSED, now_ms + DECISION_AWAITED_MS, 0)

    def failed(self, exc: PlatformError, now_ms: int, attempt: int) -> Ending:
        """The run failed: it is tried again later, or not at all."""
        if isinstance(exc, ExchangeThrottled):
            return Ending(RunOutcome.THROTTLED, now_ms + exc.wait_ms, attempt, error=exc)
        if exc.retry is Retry.NEVER or attempt + 1 >= self.limits.attempts_max:
            return Ending(RunOutcome.ERROR, now_ms, attempt + 1, "error", exc)
        return Ending(RunOutcome.FAILED, now_ms + plan_backoff_ms(attempt + 1, self.rng), attempt + 1, error=exc)

    def _pass_ending(self, now_ms: int) -> Ending:
        """A repair has asked for everything that was missing; the next pass begins anew, and ends the job if nothing is."""
        return Ending(RunOutcome.CAUGHT_UP, now_ms + REPAIR_APART_MS, 0, facts={"cursor.last_ts": None})

    def _is_done(self, cursor_ms: int | None) -> bool:
        """Whether a closed range has been asked for to its end."""
        end_ms, timeframe = self.job.end_ms, self.job.timeframe
        if end_ms is None or (cursor_ms is None and timeframe.count(self.job.start_ms, end_ms) > 0):
            return False
        return cursor_ms is None or timeframe.close(cursor_ms) >= timeframe.ceil(end_ms)
