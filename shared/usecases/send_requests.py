"""Send the request for one window: reserve its weight when the connection is up, try again where that helps, count it all."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

from shared.deadline import Deadline, ServerClock
from shared.domain.connectors import Connector
from shared.domain.jobs import Job, JobKind
from shared.domain.rates import batch_ms
from shared.domain.windows import Window
from shared.errors import ExchangeThrottled, PlatformError, Retry
from shared.exchanges.client import ExchangeClient
from shared.exchanges.gated_http import Passage
from shared.exchanges.pages import FetchedPage
from shared.telemetry import event
from shared.usecases.grants import Grants, Permit, Refusal, Refused
from shared.usecases.instance_limiter import InstanceLimiter

OpenExchange: TypeAlias = Callable[[Connector, Callable[[], int]], ExchangeClient]

FETCH_TRIES_MAX: Final = 3
RETRY_BASE_MS: Final = 250
RETRY_CAP_MS: Final = 2_000
# A page is only begun with this much time left. It may have to wait for the limit, for a connection and for its answer, and the
# transactions that store it and end the run may take all the time they have (tests/unit/test_relations.py adds that up).
PAGE_RESERVE_MS: Final = 31_000
# Until a page has been timed.
PAGE_MS_GUESS: Final = 150
# What the exchange counts more than we do is only worth a write if it is this share of the limit, or if the window is nearly
# full: there even a little of somebody else's goes over.
FOREIGN_USAGE_SHARE: Final = 0.02
NEARLY_FULL_SHARE: Final = 0.8


@dataclass(slots=True)
class FetchTotals:
    """What the run has spent so far."""

    requests: int = 0
    weight: int = 0
    wait_ms: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class TimeIsUp:
    """The deadline is too near to begin another page."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A page, and when its request was sent (UTC ms, the database's clock); None: none was needed."""

    fetched: FetchedPage
    sent_ms: int | None


@dataclass(slots=True)
class RequestSender:
    """The requests of one run. Safe between threads."""

    job: Job
    connector: Connector
    client: ExchangeClient
    limiter: InstanceLimiter
    grants: Grants
    clock: ServerClock
    deadline: Deadline
    rng: random.Random
    in_flight_max: int = 1
    totals: FetchTotals = field(default_factory=FetchTotals)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _page_ms: float = PAGE_MS_GUESS

    def fetch(
        self, window: Window, pages_left: int, in_turn: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Answer | Refusal | TimeIsUp:
        """The window's page, or why there is none. Weight is asked for inside of `in_turn`.

        `pages_left`: how many requests the run would send as fast as it may, this one among them.

        Raises:
            ExchangeError: after FETCH_TRIES_MAX tries, or at once where trying again cannot help. A refusal for speed has
                blocked the connector by then.
            StorageUnavailable: no limiter, no request.
        """
        if self.deadline.remaining_ms() < PAGE_RESERVE_MS:
            return TimeIsUp()
        for attempt in range(1, FETCH_TRIES_MAX + 1):
            try:
                return self._send(window, pages_left, in_turn)
            except Refused as exc:
                return exc.refusal
            except ExchangeThrottled:
                raise
            except PlatformError as exc:
                is_last = attempt == FETCH_TRIES_MAX or self.deadline.remaining_ms() < PAGE_RESERVE_MS
                if exc.retry is not Retry.LATER or is_last:
                    raise
                with self._lock:
                    self.totals.retries += 1
                pause_ms = self.rng.randint(0, min(RETRY_CAP_MS, RETRY_BASE_MS * 2**attempt))
                event("fetch_retried", "WARNING", error=exc.code, detail=exc.message, attempt=attempt, pause_ms=pause_ms)
                time.sleep(pause_ms / 1000)
        raise AssertionError("unreachable: the last try returns or raises")

    def _send(self, window: Window, pages_left: int, in_turn: Callable[[], AbstractContextManager[None]]) -> Answer:
        """One request. Its weight is acquired when the connection is up: a handshake may outlast a grant."""
        began = time.monotonic()
        timeframe = self.job.timeframe
        sent_ms: int | None = None

        def before_send() -> Passage:
            nonlocal began, sent_ms
            weight = self.client.weight(timeframe.name, timeframe.count(window.start_ms, window.end_ms))
            with in_turn():
                permit = self.grants.acquire(weight, weight * self._pages_in_time(pages_left))
            began, sent_ms = time.monotonic(), self.clock.now_ms()
            self._count(1, weight)
            return Passage(partial(self.grants.note_answer, permit), partial(take_back, permit))

        def take_back(permit: Permit) -> None:
            self._count(-1, -permit.weight)
            self.grants.note_unsent(permit)

        try:
            fetched = self.client.fetch_ohlcv(
                self.job.symbol, timeframe.name, window.start_ms, window.end_ms, before_send=before_send
            )
        except ExchangeThrottled as exc:
            self.limiter.block(self.connector.connector_id, exc.wait_ms, exc.message, sent_ms or 0)
            raise
        if sent_ms is not None:
            with self._lock:
                self._page_ms = 0.5 * self._page_ms + 0.5 * (time.monotonic() - began) * 1000
            self._note_usage(fetched)
        return Answer(fetched, sent_ms)

    def _count(self, requests: int, weight: int) -> None:
        with self._lock:
            self.totals.wait_ms = self.grants.waited_ms
            self.totals.requests += requests
            self.totals.weight += weight

    def _pages_in_time(self, pages_left: int) -> int:
        """How many of the pages that are left can be sent under one grant."""
        in_time = self.in_flight_max * batch_ms(self.connector.windows) / max(1.0, self._page_ms)
        return max(1, min(pages_left, int(in_time)))

    def _note_usage(self, fetched: FetchedPage) -> None:
        """Others use the same address or key: what the exchange counts beyond our own count is charged too."""
        reservation = self.grants.newest
        if reservation is None:
            return
        for period_ms, used in fetched.usage:
            limit = next((window.limit for window in self.connector.windows if window.period_ms == period_ms), None)
            if limit is None:
                continue
            tolerated = 0 if used > limit * NEARLY_FULL_SHARE else limit * FOREIGN_USAGE_SHARE
            if used > reservation.used + tolerated:
                self.limiter.record_usage(self.connector.connector_id, period_ms, used)


@dataclass(frozen=True, slots=True)
class RequestSenders:
    """Makes the sender of each run. `wait_ms_max`: a run that has to wait longer for the limit gives its place back."""

    limiter: InstanceLimiter
    open_exchange: OpenExchange
    wait_ms_max: int
    rng: random.Random

    def open(self, job: Job, connector: Connector, clock: ServerClock, deadline: Deadline) -> RequestSender:
        """The sender of one run of that job, with grants of its own, which have to be closed."""
        client = self.open_exchange(connector, clock.now_ms)
        grants = Grants(self.limiter, connector, self.wait_ms_max, is_live=job.kind is JobKind.LIVE)
        return RequestSender(job, connector, client, self.limiter, grants, clock, deadline, self.rng)
