"""`coverage`: the buckets of the ledger of completeness (domain/coverage.py); one is there where a candle is not.

`_id` is {series, bucket}, so that the buckets of a series lie together and in order; `line` is what `encode_codes` makes.
"""

from collections.abc import Mapping
from typing import Final

from pymongo import ASCENDING, DeleteOne, ReplaceOne
from pymongo.client_session import ClientSession

from shared.domain.coverage import CodeArray, buckets_of, decode_codes, encode_codes
from shared.stores.database import Database, Document

COLLECTION: Final = "coverage"
# All buckets of nearly any series in one reply: each is a hundred bytes where holes are rare.
READ_BATCH: Final = 10_000


class CoverageStore:
    """Reads and writes of buckets; series by their id (`binance:BTC-USDT:1m`)."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)

    def read(self, series_id: str, first: int, end: int, session: ClientSession | None = None) -> dict[int, CodeArray]:
        """The buckets there are among those that the intervals [first, end) touch."""
        lines = self.read_lines(series_id, first, end, session)
        return {bucket: decode_codes(line) for bucket, line in lines.items()}

    def read_lines(self, series_id: str, first: int, end: int, session: ClientSession | None = None) -> dict[int, bytes]:
        """The same as they are stored, for `read_runs`."""
        touched = buckets_of(first, end)
        bounds = {"$gte": _id_of(series_id, touched.start), "$lt": _id_of(series_id, touched.stop)}
        found = self._collection.find({"_id": bounds}, session=session, batch_size=READ_BATCH).sort("_id", ASCENDING)
        return {int(document["_id"]["bucket"]): document["line"] for document in found}

    def write(self, series_id: str, changed: Mapping[int, CodeArray], session: ClientSession) -> None:
        """Put these buckets in the place of what was there; one without any code is removed."""
        writes: list[ReplaceOne[Document] | DeleteOne] = [
            ReplaceOne({"_id": _id_of(series_id, bucket)}, {"line": encode_codes(codes)}, upsert=True)
            if codes.any()
            else DeleteOne({"_id": _id_of(series_id, bucket)})
            for bucket, codes in changed.items()
        ]
        if writes:
            self._collection.bulk_write(writes, ordered=False, session=session)

    def drop(self, series_id: str, session: ClientSession) -> None:
        """Forget all of a series."""
        self._collection.delete_many(
            {"_id": {"$gte": {"series": series_id}, "$lt": {"series": f"{series_id}\x00"}}}, session=session
        )


def _id_of(series_id: str, bucket: int) -> Document:
    return {"series": series_id, "bucket": bucket}
