"""The limiter: a reserved sliding log, kept in the connector's document, decided on the server in one update.

Why no sliding window can go over: of all grants used inside some window take the one booked last. Every other request in it
arrived inside that window, and counted until then or longer when that one was checked, since a grant counts until its arrival
is known or has become impossible. See docs/limits.md. The pipelines themselves: stores/limiter_pipeline.py.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import ReturnDocument

from shared.deadline import elapsed_s
from shared.domain.connectors import blocked_until_ms
from shared.domain.rate_forecast import forecast_room_ms
from shared.domain.rates import SHARE_PERMILLE_ALL, Ask, RateWindow, Reservation, Settlement
from shared.errors import ConfigurationError, NotFound
from shared.stores.database import Database, Document
from shared.stores.limiter_pipeline import (
    ask_variables,
    block_pipeline,
    reserve_pipeline,
    settle_pipeline,
    settlement_variables,
    usage_pipeline,
)

COLLECTION: Final = "connectors"
REASON_LENGTH_MAX: Final = 500


@cache
def _encoded(build: Callable[[], list[Document]]) -> list[RawBSONDocument]:
    """A pipeline, encoded once: it has hundreds of parts, and calls differ in their variables only."""
    return [RawBSONDocument(bson.encode(stage)) for stage in build()]


_BLOCK: Final[Document] = {"blocked_until": 1, "limiter.refusal.newest_ms": 1}
_ANSWER: Final[Document] = {"limiter.last": 1, "limiter.refusal.newest_ms": 1, "rate_limit_usage": 1, "status": 1}
_LIMITS: Final[Document] = {"rate_limit": 1, "rate_limit_period_ms": 1, "extra_rate_limits": 1}
_STATE: Final[Document] = {
    **_LIMITS,
    "blocked_until": 1,
    **{f"limiter.{name}": 1 for name in ("logs", "unsettled", "refusal", "last_at_ms")},
}


def initial_limiter() -> Document:
    """The limiter's state of a new connector."""
    return {"clock_ms": 0, "last_at_ms": 0, "logs": [], "unsettled": []}


def forgiven_refusal() -> Document:
    """Fields of a connector whose refusals are not to be heeded any more; what was counted stays."""
    return {"limiter.refusal.share": SHARE_PERMILLE_ALL, "limiter.refusal.careful_until_ms": 0}


def new_reservation_id() -> str:
    """A name for a reservation that nobody else has."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Block:
    """The exchange has refused us at `refused_ms` (the server's clock; 0: never), and is not asked before `until_ms`."""

    refused_ms: int
    until_ms: int


class RateLimitStore:
    """Reserve weight, settle it, block after a refusal, take over what the exchange says was used. Keeps nothing by itself."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)

    def reserve(
        self, connector_id: str, ask: Ask, settlements: Sequence[Settlement] = (), reservation_id: str | None = None
    ) -> Reservation:
        """Settle, then book between `need` and `want` weight at the earliest moment at which `need` fits into every window.

        Nothing is granted if that moment is more than `wait_ms_max` away, nor to a job while the connector is paused. One
        round trip; two where nothing is granted, for the moment at which there may be room.

        Raises:
            NotFound: no such connector.
            ConfigurationError: `need` is more than a window ever allows.
        """
        asked_s = elapsed_s()
        document = self._collection.find_one_and_update(
            {"_id": connector_id},
            _encoded(reserve_pipeline),
            let=ask_variables(reservation_id or new_reservation_id(), ask, settlements),
            projection=_ANSWER,
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            raise NotFound(f"connector {connector_id} does not exist")
        replied_s = elapsed_s()
        answer = document["limiter"]["last"]
        if answer["at_ms"] is None:
            raise ConfigurationError(
                f"connector {connector_id}: one request weighs {ask.need}, more than its rate_limit allows at all"
            )
        granted, at_ms, clock_ms = (int(answer[name]) for name in ("granted", "at_ms", "clock_ms"))
        return Reservation(
            reservation_id=answer["reservation_id"],
            granted=granted,
            at_ms=at_ms if granted else self._forecast_ms(connector_id, ask, clock_ms),
            clock_ms=clock_ms,
            use_by_ms=ask.use_by_ms,
            charged_ms=at_ms + ask.charge_ms,
            used=int(document["rate_limit_usage"]),
            open_count=int(answer["open_count"]),
            is_paused=ask.is_for_job and document["status"] == "paused",
            refused_ms=_refused_ms(document),
            asked_s=asked_s,
            replied_s=replied_s,
        )

    def _forecast_ms(self, connector_id: str, ask: Ask, clock_ms: int) -> int:
        document = self._collection.find_one({"_id": connector_id}, _STATE)
        if document is None:
            raise NotFound(f"connector {connector_id} does not exist")
        return forecast_room_ms(document, ask, clock_ms)

    def settle(self, connector_id: str, settlements: Sequence[Settlement]) -> None:
        """Enter what has become of grants. Of a connector that is gone it is of no interest."""
        variables = settlement_variables(settlements)
        self._collection.update_one({"_id": connector_id}, _encoded(settle_pipeline), let=variables)

    def block(self, connector_id: str, wait_ms: int, reason: str, sent_ms: int = 0) -> Block:
        """No grant before `wait_ms` from now; a longer block that stands already stays. See block_pipeline.

        `sent_ms`: when the refused request was sent, on the server's clock; 0: not known.

        Raises:
            NotFound: no such connector.
        """
        document = self._collection.find_one_and_update(
            {"_id": connector_id},
            _encoded(block_pipeline),
            let={"wait_ms": wait_ms, "reason": {"$literal": reason[:REASON_LENGTH_MAX]}, "sent_ms": sent_ms},
            projection=_BLOCK,
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            raise NotFound(f"connector {connector_id} does not exist")
        return _block_of(document)

    def find_block(self, connector_id: str) -> Block | None:
        """What the exchange has last refused; None: there is no such connector."""
        document = self._collection.find_one({"_id": connector_id}, _BLOCK)
        return None if document is None else _block_of(document)

    def record_usage(self, connector_id: str, period_ms: int, used: int) -> None:
        """The exchange counts `used` in its window of `period_ms`: add what is more than our own count, never lower ours."""
        variables = {"period_ms": period_ms, "used": used, **settlement_variables(())}
        self._collection.update_one({"_id": connector_id}, _encoded(usage_pipeline), let=variables)


def _refused_ms(document: Document) -> int:
    return int(document["limiter"].get("refusal", {}).get("newest_ms", 0))


def _block_of(document: Document) -> Block:
    return Block(_refused_ms(document), blocked_until_ms(document))


def windows_document(windows: tuple[RateWindow, ...]) -> Document:
    """The limit fields of a connector document: the first window is the main one."""
    main, *extra = windows
    return {**main.to_document(), "extra_rate_limits": [window.to_document() for window in extra]}
