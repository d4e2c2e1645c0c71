"""`audit_log`: who changed what, before and after, written in the same transaction as the change. Append only."""

from typing import Final

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING
from pymongo.client_session import ClientSession

from shared.stores.database import Database, Document

COLLECTION: Final = "audit_log"
LIST_MAX: Final = 500


class AuditLog:
    """Append and list entries."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)

    def ensure_indexes(self) -> None:
        """For the entries of one target, newest first."""
        self._collection.create_index([("target", ASCENDING), ("_id", DESCENDING)])

    def append(
        self,
        *,
        actor: str,
        role: str,
        action: str,
        target: str,
        before: Document | None,
        after: Document | None,
        request_id: str,
        session: ClientSession,
    ) -> None:
        """One change: `action` like `job.patch`, `target` like `jobs/binance:BTC-USDT:1m`."""
        entry = {
            "actor": actor,
            "role": role,
            "action": action,
            "target": target,
            "before": before,
            "after": after,
            "request_id": request_id,
        }
        # An upsert under a new id is an insert whose time the database stamps.
        self._collection.update_one(
            {"_id": ObjectId()}, {"$setOnInsert": entry, "$currentDate": {"at": True}}, upsert=True, session=session
        )

    def list_(self, target: str | None, before_id: ObjectId | None, limit: int) -> list[Document]:
        """Entries, newest first, of one target if given."""
        condition: Document = {} if target is None else {"target": target}
        if before_id is not None:
            condition["_id"] = {"$lt": before_id}
        return list(self._collection.find(condition).sort("_id", DESCENDING).limit(min(limit, LIST_MAX)))
