"""The limiter: a reserved sliding log with use-by, kept in the connector's document, decided on the server in one update.

Why no sliding window can go over: of all grants used inside some window take the one booked last; every other one has its
last moment inside that window or later, so it was still counted when that one was checked. See docs/limits.md. The pipelines
themselves: stores/limiter_pipeline.py.
"""

import math
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from pymongo import ReturnDocument

from shared.domain.rates import KEPT_FOR_LIVE_PERCENT, RateWindow, Reservation, Settlement
from shared.errors import ConfigurationError, NotFound
from shared.stores.database import Database, Document
from shared.stores.limiter_pipeline import CLOCK, reserve_pipeline, usage_pipeline

COLLECTION: Final = "connectors"
# Told in one call at most. Those that wait for longer than a grant is unsettled are of no use any more.
SETTLEMENTS_MAX: Final = 16


def initial_limiter() -> Document:
    """The limiter's state of a new connector."""
    return {"clock_ms": 0, "last_at_ms": 0, "logs": [], "unsettled": []}


@dataclass(frozen=True, slots=True)
class _Denial:
    """Asked with `need` under the connector's `version`: asking again before `until_monotonic` (ours) is of no use."""

    need: int
    is_live: bool
    version: str
    until_monotonic: float
    reservation: Reservation


@dataclass(slots=True)
class _Notes:
    """What this process remembers of one connector's limiter."""

    settlements: deque[Settlement] = field(default_factory=lambda: deque(maxlen=SETTLEMENTS_MAX))
    denial: _Denial | None = None
    # When this process last heard of a refusal by the exchange; and the block that the database does not know yet.
    blocked_monotonic: float = -math.inf
    unsaved: "_Block | None" = None


@dataclass(frozen=True, slots=True)
class _Block:
    """Nothing may be sent before `until_monotonic`."""

    until_monotonic: float
    reason: str


class RateLimitStore:
    """Reserve weight, settle it, block after a refusal, take over what the exchange says was used. Safe between threads."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)
        self._lock = threading.Lock()
        self._notes: dict[str, _Notes] = {}

    def reserve(
        self,
        connector_id: str,
        *,
        need: int,
        want: int,
        wait_ms_max: int,
        use_by_ms: int,
        transit_ms: int,
        is_for_job: bool = True,
        is_live: bool = True,
        version: str | None = None,
    ) -> Reservation:
        """Book between `need` and `want` weight at the earliest moment at which `need` fits into every window.

        Nothing is granted if that moment is more than `wait_ms_max` away, nor to a job while the connector is paused. One
        round trip; none if this process has been denied and nothing can have changed since. `version` is that of the
        connector as the caller has just read it: a denial is forgotten when somebody has changed the connector. Who is not
        `is_live` leaves KEPT_FOR_LIVE_PERCENT of every limit to those who are.

        Raises:
            NotFound: no such connector.
            ConfigurationError: `need` is more than a window ever allows.
            StorageUnavailable: the exchange has refused us, and the database cannot be told of it.
        """
        self._save_block(connector_id)
        denied = self._recall(connector_id, need, is_live, version)
        if denied is not None:
            return denied
        kept = 0 if is_live else KEPT_FOR_LIVE_PERCENT
        settlements = self._take_settlements(connector_id)
        asked_monotonic = time.monotonic()
        document = self._collection.find_one_and_update(
            {"_id": connector_id},
            reserve_pipeline(
                uuid.uuid4().hex, need, max(need, want), wait_ms_max, use_by_ms + transit_ms, is_for_job, settlements, kept
            ),
            projection={"limiter.last": 1, "rate_limit_usage": 1, "status": 1},
            return_document=ReturnDocument.AFTER,
        )
        replied_monotonic = time.monotonic()
        if document is None:
            raise NotFound(f"connector {connector_id} does not exist")
        if document["limiter"]["last"]["at_ms"] is None:
            raise ConfigurationError(
                f"connector {connector_id}: one request weighs {need}, more than its rate_limit allows at all"
            )
        reservation = Reservation(
            **_answer_fields(document),
            use_by_ms=use_by_ms,
            transit_ms=transit_ms,
            is_paused=is_for_job and document["status"] == "paused",
            asked_monotonic=asked_monotonic,
            replied_monotonic=replied_monotonic,
        )
        if version is not None and not reservation.granted and not reservation.is_paused:
            self._remember(connector_id, _Denial(need, is_live, version, math.inf, reservation), wait_ms_max)
        return reservation

    def settle(self, connector_id: str, settlement: Settlement) -> None:
        """Note what became of a grant; the connector's next `reserve` of this process tells it. No round trip.

        A note that never gets there does no harm: the grant stays charged whole, at its last moment.
        """
        with self._lock:
            self._notes_of(connector_id).settlements.append(settlement)

    def block(self, connector_id: str, wait_ms: int, reason: str) -> int:
        """No grant before `wait_ms` from now; a longer block that stands already stays. Returns the block's end, UTC ms.

        This process sends nothing more under grants that it holds (`is_refused_since`). If the database is away, it remembers
        the block, and does not ask for weight before it has told it.

        Raises:
            NotFound, StorageUnavailable.
        """
        now = time.monotonic()
        with self._lock:
            notes = self._notes_of(connector_id)
            notes.blocked_monotonic = now
            if notes.unsaved is not None:
                # A longer one that the database has not heard of is not forgotten for a shorter one that it hears of.
                wait_ms = max(wait_ms, math.ceil((notes.unsaved.until_monotonic - now) * 1000))
            notes.unsaved = block = _Block(now + wait_ms / 1000, reason)
        until_ms = self._write_block(connector_id, wait_ms, reason)
        self._note_saved(connector_id, block)
        return until_ms

    def is_refused_since(self, connector_id: str, monotonic: float) -> bool:
        """Whether this process has heard of a refusal by the exchange after that moment (monotonic)."""
        with self._lock:
            return self._notes_of(connector_id).blocked_monotonic > monotonic

    def _save_block(self, connector_id: str) -> None:
        """Tell the database of a block that it could not be told of when it came."""
        with self._lock:
            block = self._notes_of(connector_id).unsaved
        if block is not None:
            left_ms = math.ceil((block.until_monotonic - time.monotonic()) * 1000)
            if left_ms > 0:
                self._write_block(connector_id, left_ms, block.reason)
            self._note_saved(connector_id, block)

    def _note_saved(self, connector_id: str, block: _Block) -> None:
        with self._lock:
            notes = self._notes_of(connector_id)
            if notes.unsaved is block:
                notes.unsaved = None

    def _write_block(self, connector_id: str, wait_ms: int, reason: str) -> int:
        until = {"$toDate": {"$add": [{"$max": ["$limiter.clock_ms"]}, wait_ms]}}
        document = self._collection.find_one_and_update(
            {"_id": connector_id},
            [
                {"$set": {"limiter.clock_ms": CLOCK}},
                {"$set": {"blocked_until": {"$max": ["$blocked_until", until]}, "blocked_reason": reason[:500]}},
            ],
            projection={"blocked_until": 1},
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            raise NotFound(f"connector {connector_id} does not exist")
        return int(document["blocked_until"].timestamp() * 1000)

    def record_usage(self, connector_id: str, period_ms: int, used: int, charge_ms: int) -> None:
        """The exchange counts `used` in its window of `period_ms`: add what is more than our own count, never lower ours."""
        self._collection.update_one({"_id": connector_id}, usage_pipeline(period_ms, used, charge_ms))

    def _remember(self, connector_id: str, denial: _Denial, wait_ms_max: int) -> None:
        denied = denial.reservation
        # What others hold unsettled is settled or charged for good when the charge has passed, and may have made room.
        kept_ms = min(denied.use_by_ms + denied.transit_ms, denied.wait_ms - wait_ms_max)
        until = denied.asked_monotonic + kept_ms / 1000
        with self._lock:
            self._notes_of(connector_id).denial = replace(denial, until_monotonic=until)

    def _recall(self, connector_id: str, need: int, is_live: bool, version: str | None) -> Reservation | None:
        """The denial that still holds, if any."""
        with self._lock:
            notes = self._notes_of(connector_id)
            # What we have to tell may make room.
            denial = None if notes.settlements else notes.denial
        if denial is None or version != denial.version or need < denial.need or time.monotonic() >= denial.until_monotonic:
            return None
        # There is room for a live job where there was none for a backfill.
        if is_live and not denial.is_live:
            return None
        return denial.reservation.as_of_now()

    def _take_settlements(self, connector_id: str) -> list[Settlement]:
        with self._lock:
            waiting = self._notes_of(connector_id).settlements
            taken = list(waiting)
            waiting.clear()
        return taken

    def _notes_of(self, connector_id: str) -> _Notes:
        return self._notes.setdefault(connector_id, _Notes())


def _answer_fields(document: Document) -> Document:
    """What the limiter has said, as a Reservation takes it."""
    answer = document["limiter"]["last"]
    return {
        "reservation_id": answer["reservation_id"],
        "granted": int(answer["granted"]),
        "at_ms": int(answer["at_ms"]),
        "clock_ms": int(answer["clock_ms"]),
        "used": int(document["rate_limit_usage"]),
    }


def windows_document(windows: tuple[RateWindow, ...]) -> Document:
    """The limit fields of a connector document: the first window is the main one."""
    main, *extra = windows
    return {**main.to_document(), "extra_rate_limits": [window.to_document() for window in extra]}
