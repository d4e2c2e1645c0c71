"""Which due jobs one pass of the scheduler claims: how many of each connector, and in which order of kinds."""

from collections.abc import Callable, Sequence
from itertools import islice, zip_longest
from typing import Final, TypeVar

from shared.domain.jobs import PRIORITIES, JobKind
from shared.domain.rates import BookedWindow

T = TypeVar("T")

LIVE: Final = PRIORITIES[JobKind.LIVE]
# Repairs and backfills run for minutes where a live job takes a moment. This part of a tick's places never is theirs, or a
# minute's close would find all of them taken.
KEPT_FOR_LIVE_FRACTION: Final = 4
# Every connector is looked at for twice its fair share of the places, and for at least so many jobs: the rest is found by
# the next pass, which follows at once.
LISTED_MIN: Final = 32
LISTED_SHARES: Final = 2


def servable_count(
    booked: Sequence[BookedWindow], weight: int, at_ms: int, unbooked_count: int, requests_max: int | None = None
) -> int:
    """For how many more jobs there is room by `at_ms` for one request each; more would be started only to be sent away.

    `unbooked_count` jobs are claimed already and have not booked yet; those that run stand in the log by themselves. Not more
    than `requests_max`, if given.
    """
    requests = min(window.free_at(at_ms) for window in booked) // max(1, weight)
    return max(0, (requests if requests_max is None else min(requests, requests_max)) - unbooked_count)


def places_for_others(places: int) -> int:
    """How many of a tick's places repairs and backfills may hold at once, together."""
    return places - places // KEPT_FOR_LIVE_FRACTION


def listed_count(room: int, places: int, connectors_count: int) -> int:
    """How many due jobs of one connector are worth reading in a pass that has so many places for so many connectors."""
    fair = -(-places * LISTED_SHARES // max(1, connectors_count))
    return min(room, places, max(LISTED_MIN, fair))


def share_fairly(due: Sequence[Sequence[T]], places: int, places_for_others: int, priority_of: Callable[[T], int]) -> list[T]:
    """Live jobs of all connectors first, then repairs, then backfills; within a kind round by round one job of each connector.

    `due`: the due jobs of each connector; who stands first is served first in a round. So a connector with ten thousand due
    jobs takes no more places than others of that kind leave, and where there are fewer places than live jobs no connector's
    backfill takes one. Order within a connector and a kind is kept. At most `places_for_others` are not live.
    """
    taken: list[T] = []
    others_left = places_for_others
    for priority in sorted({priority_of(job) for jobs in due for job in jobs}):
        left = places - len(taken)
        if priority != LIVE:
            left = min(left, others_left)
        rounds = zip_longest(*([job for job in jobs if priority_of(job) == priority] for jobs in due), fillvalue=None)
        chosen = list(islice((job for jobs in rounds for job in jobs if job is not None), left))
        taken += chosen
        others_left -= 0 if priority == LIVE else len(chosen)
    return taken
