"""Hold weight for the requests to one connector: ask the limiter, wait for the moment, throw away what came too late.

Whoever asks an exchange anything, a run or a person, passes through here, at the moment when the connection is up.
"""

import time
from dataclasses import dataclass
from typing import Final

from shared.domain.connectors import Connector
from shared.domain.rates import Reservation, Settlement, transit_ms, use_by_ms
from shared.errors import StorageUnavailable
from shared.stores.rate_limits import RateLimitStore
from shared.telemetry import event

# A grant that came too late to be used is thrown away and asked for again this often, then the request has failed.
LATE_GRANTS_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class NoRoom:
    """The limiter has no room soon: by what is booked now not before `at_ms`, in `wait_ms` from now."""

    at_ms: int
    wait_ms: int


@dataclass(frozen=True, slots=True)
class ConnectorPaused:
    """The connector has been paused: nothing more is sent for its jobs."""


Refusal = NoRoom | ConnectorPaused


class Refused(Exception):
    """No fault: it carries the limiter's refusal out through the HTTP client, at whose gate the limiter is asked."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


class Grants:
    """The weight that one run, or one question of a person, holds of one connector. For one thread at a time.

    A wait of up to `wait_ms_max` is waited for, counted in `waited_ms`; for longer ones it does not sleep. A grant that is
    used up, too late or no longer needed (`close`) is settled: what was not sent is free again, and what was sent counts from
    when it was answered. A request without an answer may still be on its way: its grant counts to its last moment.
    """

    def __init__(
        self,
        limits: RateLimitStore,
        connector: Connector,
        wait_ms_max: int,
        *,
        is_for_job: bool = True,
        is_live: bool = True,
    ) -> None:
        self._limits = limits
        self._connector = connector
        self._wait_ms_max = wait_ms_max
        self._is_for_job = is_for_job
        self._is_live = is_live
        self._reservation: Reservation | None = None
        self._left = 0
        self._sent = 0
        self._answered = 0
        self._arrived_by_ms = 0
        self.waited_ms = 0

    @property
    def use_by_ms(self) -> int:
        """How long a grant may be used."""
        return use_by_ms(self._connector.windows)

    @property
    def newest(self) -> Reservation | None:
        """The answer of the limiter that the newest request was sent under."""
        return self._reservation

    def acquire(self, weight: int, want: int) -> Reservation:
        """Hold `weight` for one request that is sent at once on return. If none is held, up to `want` is asked for.

        Raises:
            Refused: no room soon, or the connector is paused.
            StorageUnavailable: the database is away, or answers too slowly for its grants to be used.
        """
        for _ in range(LATE_GRANTS_MAX):
            if self._reservation is None or self._left < weight or self._is_void(self._reservation):
                self.close()
                self._reservation = self._reserve(weight, want)
                self._left = self._reservation.granted
                self._sent = self._answered = 0
                self._arrived_by_ms = self._reservation.at_ms
            reservation = self._reservation
            if reservation.is_paused:
                raise Refused(ConnectorPaused())
            if self._left < weight:
                raise Refused(NoRoom(reservation.at_ms, reservation.wait_ms))
            pause_s = reservation.send_from_monotonic - time.monotonic()
            if pause_s > 0:
                self.waited_ms += int(pause_s * 1000)
                time.sleep(pause_s)
            if not self._is_void(reservation):
                self._left -= weight
                self._sent += 1
                return reservation
            event("grant_is_void", "WARNING", granted=reservation.granted, is_late=reservation.is_late())
        raise StorageUnavailable(
            f"{LATE_GRANTS_MAX} grants came later than their use-by of {self.use_by_ms} ms: MongoDB answers too slowly "
            f"for the limit of connector {self._connector.connector_id}"
        )

    def note_answer(self) -> None:
        """The exchange has answered the newest request, so it had arrived by now."""
        if self._reservation is not None:
            self._answered += 1
            self._arrived_by_ms = self._reservation.settled_ms(time.monotonic())

    def close(self) -> None:
        """Nothing more is sent under the reservation at hand."""
        reservation = self._reservation
        if reservation is None or not reservation.granted:
            return
        arrived_by_ms = self._arrived_by_ms if self._answered == self._sent else reservation.charged_ms
        used = reservation.granted - self._left
        self._limits.settle(self._connector.connector_id, Settlement(reservation.reservation_id, used, arrived_by_ms))
        self._reservation, self._left = None, 0

    def _is_void(self, reservation: Reservation) -> bool:
        """Too late to be used; or the exchange has refused another run of this process since, so that nothing may be sent."""
        return reservation.is_late() or self._limits.is_refused_since(self._connector.connector_id, reservation.asked_monotonic)

    def _reserve(self, weight: int, want: int) -> Reservation:
        windows = self._connector.windows
        return self._limits.reserve(
            self._connector.connector_id,
            need=weight,
            want=want,
            wait_ms_max=self._wait_ms_max,
            use_by_ms=use_by_ms(windows),
            transit_ms=transit_ms(windows),
            is_for_job=self._is_for_job,
            is_live=self._is_live,
            version=self._connector.version,
        )
