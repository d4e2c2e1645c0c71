"""Hold weight for the requests to one connector: ask the limiter, wait for the moment, give back what came too late.

Every question to an exchange, of a run or of a person, passes through here at the moment when its connection is up.
"""

import random
import threading
from dataclasses import dataclass
from typing import Final

from shared.deadline import elapsed_s
from shared.domain.connectors import Connector
from shared.domain.rates import UNSETTLED_MAX, USE_BY_MS, Ask, Reservation, report_within_ms
from shared.errors import StorageUnavailable
from shared.telemetry import event
from shared.usecases.instance_limiter import InstanceLimiter

# Background jobs book at most this far ahead, and ask again while they wait. A live job books up to its whole patience ahead,
# and comes back sooner before its moment than this: so the next free capacity goes to a live job, however many others want it.
# Of a limit of 10 a second, eight backfills at once kept a live job waiting for 42 s without this.
AHEAD_MS_MAX: Final = 300
# Jobs that wait do not all ask in the same millisecond.
ASK_APART_MS: Final = 10
# Where there should be room already, but nobody has said so yet, asking again makes sense after so long; after twice as long
# the next time, and so on.
ASK_AGAIN_MS: Final = 100
ASK_AGAIN_MS_MAX: Final = 400
# A grant that came too late to be used is given back and asked for again this often, then the request has failed.
LATE_GRANTS_MAX: Final = 3
# Where so much of the main window is used, or so many of the grants that can be open are, a run's end is reported at once: the
# instance may be idle afterwards.
FULL_SHARE: Final = 0.5


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


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to send one request of that weight, at once."""

    reservation: Reservation
    weight: int


class Grants:
    """The weight that one run, or one question of a person, holds of one connector. Safe between threads.

    A wait of up to `wait_ms_max` is waited for, counted in `waited_ms`; for longer ones it does not sleep. What of a grant is
    not sent is given back when the grant is too late, replaced by the next one, or no longer needed (`close`). What was sent
    counts from its answer on. A request without an answer may still be on its way, and counts until that is impossible.
    """

    def __init__(
        self,
        limiter: InstanceLimiter,
        connector: Connector,
        wait_ms_max: int,
        *,
        is_for_job: bool = True,
        is_live: bool = True,
    ) -> None:
        self._limiter = limiter
        self._connector = connector
        self._wait_ms_max = wait_ms_max
        self._is_for_job = is_for_job
        self._is_live = is_live
        self._report_within_ms = report_within_ms(connector.windows)
        # Two locks: an answer that comes while somebody waits for weight is noted when it comes.
        self._asking = threading.Lock()
        self._noting = threading.Lock()
        self._newest: Reservation | None = None
        self._left = 0
        self._closed = threading.Event()
        self.waited_ms = 0

    @property
    def newest(self) -> Reservation | None:
        """The limiter's newest answer."""
        return self._newest

    def acquire(self, weight: int, want: int) -> Permit:
        """Hold `weight` for one request that is sent at once on return. If none is held, up to `want` is asked for.

        Raises:
            Refused: no room soon, the connector is paused, or it was closed, also meanwhile.
            StorageUnavailable: the database is away, or answers too slowly for its grants to be used.
        """
        with self._asking:
            for _ in range(LATE_GRANTS_MAX):
                reservation = self._hold(weight, want)
                self._wait_for(reservation)
                is_late, is_refused = reservation.is_late(), self._is_refused_since(reservation)
                if not is_late and not is_refused:
                    with self._noting:
                        # It may have been given back while this waited, and be somebody else's by now.
                        if not self._closed.is_set():
                            self._left -= weight
                            return Permit(reservation, weight)
                    raise Refused(NoRoom(0, 0))
                event("grant_is_void", "WARNING", granted=reservation.granted, is_late=is_late, is_refused=is_refused)
        if is_refused:
            raise Refused(NoRoom(reservation.at_ms, reservation.wait_ms))
        raise StorageUnavailable(
            f"{LATE_GRANTS_MAX} grants in a row could not be used, the last because it came later than its use-by of "
            f"{USE_BY_MS} ms: MongoDB answers too slowly for the limit of connector {self._connector.connector_id}"
        )

    def note_answer(self, permit: Permit) -> None:
        """The exchange has begun to answer the request that was sent by this permit."""
        self._limiter.note_arrived(self._connector.connector_id, permit.reservation, permit.weight, self._report_within_ms)

    def note_unsent(self, permit: Permit) -> None:
        """The request was not sent after all: its weight is free again."""
        self._limiter.note_returned(self._connector.connector_id, permit.reservation, permit.weight)

    def close(self) -> None:
        """Nothing more is sent, and no answer is waited for. A request that still waits for its moment is refused."""
        self._closed.set()
        self._give_back()
        newest = self._newest
        is_full = newest is not None and newest.used >= FULL_SHARE * self._connector.windows[0].limit
        if is_full or (newest is not None and newest.open_count >= FULL_SHARE * UNSETTLED_MAX):
            self._limiter.report_now(self._connector.connector_id)

    def _hold(self, weight: int, want: int) -> Reservation:
        """A grant of which so much is left: the one at hand, or a new one."""
        if self._closed.is_set():
            raise Refused(NoRoom(0, 0))
        reservation = self._newest
        if reservation is None or self._left < weight or reservation.is_late() or self._is_refused_since(reservation):
            self._give_back()
            reservation = self._reserve(weight, want)
        if reservation.is_paused:
            raise Refused(ConnectorPaused())
        if self._left < weight:
            raise Refused(NoRoom(reservation.at_ms, reservation.wait_ms))
        return reservation

    def _wait_for(self, reservation: Reservation) -> None:
        """Until the grant's moment; then look whether the exchange has refused somebody else meanwhile."""
        pause_s = reservation.send_from_s - elapsed_s()
        if pause_s > 0:
            self.waited_ms += int(pause_s * 1000)
            self._closed.wait(pause_s)
        self._limiter.look_for_refusals(self._connector.connector_id)

    def _give_back(self) -> None:
        with self._noting:
            reservation, left = self._newest, self._left
            self._left = 0
        if reservation is not None:
            self._limiter.note_returned(self._connector.connector_id, reservation, left)

    def _is_refused_since(self, reservation: Reservation) -> bool:
        """Whether the exchange has refused a request since it was granted, so that nothing may be sent."""
        return self._limiter.is_refused_since(self._connector.connector_id, reservation)

    def _reserve(self, weight: int, want: int) -> Reservation:
        """Ask the limiter until there is room within what is left of `wait_ms_max`, or there will be none."""
        ahead_ms_max = self._wait_ms_max if self._is_live else min(AHEAD_MS_MAX, self._wait_ms_max)
        give_up_at = elapsed_s() + self._wait_ms_max / 1000
        left_ms, again_ms = self._wait_ms_max, ASK_AGAIN_MS
        while True:
            if self._closed.is_set():
                raise Refused(NoRoom(0, 0))
            ask = Ask(weight, want, min(ahead_ms_max, left_ms), is_for_job=self._is_for_job, is_live=self._is_live)
            reservation = self._limiter.reserve(self._connector.connector_id, ask, self._connector.version)
            pause_ms = max(again_ms, reservation.wait_ms - ask.wait_ms_max) + random.randint(1, ASK_APART_MS)
            again_ms = min(ASK_AGAIN_MS_MAX, 2 * again_ms)
            # In whole steps: runs that ask on the same terms are answered together.
            left_ms = int((give_up_at - elapsed_s()) * 1000) - pause_ms
            left_ms -= left_ms % ASK_AGAIN_MS
            if reservation.granted or reservation.is_paused or left_ms < 0:
                break
            self.waited_ms += pause_ms
            self._closed.wait(pause_ms / 1000)
        with self._noting:
            self._newest = reservation
            is_closed = self._closed.is_set()
            self._left = 0 if is_closed else reservation.granted
        if is_closed:
            self._limiter.note_returned(self._connector.connector_id, reservation, reservation.granted)
        return reservation
