"""Pass long stretches without trades by a longer timeframe, where an exchange is asked for one window after another.

Such an exchange answers an empty page for each window before a listing or in a halt: of minutes on Coinbase 1,752 a year. Where
it has no candle of a day there was none of a minute, and 300 days fit into one request. Two pages of the job's own timeframe
are held against that, the last of the stretch and any other one: an exchange that has lost its longer candles has not for
that lost the others. What is passed so has been asked for and was not there; it is looked for again as an empty page is.
"""

from dataclasses import dataclass, replace
from typing import Final

from shared.domain.timeframes import TIMEFRAMES, Timeframe
from shared.domain.windows import Window
from shared.errors import ExchangeError, ExchangeThrottled
from shared.exchanges.client import ExchangeClient
from shared.exchanges.pages import empty_page
from shared.telemetry import event
from shared.usecases.grants import Refusal
from shared.usecases.send_requests import Answer, RequestSender, TimeIsUp

# What is left of a gap has to be longer than so many pages.
PAGES_MIN: Final = 20
PAGES_MIN_BEGUN: Final = 2


@dataclass(slots=True)
class GapSkimmer:
    """Skims the gaps of one run, with a few requests a step: what a step has passed is kept if there is no room for another."""

    sender: RequestSender
    # Which of the longer timeframes may pass more: those before it have a candle where the run has come to.
    _level: int = 0

    def is_worth_it(self, window: Window) -> bool:
        """Whether so much is left to ask for that a few requests of longer timeframes may save many."""
        client, grid = self.sender.client, self.sender.job.timeframe
        # Once begun it is nearly done.
        pages_min = PAGES_MIN if self._level == 0 else PAGES_MIN_BEGUN
        pages = grid.count(window.new_ms, window.end_ms) / client.page_max(grid.name, window.new_ms)
        return pages > pages_min and self._level < len(longer_timeframes(client, grid))

    def skim(self, window: Window, settled_ms: int) -> Answer | Refusal | TimeIsUp | None:
        """An answer that covers what of the window begins without trades, if that is more than a page.

        None: it is not, or the job's own candles say otherwise. `settled_ms`: what has closed by then has been published, if it
        ever is.

        Raises:
            ExchangeThrottled, StorageUnavailable: as RequestSender.fetch. Of other errors of the exchange a page will tell.
        """
        client, own = self.sender.client, self.sender.job.timeframe
        page_max = client.page_max(own.name, window.new_ms)
        grids = longer_timeframes(client, own)
        while self._level < len(grids):
            grid = grids[self._level]
            start_ms = grid.floor(window.new_ms)
            # Pages of an exchange's archive have another size.
            page_end_ms = grid.shift(start_ms, client.page_max(grid.name, start_ms))
            end_ms = min(page_end_ms, grid.ceil(window.end_ms), grid.closed_end(settled_ms))
            answer: Answer | Refusal | TimeIsUp | None = None
            if own.count(window.new_ms, end_ms) > page_max:
                answer = self._ask(grid, Window(start_ms, start_ms, end_ms, end_ms))
            if answer is not None and not isinstance(answer, Answer):
                return answer
            first_ms = start_ms if answer is None else _first_of(answer, end_ms)
            if first_ms < page_end_ms:
                # Behind it only shorter ones tell more; before it, the next page of this one.
                self._level += 1
            empty_end_ms = min(own.floor(first_ms), window.end_ms)
            if own.count(window.new_ms, empty_end_ms) > page_max:
                return self._checked(window, empty_end_ms, page_max)
        return None

    def _checked(self, window: Window, empty_end_ms: int, page_max: int) -> Answer | Refusal | TimeIsUp | None:
        """The answer that passes the stretch, if pages of the job's own timeframe in it are empty; of a long one two."""
        own = self.sender.job.timeframe
        pages = -(-own.count(window.new_ms, empty_end_ms) // page_max)
        samples = [pages - 1, self.sender.rng.randrange(pages)] if pages > PAGES_MIN else [pages - 1]
        sent_ms: int | None = None
        for sample in samples:
            first_ms = own.shift(window.new_ms, sample * page_max)
            end_ms = min(empty_end_ms, own.shift(first_ms, self.sender.client.page_max(own.name, first_ms)))
            answer = self.sender.fetch(Window(first_ms, first_ms, end_ms, window.closed_end_ms), 1)
            if not isinstance(answer, Answer):
                return answer
            if not answer.fetched.is_empty:
                event("gap_not_skimmed", "NOTICE", timeframe=own.name, detail=f"there are candles from {first_ms} on")
                return None
            sent_ms = answer.sent_ms
        event("gap_skimmed", start_ms=window.new_ms, end_ms=empty_end_ms)
        return Answer(empty_page(window.start_ms, empty_end_ms), sent_ms)

    def _ask(self, grid: Timeframe, window: Window) -> Answer | Refusal | TimeIsUp | None:
        """The candles of another timeframe; where there are none they are asked for once more. None: it cannot be had."""
        sender = replace(self.sender, job=replace(self.sender.job, timeframe=grid))
        try:
            answer = sender.fetch(window, 1)
            is_empty = isinstance(answer, Answer) and answer.fetched.is_empty
            return sender.fetch(window, 1) if is_empty else answer
        except ExchangeThrottled:
            raise
        except ExchangeError as exc:
            event("gap_not_skimmed", "NOTICE", timeframe=grid.name, error=exc.code, detail=exc.message)
            return None


def _first_of(answer: Answer, end_ms: int) -> int:
    """Open time of the first candle; where there is none, up to where that is known."""
    first_ms = answer.fetched.first_ms
    return min(end_ms, answer.fetched.covered_end_ms) if first_ms is None else first_ms


def longer_timeframes(client: ExchangeClient, own: Timeframe) -> list[Timeframe]:
    """Those whose candles tell of a job's own, the longest first.

    None where one request covers any range, or where not all is kept.
    """
    spec = client.spec
    if not spec.paging.is_by_window or spec.history_of(own.name) is not None:
        return []
    offered = [TIMEFRAMES[name] for name in reversed(spec.timeframe_names) if spec.history_of(name) is None]
    return [grid for grid in offered if grid.is_made_of(own)]
