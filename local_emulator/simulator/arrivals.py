"""What arrives at an exchange's door: counted exactly, in every sliding window, and judged as the exchange would."""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

# Weight is kept in grains for this long, for the question how much arrived lately.
GRAIN_NS: Final = 100_000_000
GRAINS_MAX: Final = 6_000


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
    """One limit's exact log. A window is half open: two arrivals exactly one period apart do not share one."""

    rule: Limit
    log: deque[tuple[int, int]] = field(default_factory=deque)
    usage: int = 0
    worst: int = 0
    over_limit: int = 0
    total: int = 0
    grid_no: int = -1
    grid_usage: int = 0

    def add(self, at_ns: int, weight: int) -> int:
        """Count an arrival; returns the weight in the period that ends with it."""
        self.expire(at_ns)
        self.log.append((at_ns, weight))
        self.usage += weight
        self.total += weight
        self.worst = max(self.worst, self.usage)
        self.over_limit += self.usage > self.rule.limit
        if at_ns // self._period_ns != self.grid_no:
            self.grid_no, self.grid_usage = at_ns // self._period_ns, 0
        self.grid_usage += weight
        return self.usage

    def expire(self, at_ns: int) -> None:
        """Forget what lies a period back."""
        while self.log and self.log[0][0] <= at_ns - self._period_ns:
            self.usage -= self.log.popleft()[1]

    def wait_ms(self, at_ns: int, weight: int) -> int:
        """How long until that weight fits beside what is logged: 0 if it does now."""
        self.expire(at_ns)
        surplus = self.usage + weight - self.rule.limit
        if surplus <= 0:
            return 0
        for logged_ns, logged in self.log:
            surplus -= logged
            if surplus <= 0:
                return -(-(logged_ns + self._period_ns - at_ns) // 1_000_000)
        return self.rule.period_ms

    @property
    def _period_ns(self) -> int:
        return self.rule.period_ms * 1_000_000


class Arrivals:
    """The door of one exchange. Times are nanoseconds of this process's monotonic clock, never going back."""

    def __init__(self, limits: tuple[Limit, ...], punishment: Punishment, punish: bool = True) -> None:
        self.punishment = punishment
        self.statuses: Counter[str] = Counter()
        self.requests_total = self.weight_total = self.throttled = self.bans = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self._grains: deque[list[int]] = deque(maxlen=GRAINS_MAX)
        self.set_limits(limits, punish)

    def set_limits(self, limits: tuple[Limit, ...], punish: bool) -> None:
        """From now on these limits; their windows begin empty, and no ban is left."""
        self.punish = punish
        self.windows = [Window(limit) for limit in limits]
        self._admitted = [Window(limit) for limit in limits]
        self._retry_at_ns = self._banned_until_ns = self._ignored = 0
        self._ban_next_ms = self.punishment.ban_ms

    def arrive(self, at_ns: int, weight: int) -> Verdict:
        """Count an arrival and judge it."""
        self.first_ns = at_ns if self.first_ns is None else self.first_ns
        self.last_ns = at_ns
        self.requests_total += 1
        self.weight_total += weight
        if not self._grains or self._grains[-1][0] != at_ns // GRAIN_NS:
            self._grains.append([at_ns // GRAIN_NS, 0])
        self._grains[-1][1] += weight
        for window in self.windows:
            window.add(at_ns, weight)
        verdict = self._judge(at_ns, weight) if self.punish else Verdict("accepted")
        self.throttled += verdict.status == "throttled"
        return verdict

    def _judge(self, at_ns: int, weight: int) -> Verdict:
        if at_ns < self._banned_until_ns:
            return Verdict("banned", -(-(self._banned_until_ns - at_ns) // 1_000_000))
        judged = self.windows if self.punishment.counts_refused else self._admitted
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
        self._ignored = self._ignored + 1 if at_ns < self._retry_at_ns else 0
        self._retry_at_ns = max(self._retry_at_ns, at_ns + wait_ms * 1_000_000)
        if self.punishment.ban_after and self._ignored >= self.punishment.ban_after:
            return self._ban(at_ns)
        return Verdict("throttled", wait_ms, broken.rule)

    def _ban(self, at_ns: int) -> Verdict:
        self.bans += 1
        self._ignored = 0
        ban_ms, self._ban_next_ms = self._ban_next_ms, min(2 * self._ban_next_ms, self.punishment.ban_ms_max)
        self._banned_until_ns = at_ns + ban_ms * 1_000_000
        return Verdict("banned", ban_ms)

    def weight_recent(self, at_ns: int, last_ms: int) -> int:
        """Weight of the last `last_ms`, rounded up to whole grains of 100 ms; at most ten minutes back."""
        since = (at_ns - last_ms * 1_000_000) // GRAIN_NS
        return sum(weight for grain, weight in self._grains if grain >= since)

    def report(self, at_ns: int, last_ms: int) -> dict[str, object]:
        """All counts so far; `windows` since the limits were last set, the rest since the start."""
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
        }
