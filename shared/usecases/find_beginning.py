"""Find where a market begins, before a backfill asks an exchange for years in which nothing was traded.

Exchanges that are asked for a window answer an empty one for each page before a listing: of minutes on Coinbase 1,752 a year.
Their longest timeframe tells the same in a few requests, and each shorter one where in its candle the first trade lies.
Nothing is believed that candles of a shorter timeframe contradict: what is before a beginning is never asked for.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from shared.domain.job_ranges import EARLIEST_MS
from shared.domain.jobs import Job, JobKind
from shared.domain.timeframes import TIMEFRAMES, Timeframe
from shared.domain.windows import Window
from shared.errors import ExchangeError, ExchangeThrottled
from shared.exchanges.client import ExchangeClient
from shared.stores.candles import CandleStore, Series
from shared.stores.database import Database
from shared.telemetry import event
from shared.usecases.grants import Refusal
from shared.usecases.keep_ledger import SeriesLedger
from shared.usecases.send_requests import Answer, RequestSender, TimeIsUp

# A backfill of so many pages or fewer costs less than the search.
PAGES_MIN: Final = 20
# An empty window is asked for again before it is believed, as pages are (docs/decisions/0019).
EMPTY_TRIES: Final = 2


class _Ended(Exception):
    """The limiter or the clock keep the search from going on; what it has seen is kept."""

    def __init__(self, step: Refusal | TimeIsUp) -> None:
        super().__init__(step)
        self.step = step


class Contradicted(Exception):
    """The exchange has candles of a shorter timeframe before the first one of a longer."""


@dataclass(frozen=True, slots=True)
class BeginningFinder:
    """Looks for the beginnings of series, and writes them down."""

    database: Database
    ledger: SeriesLedger
    candles: CandleStore

    def look(self, job: Job, sender: RequestSender) -> Refusal | TimeIsUp | None:
        """Before a job's first page: find where its series begins, if that may save requests. Not None: go on later.

        Raises:
            ExchangeThrottled, StorageUnavailable: as RequestSender.fetch. If the exchange refuses what is asked for here it is
                as if nobody had looked.
        """
        series = Series(job.exchange, job.symbol, job.timeframe.name)
        if not self._is_worth_it(job, series, sender.client):
            return None
        store = self.ledger.asked
        empty_until_ms = max(EARLIEST_MS, store.read_empty_until_ms(series.series_id))
        search = BeginningSearch(job, sender, self.candles.find_next_open(series, -1), empty_until_ms)
        try:
            # One that has been begun has seen that.
            if empty_until_ms == EARLIEST_MS and search.is_traded_before(job.start_ms):
                return None
            begins_ms = search.narrow(search.pass_empty())
        except _Ended as exc:
            empty_until_ms = search.empty_until_ms
            self.database.transact(lambda session: store.note_empty(series.series_id, empty_until_ms, session))
            return exc.step
        except ExchangeThrottled:
            raise
        except (Contradicted, ExchangeError) as exc:
            # Should the exchange be down, the page that comes now says so.
            event("beginning_not_found", "NOTICE", detail=f"{type(exc).__name__}: {exc}")
            return None
        if begins_ms is not None:
            event("beginning_found", begins_ms=begins_ms, requests=sender.totals.requests)
            self.database.transact(lambda session: store.note_begins(series.series_id, begins_ms, session))
        return None

    def _is_worth_it(self, job: Job, series: Series, client: ExchangeClient) -> bool:
        if job.kind is not JobKind.BACKFILL or job.end_ms is None or job.cursor_ms is not None:
            return False
        grid, spec = job.timeframe, client.spec
        if not spec.paging.is_by_window or spec.history_of(grid.name) is not None or not longer_timeframes(client, grid):
            return False
        if self.ledger.begins(series, job):
            return False
        first, end = grid.number(grid.ceil(job.start_ms)), grid.number(grid.ceil(job.end_ms))
        page_max = client.page_max(grid.name, job.start_ms)
        gaps = self.ledger.plan_gaps(series, job, page_max, first, end, 0)
        is_from_start = bool(gaps) and gaps[0][0] == grid.open_at(first)
        if not is_from_start or sum(-(-grid.count(*gap) // page_max) for gap in gaps) <= PAGES_MIN:
            return False
        stored_ms = self.candles.find_next_open(series, -1)
        return stored_ms is None or stored_ms > job.start_ms


@dataclass(slots=True)
class BeginningSearch:
    """One search. `stored_ms`: the first candle that is stored, None if there is none. Up to `empty_until_ms` nothing is."""

    job: Job
    sender: RequestSender
    stored_ms: int | None
    empty_until_ms: int

    @property
    def _grids(self) -> list[Timeframe]:
        return longer_timeframes(self.sender.client, self.job.timeframe)

    def is_traded_before(self, start_ms: int) -> bool:
        """Whether the newest page before that moment holds a candle."""
        grid = self._grids[0]
        end_ms = grid.floor(start_ms)
        page_ms = self._page_before(grid, end_ms)
        if self._first_in(grid, page_ms, end_ms) is not None:
            return True
        if page_ms <= self.empty_until_ms:
            self.empty_until_ms = max(self.empty_until_ms, end_ms)
        return False

    def pass_empty(self) -> int:
        """Open time of the first candle of the longest timeframe, or of the running one: before it nothing was traded."""
        grid = self._grids[0]
        end_ms = grid.closed_end(self.sender.clock.now_ms())
        page_ms = grid.floor(self.empty_until_ms)
        while page_ms < end_ms:
            page_end_ms = min(end_ms, grid.shift(page_ms, self.sender.client.page_max(grid.name, page_ms)))
            found_ms = self._first_in(grid, page_ms, page_end_ms)
            if found_ms is not None:
                return found_ms
            self.empty_until_ms = page_ms = page_end_ms
        return end_ms

    def narrow(self, open_ms: int) -> int | None:
        """From the first candle of the longest timeframe to where a page of the job's own holds the first trade.

        None: nothing was ever traded.
        """
        client, own = self.sender.client, self.job.timeframe
        now_ms = self.sender.clock.now_ms()
        grids = self._grids
        is_found = open_ms < grids[0].closed_end(now_ms)
        for longer, grid in pairwise(grids):
            if own.count(open_ms, longer.close(open_ms)) <= client.page_max(own.name, open_ms):
                break
            end_ms = min(longer.close(open_ms), grid.closed_end(now_ms))
            found_ms = self._first_in(grid, self._page_before(grid, end_ms), end_ms)
            if found_ms is None:
                if is_found:
                    break
                # Listed in the interval that is still running.
                open_ms = max(open_ms, grid.floor(end_ms))
                continue
            if found_ms < open_ms:
                raise Contradicted(f"{grid.name} has a candle of {found_ms}, {longer.name} none before {open_ms}")
            open_ms, is_found = found_ms, True
        begins_ms = own.ceil(open_ms)
        if not is_found and self.stored_ms is None and self._first_in(own, begins_ms, own.closed_end(now_ms)) is None:
            return None
        if self.stored_ms is not None:
            begins_ms = min(begins_ms, self.stored_ms)
        page_ms = own.shift(begins_ms, -client.page_max(own.name, begins_ms))
        if self._first_in(own, page_ms, begins_ms) is not None:
            raise Contradicted(f"{own.name} has candles right before {begins_ms}")
        return begins_ms

    def _page_before(self, grid: Timeframe, end_ms: int) -> int:
        """Where the page begins that ends there."""
        # What is asked of an exchange's archive has pages of its own.
        start_ms = grid.shift(end_ms, -self.sender.client.page_max(grid.name, EARLIEST_MS))
        return max(start_ms, grid.floor(EARLIEST_MS))

    def _first_in(self, grid: Timeframe, start_ms: int, end_ms: int) -> int | None:
        """Open time of the first candle in [start_ms, end_ms), which one page covers."""
        if start_ms >= end_ms:
            return None
        sender = replace(self.sender, job=replace(self.job, timeframe=grid))
        window = Window(start_ms, start_ms, end_ms, end_ms)
        for _ in range(EMPTY_TRIES):
            answer = sender.fetch(window, 1)
            if not isinstance(answer, Answer):
                raise _Ended(answer)
            if len(answer.fetched.candles):
                return int(answer.fetched.candles.open_ms[0])
        return None


def longer_timeframes(client: ExchangeClient, own: Timeframe) -> list[Timeframe]:
    """Those that the exchange offers and keeps for ever, each made of whole intervals of the next; the longest first."""
    spec = client.spec
    grids: list[Timeframe] = []
    for name in reversed(spec.timeframe_names):
        grid = TIMEFRAMES[name]
        is_whole = grid.is_made_of(own) and (not grids or grids[-1].is_made_of(grid))
        if is_whole and spec.history_of(name) is None:
            grids.append(grid)
    return grids
