"""What one process holds of a connector's weight: how much of each grant is open, and what is still to be told of it.

Weight is open from the booking on until its holder says that it has arrived, or that it will not be sent. What is said is kept
until the limiter has acknowledged it. Of one grant only one message is under way at a time, and each names the weight that was
open before it: so one that is sent again, because nobody knows whether it came through, is carried out once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from shared.domain.rates import Reservation, Settlement

# Messages in one call at most: each is looked for among all that is unsettled.
SETTLEMENTS_MAX: Final = 32
# Grants that are remembered. The oldest are forgotten first, and then count to their last moment.
GRANTS_MAX: Final = 1_000


@dataclass(slots=True)
class _Open:
    """One grant: what the limiter believes to be open, and what has been said since."""

    charged_ms: int
    told_open: int
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
    """The grants of one connector. Not safe between threads by itself."""

    _grants: dict[str, _Open] = field(default_factory=dict)
    _unsure: list[Settlement] = field(default_factory=list)
    _late: list[Settlement] = field(default_factory=list)

    def add(self, reservation: Reservation) -> None:
        """A grant has been booked for us."""
        if not reservation.granted:
            return
        granted = reservation.granted
        self._grants[reservation.reservation_id] = _Open(reservation.charged_ms, granted, granted)
        # Those whose requests were never answered are charged to their last moment, which has passed.
        oldest = next(iter(self._grants))
        while len(self._grants) > GRANTS_MAX or self._grants[oldest].charged_ms < reservation.clock_ms:
            del self._grants[oldest]
            oldest = next(iter(self._grants))

    def note_lost(self, reservation_id: str) -> None:
        """Whether anything was booked under that id is not known, and nothing will be sent for it."""
        self._unsure.append(Settlement(reservation_id, None, 0, 0, 0, 0))
        del self._unsure[:-GRANTS_MAX]

    def note_arrived(self, reservation: Reservation, weight: int, by_ms: int) -> None:
        """So much of a grant was sent, and had arrived by that moment of the server's clock."""
        grant = self._grants.get(reservation.reservation_id)
        if grant is not None:
            taken = min(weight, grant.open)
            grant.open -= taken
            grant.arrived += taken
            grant.arrived_by_ms = max(grant.arrived_by_ms, by_ms)
        elif by_ms > reservation.charged_ms:
            # It was forgotten, and is charged to its last moment only.
            self._late.append(Settlement(reservation.reservation_id, 0, 0, weight, by_ms, reservation.charged_ms))

    def note_returned(self, reservation_id: str, weight: int) -> None:
        """So much of a grant will not be sent."""
        grant = self._grants.get(reservation_id)
        if grant is not None:
            taken = min(weight, grant.open)
            grant.open -= taken
            grant.returned += taken

    @property
    def has_news(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self._unsure or self._late) or any(grant.has_news for grant in self._grants.values())

    @property
    def has_returned(self) -> bool:
        """Whether weight is to be given back, which others may be waiting for."""
        return any(grant.returned and grant.has_news for grant in self._grants.values())

    def take(self) -> list[Settlement]:
        """What is to be told in the next call; to be confirmed or restored after it."""
        told = [*self._unsure, *self._late][:SETTLEMENTS_MAX]
        self._unsure = [each for each in self._unsure if each not in told]
        self._late = [each for each in self._late if each not in told]
        news = ((name, grant) for name, grant in self._grants.items() if grant.has_news)
        for name, grant in news:
            if len(told) == SETTLEMENTS_MAX:
                break
            after = grant.told_open - grant.arrived - grant.returned
            told.append(Settlement(name, grant.told_open, after, grant.arrived, grant.arrived_by_ms, grant.charged_ms))
            grant.told_open = after
            grant.arrived = grant.arrived_by_ms = grant.returned = 0
            grant.is_under_way = True
        return told

    def confirm(self, told: Iterable[Settlement]) -> None:
        """The limiter has carried out what was taken."""
        for each in told:
            grant = self._grants.get(each.reservation_id)
            if grant is not None:
                grant.is_under_way = False
                if not grant.open and not grant.has_news:
                    del self._grants[each.reservation_id]

    def restore(self, told: Iterable[Settlement]) -> None:
        """Nobody knows whether the limiter has heard what was taken: it is told again as it is, before anything newer of it."""
        self._unsure += told
        del self._unsure[:-GRANTS_MAX]
