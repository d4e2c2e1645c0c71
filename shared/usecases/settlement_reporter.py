"""Reports to the limiter what has become of grants where no question of the process takes it along in time."""

import threading
from collections.abc import Callable
from typing import Final

from shared.deadline import elapsed_s
from shared.telemetry import event

# The last report of an instance that stops; a database that is away does not hold it up for longer.
STOP_S_MAX: Final = 2.0


class SettlementReporter:
    """Calls `report` with a connector's id when it is due, in a thread of its own that begins with the first need."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._changed = threading.Condition()
        self._due: dict[str, float] = {}
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    def make_due_within(self, connector_id: str, ms: float) -> None:
        """Report at the latest then. What is due sooner stays so."""
        at_s = elapsed_s() + ms / 1000
        with self._changed:
            if self._is_stopped or self._due.get(connector_id, float("inf")) <= at_s:
                return
            self._due[connector_id] = at_s
            self._start()
            self._changed.notify()

    def stop(self) -> None:
        """Report what is due, now, and end the thread."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(STOP_S_MAX)

    def _start(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._work, name="settlement-reporter", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            # No thread to be had now. The next question takes the report along, and the next need tries again.
            event("settlement_reporter_not_started", "ERROR", error=str(exc))
            return
        self._thread = thread

    def _work(self) -> None:
        while True:
            with self._changed:
                connector_id = self._next()
            if connector_id is None:
                return
            self._report(connector_id)

    def _next(self) -> str | None:
        """The connector that is due next, when it is; None when all has been reported at the end."""
        while True:
            first = min(self._due, key=self._due.__getitem__, default=None)
            if first is None and self._is_stopped:
                return None
            if first is not None and (self._is_stopped or self._due[first] <= elapsed_s()):
                del self._due[first]
                return first
            self._changed.wait(None if first is None else self._due[first] - elapsed_s())
