"""Hold weight for the requests to one connector: ask the limiter, wait for the moment, throw away what came too late.

Whoever asks an exchange anything, a run or a person, passes through here, at the moment when the connection is up.
"""

import random
import threading
import time
from dataclasses import dataclass
from typing import Final

from shared.domain.connectors import Connector
from shared.domain.rates import Reservation, Settlement, transit_ms, use_by_ms
from shared.errors import StorageUnavailable
from shared.stores.rate_limits import RateLimitStore
from shared.telemetry import event

# Who does not follow the market books no weight further ahead than this, but waits and asks again. A live job books up to its
# whole patience ahead, and comes back sooner before its moment than this: so the next room is a live job's, however many others
# want it. Of a limit of 10 a second eight backfills at once else kept one waiting for 42 s.
AHEAD_MS_MAX: Final = 300
# Those who wait do not all ask in the same millisecond.
ASK_APART_MS: Final = 10
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


@dataclass(slots=True)
class _Held:
    """A grant, what of it is left, and how many requests were sent under it and answered."""

    reservation: Reservation
    left: int
    arrived_by_ms: int
    sent: int = 0
    answered: int = 0
    is_retired: bool = False  # nothing more is sent under it

    @property
    def is_complete(self) -> bool:
        """Whether all that becomes of it is known."""
        return self.is_retired and self.answered == self.sent


class Grants:
    """The weight that one run, or one question of a person, holds of one connector. Safe between threads.

    A wait of up to `wait_ms_max` is waited for, counted in `waited_ms`; for longer ones it does not sleep. A grant that is
    used up, too late or no longer needed (`close`) is settled once its requests are answered: what was not sent is free again,
    and what was sent counts from when it was answered. A request without an answer may still be on its way: its grant counts
    to its last moment.
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
        # Two locks: an answer that comes while somebody waits for weight is noted when it comes.
        self._asking = threading.Lock()
        self._noting = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._newest: _Held | None = None
        self._closed = threading.Event()
        self.waited_ms = 0

    @property
    def use_by_ms(self) -> int:
        """How long a grant may be used."""
        return use_by_ms(self._connector.windows)

    @property
    def newest(self) -> Reservation | None:
        """The limiter's newest answer that is still in use."""
        held = self._newest
        return None if held is None else held.reservation

    def acquire(self, weight: int, want: int) -> Reservation:
        """Hold `weight` for one request that is sent at once on return. If none is held, up to `want` is asked for.

        Raises:
            Refused: no room soon, the connector is paused, or it was closed, also meanwhile.
            StorageUnavailable: the database is away, or answers too slowly for its grants to be used.
        """
        with self._asking:
            for _ in range(LATE_GRANTS_MAX):
                if self._closed.is_set():
                    raise Refused(NoRoom(0, 0))
                held = self._newest
                if held is None or held.left < weight or self._is_void(held.reservation):
                    self._retire(held)
                    held = self._reserve(weight, want)
                reservation = held.reservation
                if reservation.is_paused:
                    raise Refused(ConnectorPaused())
                if held.left < weight:
                    raise Refused(NoRoom(reservation.at_ms, reservation.wait_ms))
                pause_s = reservation.send_from_monotonic - time.monotonic()
                if pause_s > 0:
                    self.waited_ms += int(pause_s * 1000)
                    time.sleep(pause_s)
                if not self._is_void(reservation):
                    with self._noting:
                        # It may have been given back while this waited, and be somebody else's by now.
                        is_closed = self._closed.is_set()
                        if not is_closed:
                            held.left -= weight
                            held.sent += 1
                    if not is_closed:
                        return reservation
                    self._settle(held)
                    continue
                event("grant_is_void", "WARNING", granted=reservation.granted, is_late=reservation.is_late())
        raise StorageUnavailable(
            f"{LATE_GRANTS_MAX} grants came later than their use-by of {self.use_by_ms} ms: MongoDB answers too slowly "
            f"for the limit of connector {self._connector.connector_id}"
        )

    def note_answer(self, reservation: Reservation) -> None:
        """The exchange has answered a request that was sent under it, so that request had arrived by now."""
        with self._noting:
            held = self._held.get(reservation.reservation_id)
            if held is None:
                return
            held.answered += 1
            held.arrived_by_ms = max(held.arrived_by_ms, reservation.settled_ms(time.monotonic()))
            is_complete = held.is_complete
        if is_complete:
            self._settle(held)

    def close(self) -> None:
        """Nothing more is sent, and no answer is waited for; who still asks is refused."""
        with self._noting:
            self._closed.set()
            self._newest = None
            left = list(self._held.values())
            for held in left:
                held.is_retired = True
        for held in left:
            self._settle(held)

    def _retire(self, held: _Held | None) -> None:
        """Nothing more is sent under it: settle it, or leave that to its last answer."""
        if held is None:
            return
        with self._noting:
            held.is_retired = True
            is_complete = held.is_complete
        if is_complete:
            self._settle(held)

    def _settle(self, held: _Held) -> None:
        reservation = held.reservation
        with self._noting:
            if self._held.pop(reservation.reservation_id, None) is None:
                return
        if reservation.granted:
            arrived_by_ms = held.arrived_by_ms if held.is_complete else reservation.charged_ms
            settlement = Settlement(reservation.reservation_id, reservation.granted - held.left, arrived_by_ms)
            self._limits.settle(self._connector.connector_id, settlement)

    def _is_void(self, reservation: Reservation) -> bool:
        """Too late to be used; or the exchange has refused another run of this process since, so that nothing may be sent."""
        return reservation.is_late() or self._limits.is_refused_since(self._connector.connector_id, reservation.asked_monotonic)

    def _reserve(self, weight: int, want: int) -> _Held:
        """Ask the limiter, a live job or a person once; others until there is room, or none within `wait_ms_max`."""
        ahead_ms = self._wait_ms_max if self._is_live else min(AHEAD_MS_MAX, self._wait_ms_max)
        give_up_at = time.monotonic() + (self._wait_ms_max - ahead_ms) / 1000
        while True:
            if self._closed.is_set():
                raise Refused(NoRoom(0, 0))
            reservation = self._ask(weight, want, ahead_ms)
            pause_s = (reservation.wait_ms - ahead_ms + random.randint(1, ASK_APART_MS)) / 1000
            is_over = reservation.is_paused or time.monotonic() + pause_s > give_up_at
            if reservation.granted or is_over:
                break
            self.waited_ms += int(pause_s * 1000)
            self._closed.wait(pause_s)
        held = _Held(reservation, reservation.granted, reservation.at_ms)
        with self._noting:
            self._newest = held
            held.is_retired = self._closed.is_set()
            if reservation.granted:
                self._held[reservation.reservation_id] = held
        return held

    def _ask(self, weight: int, want: int, ahead_ms: int) -> Reservation:
        windows = self._connector.windows
        return self._limits.reserve(
            self._connector.connector_id,
            need=weight,
            want=want,
            wait_ms_max=ahead_ms,
            use_by_ms=use_by_ms(windows),
            transit_ms=transit_ms(windows),
            is_for_job=self._is_for_job,
            is_live=self._is_live,
            version=self._connector.version,
        )
