"""What arrives at an exchange's door: counted exactly, in every sliding window, and judged as the exchange would.

A busy simulator reads arrivals in another order than they came in, so each is entered at its own time.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Final

# Weight is kept in grains for this long, for the question how much arrived lately.
GRAIN_NS: Final = 100_000_000
GRAINS_MAX: Final = 6_000
# How far an arrival may lie before the newest one: the windows remember that much more than a period. No client waits a minute
# for its answer, so a simulator that stood still for longer has lost its clients, and nothing needs its exact count.
OUT_OF_ORDER_NS_MAX: Final = 60_000_000_000
# A log drops what no window reaches any more when it is this long, and then when it is twice as long as the last drop left it.
LOG_SIZE_MIN: Final = 64
# The report counts the requests that were read later than this after they came in.
LATE_NS: Final = 50_000_000


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `limit` weight in any `period_ms`."""

    limit: int
    period_ms: int


@dataclass(frozen=True, slots=True)
class Punishment:
    """How an exchange treats what breaks a limit.

    counts_refused: a refused request counts against the limit too. ban_after: so many requests sent before Retry-After
    has passed bring a ban (0: never), or bans_at_once: breaking a limit does; it lasts `ban_ms` and doubles each time up to
    `ban_ms_max`.
    """

    counts_refused: bool = True
    ban_after: int = 0
    bans_at_once: bool = False
    ban_ms: int = 120_000
    ban_ms_max: int = 3 * 86_400_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the door says: `status` is accepted, throttled or banned; `broken` is the limit that decided."""

    status: str
    retry_after_ms: int = 0
    broken: Limit | None = None


@dataclass(slots=True)
class Window:
    """One limit's exact log. A window is half open: two arrivals exactly one period apart do not share one.

    The counts are those of the arrivals in the order of their times, whatever the order in which they are added; equal times
    keep the order in which they are added. `worst` is the heaviest window, `over_limit` the number of arrivals with which a
    window held more than the limit.
    """

    rule: Limit
    worst: int = 0
    over_limit: int = 0
    total: int = 0
    _period_ns: int = field(init=False)
    _times: list[int] = field(default_factory=list, init=False)
    # The weight of all arrivals up to and with the one at that place, forgotten ones included; so the last one is the total.
    _sums: list[int] = field(default_factory=list, init=False)
    _forgotten: int = field(default=0, init=False)
    _forget_at_size: int = field(default=LOG_SIZE_MIN, init=False)

    def __post_init__(self) -> None:
        self._period_ns = self.rule.period_ms * 1_000_000

    @property
    def usage(self) -> int:
        """The weight in the period that ends with the newest arrival."""
        return self._usage_at(len(self._times) - 1) if self._times else 0

    @property
    def grid_usage(self) -> int:
        """The weight since the period of the newest arrival began, where periods follow each other from time 0."""
        if not self._times:
            return 0
        begin_ns = self._times[-1] // self._period_ns * self._period_ns
        return self.total - self._sum_before(bisect_left(self._times, begin_ns))

    def add(self, at_ns: int, weight: int) -> int:
        """Count an arrival, OUT_OF_ORDER_NS_MAX before the newest at most.

        Returns the weight in the period that ends with it.
        """
        self.total += weight
        if self._times and at_ns < self._times[-1]:
            usage = self._insert(at_ns, weight)
        else:
            self._times.append(at_ns)
            self._sums.append(self.total)
            usage = self.total - self._sum_before(bisect_right(self._times, at_ns - self._period_ns))
        self.worst = max(self.worst, usage)
        self.over_limit += usage > self.rule.limit
        if len(self._times) >= self._forget_at_size:
            self._forget()
        return usage

    def wait_ms(self, at_ns: int, weight: int) -> int:
        """How long until that weight fits beside what arrived up to that moment: 0 if it does then."""
        first, end = bisect_right(self._times, at_ns - self._period_ns), bisect_right(self._times, at_ns)
        before = self._sum_before(first)
        surplus = self._sum_before(end) - before + weight - self.rule.limit
        if surplus <= 0:
            return 0
        # Once this one and all before it lie a period back, the weight fits.
        leaving = bisect_left(self._sums, before + surplus, first, end)
        if leaving == end:
            return self.rule.period_ms
        return -(-(self._times[leaving] + self._period_ns - at_ns) // 1_000_000)

    def _insert(self, at_ns: int, weight: int) -> int:
        """Enter an arrival before others, and count it in the windows that end with those."""
        place = bisect_right(self._times, at_ns)
        self._times.insert(place, at_ns)
        self._sums.insert(place, self._sum_before(place) + weight)
        for later in range(place + 1, len(self._sums)):
            self._sums[later] += weight
        for later in range(place + 1, bisect_left(self._times, at_ns + self._period_ns)):
            raised = self._usage_at(later)
            self.worst = max(self.worst, raised)
            self.over_limit += raised - weight <= self.rule.limit < raised
        return self._usage_at(place)

    def _usage_at(self, place: int) -> int:
        return self._sums[place] - self._sum_before(bisect_right(self._times, self._times[place] - self._period_ns))

    def _sum_before(self, place: int) -> int:
        return self._sums[place - 1] if place else self._forgotten

    def _forget(self) -> None:
        """Drop what no window reaches any more. The next time waits for so many arrivals that each pays little for it."""
        gone = bisect_right(self._times, self._times[-1] - self._period_ns - OUT_OF_ORDER_NS_MAX)
        self._forgotten = self._sum_before(gone)
        del self._times[:gone], self._sums[:gone]
        self._forget_at_size = max(LOG_SIZE_MIN, 2 * len(self._times))


class Arrivals:
    """The door of one exchange. Times are nanoseconds of the monotonic clock.

    An arrival is judged when it is read, and at its own time: by those that came in before it and were read before it.
    """

    def __init__(self, limits: tuple[Limit, ...], punishment: Punishment, punish: bool = True) -> None:
        self.punishment = punishment
        self.statuses: Counter[str] = Counter()
        self.requests_total = self.weight_total = self.throttled = self.bans = 0
        self.stamped_total = self.read_late_total = self.lateness_ns_max = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self._grains: Counter[int] = Counter()
        self.set_limits(limits, punish)

    def set_limits(self, limits: tuple[Limit, ...], punish: bool, history: Sequence[tuple[int, int]] = ()) -> None:
        """From now on these limits; no ban is left, and their windows hold nothing but `history`: (time, weight) pairs."""
        self.punish = punish
        self.windows = self._counted = [Window(limit) for limit in limits]
        self._admitted = [Window(limit) for limit in limits]
        for at_ns, weight in sorted(history):
            for window in (*self.windows, *self._admitted):
                window.add(at_ns, weight)
        self._told_ns = self._retry_at_ns = self._ignored = 0
        self._banned_ns = self._banned_until_ns = 0
        self._ban_next_ms = self.punishment.ban_ms

    def change_limits(self, limits: tuple[Limit, ...]) -> None:
        """Other limits for windows of the same periods: the exchange has changed its mind, and goes on counting.

        Raises:
            ValueError: the periods are others.
        """
        if [limit.period_ms for limit in limits] != [window.rule.period_ms for window in self.windows]:
            raise ValueError("the windows' periods have to stay as they are")
        for windows in (self.windows, self._counted, self._admitted):
            for window, limit in zip(windows, limits, strict=True):
                window.rule = limit

    @property
    def counted(self) -> list[Window]:
        """The windows as the exchange sees them, with what strangers send from the same address."""
        return self._counted

    def arrive_strange(self, at_ns: int, weight: int) -> Verdict:
        """Count and judge a request that a stranger sends from the same address; the report leaves it out."""
        if self._counted is self.windows:
            self._counted = deepcopy(self.windows)
        for window in self._counted:
            window.add(at_ns, weight)
        return self._judge(at_ns, weight) if self.punish else Verdict("accepted")

    def arrive(self, at_ns: int, weight: int, lateness_ns: int | None = None) -> Verdict:
        """Count an arrival and judge it.

        lateness_ns: how long after its arrival it was read, if the kernel stamped it; None if `at_ns` is when it was read.
        """
        self._record_reading(lateness_ns)
        # An older arrival counts at the earliest moment that the windows still remember.
        at_ns = at_ns if self.last_ns is None else max(at_ns, self.last_ns - OUT_OF_ORDER_NS_MAX)
        self.first_ns = at_ns if self.first_ns is None else min(at_ns, self.first_ns)
        self.last_ns = at_ns if self.last_ns is None else max(at_ns, self.last_ns)
        self.requests_total += 1
        self.weight_total += weight
        self._grains[at_ns // GRAIN_NS] += weight
        if len(self._grains) > GRAINS_MAX:
            del self._grains[next(iter(self._grains))]
        for window in self.windows if self._counted is self.windows else (*self.windows, *self._counted):
            window.add(at_ns, weight)
        verdict = self._judge(at_ns, weight) if self.punish else Verdict("accepted")
        self.throttled += verdict.status == "throttled"
        return verdict

    def _record_reading(self, lateness_ns: int | None) -> None:
        if lateness_ns is None:
            return
        self.stamped_total += 1
        self.read_late_total += lateness_ns > LATE_NS
        self.lateness_ns_max = max(self.lateness_ns_max, lateness_ns)

    def _judge(self, at_ns: int, weight: int) -> Verdict:
        if self._banned_ns <= at_ns < self._banned_until_ns:
            return Verdict("banned", -(-(self._banned_until_ns - at_ns) // 1_000_000))
        judged = self._counted if self.punishment.counts_refused else self._admitted
        # What is refused counts for some exchanges: there the log holds this arrival already.
        more = 0 if self.punishment.counts_refused else weight
        broken = next((window for window in judged if window.wait_ms(at_ns, more)), None)
        if broken is None:
            for window in self._admitted:
                window.add(at_ns, weight)
            self._ignored = 0 if at_ns >= self._retry_at_ns else self._ignored
            return Verdict("accepted")
        if self.punishment.bans_at_once:
            return self._ban(at_ns)
        wait_ms = max(window.wait_ms(at_ns, weight) for window in judged)
        self._count_ignored(at_ns)
        self._retry_at_ns = max(self._retry_at_ns, at_ns + wait_ms * 1_000_000)
        if self.punishment.ban_after and self._ignored >= self.punishment.ban_after:
            return self._ban(at_ns)
        return Verdict("throttled", wait_ms, broken.rule)

    def _count_ignored(self, at_ns: int) -> None:
        """Count a refused request that came between an earlier refusal and the end of the wait which that one named."""
        if at_ns >= self._retry_at_ns:
            self._told_ns, self._ignored = at_ns, 0
        elif at_ns >= self._told_ns:
            self._ignored += 1
        else:
            self._told_ns = at_ns

    def _ban(self, at_ns: int) -> Verdict:
        self._ignored = 0
        if at_ns < self._banned_ns:
            # The arrival that brought this ban came later but was read earlier. It stays one ban, which now begins here.
            self._banned_ns = at_ns
            return Verdict("banned", -(-(self._banned_until_ns - at_ns) // 1_000_000))
        self.bans += 1
        ban_ms, self._ban_next_ms = self._ban_next_ms, min(2 * self._ban_next_ms, self.punishment.ban_ms_max)
        self._banned_ns, self._banned_until_ns = at_ns, at_ns + ban_ms * 1_000_000
        return Verdict("banned", ban_ms)

    def weight_recent(self, at_ns: int, last_ms: int) -> int:
        """Weight of the last `last_ms`, rounded up to whole grains of 100 ms; at most ten minutes back."""
        since = (at_ns - last_ms * 1_000_000) // GRAIN_NS
        return sum(weight for grain, weight in self._grains.items() if grain >= since)

    def report(self, at_ns: int, last_ms: int) -> dict[str, object]:
        """All counts so far; `windows` since the limits were last set, the rest since the start.

        Times of arrivals are milliseconds of the monotonic clock, which all processes of a machine share. `stamped_total` of
        the requests were stamped by the kernel when they came in; the others count as arrived when the simulator read them.
        Of those stamped, `lateness_ms_max` is the longest time from the stamp to the reading, and `read_late_total` says how
        many were read more than 50 ms after it: the simulator's own delay, which no client is charged with.
        """
        return {
            "windows": [
                {
                    "limit": window.rule.limit,
                    "period_ms": window.rule.period_ms,
                    "worst": window.worst,
                    "over_limit": window.over_limit,
                    "total": window.total,
                    "utilisation": self.weight_recent(at_ns, last_ms) * window.rule.period_ms / (window.rule.limit * last_ms),
                }
                for window in self.windows
            ],
            "punish": self.punish,
            "requests_total": self.requests_total,
            "weight_total": self.weight_total,
            "weight_recent": self.weight_recent(at_ns, last_ms),
            "statuses": dict(self.statuses),
            "throttled": self.throttled,
            "bans": self.bans,
            "first_arrival_ms": None if self.first_ns is None else self.first_ns / 1e6,
            "last_arrival_ms": None if self.last_ns is None else self.last_ns / 1e6,
            "stamped_total": self.stamped_total,
            "lateness_ms_max": self.lateness_ns_max / 1e6,
            "read_late_total": self.read_late_total,
        }
