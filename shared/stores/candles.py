"""`candles_{exchange}_{symbol}_{timeframe}`: a collection a series, clustered on `_id` = open time, raw and enriched together.

Clustered means that the candles lie in the order of their times, in one B-tree instead of two; zstd halves them again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, DESCENDING, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.cursor import RawBatchCursor
from pymongo.errors import BulkWriteError, CollectionInvalid, ConnectionFailure

from shared.domain.candle_columns import CandleColumns, CandleField
from shared.domain.candles import PRICE_COLUMNS, CandleBatch, FloatArray
from shared.domain.jobs import Job, symbol_slug, to_datetime, to_ms
from shared.domain.timeframes import IntArray
from shared.stores.candle_documents import INDICATORS_FIELD, decode_candles, decode_columns, encode_candles, encode_runs
from shared.stores.candle_updates import COMMAND_BYTES_MAX, update_of, value_updates
from shared.stores.database import Database, Document
from shared.stores.raw_batches import first_batch

NAMESPACE_EXISTS: Final = 48
# So many candles with their cumulative indicators fit into one reply of the server (16 MB) many times over.
ONE_REPLY_MAX: Final = 20_000
_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(document_class=RawBSONDocument)
# One batch for a whole tail: 16 MiB of reply hold over 100,000 candles.
READ_BATCH: Final = 20_000
# The server ends a reply at 16 MiB, a document at most before; one that is shorter was not cut.
UNCUT_REPLY_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Series:
    """Names one series of candles."""

    exchange: str
    symbol: str
    timeframe: str

    @classmethod
    def of(cls, job: Job) -> "Series":
        """The one that a job keeps."""
        return cls(job.exchange, job.symbol, job.timeframe.name)

    @property
    def named(self) -> Document:
        """What names it among the jobs, and in its own document."""
        return {"exchange": self.exchange, "symbol": self.symbol, "timeframe": self.timeframe}

    @property
    def collection_name(self) -> str:
        """Where it is stored."""
        return f"candles_{self.exchange_slug}_{symbol_slug(self.symbol)}_{self.timeframe}"

    @property
    def series_id(self) -> str:
        """Names it among all series: `binance:BTC-USDT:1m`."""
        return f"{self.exchange_slug}:{symbol_slug(self.symbol)}:{self.timeframe}"

    @property
    def exchange_slug(self) -> str:
        """The exchange's name where `:` may not stand, as in the name of a database (`ccxt:kraken`)."""
        return self.exchange.replace(":", "-")


@dataclass(frozen=True, slots=True)
class StoredCandles:
    """Candles as read back, with some of their indicator columns (NaN where a document has no value)."""

    candles: CandleBatch
    values: Mapping[str, FloatArray]


class CandleStore:
    """Reads and writes of candles, all under their natural key."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ensured: set[Series] = set()

    def _collection(self, series: Series) -> "Collection[Document]":
        return self._database.candles_collection(series.exchange_slug, series.collection_name)

    def ensure_collection(self, series: Series) -> None:
        """Make the collection if it is not there; asked of the server once an instance."""
        if series in self._ensured:
            return
        collection = self._collection(series)
        try:
            collection.database.create_collection(
                collection.name,
                check_exists=False,
                clusteredIndex={"key": {"_id": 1}, "unique": True},
                storageEngine={"wiredTiger": {"configString": "block_compressor=zstd"}},
            )
        except CollectionInvalid:
            pass
        except Exception as exc:
            if getattr(exc, "code", None) != NAMESPACE_EXISTS:
                raise
        self._ensured.add(series)

    def read_tail(self, series: Series, before_ms: int, count: int, fields: Sequence[str]) -> StoredCandles:
        """The last `count` candles that open before `before_ms`, ascending."""
        collection = self._collection(series)
        condition = {"_id": {"$lt": to_datetime(before_ms)}}
        raw = _in_one_reply(collection, condition, _projection(fields), DESCENDING, count)
        if raw is None:
            found = collection.find_raw_batches(condition, _projection(fields), batch_size=READ_BATCH)
            raw = _bytes_of(found.sort("_id", DESCENDING).limit(count))
        return StoredCandles(*decode_candles(raw, fields))

    def read_range(self, series: Series, start_ms: int, end_ms: int, fields: Sequence[str], limit: int = 0) -> StoredCandles:
        """Candles with start_ms <= open time < end_ms, ascending; at most `limit` if it is not 0."""
        found = (
            self._collection(series)
            .find_raw_batches(_between(start_ms, end_ms), _projection(fields), batch_size=READ_BATCH)
            .sort("_id", ASCENDING)
            .limit(limit)
        )
        return StoredCandles(*decode_candles(_bytes_of(found), fields))

    def read_open_times(self, series: Series, start_ms: int, end_ms: int, session: ClientSession | None = None) -> IntArray:
        """Open times (UTC ms) of the candles with start_ms <= open time < end_ms, ascending."""
        found = self._collection(series).find(_between(start_ms, end_ms), {"_id": 1}, session=session, batch_size=READ_BATCH)
        return np.fromiter((to_ms(document["_id"]) for document in found.sort("_id", ASCENDING)), np.int64)

    def count(self, series: Series, start_ms: int, end_ms: int) -> int:
        """How many candles open in [start_ms, end_ms)."""
        return self._collection(series).count_documents(_between(start_ms, end_ms))

    def estimate_count(self, series: Series) -> int:
        """How many candles there are, from the collection's metadata: at once, and wrong only after a crash of mongod."""
        return self._collection(series).estimated_document_count()

    def find_next_open(self, series: Series, after_ms: int, session: ClientSession | None = None) -> int | None:
        """Open time of the first candle that opens after that moment."""
        condition = {"_id": {"$gt": to_datetime(after_ms)}}
        document = self._collection(series).find_one(condition, {"_id": 1}, sort=[("_id", ASCENDING)], session=session)
        return None if document is None else to_ms(document["_id"])

    def iterate_columns(
        self, series: Series, start_ms: int, end_ms: int, fields: Sequence[CandleField], rows_max: int = ONE_REPLY_MAX
    ) -> Iterator[CandleColumns]:
        """The same range in batches of at most `rows_max` candles (and 16 MiB), none of them empty, ascending.

        Each batch is a search of its own from where the one before ended: whoever takes them may be as slow as they like, since
        no cursor waits at the server, and a connection lost in between is tried again as the driver does.
        """
        prices = [field.name for field in fields if not field.is_indicator]
        indicators = [field.name for field in fields if field.is_indicator]
        order = [*(CandleField(name) for name in prices), *(CandleField(name, is_indicator=True) for name in indicators)]
        places = [order.index(field) for field in fields]
        projection = _projection(indicators, prices) or {"_id": 1}
        collection, rows_max = self._collection(series), min(rows_max, ONE_REPLY_MAX)
        while start_ms < end_ms:
            raw = _in_one_reply(collection, _between(start_ms, end_ms), projection, ASCENDING, rows_max)
            if raw is None:
                found = collection.find_raw_batches(_between(start_ms, end_ms), projection, batch_size=READ_BATCH)
                raw = _bytes_of(found.sort("_id", ASCENDING).limit(rows_max))
            open_ms, columns = decode_columns(raw, prices, indicators)
            if not len(open_ms):
                return
            yield CandleColumns(open_ms, tuple(fields), tuple(columns[place] for place in places))
            if len(open_ms) < rows_max and len(raw) < UNCUT_REPLY_BYTES:
                return
            start_ms = int(open_ms[-1]) + 1

    def find_bounds(self, series: Series, start_ms: int, end_ms: int) -> tuple[int, int] | None:
        """Open times of the first and the last candle in the range; None without candles."""
        collection = self._collection(series)
        ends = [
            collection.find_one(_between(start_ms, end_ms), {"_id": 1}, sort=[("_id", order)])
            for order in (ASCENDING, DESCENDING)
        ]
        first, last = (None if end is None else to_ms(end["_id"]) for end in ends)
        return None if first is None or last is None else (first, last)

    def has_any(self, series: Series, start_ms: int, end_ms: int) -> bool:
        """Whether a candle opens in the range."""
        return self._collection(series).find_one(_between(start_ms, end_ms), {"_id": 1}) is not None

    def list_fields(self, series: Series) -> list[str]:
        """The indicators that the newest candle has; empty without candles."""
        newest = self._collection(series).find_one({}, sort=[("_id", DESCENDING)])
        return sorted((newest or {}).get(INDICATORS_FIELD, {}))

    def list_series(self, series: Series, limit: int) -> list[str]:
        """Names of the collections that there are in this one's database, sorted."""
        collection = self._collection(series)
        found = collection.database.list_collection_names(filter={"name": {"$regex": "^candles_"}})
        return sorted(found)[:limit]

    def iterate_documents(self, series: Series, start_ms: int, end_ms: int, limit: int) -> Iterator[Document]:
        """The documents as they are stored, ascending."""
        yield from self._collection(series).find(_between(start_ms, end_ms)).sort("_id", ASCENDING).limit(limit)

    def insert(self, series: Series, candles: CandleBatch, values: Mapping[str, FloatArray], session: ClientSession) -> None:
        """Store new candles, in a transaction.

        The documents are laid out already, so they go as one plain command: insert_many would look at each of them again.

        Raises:
            pymongo.errors.BulkWriteError: one is there already (see database.is_duplicate_key); the transaction is over then.
        """
        collection = self._collection(series)
        for run in encode_runs(candles, values, COMMAND_BYTES_MAX):
            answer = collection.database.command(
                {"insert": collection.name, "documents": [run], "ordered": True}, session=session
            )
            if answer.get("writeErrors"):
                raise BulkWriteError(dict(answer))
            # The transaction must not commit if some driver should not write a run as a whole.
            assert answer["n"] == run.count, f"{answer['n']} of {run.count} candles were stored"

    def replace(self, series: Series, candles: CandleBatch, values: Mapping[str, FloatArray], session: ClientSession) -> None:
        """Store candles in place of what stands under their times; indicator fields of other jobs' lists stay."""
        writes = [
            UpdateOne({"_id": document["_id"]}, _replacement(document, values), upsert=True)
            for document in encode_candles(candles, values)
        ]
        if writes:
            self._collection(series).bulk_write(writes, session=session)

    def set_values(self, series: Series, opens_ms: IntArray, values: Mapping[str, FloatArray], session: ClientSession) -> None:
        """Put indicator values (columns as long as `opens_ms`, which ascend) into stored candles, in a transaction.

        Where one is NaN the field is removed. What else a candle has stays, and one that is not stored stays away.
        """
        collection = self._collection(series)
        for statements in _commands_full(value_updates(opens_ms, values)):
            answer = collection.database.command({"update": collection.name, "updates": statements}, session=session)
            if answer.get("writeErrors"):
                raise BulkWriteError(dict(answer))

    def drop(self, series: Series) -> None:
        """Remove the whole series."""
        self._collection(series).drop()
        self._ensured.discard(series)


def _commands_full(documents: Sequence[RawBSONDocument]) -> Iterator[Sequence[RawBSONDocument]]:
    """The documents in lots that fit into one command each; nearly always all of them."""
    if not documents:
        return
    lot = max(1, COMMAND_BYTES_MAX // max(len(document.raw) for document in documents))
    for first in range(0, len(documents), lot):
        yield documents[first : first + lot]


def _replacement(document: Mapping[str, Any], fields: Iterable[str]) -> Document:
    """The update that leaves a stored candle with these values, and without those of `fields` that do not exist (yet)."""
    return update_of({name: document[name] for name in PRICE_COLUMNS}, document.get(INDICATORS_FIELD, {}), fields)


def _between(start_ms: int, end_ms: int) -> Document:
    return {"_id": {"$gte": to_datetime(start_ms), "$lt": to_datetime(end_ms)}}


def _in_one_reply(
    collection: "Collection[Document]", condition: Document, projection: Document, order: int, count: int
) -> bytes | None:
    """The first `count` documents in the order of time (`order` -1: the newest first).

    None where one reply may not hold them, or the server could not be asked just then.

    A plain command is not tried again by the driver, unlike the search that the caller falls back to.
    """
    if count > ONE_REPLY_MAX:
        return None
    command = {"find": collection.name, "filter": condition, "projection": projection, "sort": {"_id": order}}
    bounds = {"limit": count, "batchSize": count, "singleBatch": True}
    try:
        reply = collection.database.command({**command, **bounds}, codec_options=_RAW)
    except ConnectionFailure:
        return None
    return first_batch(bytes(reply["cursor"].raw))


def _bytes_of(found: "RawBatchCursor[Document]") -> bytes:
    """All documents of a search, one after the other. pymongo's types say that its batches are documents: they are bytes."""
    batches: Iterable[Any] = found
    return b"".join(batches)


def _projection(fields: Sequence[str], prices: Sequence[str] = PRICE_COLUMNS) -> Document:
    return {**dict.fromkeys(prices, 1), **{f"{INDICATORS_FIELD}.{field}": 1 for field in fields}}
