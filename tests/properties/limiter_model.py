"""The limiter's law in plain integers: every booking ever made, and for each answer what the law allows.

It keeps no log that shrinks and merges nothing: it counts over its whole history. The limiter may be stricter than that by
its rounding (what has arrived counts to the end of its grain) and no more, so each expectation is a pair (exact, strictest).
What is unsettled is known exactly, and not rounded. Units: `*_ms` on the limiter's own clock, weights in the exchange's unit.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from shared.domain.rates import (
    CAREFUL_MS_MAX,
    CAREFUL_REQUESTS,
    EXPECTED_ANSWER_MS,
    KEPT_FOR_LIVE_PERCENT,
    RECOVERY_MS,
    SHARE_PERMILLE_ALL,
    SHARE_PERMILLE_MIN,
    UNSETTLED_MAX,
    Ask,
    RateWindow,
)
from tests.limits import grain_ms


@dataclass(slots=True)
class Booking:
    """Weight that arrives at the door at some moment in [first_ms, last_ms]; `used_permille` of the way is the one drawn.

    It counts until a period after `last_ms`.
    """

    first_ms: int
    last_ms: int
    used_permille: int
    weight: int

    @property
    def used_ms(self) -> int:
        """The moment that was drawn."""
        return self.first_ms + (self.last_ms - self.first_ms) * self.used_permille // 1000


@dataclass(frozen=True, slots=True)
class Told:
    """What is said of booking `number`: of `before` weight that is open, `arrived` had arrived by `by_ms`, `after` stays."""

    number: int
    before: int
    after: int
    arrived: int
    by_ms: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the limiter said; `at_ms` None: never."""

    granted: int
    at_ms: int | None
    clock_ms: int
    used: int | None


@dataclass(frozen=True, slots=True)
class Trace:
    """What a window's log knows of a booking: since it has changed hands, rounded by up to `rounded_ms`, or perhaps lost.

    Lost is what a new window could not take over, since it had left the log that reached back longest.
    """

    rounded_ms: int = 0
    is_sure: bool = True


@dataclass(slots=True)
class LimiterModel:
    """One connector's limiter. `check_*` raise AssertionError where an answer breaks the law, and then take it over.

    `bookings`: what was granted, as far as it is open or charged, and each part of it that has arrived.
    """

    windows: tuple[RateWindow, ...]
    clock_ms: int
    is_paused: bool = False
    blocked_until_ms: int = 0
    share: int = SHARE_PERMILLE_ALL
    careful_until_ms: int = 0
    last_at_ms: int = 0
    bookings: list[Booking] = field(default_factory=list)
    unsettled: list[int] = field(default_factory=list)
    _written_ms: int = 0
    _logs: dict[int, dict[int, Trace]] = field(default_factory=dict)
    _kept_until_ms: dict[int, int] = field(default_factory=dict)

    def block(self, wait_ms: int) -> int:
        """No grant before `wait_ms` from now, nor before the end of a longer block; returns the end."""
        share = self._share_now()
        is_new = self.blocked_until_ms <= self.clock_ms
        self.share = max(SHARE_PERMILLE_MIN, share // 2) if is_new else share
        self.blocked_until_ms = max(self.blocked_until_ms, self.clock_ms + wait_ms)
        self.careful_until_ms = self.blocked_until_ms + min(CAREFUL_MS_MAX, self.windows[0].period_ms)
        return self.blocked_until_ms

    def unblock(self) -> None:
        """Somebody says that there was no refusal."""
        self.blocked_until_ms = self.careful_until_ms = 0
        self.share = SHARE_PERMILLE_ALL

    def book(self, first_ms: int, charge_ms: int, weight: int, use_permille: int = 1000) -> None:
        """One grant more; nobody knows yet when it arrives, so it counts whole, to its last moment."""
        self.unsettled.append(len(self.bookings))
        self.bookings.append(Booking(first_ms, first_ms + charge_ms, use_permille, weight))

    def check_answer(self, ask: Ask, answer: Answer, told: Sequence[Told] = (), use_permille: int = 1000) -> None:
        """The answer to a question with which `told` was told: neither over the limit nor stricter than need be."""
        assert answer.clock_ms == self.clock_ms, "the clock is not the larger of the two"
        self.look(told)
        want = max(ask.need, ask.want)
        if ask.need > min(window.limit for window in self.windows):
            assert (answer.granted, answer.at_ms) == (0, None), "granted though it never fits"
            return
        assert answer.at_ms is not None, "refused for ever though it fits"
        usable = [RateWindow(self._usable(window.limit, ask), window.period_ms) for window in self.windows]
        soonest_ms, latest_ms = (
            self._moment(ask.need, usable, leaves) for leaves in (self._leaves_exact, self._leaves_strictest)
        )
        careful = self._careful_weight(ask.need)
        is_barred = (ask.is_for_job and self.is_paused) or careful < ask.need or len(self.unsettled) >= UNSETTLED_MAX
        if answer.granted:
            assert not is_barred, "granted to who may not"
            assert answer.at_ms >= soonest_ms, f"told {answer.at_ms}, but it does not fit before {soonest_ms}"
            assert answer.at_ms <= min(latest_ms, self.clock_ms + ask.wait_ms_max), f"told {answer.at_ms}, fits {latest_ms}"
            assert ask.need <= answer.granted <= want, f"granted {answer.granted}, not between {ask.need} and {want}"
            most, least = (
                min(careful, self._free_at(answer.at_ms, usable, leaves))
                for leaves in (self._leaves_exact, self._leaves_strictest)
            )
            assert min(want, least) <= answer.granted <= min(want, most), (
                f"granted {answer.granted} of {want} with {least} to {most} free"
            )
            self.last_at_ms = answer.at_ms
            self.book(answer.at_ms, ask.charge_ms, answer.granted, use_permille)
            self._check_arrivals()
        else:
            assert is_barred or latest_ms > self.clock_ms + ask.wait_ms_max, f"refused though it fits at {latest_ms}"
            soon_ms = self.clock_ms + EXPECTED_ANSWER_MS if is_barred else 0
            assert self.clock_ms <= answer.at_ms <= max(latest_ms, soon_ms), f"told {answer.at_ms}, fits {latest_ms}"
        self._check_used(answer.used)

    def check_usage(self, period_ms: int, used: int, added: Sequence[int]) -> None:
        """The exchange said that it counts `used` in a window; `added` is what each of ours was charged for that."""
        self.look()
        assert len(set(added)) == 1, "the windows were not charged alike"
        if period_ms not in self._logs:
            assert added[0] == 0, "charged though no window is that long"
            return
        least, most = (
            max(0, used - sum(weight for leave_ms, weight in leaves(period_ms) if leave_ms > self.clock_ms))
            for leaves in (self._leaves_strictest, self._leaves_exact)
        )
        assert least <= added[0] <= most, f"charged {added[0]} for a usage of {used}, where {least} to {most} were unknown"
        if added[0]:
            self._enter(Booking(self.clock_ms, self.clock_ms, 0, added[0]))

    def edges_ms(self) -> list[int]:
        """The next moments at which something changes: bookings leave a window or are charged, a block ends, a grant begins."""
        leaves = [booking.last_ms + window.period_ms for booking in self.bookings for window in self.windows]
        charged = [self.bookings[number].last_ms for number in self.unsettled]
        moments = {*leaves, *charged, self.blocked_until_ms, self.careful_until_ms, self.last_at_ms}
        return sorted(moment_ms for moment_ms in moments if moment_ms > self.clock_ms)

    def look(self, told: Sequence[Told] = ()) -> None:
        """What each call does first: new windows take over a log, what is told or past its moment goes into the logs."""
        known = self._logs
        inherited = self._inherited(max(known)) if known else {}
        configured = {window.period_ms for window in self.windows}
        # A window that was taken away is remembered for a period, and goes on being written.
        for period_ms in known.keys() - configured:
            self._kept_until_ms.setdefault(period_ms, self.clock_ms + period_ms)
        self._kept_until_ms = {
            period_ms: until_ms
            for period_ms, until_ms in self._kept_until_ms.items()
            if period_ms not in configured and until_ms > self.clock_ms
        }
        self._logs = {
            **{window.period_ms: known.get(window.period_ms, dict(inherited)) for window in self.windows},
            **{period_ms: known[period_ms] for period_ms in self._kept_until_ms},
        }
        # In one call a grant takes one word only, as it would find another weight after it.
        changed: set[int] = set()
        for each in told:
            booking = self.bookings[each.number]
            is_late = each.by_ms > booking.last_ms
            if each.number in self.unsettled and booking.weight == each.before and each.number not in changed:
                changed.add(each.number)
                booking.weight = each.after
                if each.arrived and not is_late:
                    self._enter(Booking(min(booking.first_ms, each.by_ms), each.by_ms, booking.used_permille, each.arrived))
            if each.arrived and is_late:
                # What is over can no longer be helped; from here on it counts.
                self._enter(Booking(each.by_ms, each.by_ms, 0, each.arrived))
        self.unsettled = [number for number in self.unsettled if self.bookings[number].weight]
        for number in [number for number in self.unsettled if self.bookings[number].last_ms <= self.clock_ms]:
            self.unsettled.remove(number)
            for log in self._logs.values():
                log[number] = Trace()
        self._written_ms = self.clock_ms

    def _share_now(self) -> int:
        since_ms = max(0, self.clock_ms - self.blocked_until_ms)
        return min(SHARE_PERMILLE_ALL, math.floor(self.share + since_ms * (SHARE_PERMILLE_ALL / RECOVERY_MS)))

    def _usable(self, limit: int, ask: Ask) -> int:
        share = limit * self._share_now() // SHARE_PERMILLE_ALL
        usable = share if ask.is_live else share - share * KEPT_FOR_LIVE_PERCENT // 100
        return usable if usable >= ask.need else max(share, min(ask.need, limit))

    def _careful_weight(self, need: int) -> int:
        if self.clock_ms >= self.careful_until_ms:
            return 2**53
        return need * CAREFUL_REQUESTS - sum(self.bookings[number].weight for number in self.unsettled)

    def _inherited(self, period_ms: int) -> dict[int, Trace]:
        """What is still in the log of that period, as it was last written, for windows that have none."""
        traces = {}
        for number, trace in self._logs[period_ms].items():
            leave_ms = self.bookings[number].last_ms + period_ms
            rounded_ms = trace.rounded_ms + grain_ms(period_ms) - 1
            if leave_ms + rounded_ms > self._written_ms:
                traces[number] = Trace(rounded_ms, trace.is_sure and leave_ms > self._written_ms)
        return traces

    def _enter(self, booking: Booking) -> None:
        """What has arrived, into all logs."""
        self.bookings.append(booking)
        for log in self._logs.values():
            log[len(self.bookings) - 1] = Trace()

    def _sure(self, period_ms: int) -> list[Booking]:
        """Whatever the window must know."""
        arrived = [self.bookings[number] for number, trace in self._logs[period_ms].items() if trace.is_sure]
        return arrived + [self.bookings[number] for number in self.unsettled]

    def _leaves_exact(self, period_ms: int) -> Iterable[tuple[int, int]]:
        """(moment at which it leaves the window, weight) of all bookings that the window must know."""
        return [(booking.last_ms + period_ms, booking.weight) for booking in self._sure(period_ms)]

    def _leaves_strictest(self, period_ms: int) -> Iterable[tuple[int, int]]:
        """The same with each arrival as late as rounding may put it, and all that the window may know."""
        for number, trace in self._logs[period_ms].items():
            rounded_ms = trace.rounded_ms + grain_ms(period_ms) - 1
            yield self.bookings[number].last_ms + rounded_ms + period_ms, self.bookings[number].weight
        for number in self.unsettled:
            yield self.bookings[number].last_ms + period_ms, self.bookings[number].weight

    def _moment(self, need: int, windows: Sequence[RateWindow], leaves: Callable[[int], Iterable[tuple[int, int]]]) -> int:
        """The first moment at which `need` fits into every window, after all blocks and bookings."""
        at_ms = max(self.clock_ms, self.blocked_until_ms, self.last_at_ms)
        for window in windows:
            left = sorted(leave for leave in leaves(window.period_ms) if leave[0] > self.clock_ms)
            over = sum(weight for _, weight in left) + need - window.limit
            for leave_ms, weight in left:
                if over <= 0:
                    break
                over -= weight
                at_ms = max(at_ms, leave_ms)
        return at_ms

    def _free_at(self, at_ms: int, windows: Sequence[RateWindow], leaves: Callable[[int], Iterable[tuple[int, int]]]) -> int:
        return min(
            window.limit - sum(weight for leave_ms, weight in leaves(window.period_ms) if leave_ms > at_ms)
            for window in windows
        )

    def _check_used(self, used: int | None) -> None:
        """What is shown as used in the main window: live, and not booked for later."""
        if used is None:
            return
        period_ms = self.windows[0].period_ms
        later = sum(b.weight for b in (self.bookings[n] for n in self.unsettled) if b.first_ms > self.clock_ms)
        least, most = (
            sum(weight for leave_ms, weight in leaves(period_ms) if leave_ms > self.clock_ms) - later
            for leaves in (self._leaves_exact, self._leaves_strictest)
        )
        assert least <= used <= most, f"{used} shown as used, where it is {least} to {most}"

    def _check_arrivals(self) -> None:
        """No sliding window with the newest grant in it holds more than its limit, whenever each grant is used.

        Three histories: all used at the first moment, at the last one, and at the drawn one; and the worst of all choices,
        where the newest is used at once and each other one at the last moment that still shares a window with it.
        """
        newest = self.bookings[-1]
        for window in self.windows:
            known = self._sure(window.period_ms)
            worst = sum(b.weight for b in known if b.last_ms + window.period_ms > newest.first_ms)
            assert worst <= window.limit, f"{worst} of {window.limit} in {window.period_ms} ms, used at the worst moments"
            for name in ("first_ms", "last_ms", "used_ms"):
                arrivals = [(getattr(b, name), b.weight) for b in known]
                here_ms = getattr(newest, name)
                for start_ms in {at_ms for at_ms, _ in arrivals if at_ms <= here_ms < at_ms + window.period_ms}:
                    held = sum(w for at_ms, w in arrivals if start_ms <= at_ms < start_ms + window.period_ms)
                    assert held <= window.limit, f"{held} of {window.limit} in {window.period_ms} ms, used at {name}"
