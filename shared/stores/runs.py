"""`job_runs`: what every run did and why it ended. Kept for `run_ttl_days`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pymongo import ASCENDING, DESCENDING
from pymongo.client_session import ClientSession

from shared.stores.database import Database, Document, ensure_expiry

COLLECTION: Final = "job_runs"
INDEX_OPTIONS_CONFLICT: Final = 85
LIST_MAX: Final = 500


class RunStore:
    """Append runs, list and count them."""

    def __init__(self, database: Database, ttl_days: int) -> None:
        self._collection = database.collection(COLLECTION)
        self._ttl_days = ttl_days

    def ensure_indexes(self) -> None:
        """For the runs of one job, newest first, and for forgetting old ones. A changed TTL is taken over."""
        self._collection.create_index([("job_id", ASCENDING), ("started_at", DESCENDING)])
        ensure_expiry(self._collection, "finished_at", self._ttl_days)

    def append(self, documents: Sequence[Document], session: ClientSession | None = None) -> None:
        """Record ended runs; `_id` is the run's id, so the same run cannot be recorded twice."""
        self._collection.insert_many(documents, session=session)

    def list_of_job(self, job_id: str, before: datetime | None, limit: int) -> list[Document]:
        """Runs of a job, newest first, those started before that moment."""
        condition: Document = {"job_id": job_id}
        if before is not None:
            condition["started_at"] = {"$lt": before}
        return list(self._collection.find(condition).sort("started_at", DESCENDING).limit(min(limit, LIST_MAX)))

    def count_recent(self, since: datetime, limit: int) -> list[Document]:
        """[{connector_id, outcome, count}] of the runs that ended at `since` or later; at most the newest `limit`."""
        rows = self._collection.aggregate(
            [
                {"$match": {"finished_at": {"$gte": since}}},
                {"$sort": {"finished_at": -1}},
                {"$limit": limit},
                {"$group": {"_id": {"connector_id": "$connector_id", "outcome": "$outcome"}, "count": {"$sum": 1}}},
            ]
        )
        return [{**row["_id"], "count": row["count"]} for row in rows]
