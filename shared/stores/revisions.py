"""`revisions`: what a candle said before the exchange corrected it. Kept as long as runs are."""

from typing import Final

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING
from pymongo.client_session import ClientSession

from shared.domain.candles import PRICE_COLUMNS, CandleBatch
from shared.domain.jobs import to_datetime
from shared.stores.database import Database, Document, ensure_expiry

COLLECTION: Final = "revisions"
LIST_MAX: Final = 500


class RevisionStore:
    """Append and list revisions; series by their id (`binance:BTC-USDT:1m`)."""

    def __init__(self, database: Database, ttl_days: int) -> None:
        self._collection = database.collection(COLLECTION)
        self._ttl_days = ttl_days

    def ensure_indexes(self) -> None:
        """For those of one series, newest first, and for forgetting old ones. A changed TTL is taken over."""
        self._collection.create_index([("series", ASCENDING), ("_id", DESCENDING)])
        ensure_expiry(self._collection, "at", self._ttl_days)

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

    def drop(self, series_id: str, session: ClientSession) -> None:
        """Forget those of a series."""
        self._collection.delete_many({"series": series_id}, session=session)


def _prices(candles: CandleBatch, row: int) -> Document:
    return {name: float(getattr(candles, name)[row]) for name in PRICE_COLUMNS}
