"""The limiter as one process uses it: what it has heard of each connector, and what it still has to tell.

Runs that ask together are answered together (ask_together.py). What becomes of grants goes with the process's next question,
or by itself before it would matter (settlement_teller.py). A denial is remembered while asking again cannot help, a refusal by
the exchange until the database knows it.
"""

import math
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from shared.domain.open_grants import OpenGrants
from shared.domain.rates import LOOK_AGAIN_MS, Ask, Reservation
from shared.stores.rate_limits import RateLimitStore, new_reservation_id
from shared.telemetry import event
from shared.usecases.ask_together import SharedQuestions
from shared.usecases.settlement_teller import SettlementTeller

# Others may have settled what stood in the way.
DENIAL_MS_MAX: Final = 250
# Weight that is given back may be what another process is waiting for. The next question of this one often comes sooner.
RETURN_WITHIN_MS: Final = 50
# What could not be told is told again this much later.
TELL_AGAIN_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class _Denial:
    """Asked with `need` under the connector's `version`: asking again before `until_monotonic` (ours) is of no use."""

    need: int
    is_live: bool
    version: str
    until_monotonic: float
    reservation: Reservation


@dataclass(frozen=True, slots=True)
class _UnsavedBlock:
    """A refusal that the database does not know yet: nothing may be sent before `until_monotonic`."""

    until_monotonic: float
    reason: str
    sent_ms: int


@dataclass(slots=True)
class _Known:
    """What this process knows of one connector's limiter."""

    grants: OpenGrants = field(default_factory=OpenGrants)
    denial: _Denial | None = None
    tell_within_ms: int = TELL_AGAIN_MS
    # The newest refusal: on the server's clock, and when this process was refused itself.
    refused_ms: int = 0
    refused_monotonic: float = -math.inf
    heard_monotonic: float = -math.inf
    unsaved: _UnsavedBlock | None = None


class InstanceLimiter:
    """One an instance. Safe between threads."""

    def __init__(self, store: RateLimitStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._questions = SharedQuestions(self._reserve, self.note_returned)
        self._teller = SettlementTeller(self._tell)

    @property
    def waiting_count(self) -> int:
        """Questions that wait for one that is on its way."""
        return self._questions.waiting_count

    def reserve(self, connector_id: str, ask: Ask, version: str | None = None) -> Reservation:
        """See RateLimitStore. No round trip if this process has been denied and nothing can have changed since.

        `version` is that of the connector as the caller has just read it: a denial is forgotten when somebody has changed it.

        Raises:
            NotFound, ConfigurationError: see RateLimitStore.
            StorageUnavailable: the exchange has refused us, and the database cannot be told of it.
        """
        return self._questions.ask(connector_id, ask, version)

    def note_arrived(self, connector_id: str, reservation: Reservation, weight: int, tell_within_ms: int) -> None:
        """The exchange has just answered a request of that weight, so it had arrived by now.

        The limiter is told with the next question, within `tell_within_ms` at the latest.
        """
        monotonic = time.monotonic()
        with self._lock:
            known = self._known_of(connector_id)
            known.grants.note_arrived(reservation, weight, reservation.arrived_by_ms(monotonic))
            known.tell_within_ms = tell_within_ms
        self._teller.make_due_within(connector_id, tell_within_ms)

    def note_returned(self, connector_id: str, reservation: Reservation, weight: int) -> None:
        """So much of a grant will not be sent: it is free again as soon as the limiter is told."""
        if weight:
            with self._lock:
                self._known_of(connector_id).grants.note_returned(reservation.reservation_id, weight)
            self._teller.make_due_within(connector_id, RETURN_WITHIN_MS)

    def tell_now(self, connector_id: str) -> None:
        """Tell what there is without waiting for a question: none may come, and there is little room."""
        with self._lock:
            has_news = self._known_of(connector_id).grants.has_news
        if has_news:
            self._teller.make_due_within(connector_id, 0)

    def block(self, connector_id: str, wait_ms: int, reason: str, sent_ms: int = 0) -> int:
        """No grant before `wait_ms` from now; a longer block that stands already stays. Returns the block's end, UTC ms.

        This process sends nothing more under grants that it holds (`is_refused_since`). If the database is away, it remembers
        the block, and does not ask for weight before it has told it.

        Raises:
            NotFound, StorageUnavailable.
        """
        now = time.monotonic()
        with self._lock:
            known = self._known_of(connector_id)
            known.refused_monotonic = now
            if known.unsaved is not None:
                # A longer one that the database has not heard of is not forgotten for a shorter one that it hears of.
                wait_ms = max(wait_ms, math.ceil((known.unsaved.until_monotonic - now) * 1000))
            known.unsaved = block = _UnsavedBlock(now + wait_ms / 1000, reason, sent_ms)
        return self._save_block(connector_id, block, wait_ms)

    def is_refused_since(self, connector_id: str, reservation: Reservation) -> bool:
        """Whether this process knows of a refusal by the exchange that came after that grant was asked for."""
        with self._lock:
            known = self._known_of(connector_id)
            return known.refused_monotonic > reservation.asked_monotonic or known.refused_ms > reservation.clock_ms

    def look_for_refusals(self, connector_id: str) -> None:
        """Hear of what another process was refused, unless the database has just been heard of."""
        with self._lock:
            heard = self._known_of(connector_id).heard_monotonic
        if time.monotonic() - heard <= LOOK_AGAIN_MS / 1000:
            return
        block = self._store.find_block(connector_id)
        if block is not None:
            self._note_heard(connector_id, block.refused_ms)

    def record_usage(self, connector_id: str, period_ms: int, used: int) -> None:
        """See RateLimitStore."""
        self._store.record_usage(connector_id, period_ms, used)

    def close(self) -> None:
        """Tell what is left to be told."""
        with self._lock:
            left = [connector_id for connector_id, known in self._known.items() if known.grants.has_news]
        for connector_id in left:
            self._teller.make_due_within(connector_id, 0)
        self._teller.stop()

    def _reserve(self, connector_id: str, ask: Ask, version: str | None) -> Reservation:
        """One question for all who ask it, with all that there is to tell."""
        with self._lock:
            unsaved = self._known_of(connector_id).unsaved
        if unsaved is not None:
            self._save_block(connector_id, unsaved, math.ceil((unsaved.until_monotonic - time.monotonic()) * 1000))
        with self._lock:
            known = self._known_of(connector_id)
            denied = _recall(known, ask, version)
            if denied is not None:
                return denied
            told = known.grants.take()
        reservation_id = new_reservation_id()
        try:
            reservation = self._store.reserve(connector_id, ask, told, reservation_id)
        except BaseException:
            with self._lock:
                known.grants.restore(told)
                known.grants.note_lost(reservation_id)
            raise
        with self._lock:
            known.grants.confirm(told)
            known.grants.add(reservation)
            if version is not None and not reservation.granted and not reservation.is_paused:
                known.denial = _remembered(reservation, ask, version)
            has_news = known.grants.has_news
        if has_news:
            # It came while the question was on its way.
            self._teller.make_due_within(connector_id, known.tell_within_ms)
        self._note_heard(connector_id, reservation.refused_ms)
        return reservation

    def _tell(self, connector_id: str) -> None:
        with self._lock:
            known = self._known_of(connector_id)
            told = known.grants.take()
        if not told:
            return
        try:
            self._store.settle(connector_id, told)
        except Exception as exc:  # noqa: BLE001 - the edge of a thread: nobody above would see it, and the next word is due
            event("settlement_untold", "WARNING", connector_id=connector_id, error=f"{type(exc).__name__}: {exc}"[:500])
            with self._lock:
                known.grants.restore(told)
            self._teller.make_due_within(connector_id, TELL_AGAIN_MS)
            return
        with self._lock:
            known.grants.confirm(told)
            has_news = known.grants.has_news
        if has_news:
            self._teller.make_due_within(connector_id, RETURN_WITHIN_MS)

    def _save_block(self, connector_id: str, block: _UnsavedBlock, wait_ms: int) -> int:
        """Tell the database of a refusal; one that has passed meanwhile is forgotten."""
        until_ms = 0
        if wait_ms > 0:
            saved = self._store.block(connector_id, wait_ms, block.reason, block.sent_ms)
            until_ms = saved.until_ms
            self._note_heard(connector_id, saved.refused_ms)
        with self._lock:
            known = self._known_of(connector_id)
            if known.unsaved is block:
                known.unsaved = None
        return until_ms

    def _note_heard(self, connector_id: str, refused_ms: int) -> None:
        with self._lock:
            known = self._known_of(connector_id)
            known.refused_ms = max(known.refused_ms, refused_ms)
            known.heard_monotonic = time.monotonic()

    def _known_of(self, connector_id: str) -> _Known:
        return self._known.setdefault(connector_id, _Known())


def _recall(known: _Known, ask: Ask, version: str | None) -> Reservation | None:
    """The denial that still holds, if any. What we have to tell may make room, and then there is none."""
    denial = known.denial
    if denial is None or version != denial.version or ask.need < denial.need or known.grants.has_news:
        return None
    # There is room for a live job where there was none for a backfill.
    if time.monotonic() >= denial.until_monotonic or (ask.is_live and not denial.is_live):
        return None
    return denial.reservation.as_of_now()


def _remembered(denied: Reservation, ask: Ask, version: str) -> _Denial:
    until = denied.asked_monotonic + min(DENIAL_MS_MAX, denied.wait_ms - ask.wait_ms_max) / 1000
    return _Denial(ask.need, ask.is_live, version, until, denied)
