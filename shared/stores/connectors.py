"""`connectors`: one document per public exchange as configured here; the limiter keeps its state in the same document."""

from datetime import datetime
from typing import Any, Final

from pymongo import ASCENDING, ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError

from shared.domain.connectors import Caution, Connector, booked_windows
from shared.domain.jobs import to_datetime, to_ms
from shared.errors import Conflict, NotFound, PreconditionFailed
from shared.stores.database import Database, Document

COLLECTION: Final = "connectors"
# What the limiter keeps for itself; not part of what users see or of the audit log.
_INTERNAL: Final[Document] = {"limiter": 0, "scratch": 0}
LIST_MAX: Final = 500
# From these fields a connector's usage follows.
_LIMITS: Final = ("rate_limit", "rate_limit_period_ms", "extra_rate_limits")
_LIMITER: Final = ("limiter.logs", "limiter.unsettled", "limiter.refusal")
_USAGE: Final[Document] = dict.fromkeys(("status", "blocked_until", *_LIMITS, *_LIMITER), 1)


class ConnectorStore:
    """Queries and edits of connectors. Documents handed out are without the limiter's own state."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)

    def ensure_indexes(self) -> None:
        """Listing goes by id; nothing else needs an index on a collection of tens."""
        self._collection.create_index([("exchange", ASCENDING)])

    def insert(self, document: Document, session: ClientSession) -> None:
        """A new connector.

        Raises:
            Conflict: the id is taken.
        """
        try:
            self._collection.insert_one(document, session=session)
        except DuplicateKeyError as exc:
            raise Conflict(f"connector {document['_id']} exists already") from exc

    def find(self, connector_id: str, session: ClientSession | None = None) -> Document | None:
        """The document, or None."""
        return self._collection.find_one({"_id": connector_id}, _INTERNAL, session=session)

    def get(self, connector_id: str, session: ClientSession | None = None) -> Document:
        """The document.

        Raises:
            NotFound: no such connector.
        """
        document = self.find(connector_id, session)
        if document is None:
            raise NotFound(f"connector {connector_id} does not exist")
        return document

    def get_to_edit(self, connector_id: str, session: ClientSession) -> Document:
        """The document, held for the rest of the transaction. Raises NotFound.

        The limiter writes the same document hundreds of times a second: an edit that read before it wrote would meet one of
        those writes nearly every time and fail.
        """
        document = self._collection.find_one_and_update(
            {"_id": connector_id}, {"$currentDate": {"limiter.edited_at": True}}, projection=_INTERNAL, session=session
        )
        if document is None:
            raise NotFound(f"connector {connector_id} does not exist")
        return document

    def get_connector(self, connector_id: str) -> Connector:
        """The connector as a run needs it. Raises NotFound."""
        return Connector.from_document(self.get(connector_id))

    def list_(self, after_id: str = "", limit: int = LIST_MAX) -> list[Document]:
        """Connectors in order of id, those after `after_id`."""
        return list(self._collection.find({"_id": {"$gt": after_id}}, _INTERNAL).sort("_id", ASCENDING).limit(limit))

    def list_ids(self, exchange: str, session: ClientSession) -> list[str]:
        """The ids of an exchange's connectors."""
        return [document["_id"] for document in self._collection.find({"exchange": exchange}, {"_id": 1}, session=session)]

    def list_runnable(self) -> list[Document]:
        """All active connectors, with what a tick needs to know of their limits."""
        fields = {
            "exchange": 1,
            "rate_limit": 1,
            "rate_limit_period_ms": 1,
            "extra_rate_limits": 1,
            "blocked_until": 1,
            "limiter.last_at_ms": 1,
            "limiter.logs": 1,
            "limiter.unsettled": 1,
            "limiter.refusal": 1,
        }
        return list(self._collection.find({"status": "active"}, fields).sort("_id", ASCENDING).limit(LIST_MAX))

    def list_usage(self, now_ms: int) -> list[Document]:
        """{_id, status, blocked_until, caution, windows: [{rate_limit, rate_limit_period_ms, used}]} of every connector.

        `caution` is a Caution. `used` is the weight that counts in the window at `now_ms`, main window first. The stored
        `rate_limit_usage` is as of the newest reservation, which may be long ago.
        """
        rows = self._collection.find({}, _USAGE).sort("_id", ASCENDING).limit(LIST_MAX)
        return [_usage_row(row, now_ms) for row in rows]

    def get_usage(self, connector_id: str, now_ms: int) -> Document:
        """The same of one connector. Raises NotFound."""
        row = self._collection.find_one({"_id": connector_id}, _USAGE)
        if row is None:
            raise NotFound(f"connector {connector_id} does not exist")
        return _usage_row(row, now_ms)

    def update(self, connector_id: str, revision: int | None, changes: Document, session: ClientSession) -> Document:
        """Set fields under an expected revision (None: whatever it is); returns the new document.

        Raises:
            NotFound: no such connector.
            PreconditionFailed: it has another revision.
        """
        condition: dict[str, Any] = {"_id": connector_id}
        if revision is not None:
            condition["revision"] = revision
        document = self._collection.find_one_and_update(
            condition,
            {"$set": changes, "$inc": {"revision": 1}, "$currentDate": {"updated_at": True}},
            projection=_INTERNAL,
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        if document is None:
            self.get(connector_id, session)
            raise PreconditionFailed(f"connector {connector_id} was changed by somebody else; read it again")
        return document

    def delete(self, connector_id: str, revision: int | None, session: ClientSession) -> datetime:
        """Remove it. Returns until when what was sent counts at the exchange, or the exchange has blocked us.

        Raises NotFound and PreconditionFailed like `update`.
        """
        condition: dict[str, Any] = {"_id": connector_id}
        if revision is not None:
            condition["revision"] = revision
        document = self._collection.find_one_and_delete(condition, session=session)
        if document is None:
            self.get(connector_id, session)
            raise PreconditionFailed(f"connector {connector_id} was changed by somebody else; read it again")
        return to_datetime(_held_until_ms(document))


def _held_until_ms(document: Document) -> int:
    """The last moment at which anything in its limiter still counts; 0 if nothing has been sent lately.

    In windows that were taken away too: the connector made again may have them.
    """
    blocked_until = document.get("blocked_until")
    limiter = document.get("limiter", {})
    open_ms = [int(grant["t"]) for grant in limiter.get("unsettled", ())]
    periods_ms = {booked.window.period_ms for booked in booked_windows(document)}
    leaves_ms = [at_ms + period_ms for at_ms in open_ms for period_ms in periods_ms]
    for log in limiter.get("logs", ()):
        moments_ms = [*(int(entry["t"]) for entry in log["entries"]), *open_ms]
        leaves_ms += [at_ms + int(log["period_ms"]) for at_ms in moments_ms]
    return max([0 if blocked_until is None else to_ms(blocked_until), *leaves_ms])


def _usage_row(row: Document, now_ms: int) -> Document:
    windows = [{**booked.window.to_document(), "used": booked.used_at(now_ms)} for booked in booked_windows(row)]
    return {
        "_id": row["_id"],
        "status": row["status"],
        "blocked_until": row.get("blocked_until"),
        "caution": Caution.of(row, now_ms),
        "windows": windows,
    }
