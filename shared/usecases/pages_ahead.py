"""Fetch a few pages ahead of the one that is being stored, in a thread of their own, and hand over all that are there.

Storing costs a journal flush a transaction however many candles it holds, so pages that have piled up go together.
"""

import threading
from collections import deque
from contextvars import copy_context
from types import TracebackType
from typing import Final

from shared.usecases.fetch_pages import Page, PageFetcher, Step

# Pages in hand at most, and so the memory of a run. With 12 storing was not measurably cheaper any more.
PAGES_AHEAD_MAX: Final = 8
# Candles stored together at most, where exchanges give many a page: some 10 MB in one transaction.
CANDLES_TOGETHER_MAX: Final = 30_000


class PagesAhead:
    """A context manager around one run's fetching. Leaving it waits for the request that is on its way."""

    def __init__(self, fetcher: PageFetcher, first: Page, pages_max: int) -> None:
        self._fetcher = fetcher
        self._pages_max = pages_max
        self._ready: deque[Step | Exception] = deque([first])
        self._changed = threading.Condition()
        self._is_left = False
        self._thread = threading.Thread(target=copy_context().run, args=(self._fetch,), name="fetch", daemon=True)

    def __enter__(self) -> "PagesAhead":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._fetcher.stop_ahead()
        with self._changed:
            self._is_left = True
            self._changed.notify_all()
        self._thread.join()

    def take(self) -> "list[Page] | Step":
        """All pages that are there and follow each other, at least one, in order; or why there are no more.

        Those that are too many for one transaction wait for the next call.

        Raises:
            ExchangeError, StorageUnavailable: what ended the fetching, after all pages before it have been taken.
        """
        with self._changed:
            if not self._ready:
                self._fetcher.hurry()
            self._changed.wait_for(lambda: self._ready)
            pages: list[Page] = []
            candles_count = 0
            while self._ready and isinstance(page := self._ready[0], Page) and (not pages or _follows(page, pages[-1])):
                candles_count += len(page.fetched.candles)
                if pages and candles_count > CANDLES_TOGETHER_MAX:
                    break
                pages.append(page)
                self._ready.popleft()
            self._changed.notify_all()
            if pages:
                return pages
            end = self._ready.popleft()
        if isinstance(end, Exception):
            raise end
        return end

    def _fetch(self) -> None:
        """Until a page is the last one, or there is none, or the run has left."""
        for _ in range(1, self._pages_max):
            with self._changed:
                self._changed.wait_for(lambda: len(self._ready) < PAGES_AHEAD_MAX or self._is_left)
                if self._is_left:
                    return
            step = self._next()
            with self._changed:
                self._ready.append(step)
                self._changed.notify_all()
            if not isinstance(step, Page) or step.advance.is_caught_up:
                return

    def _next(self) -> Step | Exception:
        try:
            return self._fetcher.next_page()
        except Exception as exc:  # noqa: BLE001 - carried over to the thread that runs the job, which knows what it means
            return exc


def _follows(page: Page, earlier: Page) -> bool:
    """Whether nothing lies between the two. Where something does, their values are not computed in one go."""
    asked_ms = earlier.advance.cursor_ms
    return asked_ms == earlier.cursor_ms and asked_ms is not None and asked_ms < page.window.new_ms
