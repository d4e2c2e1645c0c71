"""How long this invocation may still work, and what the database's clock says meanwhile: both on the monotonic clock."""

import time
from dataclasses import dataclass
from typing import Final

# Linux's monotonic clock stands still while the machine is suspended; this one does not (clock_gettime(2)).
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed_s() -> float:
    """A monotonic clock that counts the time for which the machine was suspended too, in seconds from some moment on."""
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on this process's monotonic clock. It may only make work stop sooner, never start."""

    at_monotonic: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """That many seconds from now."""
        return cls(time.monotonic() + seconds)

    def remaining_ms(self) -> int:
        """Milliseconds left; negative once it has passed."""
        return int((self.at_monotonic - time.monotonic()) * 1000)

    def earlier(self, other: "Deadline") -> "Deadline":
        """The one of the two that comes first."""
        return self if self.at_monotonic <= other.at_monotonic else other


@dataclass(frozen=True, slots=True)
class ServerClock:
    """The database's clock as known here: a stamp of the server's, and the monotonic time since its reply arrived.

    Never ahead of the server (the reply took some time to come), and independent of this machine's own clock.
    """

    stamped_ms: int
    replied_s: float

    @classmethod
    def stamped(cls, at_ms: int) -> "ServerClock":
        """From a stamp whose reply has arrived just now."""
        return cls(at_ms, elapsed_s())

    def now_ms(self) -> int:
        """UTC ms."""
        return self.stamped_ms + int((elapsed_s() - self.replied_s) * 1000)
