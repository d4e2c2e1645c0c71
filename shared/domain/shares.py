"""How many of each connector's due jobs one pass of the scheduler may claim."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from shared.domain.rates import RateWindow

T = TypeVar("T")


def servable_count(windows: Sequence[RateWindow], weight: int, lease_ms: int, leased_count: int) -> int:
    """How many more jobs the limit can serve one request each before leases taken now run out.

    More would only wait, lose their leases and be claimed again. `leased_count` jobs hold leases already.
    """
    served = min(window.limit * max(1.0, lease_ms / window.period_ms) for window in windows) / max(1, weight)
    return max(0, int(served) - leased_count)


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
