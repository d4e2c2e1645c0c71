"""What version 0.1.0 has kept of a series at its jobs: lists of indicators, what their labels mean, and what is stale."""

from collections.abc import Iterator, Sequence
from typing import Final

from pymongo import UpdateOne

from shared.domain.jobs import KEEPING_KINDS, JobKind, JobStatus
from shared.stores.candles import Series
from shared.stores.database import Database, Document
from shared.stores.series import COLLECTION, JOBS

OLD_FIELDS: Final = ("indicators", "indicator_fields", "stale", "stale_seq")
# Series of one command.
BATCH: Final = 500
_IS_OLD: Final[Document] = {"indicators": {"$exists": True}}


class OldSeries:
    """Finds it, moves it to the collection `series`, and takes it away from the jobs."""

    def __init__(self, database: Database) -> None:
        self._jobs = database.collection(JOBS)
        self._series = database.collection(COLLECTION)

    def list_(self) -> Iterator[Document]:
        """For each series {series, lists, fields, stale}: the lists of its jobs, that of the live one first."""
        named = {name: f"${name}" for name in ("exchange", "symbol", "timeframe")}
        is_keeping = {"$in": ["$kind", [kind.value for kind in KEEPING_KINDS]]}
        stages: list[Document] = [
            {"$match": _IS_OLD},
            {
                "$project": {
                    **named,
                    "is_later": {"$ne": ["$kind", JobKind.LIVE.value]},
                    "lists": {"$cond": [is_keeping, ["$indicators"], []]},
                    "indicator_fields": {"$ifNull": ["$indicator_fields", {}]},
                    "stale": {"$ifNull": ["$stale", []]},
                }
            },
            {"$sort": {"is_later": 1, "_id": 1}},
            {
                "$group": {
                    "_id": named,
                    "lists": {"$push": "$lists"},
                    "fields": {"$mergeObjects": "$indicator_fields"},
                    "stale": {"$push": "$stale"},
                }
            },
        ]
        for found in self._jobs.aggregate(stages, allowDiskUse=True):
            yield {
                "series": Series(**found["_id"]),
                "lists": [documents for lists in found["lists"] for documents in lists],
                "fields": found["fields"],
                "stale": [stretch for stretches in found["stale"] for stretch in stretches],
            }

    def adopt(self, found: Sequence[tuple[Series, list[Document], Document, list[Document]]]) -> None:
        """Write (series, its list, the meaning of its labels, what is stale). A list that is there already stays."""
        writes = [
            UpdateOne(
                {"_id": series.series_id},
                [
                    {
                        "$set": {
                            **{name: {"$literal": value} for name, value in series.named.items()},
                            "indicators": {"$ifNull": ["$indicators", {"$literal": indicators}]},
                            "indicator_fields": {"$mergeObjects": [{"$literal": fields}, "$indicator_fields"]},
                            "stale": {"$setUnion": [{"$ifNull": ["$stale", []]}, {"$literal": stale}]},
                            "changes": {"$add": [{"$ifNull": ["$changes", 0]}, 1]},
                        }
                    },
                    {"$unset": "turns"},
                ],
                upsert=True,
            )
            for series, indicators, fields, stale in found
        ]
        for first in range(0, len(writes), BATCH):
            self._series.bulk_write(writes[first : first + BATCH], ordered=False)
        # A worker that came before this has found nothing to do.
        enrich_ids = [f"{series.series_id}:{JobKind.ENRICH.value}" for series, _, _, stale in found if stale]
        for first in range(0, len(enrich_ids), BATCH):
            ended = {"_id": {"$in": enrich_ids[first : first + BATCH]}, "status": JobStatus.DONE.value}
            again = {"$set": {"status": JobStatus.ACTIVE.value}, "$currentDate": {"next_run_at": True}}
            self._jobs.update_many(ended, again)

    def take_from_jobs(self) -> None:
        """The jobs keep nothing of it. A run on its way reads the list anew."""
        self._jobs.update_many(_IS_OLD, {"$unset": dict.fromkeys(OLD_FIELDS, ""), "$inc": {"epoch": 1}})
