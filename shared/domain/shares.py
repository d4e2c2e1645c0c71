"""How many of each connector's due jobs one pass of the scheduler may claim."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from shared.domain.rates import BookedWindow

T = TypeVar("T")


def servable_count(booked: Sequence[BookedWindow], weight: int, at_ms: int, unbooked_count: int) -> int:
    """For how many more jobs there is room by `at_ms` for one request each; more would be started only to be sent away.

    `unbooked_count` jobs are claimed already and have not booked yet; those that run stand in the log by themselves.
    """
    free = min(window.free_at(at_ms) for window in booked)
    return max(0, free // max(1, weight) - unbooked_count)


def share_fairly(due: Mapping[str, Sequence[T]], places: int) -> list[T]:
    """Round by round one job of each connector, until the places or the jobs are used up.

    So a connector with ten thousand due jobs takes no more places than others leave. Order within a connector is kept.
    """
    taken: list[T] = []
    round_index = 0
    longest = max((len(jobs) for jobs in due.values()), default=0)
    while len(taken) < places and round_index < longest:
        for connector_id in sorted(due):
            if round_index < len(due[connector_id]) and len(taken) < places:
                taken.append(due[connector_id][round_index])
        round_index += 1
    return taken
