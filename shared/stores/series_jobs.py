"""`jobs`, seen by series: those that keep one, and the two that a series makes for itself (repair and enrich).

A job's `epoch` counts how often others have changed candles or values that it may have read, or the list of indicators: its
run compares it when it stores a page.
"""

from collections.abc import Sequence
from typing import Final

from pymongo.client_session import ClientSession

from shared.domain.jobs import KEEPING_KINDS, JobKind, JobStatus, to_datetime
from shared.stores.database import Database, Document
from shared.stores.retired_totals import RetiredTotals

COLLECTION: Final = "jobs"
# More than a series may have (usecases/manage_jobs.py).
LISTED_MAX: Final = 500
# The index is made in jobs.py.
SERIES_INDEX: Final = "series"
# What a job that is done gets anew when it is woken.
AGAIN_FIELDS: Final = ("status", "start_at", "end_at", "cursor")
RETIRED_FIELDS: Final = {"connector_id": 1, "totals": 1, "slot_ledger.totals": 1}
_KEEPING: Final = tuple(kind.value for kind in KEEPING_KINDS)


class SeriesJobs:
    """Queries over one series' jobs, named by {exchange, symbol, timeframe}."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)
        self._retired = RetiredTotals(database)

    def list_keeping(self, series: Document, session: ClientSession | None = None) -> list[Document]:
        """Its live job and backfills, by whichever connector; at most LISTED_MAX."""
        found = self._collection.find({**series, "kind": {"$in": _KEEPING}}, session=session, hint=SERIES_INDEX)
        return list(found.limit(LISTED_MAX))

    def wake(self, document: Document, delay_ms: int, session: ClientSession) -> None:
        """Make a job that a series needs, due after `delay_ms`, or let it run again if it is done; else count it as woken.

        A run that ends as done meanwhile goes on (`JobLeases.finish` compares `wakes`), or conflicts with this transaction.
        """
        found = self._collection.find_one({"_id": document["_id"]}, {"status": 1}, session=session)
        due = {"next_run_at": {"$add": ["$$NOW", delay_ms]}, "updated_at": "$$NOW"}
        if found is None:
            fresh = {name: {"$literal": value} for name, value in document.items() if name != "_id"}
            made = {**fresh, "created_at": "$$NOW", **due}
            self._collection.update_one({"_id": document["_id"]}, [{"$set": made}], upsert=True, session=session)
        elif found["status"] == "done":
            again: Document = {name: {"$literal": document[name]} for name in AGAIN_FIELDS}
            again |= {"pace": None}
            self._collection.update_one(
                {"_id": document["_id"], "status": "done"},
                [{"$set": {**again, "revision": {"$add": ["$revision", 1]}, "begins_at": None, **due}}],
                session=session,
            )
        else:
            self._collection.update_one({"_id": document["_id"]}, {"$inc": {"wakes": 1}}, session=session)

    def read(self, job_id: str, session: ClientSession) -> Document | None:
        """The job, if there is one."""
        return self._collection.find_one({"_id": job_id}, session=session)

    def extend_history(self, document: Document, session: ClientSession) -> None:
        """Make the series' history job, or let the one there is go on to another end; one that is done begins anew."""
        found = self._collection.find_one({"_id": document["_id"]}, {"status": 1, "wakes": 1}, session=session)
        if found is None or found["status"] == JobStatus.DONE:
            self.wake(document, 0, session)
            return
        self._collection.update_one(
            {"_id": document["_id"]},
            {
                "$min": {"start_at": document["start_at"]},
                "$max": {"end_at": document["end_at"]},
                "$inc": {"wakes": 1, "revision": 1},
            },
            session=session,
        )

    def move(self, job_ids: Sequence[str], before: str, after: str, session: ClientSession) -> None:
        """Those of the jobs that have the status `before` get `after`; a run on its way ends with its page."""
        self._collection.update_many(
            {"_id": {"$in": list(job_ids)}, "status": before},
            {"$set": {"status": after}, "$inc": {"revision": 1}, "$currentDate": {"updated_at": True}},
            session=session,
        )

    def reassign(self, job_ids: Sequence[str], connector_id: str, session: ClientSession) -> None:
        """Let another connector of the same exchange run those of the jobs that there are; it counts them from now on."""
        condition = {"_id": {"$in": list(job_ids)}, "connector_id": {"$ne": connector_id}}
        self._retired.add(list(self._collection.find(condition, RETIRED_FIELDS, session=session)), session)
        self._collection.update_many(
            condition,
            {
                "$set": {"connector_id": connector_id, "totals": {}},
                "$inc": {"revision": 1},
                "$currentDate": {"updated_at": True},
            },
            session=session,
        )

    def delete(self, job_ids: Sequence[str], session: ClientSession) -> None:
        """Remove those of the jobs that there are; their runs lose their leases, and what they have counted is kept."""
        condition = {"_id": {"$in": list(job_ids)}}
        self._retired.add(list(self._collection.find(condition, RETIRED_FIELDS, session=session)), session)
        self._collection.delete_many(condition, session=session)

    def raise_codes_until(self, series: Document, end_ms: int, own_id: str, session: ClientSession) -> None:
        """Tell the series' live job, if it has not come to `end_ms`, that the ledger speaks of intervals up to there."""
        end_at = to_datetime(end_ms)
        is_ahead = [{"cursor.last_ts": {"$lt": end_at}}, {"cursor.last_ts": None}]
        self._collection.update_many(
            {**series, "kind": JobKind.LIVE.value, "$or": is_ahead, "_id": {"$ne": own_id}},
            {"$max": {"codes_until": end_at}},
            session=session,
        )

    def next_epoch(self, series: Document, from_ms: int, own_id: str, session: ClientSession) -> None:
        """Tell the series' other jobs that have come past `from_ms` that what they hold of its candles may have changed.

        Those without a cursor too: a first run may have read candles before its first page has landed. `series` may name the
        kind of those who are told.
        """
        has_come = [{"cursor.last_ts": {"$gte": to_datetime(from_ms)}}, {"cursor.last_ts": None}]
        self._collection.update_many(
            {"kind": {"$in": _KEEPING}, **series, "$or": has_come, "_id": {"$ne": own_id}},
            {"$inc": {"epoch": 1}},
            session=session,
        )

    def tell_live(self, series: Document, session: ClientSession) -> None:
        """Tell the series' live job that what it has read of it is not so any more."""
        self._collection.update_many({**series, "kind": JobKind.LIVE.value}, {"$inc": {"epoch": 1}}, session=session)

    def tell_backfills(self, series: Document) -> None:
        """Tell the same to its backfills and their parts, each by itself and in no transaction.

        A backfill at full speed holds its document most of the time. The server repeats such a write every few milliseconds
        until it gets in between two pages, or makes the page at hand conflict.
        """
        for job in self._collection.find({**series, "kind": JobKind.BACKFILL.value}, {"_id": 1}, hint=SERIES_INDEX):
            self._collection.update_one({"_id": job["_id"]}, {"$inc": {"epoch": 1}})
