"""Fetch the pages of one run: plan a window, reserve its weight, ask the exchange, decide how far the cursor may move."""

import random
import time
from dataclasses import dataclass, field, replace
from typing import Final

from shared.deadline import Deadline, ServerClock
from shared.domain.connectors import Connector
from shared.domain.jobs import Job
from shared.domain.rates import charge_ms
from shared.domain.windows import Advance, Window, WindowPlan, decide_advance
from shared.errors import ExchangeThrottled, PlatformError, Retry
from shared.exchanges.client import ExchangeClient
from shared.exchanges.pages import FetchedPage
from shared.stores.rate_limits import RateLimitStore
from shared.telemetry import event
from shared.usecases.grants import ConnectorPaused, Grants, NoRoom, Refusal, Refused

FETCH_TRIES_MAX: Final = 3
RETRY_BASE_MS: Final = 250
RETRY_CAP_MS: Final = 2_000
# A page is only begun with this much time left: one slow request and one transaction fit into it.
PAGE_RESERVE_MS: Final = 20_000
# Until a page has been timed.
PAGE_MS_GUESS: Final = 150
# An answer without a candle where there should be that many is asked for once more: exchanges do say `[]` when they are unwell.
# So is one with a hole where the exchange leaves out nothing. What stays absent is missing in the ledger, and looked for again.
EMPTY_DOUBTED_MIN: Final = 10
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
class Page:
    """One answer, and where the cursor goes once it is stored."""

    window: Window
    fetched: FetchedPage
    advance: Advance
    now_ms: int  # the earlier of the database's and the exchange's clock
    exchange_behind_ms: int


@dataclass(frozen=True, slots=True)
class NothingDue:
    """No closed interval after the cursor."""


@dataclass(frozen=True, slots=True)
class TimeIsUp:
    """The deadline is too near to begin another page."""


Step = Page | NothingDue | NoRoom | ConnectorPaused | TimeIsUp


@dataclass(slots=True)
class PageFetcher:
    """The pages of one job, one after the other. `next_page` may run in another thread, but never in two at once."""

    job: Job
    plan: WindowPlan
    connector: Connector
    client: ExchangeClient
    limits: RateLimitStore
    grants: Grants
    clock: ServerClock
    deadline: Deadline
    rng: random.Random
    totals: FetchTotals = field(default_factory=FetchTotals)
    _cursor_ms: int | None = None
    _overlap: int = 0
    _page_ms: float = PAGE_MS_GUESS
    _exchange_behind_ms: int = 0
    _sent_ms: int = 0
    _is_sent: bool = False

    def __post_init__(self) -> None:
        self._cursor_ms = self.job.cursor_ms
        self._overlap = self.job.overlap

    def next_page(self) -> Step:
        """The next page, or why there is none.

        Raises:
            ExchangeError: after FETCH_TRIES_MAX tries, or at once where trying again cannot help. A refusal for speed has
                blocked the connector by then.
            StorageUnavailable: no limiter, no request.
        """
        job = self.job
        now_ms = self.clock.now_ms() - self._exchange_behind_ms
        window = self.plan.next_window(self._cursor_ms, self._overlap, now_ms)
        if window is None:
            return NothingDue()
        fetched = self._fetch(window)
        if isinstance(fetched, FetchedPage) and self._is_doubtful(window, fetched, now_ms):
            event("page_doubted", "NOTICE", start_ms=window.new_ms, end_ms=fetched.covered_end_ms)
            fetched = self._fetch(window)
        if not isinstance(fetched, FetchedPage):
            return fetched
        # What is not in the answer may have come since it was asked for.
        now_ms = self._sent_ms if self._is_sent else now_ms
        if fetched.exchange_now_ms is not None and fetched.exchange_now_ms < now_ms:
            self._exchange_behind_ms = now_ms - fetched.exchange_now_ms
            now_ms = fetched.exchange_now_ms
        candles = fetched.candles
        advance = decide_advance(
            job.timeframe,
            window,
            cursor_ms=self._cursor_ms,
            last_candle_ms=int(candles.open_ms[-1]) if len(candles) else None,
            covered_end_ms=fetched.covered_end_ms,
            now_ms=now_ms,
            grace_ms=self.connector.publish_grace_ms,
        )
        if advance.cursor_ms == self._cursor_ms and not advance.is_caught_up:
            # Only candles that were read again. Behind them may be intervals without trades, to be asked for alone; if not
            # even that would move the cursor, nothing in this run will.
            settled_end_ms = job.timeframe.closed_end(max(0, now_ms - self.connector.publish_grace_ms))
            if not self._overlap or settled_end_ms <= window.new_ms:
                advance = replace(advance, is_pending=True, is_caught_up=True)
        has_moved = advance.cursor_ms != self._cursor_ms
        if advance.is_caught_up and has_moved and self.plan.has_more(advance.cursor_ms):
            advance = replace(advance, is_caught_up=False)
        self._cursor_ms = advance.cursor_ms
        self._overlap = 0
        return Page(window, fetched, advance, now_ms, self._exchange_behind_ms)

    def _is_doubtful(self, window: Window, fetched: FetchedPage, now_ms: int) -> bool:
        """Whether one answer may be damaged: it holds nothing for many intervals, or has a hole where there are none."""
        if not self._is_sent:
            return False
        if len(fetched.candles):
            # Of a job's first page nobody knows where the market begins.
            missing_before = 0 if self._cursor_ms is None else fetched.missing_before_count
            return fetched.missing_count + missing_before > 0
        timeframe = self.job.timeframe
        settled_end_ms = timeframe.closed_end(max(0, now_ms - self.connector.publish_grace_ms))
        return timeframe.count(window.new_ms, min(fetched.covered_end_ms, settled_end_ms)) >= EMPTY_DOUBTED_MIN

    def _fetch(self, window: Window) -> "FetchedPage | Refusal | TimeIsUp":
        if self.deadline.remaining_ms() < PAGE_RESERVE_MS:
            return TimeIsUp()
        for attempt in range(1, FETCH_TRIES_MAX + 1):
            try:
                fetched = self._send(window)
            except Refused as exc:
                return exc.refusal
            except ExchangeThrottled as exc:
                self.limits.block(self.connector.connector_id, exc.wait_ms, exc.message)
                raise
            except PlatformError as exc:
                is_last = attempt == FETCH_TRIES_MAX or self.deadline.remaining_ms() < PAGE_RESERVE_MS
                if exc.retry is not Retry.LATER or is_last:
                    raise
                self.totals.retries += 1
                pause_ms = self.rng.randint(0, min(RETRY_CAP_MS, RETRY_BASE_MS * 2**attempt))
                event("fetch_retried", "WARNING", error=exc.code, detail=exc.message, attempt=attempt, pause_ms=pause_ms)
                time.sleep(pause_ms / 1000)
                continue
            self._note_usage(fetched)
            return fetched
        raise AssertionError("unreachable: the last try returns or raises")

    def _send(self, window: Window) -> FetchedPage:
        """One request. Its weight is acquired when the connection is up: a handshake may outlast a grant."""
        began = time.monotonic()
        timeframe = self.job.timeframe
        self._is_sent = False

        def before_send() -> None:
            nonlocal began
            weight = self.client.weight(timeframe.name, timeframe.count(window.start_ms, window.end_ms))
            self.grants.acquire(weight, weight * self._pages_in_time(window))
            self.totals.wait_ms = self.grants.waited_ms
            began = time.monotonic()
            self._sent_ms = self.clock.now_ms()
            self.totals.requests += 1
            self.totals.weight += weight
            self._is_sent = True

        fetched = self.client.fetch_ohlcv(
            self.job.symbol, self.job.timeframe.name, window.start_ms, window.end_ms, before_send=before_send
        )
        if self._is_sent:
            self.grants.note_answer()
        self._page_ms = 0.5 * self._page_ms + 0.5 * (time.monotonic() - began) * 1000
        return fetched

    def _pages_in_time(self, window: Window) -> int:
        """How many of the pages that are left can be sent before one grant's use-by."""
        rest = self.job.timeframe.count(window.start_ms, window.end_ms)
        pages_left = -(-rest // self.client.spec.candles.limit_of(self.job.timeframe.name))
        return max(1, min(pages_left, int(self.grants.use_by_ms / max(1.0, self._page_ms))))

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
                self.limits.record_usage(self.connector.connector_id, period_ms, used, charge_ms(self.connector.windows))
