"""The limiter's decision as MongoDB update pipelines: what stores/rate_limits.py sends and the server carries out.

State, `connectors.limiter`: `clock_ms` (never goes back), `last_at_ms` (of the newest booking), `logs` (one per window, and
one per window that was taken away less than its period ago: {period_ms, entries: [{t, w}], kept_until_ms}, t = last moment
of arrival, ascending, one entry a grain), `unsettled` (grants of which it is not known yet what became of them:
{reservation_id, t, w}, counted in every window as if used at t) and `last` (the answer to the newest call). The stages work
on `scratch.windows`: {limit, period_ms, entries, booked}, `booked` being the entries and what is unsettled, ascending. A
window that was taken away has no limit but goes on being written, so that it is whole if it comes back.
"""

from collections.abc import Sequence
from typing import Any, Final

from shared.domain.rates import GRAINS_PER_WINDOW, Settlement
from shared.stores.database import Document

# Grants that may be settled later; more are charged for good, the oldest first. It bounds what one call has to look through.
UNSETTLED_MAX: Final = 64
# Of a window that is not configured any more: nothing is kept from anybody for its sake.
NO_LIMIT: Final = 2**53
# So many of them are remembered.
TAKEN_AWAY_MAX: Final = 8
# $$NOW as int64 ms; the clock never goes back, not after a write conflict (where $$NOW is old) and not after a failover.
_NOW_MS: Final[Document] = {"$toLong": "$$NOW"}
CLOCK: Final[Document] = {"$max": [_NOW_MS, {"$ifNull": ["$limiter.clock_ms", 0]}]}


def reserve_pipeline(
    reservation_id: str,
    need: int,
    want: int,
    wait_ms_max: int,
    charge_ms: int,
    is_for_job: bool,
    settlements: Sequence[Settlement],
    kept_percent: int = 0,
) -> list[Document]:
    """Settle what is told, then book between `need` and `want` at the first moment at which `need` fits into every window.

    `kept_percent` of each limit is left to others, whole weights of it.
    """
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
    is_granted: Document = {
        "$and": [
            "$scratch.is_possible",
            {"$lte": [{"$subtract": ["$scratch.at", "$limiter.clock_ms"]}, wait_ms_max]},
            {"$not": [{"$and": [is_for_job, {"$eq": ["$status", "paused"]}]}]},
        ]
    }
    booking = {"reservation_id": reservation_id, "t": {"$add": ["$scratch.at", charge_ms]}, "w": "$scratch.granted"}
    has_grant: Document = {"$gt": ["$scratch.granted", 0]}
    return [
        *_opening_stages(settlements),
        *([{"$set": {"scratch.windows": _map_windows({"limit": _lowered(kept_percent, need)})}}] if kept_percent else []),
        {"$set": {"scratch.moments": moments}},
        {"$set": {"scratch.is_possible": is_possible, "scratch.at": {"$toLong": at}}},
        {"$set": {"scratch.granted": {"$toLong": {"$cond": [is_granted, {"$min": [want, _free_at_moment()]}, 0]}}}},
        {
            "$set": {
                "limiter.unsettled": {
                    "$cond": [has_grant, {"$concatArrays": ["$limiter.unsettled", [booking]]}, "$limiter.unsettled"]
                },
                "limiter.last_at_ms": {"$cond": [has_grant, "$scratch.at", {"$ifNull": ["$limiter.last_at_ms", 0]}]},
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


def _free_at_moment() -> Document:
    """What no window has booked at the moment that was found."""
    booked: Document = _filter("$$window.booked", "entry", {"$gt": [_leaves("$$entry"), "$scratch.at"]})
    left: Document = {"$subtract": ["$$window.limit", _sum_weight(booked)]}
    return {"$min": {"$map": {"input": "$scratch.windows", "as": "window", "in": left}}}


def usage_pipeline(period_ms: int, used: int, charge_ms: int) -> list[Document]:
    """Add a phantom entry to every window: what the exchange counted in its window of `period_ms` and we did not."""
    same = _filter("$scratch.windows", "window", {"$eq": ["$$window.period_ms", period_ms]})
    ours: Document = {"$sum": {"$map": {"input": same, "as": "window", "in": _sum_weight("$$window.booked")}}}
    has_window: Document = {"$in": [period_ms, "$scratch.windows.period_ms"]}
    phantom = {"t": {"$add": ["$limiter.clock_ms", charge_ms]}, "w": "$scratch.extra"}
    charged = _map_windows({"entries": {"$let": {"vars": {"added": phantom}, "in": _inserted("$$window.entries", "$$added")}}})
    return [
        *_opening_stages(()),
        {"$set": {"scratch.extra": {"$cond": [has_window, {"$max": [0, {"$subtract": [used, ours]}]}, 0]}}},
        {"$set": {"scratch.windows": {"$cond": [{"$gt": ["$scratch.extra", 0]}, charged, "$scratch.windows"]}}},
        *_closing_stages(charge_ms),
    ]


def _opening_stages(settlements: Sequence[Settlement]) -> list[Document]:
    """The clock; what is settled or too old to be moves into the logs; each log without what has left its window."""
    unsettled: Document = {"$ifNull": ["$limiter.unsettled", []]}
    surplus: Document = {"$max": [0, {"$subtract": [{"$size": "$scratch.unsettled"}, UNSETTLED_MAX]}]}
    is_kept: Document = {"$gt": ["$$grant.t", "$limiter.clock_ms"]}
    entries: Document = {
        "$reduce": {
            "input": {"$concatArrays": ["$scratch.settled", "$scratch.charged"]},
            "initialValue": "$$window.entries",
            "in": _inserted("$$value", "$$this"),
        }
    }
    is_live: Document = {"$gt": [_leaves("$$entry"), "$limiter.clock_ms"]}
    sorted_by_t: Document = {
        "$sortArray": {"input": {"$concatArrays": ["$$window.entries", "$limiter.unsettled"]}, "sortBy": {"t": 1}}
    }
    return [
        {"$set": {"limiter.clock_ms": CLOCK}},
        {"$set": {"scratch.settled": _settled(settlements), "scratch.unsettled": _without(unsettled, settlements)}},
        {"$set": {"scratch.surplus": surplus}},
        {
            "$set": {
                # In the order of booking; who is over the number or past its last moment is charged for good.
                "limiter.unsettled": _filter(_from("$scratch.unsettled", "$scratch.surplus"), "grant", is_kept),
                "scratch.charged": {
                    "$concatArrays": [
                        _until("$scratch.unsettled", "$scratch.surplus"),
                        _filter(_from("$scratch.unsettled", "$scratch.surplus"), "grant", {"$not": [is_kept]}),
                    ]
                },
                "scratch.windows": _windows(),
            }
        },
        {"$set": {"scratch.windows": _map_windows({"entries": entries})}},
        {"$set": {"scratch.windows": _map_windows({"entries": _filter("$$window.entries", "entry", is_live)})}},
        {"$set": {"scratch.windows": _map_windows({"booked": sorted_by_t})}},
    ]


def _settled(settlements: Sequence[Settlement]) -> Document:
    """Entries for the logs from what was told. A grant that is not there (any more) is not settled, nor is one twice."""
    # Told twice in one call, the first holds, as it would in two.
    first = {each.reservation_id: each for each in reversed(settlements)}
    told = [{"reservation_id": each.reservation_id, "t": each.arrived_by_ms, "w": each.used} for each in first.values()]
    is_there: Document = {
        "$and": [
            {"$gt": ["$$told.w", 0]},
            {"$in": ["$$told.reservation_id", {"$ifNull": ["$limiter.unsettled.reservation_id", []]}]},
        ]
    }
    return _filter({"$literal": told}, "told", is_there) if told else {"$literal": []}


def _without(unsettled: Document, settlements: Sequence[Settlement]) -> Document:
    ids = [settlement.reservation_id for settlement in settlements]
    return _filter(unsettled, "grant", {"$not": [{"$in": ["$$grant.reservation_id", ids]}]}) if ids else unsettled


def _until(array: str, count: str) -> Document:
    """The first `count` of an array. ($slice refuses 0.)"""
    return {"$cond": [{"$gt": [count, 0]}, {"$slice": [array, {"$max": [1, count]}]}, []]}


def _from(array: str, count: str) -> Document:
    """All but the first `count` of an array."""
    return {"$cond": [{"$gt": [count, 0]}, {"$slice": [array, count, {"$max": [1, {"$size": array}]}]}, array]}


def _lowered(percent: int, need: int) -> Document:
    """A window's limit without that part of it; whole where a request needs nearly all of it, or it could never be sent."""
    kept: Document = {"$toLong": {"$floor": {"$divide": [{"$multiply": ["$$window.limit", percent]}, 100]}}}
    lowered: Document = {"$subtract": ["$$window.limit", kept]}
    return {"$cond": [{"$gte": [lowered, need]}, lowered, "$$window.limit"]}


def _windows() -> Document:
    """The windows as configured now, each with the log kept for it; then those taken away less than their period ago.

    A period that has no log yet starts from the log that reaches back longest, so that a changed limit holds at once.
    """
    configured = {
        "$concatArrays": [
            [{"rate_limit": "$rate_limit", "rate_limit_period_ms": "$rate_limit_period_ms"}],
            {"$ifNull": ["$extra_rate_limits", []]},
        ]
    }
    logs = {"$ifNull": ["$limiter.logs", []]}
    same: Document = {"$first": _filter(logs, "log", {"$eq": ["$$log.period_ms", "$$window.rate_limit_period_ms"]})}
    longest: Document = {
        "$reduce": {
            "input": logs,
            "initialValue": {"period_ms": 0, "entries": []},
            "in": {"$cond": [{"$gt": ["$$this.period_ms", "$$value.period_ms"]}, "$$this", "$$value"]},
        }
    }
    current = {
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
    extra_periods = {"$ifNull": ["$extra_rate_limits.rate_limit_period_ms", []]}
    is_configured: Document = {
        "$or": [{"$eq": ["$$window.period_ms", "$rate_limit_period_ms"]}, {"$in": ["$$window.period_ms", extra_periods]}]
    }
    taken_away = {
        "$map": {
            "input": _filter(logs, "window", {"$not": [is_configured]}),
            "as": "window",
            "in": {
                "limit": {"$toLong": NO_LIMIT},
                "period_ms": "$$window.period_ms",
                "entries": "$$window.entries",
                "kept_until_ms": {"$ifNull": ["$$window.kept_until_ms", {"$add": ["$limiter.clock_ms", "$$window.period_ms"]}]},
            },
        }
    }
    remembered = _filter(taken_away, "window", {"$gt": ["$$window.kept_until_ms", "$limiter.clock_ms"]})
    return {"$concatArrays": [current, {"$slice": [remembered, TAKEN_AWAY_MAX]}]}


def _map_windows(fields: Document) -> Document:
    return {"$map": {"input": "$scratch.windows", "as": "window", "in": {"$mergeObjects": ["$$window", fields]}}}


def _filter(array: Any, name: str, condition: Document) -> Document:
    return {"$filter": {"input": array, "as": name, "cond": condition}}


def _leaves(entry: str) -> Document:
    """When an entry leaves its window: it counts for a period after its last moment."""
    return {"$add": [f"{entry}.t", "$$window.period_ms"]}


def _sum_weight(entries: Any) -> Document:
    return {"$sum": {"$map": {"input": entries, "as": "entry", "in": "$$entry.w"}}}


def _moment_when_free(need: int) -> Document:
    """When enough of what is booked longest has left a window for `need` to fit; the clock if it fits now, null if never.

    `booked` ascends in t, so one pass carries what still has to leave.
    """
    excess = {"$subtract": [{"$add": [_sum_weight("$$window.booked"), need]}, "$$window.limit"]}
    passed: Document = {
        "$reduce": {
            "input": "$$window.booked",
            "initialValue": {"left": excess, "at": "$limiter.clock_ms"},
            "in": {
                "$cond": [
                    {"$lte": ["$$value.left", 0]},
                    "$$value",
                    {"left": {"$subtract": ["$$value.left", "$$this.w"]}, "at": {"$max": ["$$value.at", _leaves("$$this")]}},
                ]
            },
        }
    }
    return {"$cond": [{"$gt": [need, "$$window.limit"]}, None, {"$getField": {"field": "at", "input": passed}}]}


def _inserted(entries: Any, added: str) -> Document:
    """A log with one entry more, in its place; merged with all of its grain under the latest time.

    A log that was taken over from a shorter window may have several entries in one grain.
    """
    grain: Document = {"$max": [1, {"$toLong": {"$divide": ["$$window.period_ms", GRAINS_PER_WINDOW]}}]}
    begin: Document = {"$subtract": [f"{added}.t", {"$mod": [f"{added}.t", "$$grain"]}]}
    end: Document = {"$add": ["$$begin", "$$grain"]}
    same = _filter(entries, "entry", {"$and": [{"$gte": ["$$entry.t", "$$begin"]}, {"$lt": ["$$entry.t", end]}]})
    merged: Document = {
        "t": {"$max": [{"$max": "$$same.t"}, f"{added}.t"]},
        "w": {"$add": [{"$sum": "$$same.w"}, f"{added}.w"]},
    }
    parts: Document = {
        "$concatArrays": [
            _filter(entries, "entry", {"$lt": ["$$entry.t", "$$begin"]}),
            [merged],
            _filter(entries, "entry", {"$gte": ["$$entry.t", end]}),
        ]
    }
    return {
        "$let": {
            "vars": {"grain": grain},
            "in": {
                "$let": {"vars": {"begin": begin}, "in": {"$let": {"vars": {"same": same}, "in": parts}}},
            },
        }
    }


def _closing_stages(charge_ms: int) -> list[Document]:
    """Keep the logs, say what is used now (without what is booked for later), and drop the scratch fields."""
    first: Document = {"$first": "$scratch.windows"}
    begun: Document = _filter(
        {"$concatArrays": ["$$window.entries", "$limiter.unsettled"]},
        "entry",
        {"$lte": ["$$entry.t", {"$add": ["$limiter.clock_ms", charge_ms]}]},
    )
    logs: Document = {
        "$map": {
            "input": "$scratch.windows",
            "as": "window",
            "in": {
                "period_ms": "$$window.period_ms",
                "entries": "$$window.entries",
                # Left out where it is missing: of a window that is configured.
                "kept_until_ms": "$$window.kept_until_ms",
            },
        }
    }
    return [
        {
            "$set": {
                "limiter.logs": logs,
                "rate_limit_usage": {"$let": {"vars": {"window": first}, "in": _sum_weight(begun)}},
                "period_start_at": {"$toDate": {"$subtract": ["$limiter.clock_ms", {"$toLong": "$rate_limit_period_ms"}]}},
            }
        },
        {"$unset": "scratch"},
    ]
