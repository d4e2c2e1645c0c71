"""One tick of the scheduler: for its budget of seconds claim what falls due, fairly, and start a worker for each job.

Overlapping or repeated ticks are harmless: a claim is decided on the server, one job at a time in effect, and what one tick
has claimed is no longer due for the other.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from shared.deadline import Deadline, ServerClock
from shared.domain.connectors import booked_windows
from shared.domain.jobs import to_datetime, to_ms
from shared.domain.shares import servable_count, share_fairly
from shared.errors import PlatformError
from shared.senders.worker_calls import CallResult, WorkerCalls
from shared.stores.connectors import ConnectorStore
from shared.stores.database import Database, Document, storage_errors
from shared.stores.job_leases import Claim, DueJob, JobLeases
from shared.telemetry import event
from shared.usecases.raise_alerts import AlertSender

# How often a tick looks for what fell due. An idle look is one index lookup.
POLL_S: Final = 0.25
# A job that would have to wait longer than this for its connector is not started at all.
WAIT_MS_MAX: Final = 1_500
# A claim whose worker could not be started is due again after this.
GIVE_BACK_MS: Final = 2_000
# A tick that has no time left for a run does not start one.
START_RESERVE_MS: Final = 500


@dataclass(frozen=True, slots=True)
class TickLimits:
    """What one tick may take. `calls_max`: worker calls open at once."""

    budget_s: float
    lease_ms: int
    starts_max: int
    calls_max: int


@dataclass(slots=True)
class TickReport:
    """What a tick has done. Counted under `lock`, as worker calls end in threads."""

    passes: int = 0
    claimed: int = 0
    started: int = 0
    given_back: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """The tick's use case."""

    database: Database
    connectors: ConnectorStore
    leases: JobLeases
    calls: WorkerCalls
    alerts: AlertSender
    weight_of: Callable[[str], int]  # exchange -> weight of one page
    limits: TickLimits
    holder: str

    def run(self, trigger: str) -> TickReport:
        """Claim and start until the budget is spent, then leave runs that still go on to themselves."""
        report = TickReport()
        deadline = Deadline.after(self.limits.budget_s)
        with storage_errors():
            clock = ServerClock.stamped(self.database.server_now_ms())
            self.alerts.send_pending()
            places = threading.Semaphore(self.limits.calls_max)
            # Calls still open at the end are left: their worker goes on, and its answer matters to nobody.
            pool = ThreadPoolExecutor(self.limits.calls_max, thread_name_prefix="call")
            try:
                while True:
                    is_busy = self._pass(clock, pool, places, deadline, trigger, report)
                    if deadline.remaining_ms() <= START_RESERVE_MS:
                        break
                    if not is_busy:
                        time.sleep(min(POLL_S, max(0.0, deadline.remaining_ms() / 1000)))
            finally:
                pool.shutdown(wait=True)
        event("tick_ended", passes=report.passes, claimed=report.claimed, started=report.started, given_back=report.given_back)
        return report

    def _pass(
        self,
        clock: ServerClock,
        pool: ThreadPoolExecutor,
        places: threading.Semaphore,
        deadline: Deadline,
        trigger: str,
        report: TickReport,
    ) -> bool:
        """One look: claim what is due and hand it to the calling threads. Returns whether anything was claimed."""
        report.passes += 1
        now_ms = clock.now_ms()
        if not self.leases.has_due(to_datetime(now_ms)):
            return False
        free = _take_all(places, min(self.limits.starts_max, self.limits.calls_max))
        claims = self._claim(now_ms, free) if free else []
        for _ in range(free - len(claims)):
            places.release()
        report.claimed += len(claims)
        for claim in claims:
            pool.submit(copy_context().run, self._start, claim, places, deadline, trigger, report)
        return bool(claims)

    def _claim(self, now_ms: int, places_count: int) -> list[Claim]:
        leased = self.leases.count_leased()
        due: list[tuple[int, str, list[DueJob]]] = []
        for connector in self.connectors.list_runnable():
            if _blocked_ms(connector, now_ms) > WAIT_MS_MAX:
                continue
            weight = self.weight_of(connector["exchange"])
            leased_count, unbooked_count = leased.get(connector["_id"], (0, 0))
            room = servable_count(booked_windows(connector), weight, now_ms + WAIT_MS_MAX, unbooked_count)
            if room:
                jobs = self.leases.list_due(connector["_id"], to_datetime(now_ms), min(room, places_count))
                due.append((leased_count, connector["_id"], jobs))
        # Who has the fewest jobs at work comes first, or a place that becomes free would always go to the same connector.
        due.sort(key=itemgetter(0, 1))
        shared = share_fairly([jobs for _, _, jobs in due], places_count)
        return self.leases.claim(shared, self.holder, self.limits.lease_ms) if shared else []

    def _start(self, claim: Claim, places: threading.Semaphore, deadline: Deadline, trigger: str, report: TickReport) -> None:
        """In a thread: call the worker and wait for it; what could not be started is given back."""
        try:
            result = self._call(claim, trigger, deadline)
            is_given_back = False
            if not result.is_started:
                with storage_errors():
                    is_given_back = self.leases.give_back(claim.job_id, claim.fence, GIVE_BACK_MS)
                if is_given_back:
                    event("worker_not_started", "WARNING", job_id=claim.job_id, detail=result.detail)
            with report.lock:
                report.started += int(not is_given_back)
                report.given_back += int(is_given_back)
        except Exception as exc:  # noqa: BLE001 - the edge of a thread: nobody above would see it
            event("worker_call_failed", "ERROR", job_id=claim.job_id, error=f"{type(exc).__name__}: {exc}")
        finally:
            places.release()

    def _call(self, claim: Claim, trigger: str, deadline: Deadline) -> CallResult:
        try:
            return self.calls.start(claim.job_id, claim.fence, trigger, deadline)
        except PlatformError as exc:
            # No URL, no identity token: nothing was sent.
            return CallResult(False, exc.message)


def _take_all(places: threading.Semaphore, most: int) -> int:
    """Take as many free places as there are, without waiting."""
    taken = 0
    while taken < most and places.acquire(blocking=False):
        taken += 1
    return taken


def _blocked_ms(connector: Document, now_ms: int) -> int:
    """How long nothing can be granted: a block, or bookings ahead of now."""
    blocked_until = connector.get("blocked_until")
    until_ms = 0 if blocked_until is None else to_ms(blocked_until)
    return max(until_ms, int(connector.get("limiter", {}).get("last_at_ms", 0))) - now_ms
