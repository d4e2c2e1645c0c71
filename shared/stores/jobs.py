"""`jobs`: one document per series to keep, with its cursor, its lease and its schedule. Here: reading and editing them.

Claims and the writes of runs are in job_leases.py, sums over all jobs in job_summaries.py.
"""

from datetime import datetime
from typing import Any, Final

from pymongo import ASCENDING, ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError

from shared.domain.jobs import JobKind, to_datetime
from shared.errors import Conflict, NotFound, PreconditionFailed
from shared.stores.database import Database, Document
from shared.stores.retired_totals import RetiredTotals

COLLECTION: Final = "jobs"
LIST_MAX: Final = 500
# Jobs that people have made, not those that a series makes for itself, nor the parts of backfills.
NO_TASK: Final[Document] = {
    "$nor": [
        {"kind": {"$in": [JobKind.REPAIR.value, JobKind.ENRICH.value]}},
        {"backfill_id": {"$exists": True}},
        {"_id": {"$regex": ":history$"}},
    ]
}


def changed_by_others(job_id: str) -> PreconditionFailed:
    """The job, or the list of its series, has another revision than a caller knows of."""
    return PreconditionFailed(f"job {job_id} was changed by somebody else; read it again")


class JobStore:
    """Queries and edits of jobs."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)
        self._retired = RetiredTotals(database)

    def ensure_indexes(self) -> None:
        """For claims by connector in order of priority, for claims not begun, and for one live job a series.

        `due` also tells whether anything is due, by a few keys for each connector: an index on `next_run_at` alone would have
        to be kept up at every claim, page and end of a run.
        """
        self._collection.create_index(
            [
                ("connector_id", ASCENDING),
                ("status", ASCENDING),
                ("priority", ASCENDING),
                ("next_run_at", ASCENDING),
                # Not searched by: with them the search for due jobs is answered without reading a document.
                ("_id", ASCENDING),
                ("lock.session_id", ASCENDING),
            ],
            name="due",
        )
        self._collection.create_index(
            [("exchange", ASCENDING), ("symbol", ASCENDING), ("timeframe", ASCENDING)],
            unique=True,
            partialFilterExpression={"kind": "live"},
        )
        self._collection.create_index([("exchange", ASCENDING), ("symbol", ASCENDING), ("timeframe", ASCENDING)], name="series")
        self._collection.create_index(
            [("backfill_id", ASCENDING)], name="backfill", partialFilterExpression={"backfill_id": {"$exists": True}}
        )
        self._collection.create_index(
            [("updated_at", ASCENDING)], name="retiring", partialFilterExpression={"is_retiring": True}
        )
        self._collection.create_index(
            [("lock.expires_at", ASCENDING), ("connector_id", ASCENDING)],
            name="unbegun",
            partialFilterExpression={"lock.run_id": None, "lock.expires_at": {"$exists": True}},
        )

    def insert(self, document: Document, session: ClientSession) -> None:
        """A new job.

        Raises:
            Conflict: the id is taken, or another live job keeps the same series.
        """
        try:
            self._collection.insert_one(document, session=session)
        except DuplicateKeyError as exc:
            raise Conflict(
                f"a live job for {document['symbol']} {document['timeframe']} of {document['exchange']} exists already",
                job_id=document["_id"],
            ) from exc

    def get(self, job_id: str, session: ClientSession | None = None) -> Document:
        """The document. Raises NotFound."""
        document = self._collection.find_one({"_id": job_id}, session=session)
        if document is None:
            raise NotFound(f"job {job_id} does not exist")
        return document

    def list_(self, condition: Document, after_id: str = "", limit: int = LIST_MAX) -> list[Document]:
        """Jobs that match the condition (fields of the document), in order of id, those after `after_id`."""
        return list(self._collection.find({**condition, "_id": {"$gt": after_id}}).sort("_id", ASCENDING).limit(limit))

    def count(self, condition: Document, session: ClientSession | None = None) -> int:
        """How many jobs match."""
        return self._collection.count_documents(condition, session=session)

    def count_uses(self, connector_id: str, session: ClientSession) -> dict[str, int]:
        """What uses a connector: `job`s that people have made, `backfill`s, and `task`s of series beside them."""
        found = list(self._collection.find({"connector_id": connector_id}, {"backfill_id": 1, "kind": 1}, session=session))
        jobs = self._collection.count_documents({"connector_id": connector_id, **NO_TASK}, session=session)
        parts = [document["backfill_id"] for document in found if "backfill_id" in document]
        return {"job": jobs, "backfill": len(set(parts)), "task": len(found) - jobs - len(parts)}

    def update(self, job_id: str, revision: int | None, changes: Document, session: ClientSession) -> Document:
        """Set fields under an expected revision (None: whatever it is); returns the new document.

        Raises:
            NotFound: no such job.
            PreconditionFailed: it has another revision.
        """
        condition: dict[str, Any] = {"_id": job_id}
        if revision is not None:
            condition["revision"] = revision
        document = self._collection.find_one_and_update(
            condition,
            {"$set": changes, "$inc": {"revision": 1}, "$currentDate": {"updated_at": True}},
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        if document is None:
            self.get(job_id, session)
            raise changed_by_others(job_id)
        return document

    def make_due(self, job_id: str, session: ClientSession) -> Document:
        """Let the job run at once. One that runs at this moment keeps its lease and runs again when it has ended.

        Raises:
            NotFound: no such job.
            Conflict: it is not active.
        """
        is_free = {"$lte": [{"$ifNull": ["$lock.expires_at", to_datetime(0)]}, "$$NOW"]}
        document = self._collection.find_one_and_update(
            {"_id": job_id, "status": "active"},
            [
                {
                    "$set": {
                        "next_run_at": {"$cond": [is_free, "$$NOW", "$next_run_at"]},
                        "run_requested": {"$not": [is_free]},
                        "updated_at": "$$NOW",
                    }
                }
            ],
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        if document is None:
            status = self.get(job_id, session)["status"]
            raise Conflict(f"job {job_id} is {status}; resume it first")
        return document

    def hasten(self, connector_id: str, within_ms: int) -> int:
        """Make a connector's active jobs due that would be within that time and that nobody runs; returns how many."""
        is_free = {"$lte": [{"$ifNull": ["$lock.expires_at", to_datetime(0)]}, "$$NOW"]}
        is_near = {"$lte": ["$next_run_at", {"$add": ["$$NOW", within_ms]}]}
        result = self._collection.update_many(
            {"connector_id": connector_id, "status": "active", "$expr": {"$and": [is_free, is_near]}},
            [{"$set": {"next_run_at": {"$min": ["$next_run_at", "$$NOW"]}}}],
        )
        return result.modified_count

    def take_retiring(self, before: datetime) -> Document | None:
        """A job that was retired before that time, as if it had been retired now: nobody else takes it for a while."""
        return self._collection.find_one_and_update(
            {"is_retiring": True, "updated_at": {"$lt": before}}, {"$currentDate": {"updated_at": True}}
        )

    def retire(self, job_id: str, revision: int | None, session: ClientSession) -> Document:
        """Back to the beginning, paused and under a new fence: a run on its way can write nothing more, and none begins.

        Returns the job as it was. For the first command of a transaction: whoever else changes the job then makes way.

        Raises NotFound and PreconditionFailed like `update`.
        """
        condition: dict[str, Any] = {"_id": job_id}
        if revision is not None:
            condition["revision"] = revision
        is_again = {"$ifNull": ["$is_retiring", False]}
        fence = {"$add": [{"$max": [{"$ifNull": ["$lock.fence", 0]}, {"$toLong": "$created_at"}]}, 1]}
        document = self._collection.find_one_and_update(
            condition,
            [
                {
                    "$set": {
                        "status": "paused",
                        "is_retiring": True,
                        # An expression replaces the old lock; a bare document would be merged into it.
                        "lock": {"$mergeObjects": [{"fence": fence}]},
                        "cursor.last_ts": None,
                        "begins_at": None,
                        "follows_at": None,
                        "revision": {"$add": ["$revision", 1]},
                        "updated_at": {"$cond": [is_again, "$updated_at", "$$NOW"]},
                    }
                }
            ],
            return_document=ReturnDocument.BEFORE,
            session=session,
        )
        if document is None:
            self.get(job_id, session)
            raise changed_by_others(job_id)
        return document

    def delete(self, job_id: str, revision: int | None, session: ClientSession) -> None:
        """Remove it, and keep what it has counted; a run on its way loses its lease. Raises NotFound and PreconditionFailed."""
        condition: dict[str, Any] = {"_id": job_id}
        if revision is not None:
            condition["revision"] = revision
        removed = self._collection.find_one_and_delete(condition, session=session)
        if removed is None:
            self.get(job_id, session)
            raise changed_by_others(job_id)
        self._retired.add([removed], session)
