"""Have several windows of one run asked for at once, and hand over their answers in order.

Where it is known what a run will ask for, one request's round trip need not end before the next one is sent: with 100 ms
to the exchange and a page every 20 ms in its limit five have to be under way, and more where answers take their time. Weight
is asked for in the order of the windows, so that a limit without room leaves no answers behind it that nobody can use.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Final, TypeAlias

from shared.domain.windows import Window
from shared.usecases.grants import Refusal
from shared.usecases.send_requests import Answer, RequestSender, TimeIsUp

# Requests of one run under way at once: as a round trip of 240 ms asks for at the widest limit (Binance's). Eight were enough
# on an idle machine; on a busy one a page took 180 ms instead of 110, and a sixth of the limit was not used. Sixteen decode
# in each other's way where there is no round trip to wait for: a tenth of the throughput.
IN_FLIGHT_MAX: Final = 12
# As many at first, and twice as many whenever whoever stores them has had to wait for a page. Where answers come at once,
# more than storing can use decode just when it needs the processor: with four it took 0.42 s for what took 0.51 with twelve.
IN_FLIGHT_FIRST: Final = 4
# Answers in hand or under way at most, and so the memory of a run.
AHEAD_MAX: Final = 16

Outcome: TypeAlias = Answer | Refusal | TimeIsUp | Exception


class _Stopped(Exception):
    """Nothing more is sent: an earlier window has got no answer, or the run has ended."""


class WindowsAhead:
    """A context manager around the windows, ascending, that a run is going to ask for.

    Leaving it waits for the requests that are under way.
    """

    def __init__(self, sender: RequestSender, windows: Sequence[Window]) -> None:
        self._sender = sender
        self._windows = windows
        self._changed = threading.Condition()
        self._outcomes: dict[int, Outcome] = {}
        self._taken = self._begun = self._turn = 0
        self._is_stopped = False  # no further window is begun
        self._is_left = False
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "WindowsAhead":
        self._grow(IN_FLIGHT_FIRST)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        with self._changed:
            self._is_stopped = self._is_left = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Begin no further window."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def hurry(self) -> None:
        """Have more under way at once: somebody is waiting for the next page with nothing else to do."""
        if not self._is_stopped and self._begun < len(self._windows):
            self._grow(2 * len(self._threads))

    def _grow(self, count: int) -> None:
        """To `count` requests at once, each a thread's, as far as there are windows for them."""
        count = min(count, IN_FLIGHT_MAX, len(self._windows))
        self._sender.in_flight_max = max(1, count)
        while len(self._threads) < count:
            thread = threading.Thread(target=copy_context().run, args=(self._work,), name="ahead", daemon=True)
            self._threads.append(thread)
            thread.start()

    def find(self, window: Window) -> Window:
        """What of the window is asked for next: one of those ahead, or what lies before the next of them."""
        with self._changed:
            # Those that turned out not to be needed are passed over.
            while self._taken < len(self._windows) and self._windows[self._taken].new_ms < window.new_ms:
                self._outcomes.pop(self._taken, None)
                self._taken += 1
            self._changed.notify_all()
        ahead = self._windows[self._taken] if self._taken < len(self._windows) else None
        if ahead is None or ahead.new_ms >= window.end_ms:
            return window
        if ahead.new_ms > window.new_ms:
            return replace(window, end_ms=ahead.new_ms)
        return ahead

    def take(self, window: Window) -> Answer | Refusal | TimeIsUp | None:
        """What became of a window that `find` gave; None: it is not one of those ahead.

        Raises what its request has raised.
        """
        number = self._taken
        if number == len(self._windows) or self._windows[number] != window:
            return None
        with self._changed:
            # One that was begun before a later window stopped them all is still under way.
            self._changed.wait_for(lambda: number in self._outcomes or self._is_left or self._is_never_begun(number))
            outcome = self._outcomes.pop(number, TimeIsUp())
            self._taken = number + 1
            self._changed.notify_all()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _is_never_begun(self, number: int) -> bool:
        return self._is_stopped and number >= self._begun

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_stopped or self._begun < self._taken + AHEAD_MAX)
                if self._is_stopped or self._begun == len(self._windows):
                    return
                number = self._begun
                self._begun += 1
            outcome = self._ask(number)
            with self._changed:
                if outcome is not None:
                    # Also where nothing had to be sent. But a window that was stopped gives its turn to nobody.
                    self._turn = max(self._turn, number + 1)
                if number >= self._taken:
                    self._outcomes[number] = TimeIsUp() if outcome is None else outcome
                self._is_stopped = self._is_stopped or not isinstance(outcome, Answer)
                self._changed.notify_all()

    def _ask(self, number: int) -> Outcome | None:
        try:
            pages_left = len(self._windows) - number
            return self._sender.fetch(self._windows[number], pages_left, partial(self._in_turn, number))
        except _Stopped:
            return None
        except Exception as exc:  # noqa: BLE001 - carried over to the thread that takes it, which knows what it means
            return exc

    @contextmanager
    def _in_turn(self, number: int) -> Iterator[None]:
        """Asking for weight, after all windows before this one have. One that is tried again has had its turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn >= number or self._is_stopped)
            if self._is_stopped and self._turn <= number:
                raise _Stopped
        yield
        with self._changed:
            self._turn = max(self._turn, number + 1)
            self._changed.notify_all()
