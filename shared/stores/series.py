"""`series`: one document for each series, and what is true of the series stands there, whoever asks for its candles.

`indicators` is the one list that all of its candles have values of, `list_revision` how often it was another one, and
`indicator_fields` what each label has ever stood for in them. `is_list_untold`: backfills that run may not know of the list.
`asked` are spans that jobs had asked for which have been deleted or have moved on; `begins_at`: the exchange has nothing that
is older. `stale` are stretches [from, to) of candles that have changed: what is computed from them has to be computed again.
`changes` counts changes of the list, of what is stale, and others that a transaction has to see: of two that count, one waits
for the other and begins again. docs/series.md shows one, and says what its jobs keep instead, and why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pymongo import ASCENDING
from pymongo.client_session import ClientSession

from shared.domain.indicator_lists import join_lists
from shared.domain.jobs import KEEPING_KINDS, JobKind, to_datetime, to_ms
from shared.stores.candles import Series
from shared.stores.database import Database, Document

COLLECTION: Final = "series"
JOBS: Final = "jobs"
# More stretches than this are taken together as one: it only costs work.
STALE_MAX: Final = 100
# `to` of a stretch that reaches to the end, wherever that will be.
ENDLESS: Final = datetime(9999, 12, 31, tzinfo=UTC)
_STATE: Final = {"indicators": 1, "list_revision": 1}
IS_STALE: Final[Document] = {"stale.0": {"$exists": True}}
# Jobs of version 0.1.0 have lists of their own.
HAS_LIST: Final[Document] = {"indicators": {"$exists": True}, "kind": {"$in": [kind.value for kind in KEEPING_KINDS]}}


@dataclass(frozen=True, slots=True)
class Stale:
    """What has to be computed again, as (start_ms, end_ms), ascending; the list it is computed for; `changes` as of then.

    `is_list_untold`: backfills that run may not know of that list, and their candles are not in the stretches.
    """

    stretches: list[tuple[int, int]]
    indicators: list[Document]
    changes: int
    is_list_untold: bool


@dataclass(frozen=True, slots=True)
class ListState:
    """A series' list, and how often it was another one."""

    indicators: list[Document]
    revision: int


class SeriesStore:
    """Spans as (start_ms, end_ms), half open."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)
        self._jobs = database.collection(JOBS)

    def ensure_indexes(self) -> None:
        """For series of which something is stale, which are few."""
        self._collection.create_index([("stale.from", ASCENDING)], name="stale", partialFilterExpression=IS_STALE)

    def read_list(self, series: Series, session: ClientSession | None = None) -> list[Document]:
        """Its indicators; empty where no job has ever named any."""
        return self.read_state(series, session).indicators

    def read_state(self, series: Series, session: ClientSession | None = None) -> ListState:
        """The same with its revision."""
        return self._state_of(series, self._collection.find_one({"_id": series.series_id}, _STATE, session=session), session)

    def read_states(self, wanted: Sequence[Series]) -> dict[str, ListState]:
        """Those of several series, by their ids."""
        ids = [series.series_id for series in wanted]
        found = {document["_id"]: document for document in self._collection.find({"_id": {"$in": ids}}, _STATE)}
        return {series.series_id: self._state_of(series, found.get(series.series_id), None) for series in wanted}

    def read_fields(self, series: Series, session: ClientSession) -> Document:
        """What each label has stood for in its candles: {name, params} by label."""
        document = self._collection.find_one({"_id": series.series_id}, {"indicator_fields": 1}, session=session) or {}
        return dict(document.get("indicator_fields") or {})

    def write_list(
        self, series: Series, indicators: Sequence[Document], fields: Document, session: ClientSession, *, is_untold: bool
    ) -> None:
        """Another list, and what its labels stand for. `is_untold`: there are backfills that may not know of it."""
        listed = {"indicators": list(indicators), "indicator_fields": fields, "is_list_untold": is_untold}
        is_first = {"$eq": [{"$type": "$indicators"}, "missing"]}
        counted = {"$add": [{"$ifNull": ["$list_revision", 0]}, {"$cond": [is_first, 0, 1]}]}
        changes = {"$add": [{"$ifNull": ["$changes", 0]}, 1]}
        literal = {name: {"$literal": value} for name, value in {**series.named, **listed}.items()}
        self._collection.update_one(
            {"_id": series.series_id},
            # An expression replaces `indicator_fields`; a bare document would be merged into it.
            [{"$set": {"list_revision": counted, "changes": changes}}, {"$set": literal}],
            upsert=True,
            session=session,
        )

    def note_list_told(self, series_id: str, changes: int, session: ClientSession) -> bool:
        """All backfills know of the list that was read under `changes`; False if there have been changes since."""
        told = {"$set": {"is_list_untold": False}, "$inc": {"changes": 1}}
        return self._collection.update_one({"_id": series_id, "changes": changes}, told, session=session).matched_count == 1

    def _state_of(self, series: Series, document: Document | None, session: ClientSession | None) -> ListState:
        document = document or {}
        return ListState(self._list_of(series, document, session), document.get("list_revision", 0))

    def _list_of(self, series: Series, document: Document, session: ClientSession | None) -> list[Document]:
        if "indicators" in document:
            return list(document["indicators"])
        # A function of version 0.1.0 that is still at work has made its first job: it has a list of its own.
        found = self._jobs.find({**series.named, **HAS_LIST}, {"kind": 1, "indicators": 1}, session=session)
        return join_lists([each["indicators"] for each in sorted(found, key=is_not_live)])

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

    def note_change(self, series_id: str, session: ClientSession) -> None:
        """Of two transactions that do this, one waits for the other and begins again: what they read of the series is so."""
        self._collection.update_one({"_id": series_id}, {"$inc": {"changes": 1}}, upsert=True, session=session)

    def add_stale(self, series_id: str, start_ms: int, end_ms: int | None, session: ClientSession) -> None:
        """Candles in [start_ms, end_ms) have changed; None: all from there on."""
        stretch = {"from": to_datetime(start_ms), "to": ENDLESS if end_ms is None else to_datetime(end_ms)}
        joined = {"$setUnion": [{"$ifNull": ["$stale", []]}, [stretch]]}
        whole = [{"from": {"$min": "$stale.from"}, "to": {"$max": "$stale.to"}}]
        self._collection.update_one(
            {"_id": series_id},
            [
                {"$set": {"stale": joined, "changes": {"$add": [{"$ifNull": ["$changes", 0]}, 1]}}},
                {"$set": {"stale": {"$cond": [{"$gt": [{"$size": "$stale"}, STALE_MAX]}, whole, "$stale"]}}},
            ],
            upsert=True,
            session=session,
        )

    def touch_stale(self, series_id: str, session: ClientSession) -> None:
        """Let what is computed again at this moment be computed once more: candles have changed that it may have read."""
        self._collection.update_one({"_id": series_id, **IS_STALE}, {"$inc": {"changes": 1}}, session=session)

    def read_stale(self, series: Series, session: ClientSession | None = None) -> Stale:
        """What is to be computed again, and for which list."""
        fields = {"stale": 1, "changes": 1, "indicators": 1, "is_list_untold": 1}
        document = self._collection.find_one({"_id": series.series_id}, fields, session=session) or {}
        stretches = sorted((to_ms(stretch["from"]), to_ms(stretch["to"])) for stretch in document.get("stale", ()))
        listed = self._list_of(series, document, session)
        return Stale(stretches, listed, document.get("changes", 0), document.get("is_list_untold", False))

    def clear_stale(self, series_id: str, session: ClientSession) -> None:
        """Nobody computes anything of it again any more."""
        self._collection.update_one(
            {"_id": series_id, **IS_STALE}, {"$set": {"stale": []}, "$inc": {"changes": 1}}, session=session
        )

    def list_stale(self, limit: int) -> list[Series]:
        """Series of which something is stale, at most `limit`."""
        fields = {"_id": 0, "exchange": 1, "symbol": 1, "timeframe": 1}
        found = self._collection.find({**IS_STALE, "exchange": {"$exists": True}}, fields)
        return [Series(**document) for document in found.limit(limit)]

    def count_stale_series(self) -> dict[str, int]:
        """By exchange: of how many series something is stale."""
        stages: list[Document] = [{"$match": IS_STALE}, {"$group": {"_id": "$exchange", "count": {"$sum": 1}}}]
        found = self._collection.aggregate(stages)
        return {str(row["_id"]): row["count"] for row in found if row["_id"] is not None}

    def replace_stale(self, series_id: str, changes: int, stretches: Sequence[tuple[int, int]], session: ClientSession) -> bool:
        """Put these stretches in the place of those read; False if there have been changes since."""
        stale = [{"from": to_datetime(start_ms), "to": to_datetime(end_ms)} for start_ms, end_ms in stretches]
        matched = self._collection.update_one(
            {"_id": series_id, "changes": changes}, {"$set": {"stale": stale}}, session=session
        ).matched_count
        return matched == 1

    def drop(self, series_id: str, session: ClientSession) -> None:
        """Forget the series."""
        self._collection.delete_one({"_id": series_id}, session=session)


def is_not_live(job: Document) -> bool:
    """The live job's list goes before others'."""
    return bool(job["kind"] != JobKind.LIVE)
