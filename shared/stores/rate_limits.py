"""The limiter: a reserved sliding log with use-by, kept in the connector's document, decided on the server in one update.

Why no sliding window can go over: of all grants used inside some window take the one booked last; every other one has a
use-by inside that window or later, so it was still in the log when that one was checked. See docs/limits.md.

State, `connectors.limiter`: `clock_ms` (never goes back), `last_at_ms` (of the newest booking), `logs` (one per window:
{period_ms, entries: [{t, w}]}, t = last moment of arrival, ascending) and `last` (the answer to the newest call).
"""

import time
import uuid
from typing import Any, Final

from pymongo import ReturnDocument

from shared.domain.rates import GRAINS_PER_WINDOW, RateWindow, Reservation
from shared.errors import ConfigurationError, NotFound
from shared.stores.database import Database, Document

COLLECTION: Final = "connectors"
# $$NOW as int64 ms; the clock never goes back, not after a write conflict (where $$NOW is old) and not after a failover.
_NOW_MS: Final[Document] = {"$toLong": "$$NOW"}
_CLOCK: Final[Document] = {"$max": [_NOW_MS, {"$ifNull": ["$limiter.clock_ms", 0]}]}


def initial_limiter() -> Document:
    """The limiter's state of a new connector."""
    return {"clock_ms": 0, "last_at_ms": 0, "logs": []}


class RateLimitStore:
    """Reserve weight, block after a refusal, take over what the exchange says was used."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)

    def reserve(
        self,
        connector_id: str,
        *,
        need: int,
        want: int,
        wait_ms_max: int,
        use_by_ms: int,
        transit_ms: int,
        is_for_job: bool = True,
    ) -> Reservation:
        """Book between `need` and `want` weight at the earliest moment at which `need` fits into every window.

        Nothing is granted if that moment is more than `wait_ms_max` away, nor to a job while the connector is paused. One
        round trip.

        Raises:
            NotFound: no such connector.
            ConfigurationError: `need` is more than a window ever allows.
        """
        reservation_id = uuid.uuid4().hex
        pipeline = _reserve_pipeline(reservation_id, need, max(need, want), wait_ms_max, use_by_ms + transit_ms, is_for_job)
        asked_monotonic = time.monotonic()
        document = self._collection.find_one_and_update(
            {"_id": connector_id},
            pipeline,
            projection={"limiter.last": 1, "rate_limit_usage": 1, "status": 1},
            return_document=ReturnDocument.AFTER,
        )
        replied_monotonic = time.monotonic()
        if document is None:
            raise NotFound(f"connector {connector_id} does not exist")
        answer = document["limiter"]["last"]
        if answer["at_ms"] is None:
            raise ConfigurationError(
                f"connector {connector_id}: one request weighs {need}, more than its rate_limit allows at all"
            )
        return Reservation(
            reservation_id=answer["reservation_id"],
            granted=int(answer["granted"]),
            at_ms=int(answer["at_ms"]),
            clock_ms=int(answer["clock_ms"]),
            use_by_ms=use_by_ms,
            used=int(document["rate_limit_usage"]),
            is_paused=is_for_job and document["status"] == "paused",
            asked_monotonic=asked_monotonic,
            replied_monotonic=replied_monotonic,
        )

    def block(self, connector_id: str, wait_ms: int, reason: str) -> int:
        """No grant before `wait_ms` from now; a longer block that stands already stays. Returns the block's end, UTC ms."""
        until = {"$toDate": {"$add": [{"$max": ["$limiter.clock_ms"]}, wait_ms]}}
        document = self._collection.find_one_and_update(
            {"_id": connector_id},
            [
                {"$set": {"limiter.clock_ms": _CLOCK}},
                {"$set": {"blocked_until": {"$max": ["$blocked_until", until]}, "blocked_reason": reason[:500]}},
            ],
            projection={"blocked_until": 1},
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            raise NotFound(f"connector {connector_id} does not exist")
        return int(document["blocked_until"].timestamp() * 1000)

    def record_usage(self, connector_id: str, period_ms: int, used: int, charge_ms: int) -> None:
        """The exchange counts `used` in its window of `period_ms`: add what is more than our own count, never lower ours."""
        self._collection.update_one({"_id": connector_id}, _usage_pipeline(period_ms, used, charge_ms))


def _windows() -> Document:
    """The windows as configured now, each with the log kept for it.

    A period that has no log yet starts from the log that reaches back longest, so that a changed limit holds at once.
    """
    configured = {
        "$concatArrays": [
            [{"rate_limit": "$rate_limit", "rate_limit_period_ms": "$rate_limit_period_ms"}],
            {"$ifNull": ["$extra_rate_limits", []]},
        ]
    }
    logs = {"$ifNull": ["$limiter.logs", []]}
    same: Document = {
        "$first": {
            "$filter": {"input": logs, "as": "log", "cond": {"$eq": ["$$log.period_ms", "$$window.rate_limit_period_ms"]}}
        }
    }
    longest: Document = {
        "$reduce": {
            "input": logs,
            "initialValue": {"period_ms": 0, "entries": []},
            "in": {"$cond": [{"$gt": ["$$this.period_ms", "$$value.period_ms"]}, "$$this", "$$value"]},
        }
    }
    return {
        "$map": {
            "input": configured,
            "as": "window",
            "in": {
                "limit": {"$toLong": "$$window.rate_limit"},
                "period_ms": {"$toLong": "$$window.rate_limit_period_ms"},
                "entries": {"$getField": {"field": "entries", "input": {"$ifNull": [same, longest]}}},
            },
        }
    }


def _map_windows(fields: Document) -> Document:
    return {"$map": {"input": "$scratch.windows", "as": "window", "in": {"$mergeObjects": ["$$window", fields]}}}


def _live_entries(after: Any) -> Document:
    """A window's entries that still count at that moment: those less than a period old."""
    return {
        "$filter": {
            "input": "$$window.entries",
            "as": "entry",
            "cond": {"$gt": [{"$add": ["$$entry.t", "$$window.period_ms"]}, after]},
        }
    }


def _sum_weight(entries: Any) -> Document:
    return {"$sum": {"$map": {"input": entries, "as": "entry", "in": "$$entry.w"}}}


def _moment_when_free(need: int) -> Document:
    """When enough of a window's oldest entries have left for `need` to fit; the clock if it fits now, null if never.

    Entries ascend in t, so one pass carries what still has to leave.
    """
    excess = {"$subtract": [{"$add": [_sum_weight("$$window.entries"), need]}, "$$window.limit"]}
    passed: Document = {
        "$reduce": {
            "input": "$$window.entries",
            "initialValue": {"left": excess, "at": "$limiter.clock_ms"},
            "in": {
                "$cond": [
                    {"$lte": ["$$value.left", 0]},
                    "$$value",
                    {
                        "left": {"$subtract": ["$$value.left", "$$this.w"]},
                        "at": {"$max": ["$$value.at", {"$add": ["$$this.t", "$$window.period_ms"]}]},
                    },
                ]
            },
        }
    }
    return {"$cond": [{"$gt": [need, "$$window.limit"]}, None, {"$getField": {"field": "at", "input": passed}}]}


def _append(entry_t: Any, weight: Any) -> Document:
    """A window's entries with one more, merged into the newest if they share a grain. Merging keeps the later time."""
    grain = {"$max": [1, {"$toLong": {"$divide": ["$$window.period_ms", GRAINS_PER_WINDOW]}}]}
    newest: Document = {"$last": "$$window.entries"}
    is_same_grain = {
        "$and": [
            {"$gt": [{"$size": "$$window.entries"}, 0]},
            {"$eq": [{"$floor": {"$divide": ["$$newest.t", "$$grain"]}}, {"$floor": {"$divide": [entry_t, "$$grain"]}}]},
        ]
    }
    merged: Document = {"t": {"$max": ["$$newest.t", entry_t]}, "w": {"$add": ["$$newest.w", weight]}}
    others: Document = {
        "$cond": [
            {"$gt": [{"$size": "$$window.entries"}, 1]},
            {"$slice": ["$$window.entries", {"$subtract": [{"$size": "$$window.entries"}, 1]}]},
            [],
        ]
    }
    # An entry behind the newest one (the use-by was shortened) takes the newest's time: later is safe, and order is kept.
    appended: Document = {"t": {"$max": [{"$ifNull": ["$$newest.t", 0]}, entry_t]}, "w": weight}
    return {
        "$let": {
            "vars": {"newest": newest, "grain": grain},
            "in": {
                "$cond": [
                    is_same_grain,
                    {"$concatArrays": [others, [merged]]},
                    {"$concatArrays": ["$$window.entries", [appended]]},
                ]
            },
        }
    }


def _opening_stages() -> list[Document]:
    """Stages 1 and 2: the clock, and each window's log without what has left it."""
    return [
        {"$set": {"limiter.clock_ms": _CLOCK}},
        {"$set": {"scratch.windows": _windows()}},
        {"$set": {"scratch.windows": _map_windows({"entries": _live_entries("$limiter.clock_ms")})}},
    ]


def _closing_stages(charge_ms: int) -> list[Document]:
    """Keep the logs, say what is used now (without what is booked for later), and drop the scratch fields."""
    first: Document = {"$first": "$scratch.windows"}
    is_begun: Document = {"$lte": ["$$entry.t", {"$add": ["$limiter.clock_ms", charge_ms]}]}
    begun: Document = {"$filter": {"input": "$$window.entries", "as": "entry", "cond": is_begun}}
    return [
        {
            "$set": {
                "limiter.logs": {
                    "$map": {
                        "input": "$scratch.windows",
                        "as": "window",
                        "in": {"period_ms": "$$window.period_ms", "entries": "$$window.entries"},
                    }
                },
                "rate_limit_usage": {
                    "$let": {"vars": {"window": first}, "in": _sum_weight(begun)},
                },
                "period_start_at": {"$toDate": {"$subtract": ["$limiter.clock_ms", {"$toLong": "$rate_limit_period_ms"}]}},
            }
        },
        {"$unset": "scratch"},
    ]


def _reserve_pipeline(
    reservation_id: str, need: int, want: int, wait_ms_max: int, charge_ms: int, is_for_job: bool
) -> list[Document]:
    moments: Document = {"$map": {"input": "$scratch.windows", "as": "window", "in": _moment_when_free(need)}}
    is_possible: Document = {"$not": [{"$in": [None, "$scratch.moments"]}]}
    at: Document = {
        "$max": [
            "$limiter.clock_ms",
            {"$toLong": {"$ifNull": ["$blocked_until", 0]}},
            {"$ifNull": ["$limiter.last_at_ms", 0]},
            {"$max": "$scratch.moments"},
        ]
    }
    free: Document = {
        "$min": {
            "$map": {
                "input": "$scratch.windows",
                "as": "window",
                "in": {"$subtract": ["$$window.limit", _sum_weight(_live_entries("$scratch.at"))]},
            }
        }
    }
    is_granted: Document = {
        "$and": [
            "$scratch.is_possible",
            {"$lte": [{"$subtract": ["$scratch.at", "$limiter.clock_ms"]}, wait_ms_max]},
            {"$not": [{"$and": [is_for_job, {"$eq": ["$status", "paused"]}]}]},
        ]
    }
    entry_t: Document = {"$add": ["$scratch.at", charge_ms]}
    booked: Document = _map_windows({"entries": _append(entry_t, "$scratch.granted")})
    return [
        *_opening_stages(),
        {"$set": {"scratch.moments": moments}},
        {"$set": {"scratch.is_possible": is_possible, "scratch.at": {"$toLong": at}}},
        {"$set": {"scratch.granted": {"$toLong": {"$cond": [is_granted, {"$min": [want, free]}, 0]}}}},
        {
            "$set": {
                "scratch.windows": {"$cond": [{"$gt": ["$scratch.granted", 0]}, booked, "$scratch.windows"]},
                "limiter.last_at_ms": {
                    "$cond": [{"$gt": ["$scratch.granted", 0]}, "$scratch.at", {"$ifNull": ["$limiter.last_at_ms", 0]}]
                },
                "limiter.last": {
                    "reservation_id": reservation_id,
                    "granted": "$scratch.granted",
                    "at_ms": {"$cond": ["$scratch.is_possible", "$scratch.at", None]},
                    "clock_ms": "$limiter.clock_ms",
                },
            }
        },
        *_closing_stages(charge_ms),
    ]


def _usage_pipeline(period_ms: int, used: int, charge_ms: int) -> list[Document]:
    """Add a phantom entry to every window: what the exchange counted in its window of `period_ms` and we did not."""
    ours: Document = {
        "$sum": {
            "$map": {
                "input": {
                    "$filter": {"input": "$scratch.windows", "as": "window", "cond": {"$eq": ["$$window.period_ms", period_ms]}}
                },
                "as": "window",
                "in": _sum_weight("$$window.entries"),
            }
        }
    }
    has_window: Document = {"$in": [period_ms, "$scratch.windows.period_ms"]}
    booked = _map_windows({"entries": _append({"$add": ["$limiter.clock_ms", charge_ms]}, "$scratch.extra")})
    return [
        *_opening_stages(),
        {"$set": {"scratch.extra": {"$cond": [has_window, {"$max": [0, {"$subtract": [used, ours]}]}, 0]}}},
        {"$set": {"scratch.windows": {"$cond": [{"$gt": ["$scratch.extra", 0]}, booked, "$scratch.windows"]}}},
        *_closing_stages(charge_ms),
    ]


def windows_document(windows: tuple[RateWindow, ...]) -> Document:
    """The limit fields of a connector document: the first window is the main one."""
    main, *extra = windows
    return {**main.to_document(), "extra_rate_limits": [window.to_document() for window in extra]}
