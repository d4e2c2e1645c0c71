"""`retired_totals`: what jobs that are gone had counted, by connector, so that no counter ever falls.

One document a connector: the sums of `totals` of its deleted jobs, and of their slots by class as `slots_ran`, ...
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pymongo.client_session import ClientSession

from shared.stores.database import Database, Document

COLLECTION: Final = "retired_totals"


class RetiredTotals:
    """Adds them up, and tells them."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)

    def add(self, jobs: Sequence[Mapping[str, Any]], session: ClientSession) -> None:
        """These jobs' documents are removed in the same transaction."""
        sums: dict[str, Counter[str]] = {}
        for job in jobs:
            slots = job.get("slot_ledger", {}).get("totals", {})
            counted = {**job.get("totals", {}), **{f"slots_{name}": count for name, count in slots.items()}}
            sums.setdefault(job["connector_id"], Counter()).update(counted)
        for connector_id, total in sums.items():
            if added := {name: count for name, count in total.items() if count}:
                self._collection.update_one({"_id": connector_id}, {"$inc": added}, upsert=True, session=session)

    def list_(self, session: ClientSession | None = None) -> list[Document]:
        """A row a connector that has had any: `connector_id` and the sums."""
        return [{"connector_id": row.pop("_id"), **row} for row in self._collection.find(session=session)]
