"""How many of each connector's due jobs one pass of the scheduler may claim."""

from collections.abc import Sequence
from itertools import islice, zip_longest
from typing import TypeVar

from shared.domain.rates import BookedWindow

T = TypeVar("T")


def servable_count(booked: Sequence[BookedWindow], weight: int, at_ms: int, unbooked_count: int) -> int:
    """For how many more jobs there is room by `at_ms` for one request each; more would be started only to be sent away.

    `unbooked_count` jobs are claimed already and have not booked yet; those that run stand in the log by themselves.
    """
    free = min(window.free_at(at_ms) for window in booked)
    return max(0, free // max(1, weight) - unbooked_count)


def share_fairly(due: Sequence[Sequence[T]], places: int) -> list[T]:
    """Round by round one job of each connector, until the places or the jobs are used up.

    `due`: the due jobs of each connector; who stands first is served first in a round. So a connector with ten thousand due
    jobs takes no more places than others leave. Order within a connector is kept.
    """
    rounds = zip_longest(*due, fillvalue=None)
    return list(islice((job for jobs in rounds for job in jobs if job is not None), places))
