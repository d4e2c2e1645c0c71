"""One tick of the scheduler: for its budget of seconds claim what falls due, fairly, and start a worker for each job.

Overlapping or repeated ticks are harmless: a claim is decided on the server, one job at a time in effect, and what one tick
has claimed is no longer due for the other.

Who goes first (docs/decisions/0016): of each connector no more than its limit has room for; live jobs of all connectors, then
repairs, then backfills; within a kind the connectors by turns. A quarter of a tick's places is never held by repairs and
backfills, so that a live job need not wait for one of them to end. And they do not starve: in every eighth pass one place
goes to the repair or backfill whose turn it is, however many live jobs are due and even if they use up their connector's limit.

A pass takes six commands (every eighth one seven) for up to a hundred connectors; one that finds nothing due takes one.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Final

from shared.deadline import Deadline, ServerClock
from shared.domain.connectors import Caution, booked_windows
from shared.domain.jobs import PRIORITIES, to_datetime, to_ms
from shared.domain.shares import LIVE, listed_count, servable_count, share_fairly
from shared.errors import PlatformError, StorageUnavailable
from shared.senders.worker_calls import CallResult, WorkerCalls
from shared.stores.connectors import ConnectorStore
from shared.stores.database import Database, Document, storage_errors
from shared.stores.job_leases import Claim, DueJob, JobLeases
from shared.telemetry import event
from shared.usecases.open_calls import OpenCalls
from shared.usecases.raise_alerts import AlertSender

# How often a tick looks for what fell due. An idle look is one index lookup.
POLL_S: Final = 0.25
# A job that would have to wait longer than this for its connector is not started at all.
WAIT_MS_MAX: Final = 1_500
# A claim whose worker could not be started is due again after this.
GIVE_BACK_MS: Final = 2_000
# A tick that has no time left for a run does not start one.
START_RESERVE_MS: Final = 500
_priority_of: Final[Callable[[DueJob], int]] = attrgetter("priority")
_OTHERS: Final = tuple(priority for priority in sorted(set(PRIORITIES.values())) if priority != LIVE)


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
        clock = ServerClock.stamped(self.database.server_now_ms())
        places = OpenCalls(self.limits.calls_max)
        # Calls still open at the end are left: their worker goes on, and its answer matters to nobody. One thread more, since
        # a webhook that hangs must not keep a job from being started.
        pool = ThreadPoolExecutor(self.limits.calls_max + 1, thread_name_prefix="call")
        try:
            pool.submit(copy_context().run, self._send_alerts, deadline)
            while True:
                is_busy = self._pass_or_wait(clock, pool, places, deadline, trigger, report)
                if deadline.remaining_ms() <= START_RESERVE_MS:
                    break
                if not is_busy:
                    time.sleep(min(POLL_S, max(0.0, deadline.remaining_ms() / 1000)))
        finally:
            pool.shutdown(wait=True)
        event("tick_ended", passes=report.passes, claimed=report.claimed, started=report.started, given_back=report.given_back)
        return report

    def _pass_or_wait(
        self,
        clock: ServerClock,
        pool: ThreadPoolExecutor,
        places: OpenCalls,
        deadline: Deadline,
        trigger: str,
        report: TickReport,
    ) -> bool:
        """One look. MongoDB being away for a moment (a failover) does not end the tick: the next look may find it again.

        Raises:
            StorageUnavailable: at the tick's last look.
        """
        try:
            with storage_errors():
                return self._pass(clock, pool, places, deadline, trigger, report)
        except StorageUnavailable as exc:
            if deadline.remaining_ms() <= START_RESERVE_MS:
                raise
            event("pass_failed", "WARNING", detail=exc.message)
            return False

    def _send_alerts(self, deadline: Deadline) -> None:
        """In a thread: what is still unsent."""
        try:
            with storage_errors():
                self.alerts.send_pending(deadline)
        except PlatformError as exc:
            event("alerts_not_sent", "WARNING", detail=exc.message)

    def _pass(
        self,
        clock: ServerClock,
        pool: ThreadPoolExecutor,
        places: OpenCalls,
        deadline: Deadline,
        trigger: str,
        report: TickReport,
    ) -> bool:
        """One look: claim what is due and hand it to the calling threads. Returns whether anything was claimed."""
        report.passes += 1
        now_ms = clock.now_ms()
        if not self.leases.has_due(to_datetime(now_ms)):
            return False
        claims = self.claim_due(now_ms, places)
        report.claimed += len(claims)
        for claim in claims:
            pool.submit(copy_context().run, self._start, claim, places, deadline, trigger, report)
        return bool(claims)

    def claim_due(self, now_ms: int, places: OpenCalls) -> list[Claim]:
        """Claim what there are places for, fairly, and take the places."""
        free = min(self.limits.starts_max, places.free())
        rooms = self._rooms(now_ms, places) if free > 0 else {}
        if not rooms:
            return []
        now = to_datetime(now_ms)
        others_free = min(free, places.free_for_others())
        first = self._take_other(rooms, now) if others_free and places.is_turn_of_others() else []
        limits = {connector_id: listed_count(room, free, len(rooms)) for connector_id, room in rooms.items()}
        due = [[job for job in jobs if job not in first] for jobs in self.leases.list_due_by_connector(limits, now).values()]
        shared = first + share_fairly(due, free - len(first), others_free - len(first), _priority_of)
        claims = self.leases.claim(shared, self.holder, self.limits.lease_ms) if shared else []
        for claim in claims:
            places.take(claim)
        return claims

    def _take_other(self, rooms: dict[str, int], now: datetime) -> list[DueJob]:
        """The repair or backfill that goes before all live jobs, if one is due; takes it out of its connector's room."""
        heads = self.leases.list_due_by_connector(dict.fromkeys(rooms, 1), now, _OTHERS)
        for connector_id, jobs in heads.items():
            if jobs:
                rooms[connector_id] -= 1
                return jobs
        return []

    def _rooms(self, now_ms: int, places: OpenCalls) -> dict[str, int]:
        """How many jobs of each connector there is room for, without those that have none, in the order of their turns."""
        connectors = self.connectors.list_runnable()
        unbegun = self.leases.count_unbegun()
        rooms: dict[str, int] = {}
        for connector in connectors:
            if _blocked_ms(connector, now_ms) <= WAIT_MS_MAX:
                weight = self.weight_of(connector["exchange"])
                unbegun_count = unbegun.get(connector["_id"], 0)
                caution = Caution.of(connector, now_ms)
                windows = caution.usable(booked_windows(connector), weight)
                left = caution.requests_left(windows[0].unsettled, weight)
                room = servable_count(windows, weight, now_ms + WAIT_MS_MAX, unbegun_count, left)
                if room:
                    rooms[connector["_id"]] = room
        return dict(sorted(rooms.items(), key=lambda item: (*places.turn_of(item[0]), item[0])))

    def _start(self, claim: Claim, places: OpenCalls, deadline: Deadline, trigger: str, report: TickReport) -> None:
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
            places.release(claim)

    def _call(self, claim: Claim, trigger: str, deadline: Deadline) -> CallResult:
        try:
            return self.calls.start(claim.job_id, claim.fence, trigger, deadline)
        except PlatformError as exc:
            # No URL, no identity token: nothing was sent.
            return CallResult(False, exc.message)


def _blocked_ms(connector: Document, now_ms: int) -> int:
    """How long nothing can be granted: a block, or bookings ahead of now."""
    blocked_until = connector.get("blocked_until")
    until_ms = 0 if blocked_until is None else to_ms(blocked_until)
    return max(until_ms, int(connector.get("limiter", {}).get("last_at_ms", 0))) - now_ms
