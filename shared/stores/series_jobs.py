"""`jobs`, seen by series: those that keep one, and the two that a series makes for itself (repair and enrich).

An enrich job lists in `stale` which stretches of candles [from, to) have changed, so that what is computed from them has to be
computed again; `stale_seq` counts the entries ever made, so that its run sees whether there are new ones. A job's `epoch`
counts how often others have changed candles or values that it may have read: its run compares it when it stores a page.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from pymongo.client_session import ClientSession

from shared.domain.jobs import KEEPING_KINDS, JobKind, JobStatus, to_datetime, to_ms
from shared.stores.database import Database, Document
from shared.stores.retired_totals import RetiredTotals

COLLECTION: Final = "jobs"
# More than a series may have (usecases/manage_jobs.py).
LISTED_MAX: Final = 500
# The index is made in jobs.py.
SERIES_INDEX: Final = "series"
# More stretches than this are taken together as one: it only costs work.
STALE_MAX: Final = 100
# `to` of a stretch that reaches to the end, wherever that will be.
ENDLESS: Final = datetime(9999, 12, 31, tzinfo=UTC)
# What a job that is done gets anew when it is woken.
AGAIN_FIELDS: Final = ("status", "start_at", "end_at", "cursor", "indicators")
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

    def list_other_lists(self, series: Document, own_id: str, session: ClientSession) -> list[list[Document]]:
        """The lists of indicators of the jobs that keep it but for this one."""
        condition = {**series, "kind": {"$in": _KEEPING}, "_id": {"$ne": own_id}}
        found = self._collection.find(condition, {"indicators": 1}, session=session, hint=SERIES_INDEX)
        return [document["indicators"] for document in found.limit(LISTED_MAX)]

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

    def set_indicators(self, job_id: str, indicators: list[Document], session: ClientSession) -> None:
        """Another list for the job, if there is one."""
        update = {"$set": {"indicators": indicators}, "$inc": {"revision": 1}}
        self._collection.update_one({"_id": job_id}, update, session=session)

    def touch_stale(self, job_id: str, session: ClientSession) -> None:
        """Let a chunk that an enrich job is at work on be computed again: candles have changed that it may have read."""
        self._collection.update_one({"_id": job_id}, {"$inc": {"stale_seq": 1}}, session=session)

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

    def add_stale(self, job_id: str, start_ms: int, end_ms: int | None, session: ClientSession) -> None:
        """Note at the enrich job, which is there, that candles in [start_ms, end_ms) have changed; None: all from there on."""
        stretch = {"from": to_datetime(start_ms), "to": ENDLESS if end_ms is None else to_datetime(end_ms)}
        joined = {"$setUnion": [{"$ifNull": ["$stale", []]}, [stretch]]}
        whole = [{"from": {"$min": "$stale.from"}, "to": {"$max": "$stale.to"}}]
        self._collection.update_one(
            {"_id": job_id},
            [
                {"$set": {"stale": joined, "stale_seq": {"$add": [{"$ifNull": ["$stale_seq", 0]}, 1]}}},
                {"$set": {"stale": {"$cond": [{"$gt": [{"$size": "$stale"}, STALE_MAX]}, whole, "$stale"]}}},
                {"$set": {"start_at": {"$min": "$stale.from"}}},
            ],
            session=session,
        )

    def read_stale(self, job_id: str, session: ClientSession | None = None) -> tuple[list[tuple[int, int]], int]:
        """The stretches (start_ms, end_ms) of an enrich job, ascending, and its `stale_seq`; none if there is no such job."""
        document = self._collection.find_one({"_id": job_id}, {"stale": 1, "stale_seq": 1}, session=session) or {}
        stretches = sorted((to_ms(stretch["from"]), to_ms(stretch["to"])) for stretch in document.get("stale", ()))
        return stretches, document.get("stale_seq", 0)

    def replace_stale(self, job_id: str, seq: int, stretches: Sequence[tuple[int, int]], session: ClientSession) -> bool:
        """Put these stretches in the place of those read under `seq`; False if others have been added since."""
        stale = [{"from": to_datetime(start_ms), "to": to_datetime(end_ms)} for start_ms, end_ms in stretches]
        matched = self._collection.update_one(
            {"_id": job_id, "stale_seq": seq}, {"$set": {"stale": stale}}, session=session
        ).matched_count
        return matched == 1

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
