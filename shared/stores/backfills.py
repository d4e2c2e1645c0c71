"""`backfills`: one document for each ordered backfill: what was ordered, what is decided of it, and what became of it.

`status` is what people have decided (or `done`), `revision` counts the decisions. The jobs of its parts follow: each keeps in
`decision` the revision that it follows, so that an older one that is late changes nothing. `is_carried_out`: they all do.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final

from pymongo import ASCENDING, ReturnDocument
from pymongo.client_session import ClientSession

from shared.domain.backfills import BackfillStatus
from shared.domain.jobs import JobStatus, to_datetime
from shared.errors import Conflict, NotFound
from shared.stores.database import Database, Document

COLLECTION: Final = "backfills"
LISTED_MAX: Final = 500
# Of a part's job when it is resumed: failures are forgotten, and its pace is measured anew.
_RESUMED_FIELDS: Final[Document] = {"attempt": 0, "last_error": None, "pace": None}


def summarize_part(job: Document, left: int) -> Document:
    """What is kept of a part when it has ended: its job with `left` intervals that it has not asked for."""
    return {
        "job_id": job["_id"],
        "status": job["status"],
        "start_at": job["start_at"],
        "end_at": job["end_at"],
        "last_ts": job["cursor"]["last_ts"],
        "wanted": job.get("wanted"),
        "left": left,
        "candles": job["totals"].get("candles", 0),
        "last_error": job["last_error"],
        "done_at": job.get("done_at"),
    }


class BackfillStore:
    """Orders and decisions, and what they mean for the jobs of the parts."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)
        self._jobs = database.collection("jobs")

    def ensure_indexes(self) -> None:
        """For those of a series, and for decisions that have not been carried out."""
        self._collection.create_index([("exchange", ASCENDING), ("symbol", ASCENDING), ("timeframe", ASCENDING)], name="series")
        self._collection.create_index(
            [("decided_at", ASCENDING)], name="not_carried_out", partialFilterExpression={"is_carried_out": False}
        )

    def put(self, document: Document, session: ClientSession) -> None:
        """A new one, in the place of one over the same range that has ended."""
        self._collection.replace_one({"_id": document["_id"]}, document, upsert=True, session=session)

    def find(self, backfill_id: str, session: ClientSession | None = None) -> Document | None:
        """The document, if there is one."""
        return self._collection.find_one({"_id": backfill_id}, session=session)

    def is_stopped(self, backfill_id: str) -> bool:
        """Whether it is decided that it does not go on, told to its parts or not."""
        stopped = [BackfillStatus.PAUSED.value, BackfillStatus.CANCELLED.value]
        condition = {"_id": backfill_id, "status": {"$in": stopped}}
        return self._collection.find_one(condition, {"_id": 1}) is not None

    def list_of(self, series: Document, session: ClientSession | None = None) -> list[Document]:
        """All of a series, in order of their ids; at most LISTED_MAX."""
        return list(self._collection.find(series, session=session).sort("_id", ASCENDING).limit(LISTED_MAX))

    def list_parts(self, backfill_id: str, session: ClientSession | None = None) -> list[Document]:
        """The jobs of its parts that there are, in order of time."""
        return list(self._jobs.find({"backfill_id": backfill_id}, session=session).sort("start_at", ASCENDING))

    def list_orphans(self) -> list[Document]:
        """Jobs of parts that no document here speaks of, those of a backfill together."""
        stages: list[Document] = [
            {"$match": {"backfill_id": {"$exists": True}}},
            {"$lookup": {"from": COLLECTION, "localField": "backfill_id", "foreignField": "_id", "as": "known"}},
            {"$match": {"known": []}},
            {"$sort": {"backfill_id": 1, "start_at": 1}},
        ]
        return list(self._jobs.aggregate(stages))

    def adopt(self, document: Document) -> None:
        """Put it, if there is none of its id."""
        self._collection.update_one({"_id": document["_id"]}, {"$setOnInsert": document}, upsert=True)

    def decide(
        self, backfill_id: str, status: BackfillStatus, session: ClientSession, facts: Mapping[str, Any] | None = None
    ) -> Document:
        """Decide on one that has not ended; to be carried out. Returns the document.

        Raises:
            Conflict: it has ended.
            NotFound: there is none.
        """
        document = self._collection.find_one_and_update(
            {"_id": backfill_id, "status": {"$in": [BackfillStatus.ACTIVE.value, BackfillStatus.PAUSED.value]}},
            {
                "$set": {"status": status.value, "is_carried_out": False, "is_paused_with_job": False, **(facts or {})},
                "$inc": {"revision": 1},
                "$currentDate": {"decided_at": True},
            },
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        if document is None:
            found = self.find(backfill_id, session)
            if found is None:
                raise NotFound(f"backfill {backfill_id} does not exist")
            raise Conflict(f"backfill {backfill_id} is {found['status']}; order it again for what is missing")
        return document

    def tell_parts(self, document: Document) -> None:
        """Let the jobs of the parts follow the decision, all at once and outside of transactions.

        Each is changed between two pages of its run, or makes the page at hand conflict: none lands after this has returned
        that does not know of it. One after the other they would wait for as many pages as there are parts.
        """
        status, revision = document["status"], document["revision"]
        is_free = {"$lte": [{"$ifNull": ["$lock.expires_at", to_datetime(0)]}, "$$NOW"]}
        if status == BackfillStatus.ACTIVE:
            stands = {"$in": ["$status", ["paused", "error"]]}
            resumed = {name: {"$cond": [stands, value, f"${name}"]} for name, value in _RESUMED_FIELDS.items()}
            changed: Document = {
                **resumed,
                "status": {"$cond": [stands, "active", "$status"]},
                "next_run_at": {"$cond": [{"$and": [stands, is_free]}, "$$NOW", "$next_run_at"]},
                "run_requested": {"$or": [{"$ifNull": ["$run_requested", False]}, {"$and": [stands, {"$not": [is_free]}]}]},
            }
        elif status == BackfillStatus.CANCELLED:
            # Under another fence: a run on its way can write nothing more.
            lock = {"$mergeObjects": [{"fence": {"$add": ["$lock.fence", 1]}}]}
            changed = {"status": "paused", "lock": lock}
        else:
            changed = {"status": {"$cond": [{"$eq": ["$status", "active"]}, "paused", "$status"]}}
        told = {**changed, "decision": revision, "revision": {"$add": ["$revision", 1]}, "updated_at": "$$NOW"}
        is_older = {"status": {"$ne": "done"}, "decision": {"$not": {"$gte": revision}}}
        job_ids = [part["job_id"] for part in document["parts"]]
        with ThreadPoolExecutor(max(1, len(job_ids))) as pool:
            # Through list() what has failed in a thread is raised here.
            list(pool.map(lambda job_id: self._jobs.update_one({"_id": job_id, **is_older}, [{"$set": told}]), job_ids))

    def note_carried_out(self, document: Document, session: ClientSession) -> None:
        """The decision of this revision has been carried out, unless there is another one meanwhile."""
        self._collection.update_one(
            {"_id": document["_id"], "revision": document["revision"]}, {"$set": {"is_carried_out": True}}, session=session
        )

    def list_not_carried_out(self, before: datetime, limit: int) -> list[Document]:
        """Decided before that time, and whoever did is gone."""
        condition = {"is_carried_out": False, "decided_at": {"$lt": before}}
        return list(self._collection.find(condition).sort("decided_at", ASCENDING).limit(limit))

    def end(self, backfill_id: str, status: BackfillStatus, parts: Sequence[Document], session: ClientSession) -> None:
        """It is done or cancelled, with these summaries of its parts (`summarize_part`). What is cancelled is never done.

        Of a cancelled one a part that is not done is cancelled too, whatever its job was told on the way.
        """
        ended = [part if part["status"] == JobStatus.DONE else {**part, "status": status.value} for part in parts]
        other = {} if status is BackfillStatus.CANCELLED else {"status": {"$ne": BackfillStatus.CANCELLED.value}}
        self._collection.update_one(
            {"_id": backfill_id, "ended_at": None, **other},
            {
                "$set": {"status": status.value, "is_carried_out": True, "parts": ended},
                "$inc": {"revision": 1},
                "$currentDate": {"ended_at": True},
            },
            session=session,
        )

    def delete(self, backfill_ids: Sequence[str], session: ClientSession) -> None:
        """Forget them."""
        self._collection.delete_many({"_id": {"$in": list(backfill_ids)}}, session=session)
