"""Rate limits: what an exchange allows, and what one grant lets its holder do.

The limiter itself decides on the database server (stores/rate_limits.py). Here are its values, and the constants with their
relations. Weight is the exchange's own unit. Why a grant counts until its arrival is known: docs/limits.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from shared.deadline import elapsed_s

# A grant may be sent until this long after it was asked for, or after its moment. It leaves room for a database that takes
# half a second to answer on a busy machine. It costs no utilisation: what arrives counts from its arrival.
USE_BY_MS: Final = 1_000
# One grant covers the requests that can be sent within this part of the shortest window, in these bounds: all of it counts from
# the grant's moment on, also what is sent last.
BATCH_FRACTION: Final = 100
BATCH_MS_MIN: Final = 100
BATCH_MS_MAX: Final = 250
# A request that leaves later than this after the database was last heard of looks there first, so that little is sent after the
# exchange has refused another process.
LOOK_AGAIN_MS: Final = 250
# The longest time for which a process may stand still between its look at the clock and its request: a throttled or swapped
# process, SIGSTOP, a virtual machine that is moved. Seen: 1 s beside three busy loops on two cores. Nothing can enforce it, so
# it is ten times that; a request that was held up for longer moves its charge when it is answered.
PAUSE_MS_MAX: Final = 10_000
# A request that is not answered after this long is given up. The kernel sends nothing of it again either: it is the
# connection's TCP_USER_TIMEOUT too, which holds for a process that was killed (exchanges/gated_http.py).
ANSWER_MS_MAX: Final = 5_000
# A grant of which nothing is heard counts for this long after its use-by: then nothing of it can arrive any more.
IN_DOUBT_MS: Final = PAUSE_MS_MAX + ANSWER_MS_MAX
# What an answer is expected to take. It only says when to ask again; to follow what is measured bought nothing (decision 31).
EXPECTED_ANSWER_MS: Final = 250
# What has arrived counts this much longer: the clocks of a replica set's members differ, and after a failover another one says
# when an entry leaves.
SKEW_MS: Final = 100
# An arrival is reported within a quarter of the shortest window, but not at once, since a question may take it along.
REPORT_MS_MIN: Final = 250
REPORT_MS_MAX: Final = 5_000
# Repairs and backfills never book this much of a limit, so that a minute's close finds room beside them.
KEPT_FOR_LIVE_PERCENT: Final = 2
# Grants of which something is open: sixteen processes with sixteen each. With as many in doubt nothing more is granted until
# some are settled or cannot arrive any more. It bounds what one call has to look through.
UNSETTLED_MAX: Final = 256
# Entries of one window's log that fall into the same grain are merged, which bounds the document's size.
GRAINS_PER_WINDOW: Final = 120
# A refusal halves the share of every limit that is used, down to this (in thousandths) at the least. All of it is regained
# within RECOVERY_MS. So a limit that the exchange has lowered, or that a stranger uses too, is found in a few refusals.
SHARE_PERMILLE_ALL: Final = 1_000
SHARE_PERMILLE_MIN: Final = 60
RECOVERY_MS: Final = 300_000
# For one period after a refusal, a minute at most, this many requests may be under way: as many as could be refused again.
# Exchanges begin to ban at about ten.
CAREFUL_REQUESTS: Final = 4
CAREFUL_MS_MAX: Final = 60_000

assert LOOK_AGAIN_MS < USE_BY_MS < ANSWER_MS_MAX < IN_DOUBT_MS


@dataclass(frozen=True, slots=True)
class RateWindow:
    """At most `limit` weight in every sliding window of `period_ms`."""

    limit: int
    period_ms: int

    def to_document(self) -> dict[str, int]:
        """As it stands in a connector."""
        return {"rate_limit": self.limit, "rate_limit_period_ms": self.period_ms}


def batch_ms(windows: Sequence[RateWindow]) -> int:
    """For how long one grant is to last."""
    shortest_ms = min(window.period_ms for window in windows)
    return min(BATCH_MS_MAX, max(BATCH_MS_MIN, shortest_ms // BATCH_FRACTION))


def report_within_ms(windows: Sequence[RateWindow]) -> int:
    """How soon the limiter has to know of an arrival, if no question takes it along.

    It counts for a period whether it is known or not. But what leaves a window can only be booked ahead once it is known.
    """
    shortest_ms = min(window.period_ms for window in windows)
    return min(REPORT_MS_MAX, max(REPORT_MS_MIN, shortest_ms // 4))


@dataclass(frozen=True, slots=True)
class OpenWeight:
    """Weight that was granted for `at_ms` and of which it is not known yet when it arrived.

    It cannot arrive after `charged_ms`.
    """

    at_ms: int
    charged_ms: int
    weight: int

    @property
    def expected_ms(self) -> int:
        """By when it is expected to have arrived."""
        return min(self.at_ms + EXPECTED_ANSWER_MS, self.charged_ms)


@dataclass(frozen=True, slots=True)
class BookedWindow:
    """A rate window and what is booked in it.

    `entries` are (ms at which it counts last, weight) pairs of what has arrived, `unsettled` what may still arrive.
    """

    window: RateWindow
    entries: Sequence[tuple[int, int]]
    unsettled: Sequence[OpenWeight] = ()

    def used_at(self, at_ms: int) -> int:
        """Weight that counts at that moment, without what is booked for later."""
        arrived = sum(weight for entry_ms, weight in self.entries if at_ms < entry_ms + self.window.period_ms)
        return arrived + sum(
            grant.weight for grant in self.unsettled if grant.at_ms <= at_ms < grant.charged_ms + self.window.period_ms
        )

    def free_at(self, at_ms: int) -> int:
        """Weight that nobody will have booked at that moment, if what is under way arrives when it is expected."""
        booked = sum(weight for entry_ms, weight in self.entries if entry_ms + self.window.period_ms > at_ms)
        expected = sum(grant.weight for grant in self.unsettled if grant.expected_ms + self.window.period_ms > at_ms)
        return self.window.limit - booked - expected

    def expected_room_ms(self, need: int, now_ms: int) -> int:
        """When `need` will fit, if what is under way arrives when it is expected; `now_ms` if it does now.

        What should have left the window by now and has not been heard of is looked for again a period later, or when it cannot
        arrive any more.
        """
        period_ms = self.window.period_ms
        leaves = [(entry_ms + period_ms, weight) for entry_ms, weight in self.entries]
        for grant in self.unsettled:
            expected_ms = grant.expected_ms + period_ms
            if expected_ms <= now_ms:
                expected_ms = min(grant.charged_ms + period_ms, now_ms + period_ms)
            leaves.append((expected_ms, grant.weight))
        excess, at_ms = sum(weight for at, weight in leaves if at > now_ms) + need - self.window.limit, now_ms
        for leave_ms, weight in sorted(leaves):
            if excess <= 0:
                break
            if leave_ms > now_ms:
                excess, at_ms = excess - weight, leave_ms
        return at_ms


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody asks the limiter for: between `need` and `want` weight, at most `wait_ms_max` from now.

    `is_for_job`: nothing is granted while the connector is paused. A question that is not `is_live` leaves
    KEPT_FOR_LIVE_PERCENT of every limit to those that are. A grant may be sent for `use_by_ms`, and counts for `in_doubt_ms`
    after that if nothing is heard of it.
    """

    need: int
    want: int
    wait_ms_max: int
    is_for_job: bool = True
    is_live: bool = True
    use_by_ms: int = USE_BY_MS
    in_doubt_ms: int = IN_DOUBT_MS

    @property
    def charge_ms(self) -> int:
        """How long after its moment a grant counts as if it might still arrive."""
        return self.use_by_ms + self.in_doubt_ms


@dataclass(frozen=True, slots=True)
class Settlement:
    """What has become of a part of a grant: of `before` weight that was open, `after` is still open.

    Of the difference `arrived` weight was sent, all of which had arrived by `arrived_by_ms` (the server's clock). The rest will
    never be sent. It is carried out once, since it changes `before`. With `before` None all that is open is given back.
    `charged_ms`: the last moment for which the grant counts by itself. An arrival after it is entered even if the grant is
    gone, and again if it is reported again: too much for a period, never too little.
    """

    reservation_id: str
    before: int | None
    after: int
    arrived: int
    arrived_by_ms: int
    charged_ms: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """One answer of the limiter.

    `granted` weight may be sent from `replied_s + at_ms - clock_ms` on and not after `asked_s + at_ms - clock_ms + use_by_ms`,
    both on the asker's own clock (elapsed_s). With nothing granted, `at_ms` (server's clock) is when there will be room if what
    is under way arrives as expected.
    """

    reservation_id: str
    granted: int
    at_ms: int
    clock_ms: int
    use_by_ms: int
    charged_ms: int  # the server's clock at the last moment at which a request of it may arrive
    used: int  # weight live in the main window after this booking
    open_count: int  # grants of which something is open, after this booking
    is_paused: bool  # nothing is granted to jobs until the connector is resumed
    refused_ms: int  # the server's clock at the exchange's newest refusal; 0: there was none
    asked_s: float
    replied_s: float

    @property
    def wait_ms(self) -> int:
        """From the server's decision until the grant may be used, or until asking again makes sense."""
        return max(0, self.at_ms - self.clock_ms)

    @property
    def send_from_s(self) -> float:
        """No request before this moment."""
        return self.replied_s + self.wait_ms / 1000

    @property
    def send_until_s(self) -> float:
        """No request after this moment; what is left then is given back."""
        return self.asked_s + (self.wait_ms + self.use_by_ms) / 1000

    def latest_ms(self, moment_s: float) -> int:
        """What the server's clock showed at that moment of ours, or more: the grant was decided after we had asked for it.

        One ms is added because the server's clock was cut to whole ms.
        """
        return self.clock_ms + 1 + math.ceil((moment_s - self.asked_s) * 1000)

    def arrived_by_ms(self, moment_s: float) -> int:
        """From when a request counts that had arrived at that moment of ours, with room for another member's clock."""
        return self.latest_ms(moment_s) + SKEW_MS

    def as_of_now(self) -> "Reservation":
        """The same refusal, as the server would say it now."""
        now_s = elapsed_s()
        elapsed_ms = int((now_s - self.replied_s) * 1000)
        return replace(self, clock_ms=self.clock_ms + elapsed_ms, asked_s=now_s, replied_s=now_s)

    def is_late(self) -> bool:
        """Whether the grant may no longer be used."""
        return elapsed_s() > self.send_until_s
