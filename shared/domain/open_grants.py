"""What one process holds of a connector's weight: how much of each grant is open, and what is still to be reported of it.

Weight is open from the booking on until its holder says that it has arrived, or that it will not be sent. What is said is kept
until the limiter has acknowledged it. Of one grant only one report is under way at a time, and each names the weight that was
open before it: so one that is sent again, because nobody knows whether it came through, is carried out once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from shared.domain.rates import Reservation, Settlement

# Reports in one call at most: each is looked for among all that is unsettled.
SETTLEMENTS_MAX: Final = 32
# Grants, and reports beside them, that are remembered. The oldest are forgotten first, and then count to their last moment.
GRANTS_MAX: Final = 1_000


@dataclass(slots=True)
class _Open:
    """One grant: what the limiter believes to be open, and what has been said since."""

    charged_ms: int
    reported_open: int
    open: int
    arrived: int = 0
    arrived_by_ms: int = 0
    returned: int = 0
    is_under_way: bool = False

    @property
    def has_news(self) -> bool:
        return bool(self.arrived or self.returned) and not self.is_under_way


@dataclass(slots=True)
class OpenGrants:
    """The grants of one connector. Not safe between threads by itself.

    `_beside`: reports that are not about a grant as it is remembered here, to be sent before all others: those of which nobody
    knows whether they came through, and late arrivals of grants that are forgotten.
    """

    _grants: dict[str, _Open] = field(default_factory=dict)
    _beside: list[Settlement] = field(default_factory=list)

    def add(self, reservation: Reservation) -> None:
        """A grant has been booked for us."""
        if not reservation.granted:
            return
        granted = reservation.granted
        self._grants[reservation.reservation_id] = _Open(reservation.charged_ms, granted, granted)
        # Those whose requests were never answered are charged to their last moment, which has passed.
        oldest = next(iter(self._grants))
        while len(self._grants) > GRANTS_MAX or self._grants[oldest].charged_ms < reservation.clock_ms:
            self._forget(oldest)
            oldest = next(iter(self._grants))

    def note_lost(self, reservation_id: str) -> None:
        """Whether anything was booked under that id is not known, and nothing will be sent for it."""
        self._put_beside(Settlement(reservation_id, None, 0, 0, 0, 0))

    def note_arrived(self, reservation: Reservation, weight: int, by_ms: int) -> None:
        """So much of a grant was sent, and had arrived by that moment of the server's clock."""
        grant = self._grants.get(reservation.reservation_id)
        if grant is not None:
            taken = min(weight, grant.open)
            grant.open -= taken
            grant.arrived += taken
            grant.arrived_by_ms = max(grant.arrived_by_ms, by_ms)
        else:
            self._put_late(reservation.reservation_id, weight, by_ms, reservation.charged_ms)

    def note_returned(self, reservation_id: str, weight: int) -> None:
        """So much of a grant will not be sent."""
        grant = self._grants.get(reservation_id)
        if grant is not None:
            taken = min(weight, grant.open)
            grant.open -= taken
            grant.returned += taken

    @property
    def has_news(self) -> bool:
        """Whether there is anything to report."""
        return bool(self._beside) or any(grant.has_news for grant in self._grants.values())

    @property
    def has_returned(self) -> bool:
        """Whether weight is to be given back, which others may be waiting for."""
        return any(grant.returned and grant.has_news for grant in self._grants.values())

    def take(self) -> list[Settlement]:
        """What is to be reported in the next call; to be confirmed or restored after it."""
        taken, self._beside = self._beside[:SETTLEMENTS_MAX], self._beside[SETTLEMENTS_MAX:]
        for name, grant in self._grants.items():
            if len(taken) == SETTLEMENTS_MAX:
                break
            if not grant.has_news:
                continue
            after = grant.reported_open - grant.arrived - grant.returned
            taken.append(Settlement(name, grant.reported_open, after, grant.arrived, grant.arrived_by_ms, grant.charged_ms))
            grant.reported_open = after
            grant.arrived = grant.arrived_by_ms = grant.returned = 0
            grant.is_under_way = True
        return taken

    def confirm(self, taken: Iterable[Settlement]) -> None:
        """The limiter has carried out what was taken."""
        for each in taken:
            grant = self._grants.get(each.reservation_id)
            if grant is not None:
                grant.is_under_way = False
                if not grant.open and not grant.has_news:
                    del self._grants[each.reservation_id]

    def restore(self, taken: Iterable[Settlement]) -> None:
        """Nobody knows whether the limiter has heard what was taken: it is sent again as it is, before anything newer of it."""
        for each in taken:
            self._put_beside(each)

    def _forget(self, reservation_id: str) -> None:
        """Remember a grant no longer, but that something of it came later than it counts by itself."""
        grant = self._grants.pop(reservation_id)
        self._put_late(reservation_id, grant.arrived, grant.arrived_by_ms, grant.charged_ms)

    def _put_late(self, reservation_id: str, weight: int, by_ms: int, charged_ms: int) -> None:
        if weight and by_ms > charged_ms:
            self._put_beside(Settlement(reservation_id, 0, 0, weight, by_ms, charged_ms))

    def _put_beside(self, settlement: Settlement) -> None:
        self._beside.append(settlement)
        del self._beside[:-GRANTS_MAX]
