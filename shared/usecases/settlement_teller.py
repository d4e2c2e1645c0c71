"""Tells the limiter what has become of grants where no question of the process takes it along in time."""

import threading
import time
from collections.abc import Callable
from typing import Final

# The last word of an instance that stops; a database that is away does not hold it up for longer.
STOP_S_MAX: Final = 2.0


class SettlementTeller:
    """Calls `tell` with a connector's id when it is due, in a thread of its own that begins with the first need."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._changed = threading.Condition()
        self._due: dict[str, float] = {}
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    def make_due_within(self, connector_id: str, ms: float) -> None:
        """Tell at the latest then. What is due sooner stays so."""
        at = time.monotonic() + ms / 1000
        with self._changed:
            if self._is_stopped or self._due.get(connector_id, float("inf")) <= at:
                return
            self._due[connector_id] = at
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="settlement-teller", daemon=True)
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """Tell what is due, now, and end the thread."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(STOP_S_MAX)

    def _work(self) -> None:
        while True:
            with self._changed:
                connector_id = self._next()
            if connector_id is None:
                return
            self._tell(connector_id)

    def _next(self) -> str | None:
        """The connector that is due next, when it is; None when all has been told at the end."""
        while True:
            first = min(self._due, key=self._due.__getitem__, default=None)
            if first is None and self._is_stopped:
                return None
            if first is not None and (self._is_stopped or self._due[first] <= time.monotonic()):
                del self._due[first]
                return first
            self._changed.wait(None if first is None else self._due[first] - time.monotonic())
