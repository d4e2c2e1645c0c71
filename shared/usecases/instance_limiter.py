"""The limiter as one process uses it: what it has heard of each connector, and what it still has to report.

Runs that ask together are answered together (ask_together.py). What becomes of grants goes with the process's next question,
or by itself before it would matter (settlement_reporter.py). A denial is remembered while asking again cannot help, a refusal
by the exchange until the database knows it.
"""

import math
import threading
from dataclasses import dataclass, field
from typing import Final

from shared.deadline import elapsed_s
from shared.domain.open_grants import OpenGrants
from shared.domain.rates import LOOK_AGAIN_MS, Ask, Reservation
from shared.stores.rate_limits import Block, RateLimitStore, new_reservation_id
from shared.telemetry import event
from shared.usecases.ask_together import SharedQuestions
from shared.usecases.settlement_reporter import SettlementReporter

# Others may have settled what stood in the way.
DENIAL_MS_MAX: Final = 250
# Weight that is given back may be what another process is waiting for. The next question of this one often comes sooner.
RETURN_WITHIN_MS: Final = 50
# What could not be reported is reported again this much later, then after twice as long: a database that is away is away for
# seconds at the least, and after half a minute everything has come to its last moment.
REPORT_AGAIN_MS: Final = 1_000
REPORT_AGAIN_MS_MAX: Final = 30_000
# Connectors come in tens; this only bounds what an instance remembers of those that are gone.
CONNECTORS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class _Denial:
    """What was denied, under the connector's `version`: asking for as much before `until_s` is of no use."""

    ask: Ask
    version: str
    until_s: float
    reservation: Reservation


@dataclass(frozen=True, slots=True)
class _UnsavedBlock:
    """A refusal that the database does not know yet: nothing may be sent before `until_s`."""

    until_s: float
    reason: str
    sent_ms: int

    @property
    def left_ms(self) -> int:
        """What is left of it; 0 or less: it has passed."""
        return math.ceil((self.until_s - elapsed_s()) * 1000)


@dataclass(slots=True)
class _Known:
    """What this process knows of one connector's limiter."""

    grants: OpenGrants = field(default_factory=OpenGrants)
    denial: _Denial | None = None
    report_within_ms: int = REPORT_AGAIN_MS
    report_again_ms: int = REPORT_AGAIN_MS
    # The newest refusal: on the server's clock, and when this process was refused itself.
    refused_ms: int = 0
    refused_s: float = -math.inf
    heard_s: float = -math.inf
    unsaved: _UnsavedBlock | None = None
    # One thread at a time writes a refusal, and others wait for it: each refusal is counted once.
    saving: threading.Lock = field(default_factory=threading.Lock)


class InstanceLimiter:
    """One an instance. Safe between threads."""

    def __init__(self, store: RateLimitStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._questions = SharedQuestions(self._reserve, self.note_returned)
        self._reporter = SettlementReporter(self._report)

    @property
    def waiting_count(self) -> int:
        """Questions that wait for one that is on its way."""
        return self._questions.waiting_count

    def reserve(self, connector_id: str, ask: Ask, version: str | None = None) -> Reservation:
        """See RateLimitStore. No round trip if this process has been denied and nothing can have changed since.

        `version` is that of the connector as the caller has just read it: a denial is forgotten when somebody has changed it.

        Raises:
            NotFound, ConfigurationError: see RateLimitStore.
            StorageUnavailable: the exchange has refused us, and the database does not answer to learn of it.
        """
        return self._questions.ask(connector_id, ask, version)

    def note_arrived(self, connector_id: str, reservation: Reservation, weight: int, report_within_ms: int) -> None:
        """The exchange has just answered a request of that weight, so it had arrived by now.

        The limiter hears of it with the next question, within `report_within_ms` at the latest.
        """
        by_ms = reservation.arrived_by_ms(elapsed_s())
        with self._lock:
            known = self._known_of(connector_id)
            known.grants.note_arrived(reservation, weight, by_ms)
            known.report_within_ms = report_within_ms
        self._reporter.make_due_within(connector_id, report_within_ms)

    def note_returned(self, connector_id: str, reservation: Reservation, weight: int) -> None:
        """So much of a grant will not be sent: it is free again as soon as the limiter hears of it."""
        if weight:
            with self._lock:
                self._known_of(connector_id).grants.note_returned(reservation.reservation_id, weight)
            self._reporter.make_due_within(connector_id, RETURN_WITHIN_MS)

    def report_now(self, connector_id: str) -> None:
        """Report what there is without waiting for a question: none may come, and there is little room."""
        with self._lock:
            has_news = self._known_of(connector_id).grants.has_news
        if has_news:
            self._reporter.make_due_within(connector_id, 0)

    def block(self, connector_id: str, wait_ms: int, reason: str, sent_ms: int = 0) -> None:
        """No grant before `wait_ms` from now; a longer block that stands already stays. See block_pipeline.

        This process sends nothing more under grants that it holds (`is_refused_since`). If the database is away, it remembers
        the block, and does not ask for weight before it has written it.

        Raises:
            NotFound, StorageUnavailable.
        """
        now_s = elapsed_s()
        with self._lock:
            known = self._known_of(connector_id)
            known.refused_s = now_s
            # A longer one that the database has not heard of is not forgotten for a shorter one that it hears of.
            until_s = now_s + wait_ms / 1000
            until_s = until_s if known.unsaved is None else max(until_s, known.unsaved.until_s)
            known.unsaved = block = _UnsavedBlock(until_s, reason, sent_ms)
        with known.saving:
            self._save_block(connector_id, block)

    def find_block(self, connector_id: str) -> Block | None:
        """What the exchange has last refused, as the database has it; None: there is no such connector."""
        return self._store.find_block(connector_id)

    def is_refused_since(self, connector_id: str, reservation: Reservation) -> bool:
        """Whether this process knows of a refusal by the exchange that came after that grant was asked for."""
        with self._lock:
            known = self._known_of(connector_id)
            return known.refused_s > reservation.asked_s or known.refused_ms > reservation.clock_ms

    def look_for_refusals(self, connector_id: str) -> None:
        """Hear of what another process was refused, unless the database has just been heard of."""
        with self._lock:
            heard_s = self._known_of(connector_id).heard_s
        if elapsed_s() - heard_s <= LOOK_AGAIN_MS / 1000:
            return
        block = self._store.find_block(connector_id)
        if block is not None:
            self._note_heard(connector_id, block.refused_ms)

    def record_usage(self, connector_id: str, period_ms: int, used: int) -> None:
        """See RateLimitStore."""
        self._store.record_usage(connector_id, period_ms, used)

    def close(self) -> None:
        """Report what is left to be reported."""
        with self._lock:
            left = [connector_id for connector_id, known in self._known.items() if known.grants.has_news]
        for connector_id in left:
            self._reporter.make_due_within(connector_id, 0)
        self._reporter.stop()

    def _reserve(self, connector_id: str, ask: Ask, version: str | None) -> Reservation:
        """One question for all who ask it, with all that there is to report."""
        with self._lock:
            known = self._known_of(connector_id)
        if known.unsaved is not None:
            with known.saving:
                unsaved = known.unsaved
                if unsaved is not None:
                    self._save_block(connector_id, unsaved)
        with self._lock:
            denied = _recall(known, ask, version)
            if denied is not None:
                return denied
            taken = known.grants.take()
        reservation_id = new_reservation_id()
        try:
            reservation = self._store.reserve(connector_id, ask, taken, reservation_id)
        except BaseException:
            with self._lock:
                known.grants.restore(taken)
                known.grants.note_lost(reservation_id)
            self._reporter.make_due_within(connector_id, REPORT_AGAIN_MS)
            raise
        with self._lock:
            known.grants.confirm(taken)
            known.grants.add(reservation)
            if version is not None and not reservation.granted and not reservation.is_paused:
                known.denial = _denial_of(reservation, ask, version)
        self._make_news_due(connector_id, known)
        self._note_heard(connector_id, reservation.refused_ms)
        return reservation

    def _report(self, connector_id: str) -> None:
        with self._lock:
            known = self._known_of(connector_id)
            taken = known.grants.take()
        if not taken:
            return
        try:
            self._store.settle(connector_id, taken)
        except Exception as exc:  # noqa: BLE001 - the edge of a thread: nobody above would see it, and the next report is due
            event("settlement_unreported", "WARNING", connector_id=connector_id, error=f"{type(exc).__name__}: {exc}"[:500])
            with self._lock:
                known.grants.restore(taken)
                again_ms, known.report_again_ms = known.report_again_ms, min(REPORT_AGAIN_MS_MAX, 2 * known.report_again_ms)
            self._reporter.make_due_within(connector_id, again_ms)
            return
        with self._lock:
            known.grants.confirm(taken)
            known.report_again_ms = REPORT_AGAIN_MS
            # There may be room now.
            known.denial = None
        self._make_news_due(connector_id, known)

    def _make_news_due(self, connector_id: str, known: _Known) -> None:
        """What was noted while a report was on its way, and so did not go with it."""
        with self._lock:
            has_news, has_returned = known.grants.has_news, known.grants.has_returned
        if has_news:
            self._reporter.make_due_within(connector_id, RETURN_WITHIN_MS if has_returned else known.report_within_ms)

    def _save_block(self, connector_id: str, block: _UnsavedBlock) -> None:
        """Write a refusal down; one that has passed meanwhile is forgotten."""
        left_ms = block.left_ms
        if left_ms > 0:
            saved = self._store.block(connector_id, left_ms, block.reason, block.sent_ms)
            self._note_heard(connector_id, saved.refused_ms)
        with self._lock:
            known = self._known_of(connector_id)
            if known.unsaved is block:
                known.unsaved = None

    def _note_heard(self, connector_id: str, refused_ms: int) -> None:
        with self._lock:
            known = self._known_of(connector_id)
            known.refused_ms = max(known.refused_ms, refused_ms)
            known.heard_s = elapsed_s()

    def _known_of(self, connector_id: str) -> _Known:
        known = self._known.get(connector_id)
        if known is None:
            if len(self._known) >= CONNECTORS_MAX:
                idle = [name for name, each in self._known.items() if not each.grants.has_news and each.unsaved is None]
                for name in idle:
                    del self._known[name]
            known = self._known[connector_id] = _Known()
        return known


def _recall(known: _Known, ask: Ask, version: str | None) -> Reservation | None:
    """The denial that still holds, if any. What we have to report may make room, and then there is none."""
    denial = known.denial
    if denial is None or version != denial.version or elapsed_s() >= denial.until_s or known.grants.has_news:
        return None
    # There is room for a live job where there was none for a backfill, and a moment near enough for who waits longer.
    was = denial.ask
    is_less = ask.need < was.need or ask.wait_ms_max > was.wait_ms_max or (ask.is_live and not was.is_live)
    return None if is_less else denial.reservation.as_of_now()


def _denial_of(denied: Reservation, ask: Ask, version: str) -> _Denial:
    until_s = denied.asked_s + min(DENIAL_MS_MAX, denied.wait_ms - ask.wait_ms_max) / 1000
    return _Denial(ask, version, until_s, denied)
