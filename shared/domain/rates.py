"""Rate limits: what an exchange allows, and what one grant lets its holder do.

The limiter itself decides on the database server (stores/rate_limits.py); here are its values and the relations between its
constants. Weight is the exchange's own unit. Why the log is charged at a use-by time: docs/limits.md.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

# A grant must be used soon, since it is charged as if used at the last moment: of a window W only W / (W + use-by + transit)
# can be filled. Below 100 ms a grant would be late before the database's answer is there.
USE_BY_FRACTION: Final = 100
USE_BY_MS_MAX: Final = 1_000
USE_BY_MS_MIN: Final = 100
# The way to the exchange: a request sent at the last allowed moment may arrive this much later and still is accounted for.
TRANSIT_FRACTION: Final = 40
TRANSIT_MS_MAX: Final = 1_000
TRANSIT_MS_MIN: Final = 150
# A settled grant counts this much longer than its arrival: the clocks of a replica set's members differ, and after a failover
# another one says when an entry leaves.
SKEW_MS: Final = 100
# Of every limit this much is never booked by repairs and backfills, so that a minute's close finds room beside them.
KEPT_FOR_LIVE_PERCENT: Final = 2
# Entries of one window's log that fall into the same grain are merged, which bounds the document's size.
GRAINS_PER_WINDOW: Final = 120


@dataclass(frozen=True, slots=True)
class RateWindow:
    """At most `limit` weight in every sliding window of `period_ms`."""

    limit: int
    period_ms: int

    def to_document(self) -> dict[str, int]:
        """As it stands in a connector."""
        return {"rate_limit": self.limit, "rate_limit_period_ms": self.period_ms}


@dataclass(frozen=True, slots=True)
class BookedWindow:
    """A rate window and what is booked in it: (ms at which it counts last, weight) pairs."""

    window: RateWindow
    entries: Sequence[tuple[int, int]]

    def used_at(self, at_ms: int, charge_ms: int) -> int:
        """Weight that counts at that moment, without what is booked for later."""
        return sum(
            weight for entry_ms, weight in self.entries if entry_ms - charge_ms <= at_ms < entry_ms + self.window.period_ms
        )

    def free_at(self, at_ms: int) -> int:
        """Weight that nobody has booked at that moment, as things stand now."""
        booked = sum(weight for entry_ms, weight in self.entries if entry_ms + self.window.period_ms > at_ms)
        return self.window.limit - booked


def use_by_ms(windows: tuple[RateWindow, ...]) -> int:
    """How long after its moment a grant may still be sent, in ms."""
    shortest_ms = min(window.period_ms for window in windows)
    return min(USE_BY_MS_MAX, max(USE_BY_MS_MIN, shortest_ms // USE_BY_FRACTION))


def transit_ms(windows: tuple[RateWindow, ...]) -> int:
    """How long a request may be on its way and still arrive inside what was charged, in ms."""
    shortest_ms = min(window.period_ms for window in windows)
    return min(TRANSIT_MS_MAX, max(TRANSIT_MS_MIN, shortest_ms // TRANSIT_FRACTION))


def charge_ms(windows: tuple[RateWindow, ...]) -> int:
    """How long after its moment a grant is charged: until the last moment at which its request may arrive."""
    return use_by_ms(windows) + transit_ms(windows)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a grant: `used` of its weight was sent, all of which had arrived by `arrived_by_ms` (the server's clock).

    Said only when nothing more will be sent under the grant. Until then it counts whole, as if used at its last moment.
    """

    reservation_id: str
    used: int
    arrived_by_ms: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """One answer of the limiter.

    `granted` weight may be sent from `reply + at_ms - clock_ms` on and not after `asked + at_ms - clock_ms + use_by_ms`, both
    on the asker's monotonic clock. With nothing granted, `at_ms` (server's clock) is when there is room by what is booked
    now; sooner only if others give back.
    """

    reservation_id: str
    granted: int
    at_ms: int
    clock_ms: int
    use_by_ms: int
    transit_ms: int
    used: int  # weight live in the main window after this booking
    is_paused: bool  # nothing is granted to jobs until the connector is resumed
    asked_monotonic: float
    replied_monotonic: float

    @property
    def wait_ms(self) -> int:
        """From the server's decision until the grant may be used, or until asking again makes sense."""
        return max(0, self.at_ms - self.clock_ms)

    @property
    def send_from_monotonic(self) -> float:
        """No request before this moment."""
        return self.replied_monotonic + self.wait_ms / 1000

    @property
    def send_until_monotonic(self) -> float:
        """No request after this moment; what is left then is thrown away."""
        return self.asked_monotonic + (self.wait_ms + self.use_by_ms) / 1000

    @property
    def charged_ms(self) -> int:
        """The server's clock at the last moment at which a request of it may arrive."""
        return self.at_ms + self.use_by_ms + self.transit_ms

    def latest_ms(self, monotonic: float) -> int:
        """What the server's clock showed at that moment of ours, or less: the grant was decided after we had asked for it.

        And its clock was cut to whole ms.
        """
        return self.clock_ms + 1 + math.ceil((monotonic - self.asked_monotonic) * 1000)

    def settled_ms(self, monotonic: float) -> int:
        """Until when a request counts that had arrived at that moment of ours: with room for another member's clock."""
        latest_ms = self.latest_ms(monotonic)
        return max(latest_ms, min(self.charged_ms, latest_ms + SKEW_MS))

    def as_of_now(self) -> "Reservation":
        """The same refusal, as the server would say it now."""
        monotonic = time.monotonic()
        elapsed_ms = int((monotonic - self.replied_monotonic) * 1000)
        return replace(self, clock_ms=self.clock_ms + elapsed_ms, asked_monotonic=monotonic, replied_monotonic=monotonic)

    def is_late(self) -> bool:
        """Whether the grant may no longer be used."""
        return time.monotonic() > self.send_until_monotonic
