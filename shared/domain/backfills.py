"""What a backfill will cost, how it is split between workers, and how far it has come. Pure; times are UTC ms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shared.domain.rates import KEPT_FOR_LIVE_PERCENT, RateWindow

# Below so many requests a second worker would hardly have begun when the first one is done.
REQUESTS_PER_WORKER_MIN: Final = 50
WORKERS_DEFAULT: Final = 4
WORKERS_MAX: Final = 8
# What one worker does where the limit does not bind: requests under way at once and how long one takes, and candles that are
# stored a second with their indicators (benchmarks/ingest.py, on the slow side).
IN_FLIGHT: Final = 8
ROUND_TRIP_S: Final = 0.15
STORED_PER_S: Final = 50_000
# Sooner than this nothing can be told from how fast it went.
PACE_MS_MIN: Final = 3_000
# A worker that has stored nothing for so long may be gone; then the job waits until its lease has run out.
SILENT_MS: Final = 15_000


class BackfillStatus(StrEnum):
    """What is decided of a backfill (docs/state_machine.md)."""

    ACTIVE = "active"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"


class Bound(StrEnum):
    """What a backfill has to wait for most."""

    RATE_LIMIT = "rate_limit"
    ROUND_TRIPS = "round_trips"
    STORING = "storing"


@dataclass(frozen=True, slots=True)
class LimitRoom:
    """A rate window, what of it is free now, and what live jobs take of it in each of its periods."""

    window: RateWindow
    free: int
    live_weight: float

    def seconds_for(self, weight: int) -> float:
        """Until so much weight may have been sent; infinite where live jobs leave nothing."""
        beyond = weight - max(0, self.free)
        if beyond <= 0:
            return 0.0
        usable = self.window.limit * (1 - KEPT_FOR_LIVE_PERCENT / 100) - self.live_weight
        return beyond / usable * self.window.period_ms / 1000 if usable > 0 else math.inf


@dataclass(frozen=True, slots=True)
class Estimate:
    """What asking for some intervals costs. `seconds` None: live jobs leave no room for it; `bound` None: nothing is asked."""

    requests: int
    weight: int
    seconds: float | None
    bound: Bound | None


def estimate(requests: int, weight: int, intervals: int, rooms: Sequence[LimitRoom], workers: int) -> Estimate:
    """How long so many requests of that weight in all take, for so many intervals."""
    seconds = {
        Bound.RATE_LIMIT: max((room.seconds_for(weight) for room in rooms), default=0.0),
        Bound.ROUND_TRIPS: math.ceil(requests / (IN_FLIGHT * max(1, workers))) * ROUND_TRIP_S,
        Bound.STORING: intervals / STORED_PER_S,
    }
    bound = max(seconds, key=lambda each: seconds[each])
    longest = seconds[bound]
    seconds_or_none = round(longest, 1) if math.isfinite(longest) else None
    return Estimate(requests, weight, seconds_or_none, bound if requests else None)


def workers_of_use(requests: int, weight: int, rooms: Sequence[LimitRoom]) -> int:
    """So many at most: four times as many as send what the limit lets through, since more would only wait for each other."""
    page_weight = weight / requests if requests else 1.0
    pages_per_s = min((room.window.limit / page_weight / room.window.period_ms * 1000 for room in rooms), default=math.inf)
    return max(1, min(WORKERS_MAX, requests, math.ceil(min(WORKERS_MAX, 4 * pages_per_s * ROUND_TRIP_S / IN_FLIGHT))))


def decide_workers(asked: int | None, requests: int, of_use: int, *, has_cumulative: bool) -> int:
    """How many workers share a backfill, at most those that are `of_use`.

    By default one where an indicator runs on from candle to candle (OBV): what a second one stores would have to be computed
    again when the first has come to it. One keeps as many requests under way as any exchange's limit lets through.
    """
    if asked is not None:
        return min(asked, of_use)
    if has_cumulative:
        return 1
    return max(1, min(WORKERS_DEFAULT, of_use, requests // REQUESTS_PER_WORKER_MIN))


def split_range(start_ms: int, end_ms: int, pages: Sequence[tuple[int, int]], workers: int) -> list[tuple[int, int]]:
    """[start_ms, end_ms) in as many parts as there are workers (pages at most), each with as many pages, give or take one."""
    workers = max(1, min(workers, len(pages)))
    firsts = [pages[len(pages) * number // workers][0] for number in range(1, workers)]
    return list(zip([start_ms, *firsts], [*firsts, end_ms], strict=True))


@dataclass(frozen=True, slots=True)
class PartPace:
    """A part of a backfill that is at work: intervals left, intervals a second lately (None: nothing can be told yet).

    `lease_ms`: nothing has come from its worker for a while, and nobody takes over before so much time has passed; 0: not so.
    """

    left: int
    per_s: float | None
    lease_ms: int


def eta_seconds(parts: Sequence[PartPace], expected_s: float | None) -> float | None:
    """When nothing is left at the pace of late, else as expected. None: not to be told.

    A part whose worker is silent goes on when its lease has run out, then at the mean pace of those of which one is known.
    """
    left = sum(part.left for part in parts)
    if not left:
        return 0.0
    known = [part.per_s for part in parts if part.per_s]
    if not known:
        return expected_s
    awaited = (part.lease_ms / 1000 + part.left * len(known) / sum(known) for part in parts if part.left and part.lease_ms)
    return round(max(left / sum(known), *awaited, 0.0), 1)


def pace_per_s(asked: int, elapsed_ms: int) -> float | None:
    """So many intervals a second, of those asked for in so much time; None: too short to tell."""
    return asked / elapsed_ms * 1000 if elapsed_ms >= PACE_MS_MIN else None
