"""`revisions`: what a candle said before the exchange corrected it. Kept as long as runs are."""

from collections.abc import Sequence
from typing import Final

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING
from pymongo.client_session import ClientSession

from shared.domain.candles import PRICE_COLUMNS, CandleBatch
from shared.domain.jobs import to_datetime
from shared.stores.database import Database, Document

COLLECTION: Final = "revisions"
SECONDS_A_DAY: Final = 86_400
LIST_MAX: Final = 500


class RevisionStore:
    """Append and list revisions; series by their id (`binance:BTC-USDT:1m`)."""

    def __init__(self, database: Database, ttl_days: int) -> None:
        self._collection = database.collection(COLLECTION)
        self._ttl_s = ttl_days * SECONDS_A_DAY

    def ensure_indexes(self) -> None:
        """For those of one series, newest first, and for forgetting old ones. A changed TTL is taken over."""
        self._collection.create_index([("series", ASCENDING), ("_id", DESCENDING)])
        existing = self._collection.index_information().get("at_1")
        if existing is None:
            self._collection.create_index([("at", ASCENDING)], expireAfterSeconds=self._ttl_s)
        elif existing.get("expireAfterSeconds") != self._ttl_s:
            self._collection.database.command("collMod", COLLECTION, index={"name": "at_1", "expireAfterSeconds": self._ttl_s})

    def append(
        self, series_id: str, run_id: str, old: CandleBatch, new: CandleBatch, at_ms: int, session: ClientSession
    ) -> None:
        """Candles as they were and as they are, in the same order."""
        documents = [
            {
                "series": series_id,
                "open_at": to_datetime(int(old.open_ms[row])),
                "at": to_datetime(at_ms),
                "run_id": run_id,
                "old": _prices(old, row),
                "new": _prices(new, row),
            }
            for row in range(len(old))
        ]
        self._collection.insert_many(documents, session=session)

    def list_(self, series_id: str, before_id: ObjectId | None, limit: int) -> list[Document]:
        """Revisions of a series, those that were seen last first."""
        condition: Document = {"series": series_id}
        if before_id is not None:
            condition["_id"] = {"$lt": before_id}
        return list(self._collection.find(condition).sort("_id", DESCENDING).limit(min(limit, LIST_MAX)))

    def drop(self, series_ids: Sequence[str], session: ClientSession) -> None:
        """Forget those of these series."""
        self._collection.delete_many({"series": {"$in": list(series_ids)}}, session=session)


def _prices(candles: CandleBatch, row: int) -> Document:
    return {name: float(getattr(candles, name)[row]) for name in PRICE_COLUMNS}
