"""`series`: what stays of a series when its jobs are deleted and its candles kept: the spans that they had asked for."""

from collections.abc import Sequence
from typing import Final

from pymongo.client_session import ClientSession

from shared.domain.jobs import to_datetime, to_ms
from shared.stores.database import Database

COLLECTION: Final = "series"


class SeriesStore:
    """Spans as (start_ms, end_ms), half open; series by their id (`binance:BTC-USDT:1m`)."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)

    def read_asked(self, series_id: str, session: ClientSession | None = None) -> list[tuple[int, int]]:
        """What jobs that are gone had asked for."""
        document = self._collection.find_one({"_id": series_id}, session=session) or {"asked": []}
        return [(to_ms(span["from"]), to_ms(span["to"])) for span in document["asked"]]

    def write_asked(self, series_id: str, spans: Sequence[tuple[int, int]], session: ClientSession) -> None:
        """Put these spans in the place of those that were there."""
        asked = [{"from": to_datetime(start_ms), "to": to_datetime(end_ms)} for start_ms, end_ms in spans]
        self._collection.update_one({"_id": series_id}, {"$set": {"asked": asked}}, upsert=True, session=session)

    def drop(self, series_id: str, session: ClientSession) -> None:
        """Forget the series."""
        self._collection.delete_one({"_id": series_id}, session=session)
