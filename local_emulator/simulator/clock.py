"""The simulator's own clock: the host's, moved or stopped. Limits are counted on the monotonic clock instead."""

import time


class SimulatorClock:
    """Milliseconds since the epoch. Reads the host's clock plus an offset until it is frozen."""

    def __init__(self, offset_ms: int = 0, freeze_at_ms: int | None = None) -> None:
        self._offset_ms = offset_ms
        self._frozen_ms = freeze_at_ms

    @property
    def is_frozen(self) -> bool:
        """Whether time stands still."""
        return self._frozen_ms is not None

    @property
    def offset_ms(self) -> int:
        """How far ahead of the host's clock it is."""
        return self.now_ms() - _host_ms()

    def now_ms(self) -> int:
        """The time now."""
        return _host_ms() + self._offset_ms if self._frozen_ms is None else self._frozen_ms

    def set(self, now_ms: int) -> None:
        """It is now this late; goes on running, or stays frozen."""
        self._offset_ms = now_ms - _host_ms()
        if self._frozen_ms is not None:
            self._frozen_ms = now_ms

    def advance(self, by_ms: int) -> None:
        """Jump; backwards if negative."""
        self.set(self.now_ms() + by_ms)

    def freeze(self, at_ms: int | None = None) -> None:
        """Stand still, at that moment or now."""
        self._frozen_ms = self.now_ms() if at_ms is None else at_ms

    def run(self) -> None:
        """Go on from here."""
        self.set(self.now_ms())
        self._frozen_ms = None


def _host_ms() -> int:
    return time.time_ns() // 1_000_000
