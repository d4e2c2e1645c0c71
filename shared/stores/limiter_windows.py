"""The limiter's windows and their logs, as expressions of MongoDB's update pipelines. limiter_pipeline.py puts them together.

The stages work on `scratch.windows`: {limit, period_ms, entries, total}, `total` being the weight of the entries and of what is
unsettled. A window that was taken away has no limit but goes on being written, so that it is whole if it comes back.

What a call costs the server is mostly the reading of these expressions, so they are kept short.
"""

from typing import Any, Final

from shared.domain.rates import GRAINS_PER_WINDOW, KEPT_FOR_LIVE_PERCENT, SHARE_PERMILLE_ALL
from shared.stores.database import Document

# Of a window that is not configured any more: nothing is kept from anybody for its sake.
NO_LIMIT: Final = 2**53
# So many of them are remembered.
TAKEN_AWAY_MAX: Final = 8


def filter_array(array: Any, name: str, condition: Document) -> Document:
    """The elements of an array that meet the condition on `$$name`."""
    return {"$filter": {"input": array, "as": name, "cond": condition}}


def map_array(array: Any, name: str, to: Any) -> Document:
    """An array's elements, each as `to` makes it of `$$name`."""
    return {"$map": {"input": array, "as": name, "in": to}}


def let(name: str, value: Any, inside: Any) -> Document:
    """`inside`, in which `$$name` is that value, computed once."""
    return {"$let": {"vars": {name: value}, "in": inside}}


def map_windows(fields: Document) -> Document:
    """The windows with these fields set, computed from `$$window`."""
    return map_array("$scratch.windows", "window", {"$mergeObjects": ["$$window", fields]})


def leaves(entry: str) -> Document:
    """When an entry leaves `$$window`: it counts for a period after its last moment."""
    return {"$add": [f"{entry}.t", "$$window.period_ms"]}


def configured_windows() -> Document:
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
    same: Document = {"$first": filter_array(logs, "log", {"$eq": ["$$log.period_ms", "$$window.rate_limit_period_ms"]})}
    longest: Document = {
        "$reduce": {
            "input": logs,
            "initialValue": {"period_ms": 0, "entries": []},
            "in": {"$cond": [{"$gt": ["$$this.period_ms", "$$value.period_ms"]}, "$$this", "$$value"]},
        }
    }
    current = map_array(
        configured,
        "window",
        {
            "limit": {"$toLong": "$$window.rate_limit"},
            "period_ms": {"$toLong": "$$window.rate_limit_period_ms"},
            "entries": {"$getField": {"field": "entries", "input": {"$ifNull": [same, longest]}}},
        },
    )
    return {"$concatArrays": [current, {"$slice": [_taken_away(logs), TAKEN_AWAY_MAX]}]}


def _taken_away(logs: Document) -> Document:
    """Logs of periods that are not configured any more, for as long as they are kept."""
    extra_periods = {"$ifNull": ["$extra_rate_limits.rate_limit_period_ms", []]}
    is_configured: Document = {
        "$or": [{"$eq": ["$$window.period_ms", "$rate_limit_period_ms"]}, {"$in": ["$$window.period_ms", extra_periods]}]
    }
    taken_away = map_array(
        filter_array(logs, "window", {"$not": [is_configured]}),
        "window",
        {
            "limit": {"$toLong": NO_LIMIT},
            "period_ms": "$$window.period_ms",
            "entries": "$$window.entries",
            "kept_until_ms": {"$ifNull": ["$$window.kept_until_ms", {"$add": ["$limiter.clock_ms", "$$window.period_ms"]}]},
        },
    )
    return filter_array(taken_away, "window", {"$gt": ["$$window.kept_until_ms", "$limiter.clock_ms"]})


def with_entered(added: str, limit: Any) -> Document:
    """The windows with these entries more in their logs, without those that have left, with their totals and that limit."""
    entries: Document = {"$reduce": {"input": added, "initialValue": "$$window.entries", "in": entered("$$value", "$$this")}}
    live = filter_array(entries, "entry", {"$gt": [leaves("$$entry"), "$limiter.clock_ms"]})
    total: Document = {"$add": [{"$sum": "$$live.w"}, {"$sum": "$limiter.unsettled.w"}]}
    fields = {"entries": "$$live", "total": total, "limit": limit}
    return map_array("$scratch.windows", "window", let("live", live, {"$mergeObjects": ["$$window", fields]}))


def entered(entries: str, added: str) -> Document:
    """A log with one entry more. Entries count to the end of their grain, so those of one grain are one entry."""
    grain: Document = {"$max": [1, {"$floor": {"$divide": ["$$window.period_ms", GRAINS_PER_WINDOW]}}]}
    grain_end: Document = {"$toLong": {"$multiply": ["$$grain", {"$ceil": {"$divide": [f"{added}.t", "$$grain"]}}]}}
    merged: Document = {"t": "$$t", "w": {"$add": ["$$entry.w", f"{added}.w"]}}
    placed: Document = {
        "$cond": [
            {"$in": ["$$t", f"{entries}.t"]},
            map_array(entries, "entry", {"$cond": [{"$eq": ["$$entry.t", "$$t"]}, merged, "$$entry"]}),
            {"$concatArrays": [entries, [{"t": "$$t", "w": f"{added}.w"}]]},
        ]
    }
    return let("grain", grain, let("t", grain_end, placed))


def usable_limit(share_permille: Any) -> Document:
    """That share of `$$window`'s limit, less what background jobs leave to live ones: whole weights, enough for one request.

    A request that needs nearly all of a limit may have it, or it could never be sent.
    """
    share: Document = {"$floor": {"$divide": [{"$multiply": ["$$window.limit", share_permille]}, SHARE_PERMILLE_ALL]}}
    kept: Document = {"$cond": ["$$ask.is_live", 0, {"$floor": {"$multiply": ["$$share", KEPT_FOR_LIVE_PERCENT / 100]}}]}
    enough: Document = {"$max": ["$$share", {"$min": ["$$ask.need", "$$window.limit"]}]}
    chosen: Document = {"$cond": [{"$gte": ["$$usable", "$$ask.need"]}, "$$usable", enough]}
    return {"$toLong": let("share", share, let("usable", {"$subtract": ["$$share", kept]}, chosen))}


def moment_when_free() -> Document:
    """When enough of what is booked has left `$$window` for the need to fit; the clock if it fits now.

    What is booked is put into the order in which it leaves, so one pass carries what still has to.
    """
    excess: Document = {"$subtract": [{"$add": ["$$window.total", "$$ask.need"]}, "$$window.limit"]}
    booked: Document = {"$concatArrays": ["$$window.entries", "$limiter.unsettled"]}
    passed: Document = {
        "$reduce": {
            "input": {"$sortArray": {"input": booked, "sortBy": {"t": 1}}},
            "initialValue": {"left": excess, "at": "$limiter.clock_ms"},
            "in": {
                "$cond": [
                    {"$lte": ["$$value.left", 0]},
                    "$$value",
                    {"left": {"$subtract": ["$$value.left", "$$this.w"]}, "at": leaves("$$this")},
                ]
            },
        }
    }
    return {"$cond": [{"$lte": [excess, 0]}, "$limiter.clock_ms", let("passed", passed, "$$passed.at")]}


def free_at(moment: str) -> Document:
    """What `$$window` has not booked at that moment, which is the clock or later."""
    booked = filter_array(
        {"$concatArrays": ["$$window.entries", "$limiter.unsettled"]}, "entry", {"$gt": [leaves("$$entry"), moment]}
    )
    return {"$subtract": ["$$window.limit", let("booked", booked, {"$sum": "$$booked.w"})]}
