"""`alerts`: what needs a person, open until it is resolved. One open alert a subject."""

from datetime import UTC, datetime
from typing import Final

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.client_session import ClientSession

from shared.errors import NotFound
from shared.stores.database import Database, Document

COLLECTION: Final = "alerts"
LIST_MAX: Final = 500


class AlertStore:
    """Open, resolve, and keep track of which alerts have been sent."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)

    def ensure_indexes(self) -> None:
        """One open alert a subject, and those that still have to be sent."""
        self._collection.create_index([("subject", ASCENDING)], unique=True, partialFilterExpression={"state": "open"})
        self._collection.create_index([("notified_at", ASCENDING), ("opened_at", ASCENDING)])

    def open_(self, *, subject: str, title: str, facts: Document, opened_at: datetime, session: ClientSession) -> None:
        """Open the alert; while one is open for the subject, count it there and take over the newest facts."""
        self._collection.update_one(
            {"subject": subject, "state": "open"},
            {
                "$set": {"title": title, "facts": facts},
                "$setOnInsert": {"opened_at": opened_at, "notified_at": None, "resolved_at": None, "tries": 0},
                "$inc": {"count": 1},
            },
            upsert=True,
            session=session,
        )

    def resolve(self, subject: str, session: ClientSession | None = None) -> None:
        """Close the subject's open alert, if there is one."""
        self._collection.update_one(
            {"subject": subject, "state": "open"},
            {"$set": {"state": "resolved"}, "$currentDate": {"resolved_at": True}},
            session=session,
        )

    def resolve_by_id(self, alert_id: ObjectId, session: ClientSession) -> tuple[Document, Document]:
        """Close one alert; returns it before and after. One that is closed already stays as it is.

        Raises:
            NotFound: no such alert.
        """
        before = self._collection.find_one({"_id": alert_id}, session=session)
        if before is None:
            raise NotFound(f"alert {alert_id} does not exist")
        if before["state"] != "open":
            return before, before
        after = self._collection.find_one_and_update(
            {"_id": alert_id},
            {"$set": {"state": "resolved"}, "$currentDate": {"resolved_at": True}},
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        assert after is not None, "alerts are not deleted"
        return before, after

    def take_unsent(self, retry_ms: int, tries_max: int) -> Document | None:
        """One alert that nobody has sent yet, marked as being sent: for `retry_ms` nobody else takes it."""
        never = datetime(1970, 1, 1, tzinfo=UTC)
        is_retry_due = {"$lte": [{"$ifNull": ["$trying_at", never]}, {"$subtract": ["$$NOW", retry_ms]}]}
        return self._collection.find_one_and_update(
            {"notified_at": None, "state": "open", "tries": {"$lt": tries_max}, "$expr": is_retry_due},
            [{"$set": {"trying_at": "$$NOW", "tries": {"$add": ["$tries", 1]}}}],
            sort=[("opened_at", ASCENDING)],
            return_document=ReturnDocument.AFTER,
        )

    def mark_sent(self, alert: Document) -> None:
        """The alert has reached its receivers."""
        self._collection.update_one({"_id": alert["_id"]}, {"$currentDate": {"notified_at": True}})

    def list_(self, state: str | None, limit: int) -> list[Document]:
        """Alerts, newest first."""
        condition: Document = {} if state is None else {"state": state}
        return list(self._collection.find(condition).sort("opened_at", DESCENDING).limit(min(limit, LIST_MAX)))

    def count_open(self) -> int:
        """How many alerts are open; the condition on `subject` lets the server use the index of open ones."""
        return self._collection.count_documents({"state": "open", "subject": {"$gt": ""}})
