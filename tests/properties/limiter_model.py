"""The limiter's law in plain integers: every booking ever made, and for each answer what the law allows.

It keeps no log that shrinks and merges nothing: it counts over its whole history. The limiter may be stricter than that by
its rounding (entries of one grain count until the last of them has left) and no more, so each expectation is a pair
(exact, strictest). Who is unsettled is known exactly, and not rounded. Units: `*_ms` on the limiter's own clock, weights in
the exchange's unit.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from shared.domain.rates import GRAINS_PER_WINDOW, RateWindow
from shared.stores.limiter_pipeline import UNSETTLED_MAX


@dataclass(frozen=True, slots=True)
class Booking:
    """Weight that arrives at the door at some moment in [first_ms, arrives_ms]; `used_ms` is the one that was drawn.

    It counts until a period after `last_ms`. That is `arrives_ms` too, unless its holder has said that it came even later.
    """

    first_ms: int
    last_ms: int
    arrives_ms: int
    used_ms: int
    weight: int


@dataclass(frozen=True, slots=True)
class Told:
    """What a holder says of booking number `number`: so much of it was sent, and had arrived by `by_ms`."""

    number: int
    used: int
    by_ms: int


@dataclass(frozen=True, slots=True)
class Ask:
    """What a caller wants of the limiter, and when it will use the grant: a thousandth between its first and last moment."""

    need: int
    want: int
    wait_ms_max: int
    charge_ms: int
    is_for_job: bool = True
    use_permille: int = 1000


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
    """One connector's limiter. `check_*` raise AssertionError where an answer breaks the law, and then take it over."""

    windows: tuple[RateWindow, ...]
    clock_ms: int
    is_paused: bool = False
    blocked_until_ms: int = 0
    last_at_ms: int = 0
    bookings: list[Booking] = field(default_factory=list)
    unsettled: list[int] = field(default_factory=list)
    _written_ms: int = 0
    _logs: dict[int, dict[int, Trace]] = field(default_factory=dict)
    _kept_until_ms: dict[int, int] = field(default_factory=dict)

    def block(self, wait_ms: int) -> int:
        """No grant before `wait_ms` from now, nor before the end of a longer block; returns the end."""
        self.blocked_until_ms = max(self.blocked_until_ms, self.clock_ms + wait_ms)
        return self.blocked_until_ms

    def book(self, first_ms: int, charge_ms: int, weight: int, use_permille: int = 1000) -> None:
        """One grant more; nobody knows yet what became of it, so it counts whole, under its charged moment."""
        last_ms = first_ms + charge_ms
        self.unsettled.append(len(self.bookings))
        self.bookings.append(Booking(first_ms, last_ms, last_ms, first_ms + charge_ms * use_permille // 1000, weight))

    def check_answer(self, ask: Ask, answer: Answer, told: Sequence[Told] = ()) -> None:
        """The answer to a reservation with which `told` was told: neither over the limit nor stricter than need be."""
        assert answer.clock_ms == self.clock_ms, "the clock is not the larger of the two"
        self._look(told)
        want = max(ask.need, ask.want)
        if ask.need > min(window.limit for window in self.windows):
            assert (answer.granted, answer.at_ms) == (0, None), "granted though it never fits"
            return
        assert answer.at_ms is not None, "refused for ever though it fits"
        soonest_ms, latest_ms = (self._moment(ask.need, leaves) for leaves in (self._leaves_exact, self._leaves_strictest))
        assert answer.at_ms >= soonest_ms, f"told {answer.at_ms}, but it does not fit before {soonest_ms}"
        assert answer.at_ms <= latest_ms, f"told {answer.at_ms}, but it fits at {latest_ms}"
        is_barred = ask.is_for_job and self.is_paused
        if is_barred or answer.at_ms - self.clock_ms > ask.wait_ms_max:
            assert answer.granted == 0, "granted to who may not or will not wait"
        else:
            assert ask.need <= answer.granted <= want, f"granted {answer.granted}, not between {ask.need} and {want}"
            most, least = (self._free_at(answer.at_ms, leaves) for leaves in (self._leaves_exact, self._leaves_strictest))
            assert min(want, least) <= answer.granted <= min(want, most), (
                f"granted {answer.granted} of {want} with {least} to {most} free"
            )
            self.last_at_ms = answer.at_ms
            self.book(answer.at_ms, ask.charge_ms, answer.granted, ask.use_permille)
            self._check_arrivals()
        self._check_used(answer.used, ask.charge_ms)

    def check_usage(self, period_ms: int, used: int, charge_ms: int, added: Sequence[int]) -> None:
        """The exchange said that it counts `used` in a window; `added` is what each of ours was charged for that."""
        self._look()
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
            # Nobody will settle it.
            self.book(self.clock_ms, charge_ms, added[0])
            self._enter(self.unsettled.pop())

    def edges_ms(self) -> list[int]:
        """The next moments at which something changes: bookings leave a window or are charged, a block ends, a grant begins."""
        leaves = [booking.last_ms + window.period_ms for booking in self.bookings for window in self.windows]
        charged = [self.bookings[number].last_ms for number in self.unsettled]
        moments = {*leaves, *charged, self.blocked_until_ms, self.last_at_ms}
        return sorted(moment_ms for moment_ms in moments if moment_ms > self.clock_ms)

    def _look(self, told: Sequence[Told] = ()) -> None:
        """What each call does first: new windows take over a log, what is settled or past its moment goes into the logs."""
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
        for each in told:
            if each.number in self.unsettled:
                self.unsettled.remove(each.number)
                booking = self.bookings[each.number]
                arrives_ms = min(each.by_ms, booking.arrives_ms)
                self.bookings[each.number] = replace(
                    booking,
                    last_ms=each.by_ms,
                    arrives_ms=arrives_ms,
                    used_ms=min(booking.used_ms, arrives_ms),
                    weight=each.used,
                )
                self._enter(each.number)
        surplus = max(0, len(self.unsettled) - UNSETTLED_MAX)
        charged = [n for i, n in enumerate(self.unsettled) if i < surplus or self.bookings[n].last_ms <= self.clock_ms]
        for number in charged:
            self.unsettled.remove(number)
            self._enter(number)
        self._written_ms = self.clock_ms

    def _inherited(self, period_ms: int) -> dict[int, Trace]:
        """What is still in the log of that period, as it was last written, for windows that have none."""
        traces = {}
        for number, trace in self._logs[period_ms].items():
            leave_ms = self.bookings[number].last_ms + period_ms
            rounded_ms = trace.rounded_ms + grain_ms(period_ms) - 1
            if leave_ms + rounded_ms > self._written_ms:
                traces[number] = Trace(rounded_ms, trace.is_sure and leave_ms > self._written_ms)
        return traces

    def _enter(self, number: int) -> None:
        for log in self._logs.values():
            log[number] = Trace()

    def _sure(self, period_ms: int) -> list[Booking]:
        """Whatever the window must know."""
        settled = [self.bookings[number] for number, trace in self._logs[period_ms].items() if trace.is_sure]
        return settled + [self.bookings[number] for number in self.unsettled]

    def _leaves_exact(self, period_ms: int) -> Iterable[tuple[int, int]]:
        """(moment at which it leaves the window, weight) of all bookings that the window must know."""
        return [(booking.last_ms + period_ms, booking.weight) for booking in self._sure(period_ms)]

    def _leaves_strictest(self, period_ms: int) -> Iterable[tuple[int, int]]:
        """The same with each booking as late as rounding may put it, and all that the window may know."""
        for number, trace in self._logs[period_ms].items():
            rounded_ms = trace.rounded_ms + grain_ms(period_ms) - 1
            yield self.bookings[number].last_ms + rounded_ms + period_ms, self.bookings[number].weight
        for number in self.unsettled:
            yield self.bookings[number].last_ms + period_ms, self.bookings[number].weight

    def _moment(self, need: int, leaves: Callable[[int], Iterable[tuple[int, int]]]) -> int:
        """The first moment at which `need` fits into every window, after all blocks and bookings."""
        at_ms = max(self.clock_ms, self.blocked_until_ms, self.last_at_ms)
        for window in self.windows:
            left = sorted(leaves(window.period_ms))
            over = sum(weight for _, weight in left) + need - window.limit
            for leave_ms, weight in left:
                if over <= 0:
                    break
                over -= weight
                at_ms = max(at_ms, leave_ms)
        return at_ms

    def _free_at(self, at_ms: int, leaves: Callable[[int], Iterable[tuple[int, int]]]) -> int:
        return min(
            window.limit - sum(weight for leave_ms, weight in leaves(window.period_ms) if leave_ms > at_ms)
            for window in self.windows
        )

    def _check_used(self, used: int | None, charge_ms: int) -> None:
        """What is shown as used in the main window: live, and not booked for later."""
        if used is None:
            return
        period_ms = self.windows[0].period_ms
        until_ms = self.clock_ms + charge_ms
        exact, strictest = list(self._leaves_exact(period_ms)), list(self._leaves_strictest(period_ms))
        most = sum(w for leave_ms, w in strictest if leave_ms > self.clock_ms) - sum(
            w for leave_ms, w in exact if leave_ms - period_ms > until_ms
        )
        least = sum(w for leave_ms, w in exact if leave_ms > self.clock_ms) - sum(
            w for leave_ms, w in strictest if leave_ms - period_ms > until_ms
        )
        assert least <= used <= most, f"{used} shown as used, where it is {least} to {most}"

    def _check_arrivals(self) -> None:
        """No sliding window with the newest grant in it holds more than its limit, whenever each grant is used.

        Three histories: all used at the first moment, at the last one, and at the drawn one; and the worst of all choices,
        where the newest is used at once and each other one at the last moment that still shares a window with it. Of a grant
        that is settled there arrives what was used, by the moment that was told; of the others there may arrive all.
        """
        newest = self.bookings[-1]
        for window in self.windows:
            known = self._sure(window.period_ms)
            worst = sum(b.weight for b in known if b.arrives_ms + window.period_ms > newest.first_ms)
            assert worst <= window.limit, f"{worst} of {window.limit} in {window.period_ms} ms, used at the worst moments"
            for name in ("first_ms", "arrives_ms", "used_ms"):
                arrivals = [(getattr(b, name), b.weight) for b in known]
                here_ms = getattr(newest, name)
                for start_ms in {at_ms for at_ms, _ in arrivals if at_ms <= here_ms < at_ms + window.period_ms}:
                    held = sum(w for at_ms, w in arrivals if start_ms <= at_ms < start_ms + window.period_ms)
                    assert held <= window.limit, f"{held} of {window.limit} in {window.period_ms} ms, used at {name}"


def grain_ms(period_ms: int) -> int:
    """How coarse a window's log is."""
    return max(1, period_ms // GRAINS_PER_WINDOW)
