"""The worker calls that one tick holds open: its places, who has them, and who may have the next one."""

import threading
from collections import Counter
from typing import Final

from shared.domain.shares import LIVE, places_for_others
from shared.stores.job_leases import Claim

# In every so many passes that have places, the first one goes to a repair or backfill. A busy tick makes ten passes a second.
OTHERS_EVERY: Final = 8


class OpenCalls:
    """Counted under a lock: places are taken by the tick's own thread and become free in those of the calls."""

    def __init__(self, calls_max: int) -> None:
        self._calls_max = calls_max
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()
        self._others_count = 0
        self._passes = 0

    def free(self) -> int:
        """Places nobody has. It may only grow until the next `take`."""
        with self._lock:
            return self._calls_max - self._open.total()

    def free_for_others(self) -> int:
        """Of these, how many a repair or a backfill may have."""
        with self._lock:
            return max(0, min(self._calls_max - self._open.total(), places_for_others(self._calls_max) - self._others_count))

    def is_turn_of_others(self) -> bool:
        """Asked once a pass that could give a place to a repair or backfill: whether one goes before all live jobs."""
        with self._lock:
            self._passes += 1
            return self._passes % OTHERS_EVERY == 0

    def turn_of(self, connector_id: str) -> tuple[int, int]:
        """Who has the smaller one goes first: calls open now, then calls made in this tick.

        Or a place that becomes free would always go to the same connector.
        """
        with self._lock:
            return self._open[connector_id], self._taken[connector_id]

    def take(self, claim: Claim) -> None:
        """A place for that job's call."""
        with self._lock:
            self._open[claim.connector_id] += 1
            self._taken[claim.connector_id] += 1
            self._others_count += int(claim.priority != LIVE)

    def release(self, claim: Claim) -> None:
        """Its call has ended."""
        with self._lock:
            self._open[claim.connector_id] -= 1
            self._others_count -= int(claim.priority != LIVE)
