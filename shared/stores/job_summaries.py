"""What `jobs` amounts to: counts, totals and lags, added up on the server. Reads only; edits and claims are in jobs.py."""

from datetime import datetime
from typing import Final

from pymongo import ASCENDING
from pymongo.client_session import ClientSession

from shared.domain.slots import SlotClass
from shared.stores.database import Database, Document

COLLECTION: Final = "jobs"
_GROUPED_BY: Final = ("connector_id", "status", "kind", "timeframe")
TOTALS: Final = ("runs", "failures", "candles", "revisions", "requests", "weight")


class JobSummaries:
    """Sums over all jobs, for metrics."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)

    def summarise(self, now: datetime, session: ClientSession | None = None) -> list[Document]:
        """One row per {connector_id, status, kind, timeframe} that any job has, in one pass over the collection.

        A row holds these four, `count`, `due` (active, may be claimed at `now`), `leased` (under a lease at `now`), the sums of
        `totals`, those of the slots by class (`slots_ran`, ...), and of the schedule `due_at_min`, `cursor_at_min`,
        `start_at_min` (of jobs without cursor): earliest or None.
        """
        is_due = {"$and": [{"$eq": ["$status", "active"]}, {"$lte": ["$next_run_at", now]}]}
        has_cursor = {"$gt": ["$cursor.last_ts", None]}
        group: Document = {
            "_id": {name: f"${name}" for name in _GROUPED_BY},
            "count": {"$sum": 1},
            "due": {"$sum": {"$cond": [is_due, 1, 0]}},
            "leased": {"$sum": {"$cond": [{"$gt": ["$lock.expires_at", now]}, 1, 0]}},
            "due_at_min": {"$min": {"$cond": [is_due, "$next_run_at", None]}},
            "cursor_at_min": {"$min": "$cursor.last_ts"},
            "start_at_min": {"$min": {"$cond": [has_cursor, None, "$start_at"]}},
            **{name: {"$sum": f"$totals.{name}"} for name in TOTALS},
            **{f"slots_{name}": {"$sum": f"$slot_ledger.totals.{name}"} for name in SlotClass},
        }
        return [{**row.pop("_id"), **row} for row in self._collection.aggregate([{"$group": group}], session=session)]

    def count_live(self, connector_id: str) -> dict[str, int]:
        """How many active live jobs a connector has, by timeframe."""
        condition = {"connector_id": connector_id, "status": "active", "kind": "live"}
        rows = self._collection.aggregate([{"$match": condition}, {"$group": {"_id": "$timeframe", "count": {"$sum": 1}}}])
        return {row["_id"]: row["count"] for row in rows}

    def list_followers(self, limit: int) -> list[Document]:
        """{_id, connector_id, timeframe, start_at, cursor} of active live jobs, the first `limit` in order of id."""
        fields = {"connector_id": 1, "timeframe": 1, "start_at": 1, "cursor": 1}
        found = self._collection.find({"status": "active", "kind": "live"}, fields)
        # By id and stopped early: by the index on `status` it would read and sort them all.
        return list(found.sort("_id", ASCENDING).hint("_id_").limit(limit))
