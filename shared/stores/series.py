"""`series`: what is known of a series beside its jobs.

`asked`: spans that were asked for by jobs that have been deleted or have moved on. `begins_at`: the exchange has nothing that
is older.
"""

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
        document = self._collection.find_one({"_id": series_id}, {"asked": 1}, session=session) or {}
        return [(to_ms(span["from"]), to_ms(span["to"])) for span in document.get("asked", ())]

    def write_asked(self, series_id: str, spans: Sequence[tuple[int, int]], session: ClientSession) -> None:
        """Put these spans in the place of those that were there."""
        asked = [{"from": to_datetime(start_ms), "to": to_datetime(end_ms)} for start_ms, end_ms in spans]
        self._collection.update_one({"_id": series_id}, {"$set": {"asked": asked}}, upsert=True, session=session)

    def add_asked(self, series_id: str, start_ms: int, end_ms: int, session: ClientSession) -> None:
        """One span more, which may overlap with others."""
        span = {"from": to_datetime(start_ms), "to": to_datetime(end_ms)}
        self._collection.update_one({"_id": series_id}, {"$addToSet": {"asked": span}}, upsert=True, session=session)

    def read_begins_ms(self, series_id: str) -> int | None:
        """Before it the exchange has nothing; None: not known."""
        document = self._collection.find_one({"_id": series_id}, {"begins_at": 1}) or {}
        begins_at = document.get("begins_at")
        return None if begins_at is None else to_ms(begins_at)

    def note_begins(self, series_id: str, begins_ms: int, session: ClientSession) -> None:
        """The exchange has nothing before that moment; an earlier one than is known changes nothing."""
        update = {"$max": {"begins_at": to_datetime(begins_ms)}}
        self._collection.update_one({"_id": series_id}, update, upsert=True, session=session)

    def take_turn(self, series_id: str, session: ClientSession) -> None:
        """Of two transactions that do this, one waits for the other and begins again: what they read of the series is so."""
        self._collection.update_one({"_id": series_id}, {"$inc": {"turns": 1}}, upsert=True, session=session)

    def drop(self, series_id: str, session: ClientSession) -> None:
        """Forget the series."""
        self._collection.delete_one({"_id": series_id}, session=session)
