"""Fetch the pages of one run in order: plan a window, have it asked for, decide how far the cursor may move."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Final

from shared.domain.jobs import Job, JobKind
from shared.domain.timeframes import Timeframe
from shared.domain.windows import Advance, Window, WindowPlan, decide_advance
from shared.exchanges.pages import FetchedPage
from shared.telemetry import event
from shared.usecases.grants import ConnectorPaused, NoRoom, Refusal
from shared.usecases.send_requests import Answer, RequestSender, TimeIsUp
from shared.usecases.skim_gaps import GapSkimmer
from shared.usecases.windows_ahead import WindowsAhead

# An answer without a candle where there should be that many is asked for once more: exchanges do say `[]` when they are unwell.
# So is one with a hole where the exchange leaves out nothing, and one with candles that disagree. What stays absent is missing
# or disputed in the ledger, and looked for again.
EMPTY_DOUBTED_MIN: Final = 10
# A run with so many empty pages in a row ends where skimming may pass what comes: the next one begins with that.
EMPTY_ROW_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Page:
    """One answer, and where the cursor goes once it is stored.

    `cursor_ms`: as `advance` says, and past what need not be asked for.
    """

    window: Window
    fetched: FetchedPage
    advance: Advance
    cursor_ms: int | None
    now_ms: int  # the earlier of the database's and the exchange's clock
    exchange_behind_ms: int

    def asked_count(self, grid: Timeframe) -> int:
        """How many intervals are settled by it; more than a page holds where it jumps to the first candle there is."""
        cursor_ms = self.advance.cursor_ms
        return 0 if cursor_ms is None else grid.count(self.window.new_ms, grid.close(cursor_ms))


@dataclass(frozen=True, slots=True)
class NothingDue:
    """No closed interval after the cursor."""


Step = Page | NothingDue | NoRoom | ConnectorPaused | TimeIsUp


@dataclass(slots=True)
class PageFetcher:
    """The pages of one job, one after the other. `next_page` may run in another thread, but never in two at once."""

    job: Job
    plan: WindowPlan
    sender: RequestSender
    _skimmer: GapSkimmer = field(init=False)
    _ahead: WindowsAhead | None = None
    _is_dense: bool = False  # skimming has found nothing to pass
    _empty_row: int = 0  # pages without a candle since the last one with some
    _cursor_ms: int | None = None
    _overlap: int = 0
    _exchange_behind_ms: int = 0

    def __post_init__(self) -> None:
        self._cursor_ms = self.job.cursor_ms
        self._overlap = self.job.overlap
        self._skimmer = GapSkimmer(self.sender)

    @property
    def _grace_ms(self) -> int:
        return self.sender.connector.publish_grace_ms

    @contextmanager
    def reading_ahead(self, pages_max: int) -> Iterator[None]:
        """Inside the block up to so many pages are asked for at once, where the plan says what they will be."""
        now_ms = self.sender.clock.now_ms() - self._exchange_behind_ms
        page_max = partial(self.sender.client.page_max, self.job.timeframe.name)
        windows = self.plan.windows_ahead(self._cursor_ms, page_max, now_ms)
        with WindowsAhead(self.sender, list(islice(windows, pages_max))) as ahead:
            self._ahead = ahead
            yield
        self._ahead = None

    def will_skim(self, page: Page) -> bool:
        """Whether more may lie without trades behind this page, so that it pays to ask for the next one by itself."""
        return not page.advance.is_caught_up and self._may_skim(self.plan.next_window(self._cursor_ms, 0, page.now_ms), 1)

    def _may_skim(self, window: Window | None, empty_min: int = 0) -> bool:
        """Whether longer timeframes may pass much of the window; after so many empty pages at least."""
        if window is None or self.job.kind is JobKind.LIVE or self._is_dense or self._empty_row < empty_min:
            return False
        return self._skimmer.is_worth_it(window)

    def stop_ahead(self) -> None:
        """Nothing more is wanted beyond what is under way."""
        if self._ahead is not None:
            self._ahead.stop()

    def hurry(self) -> None:
        """The pages so far are stored, and the next one is waited for."""
        if self._ahead is not None:
            self._ahead.hurry()

    def go_on(self, job: Job, plan: WindowPlan) -> None:
        """From the job's cursor, where somebody has moved it to."""
        self.job, self.plan, self._cursor_ms = job, plan, job.cursor_ms

    def next_page(self) -> Step:
        """The next page, or why there is none.

        Raises:
            ExchangeError: after FETCH_TRIES_MAX tries, or at once where trying again cannot help. A refusal for speed has
                blocked the connector by then.
            StorageUnavailable: no limiter, no request.
        """
        job = self.job
        now_ms = self.sender.clock.now_ms() - self._exchange_behind_ms
        window = self.plan.next_window(self._cursor_ms, self._overlap, now_ms)
        if window is None:
            return NothingDue()
        if self._ahead is not None:
            if self._may_skim(window, EMPTY_ROW_MAX):
                return TimeIsUp()
            window = self._ahead.find(window)
        answer = self._skim(window, now_ms)
        if isinstance(answer, Answer):
            window = replace(window, end_ms=answer.fetched.covered_end_ms)
        elif answer is None:
            answer = self._answer_for(window)
            if isinstance(answer, Answer) and self._is_doubtful(window, answer, now_ms):
                event("page_doubted", "NOTICE", start_ms=window.new_ms, end_ms=answer.fetched.covered_end_ms)
                again = self.sender.fetch(window, self._pages_left(window))
                # Without room for it the first one counts: a limit of one request at a time would else let no run get on.
                answer = again if isinstance(again, Answer) else answer
        if not isinstance(answer, Answer):
            return answer
        fetched = answer.fetched
        # What is not in the answer may have come since it was asked for.
        now_ms = now_ms if answer.sent_ms is None else answer.sent_ms
        if fetched.exchange_now_ms is not None and fetched.exchange_now_ms < now_ms:
            self._exchange_behind_ms = now_ms - fetched.exchange_now_ms
            now_ms = fetched.exchange_now_ms
        advance = decide_advance(
            job.timeframe,
            window,
            cursor_ms=self._cursor_ms,
            last_given_ms=fetched.last_ms,
            covered_end_ms=fetched.covered_end_ms,
            now_ms=now_ms,
            grace_ms=self._grace_ms,
        )
        if advance.cursor_ms == self._cursor_ms and not advance.is_caught_up:
            # Only candles that were read again. Behind them may be intervals without trades, to be asked for alone; if not
            # even that would move the cursor, nothing in this run will.
            settled_end_ms = job.timeframe.closed_end(max(0, now_ms - self._grace_ms))
            if not self._overlap or settled_end_ms <= window.new_ms:
                advance = replace(advance, is_pending=True, is_caught_up=True)
        has_moved = advance.cursor_ms != self._cursor_ms
        if advance.is_caught_up and has_moved and self.plan.has_more(advance.cursor_ms):
            advance = replace(advance, is_caught_up=False)
        self._cursor_ms = self.plan.pass_known(advance.cursor_ms)
        self._overlap = 0
        self._empty_row = self._empty_row + 1 if fetched.is_empty else 0
        return Page(window, fetched, advance, self._cursor_ms, now_ms, self._exchange_behind_ms)

    def _skim(self, window: Window, now_ms: int) -> Answer | Refusal | TimeIsUp | None:
        """What longer timeframes tell of the window's begin, behind an empty page; None: it is to be asked for."""
        if self._ahead is not None or not self._may_skim(window, 1):
            return None
        found = self._skimmer.skim(window, max(0, now_ms - self._grace_ms))
        self._is_dense = found is None
        return found

    def _answer_for(self, window: Window) -> Answer | Refusal | TimeIsUp:
        ahead = None if self._ahead is None else self._ahead.take(window)
        return self.sender.fetch(window, self._pages_left(window)) if ahead is None else ahead

    def _pages_left(self, window: Window) -> int:
        intervals = self.job.timeframe.count(window.start_ms, window.end_ms)
        return -(-intervals // self.sender.client.spec.candles.limit_of(self.job.timeframe.name))

    def _is_doubtful(self, window: Window, answer: Answer, now_ms: int) -> bool:
        """Whether one answer may be damaged: it holds nothing for many intervals, two candles for one, or has a hole where the
        exchange leaves out nothing.
        """
        fetched = answer.fetched
        # What is to be skimmed next is asked for again by that.
        if answer.sent_ms is None or (fetched.is_empty and self._ahead is None and self._may_skim(window)):
            return False
        if bool((fetched.disputed_ms >= window.new_ms).any()):
            return True
        if not fetched.is_empty:
            # Of a job's first page nobody knows where the market begins.
            missing_before = 0 if self._cursor_ms is None else fetched.missing_before_count
            return fetched.missing_count + missing_before > 0
        timeframe = self.job.timeframe
        settled_end_ms = timeframe.closed_end(max(0, now_ms - self._grace_ms))
        return timeframe.count(window.new_ms, min(fetched.covered_end_ms, settled_end_ms)) >= EMPTY_DOUBTED_MIN
