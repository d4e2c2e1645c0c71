"""The limiter's decisions as MongoDB update pipelines: what stores/rate_limits.py sends and the server carries out.

A pipeline is the same for every call; what a call is about are variables (`let`): `ask`, `settled`, `late` and others, below.

State, `connectors.limiter`:
`clock_ms` never goes back. `last_at_ms` is the moment of the newest booking.
`logs`: what has arrived, one log a window, and one for each window that was taken away less than its period ago: {period_ms,
    entries: [{t, w}], kept_until_ms}. t = last moment at which the weight counts as arriving, one entry a grain.
`unsettled`: weight that was granted and of which it is not known yet when it arrived: {reservation_id, at, t, w}, in the order
    of booking. It may be sent from `at` on, cannot arrive after `t`, and counts in every window as if it arrived then.
`refusal`: what the exchange's refusals have led to: {newest_ms, share, careful_until_ms,
    total, after_total}; block_pipeline.
`last`: the answer to the newest call.
"""

from collections.abc import Sequence
from typing import Any, Final

from shared.domain.rates import (
    CAREFUL_MS_MAX,
    CAREFUL_REQUESTS,
    RECOVERY_MS,
    SHARE_PERMILLE_ALL,
    SHARE_PERMILLE_MIN,
    UNSETTLED_MAX,
    Ask,
    Settlement,
)
from shared.stores.database import Document
from shared.stores.limiter_windows import (
    NO_LIMIT,
    configured_windows,
    entered,
    filter_array,
    free_at,
    let,
    map_array,
    map_windows,
    moment_when_free,
    usable_limit,
    with_entered,
)

Pipeline = list[Document]

# $$NOW as int64 ms; the clock never goes back, not after a write conflict (where $$NOW is old) and not after a failover.
_NOW_MS: Final[Document] = {"$toLong": "$$NOW"}
CLOCK: Final[Document] = {"$max": [_NOW_MS, {"$ifNull": ["$limiter.clock_ms", 0]}]}
_BLOCKED_UNTIL_MS: Final[Document] = {"$toLong": {"$ifNull": ["$blocked_until", 0]}}


def ask_variables(reservation_id: str, ask: Ask, settlements: Sequence[Settlement]) -> Document:
    """The variables of `reserve_pipeline`."""
    return {
        "ask": {
            "reservation_id": reservation_id,
            "need": ask.need,
            "want": max(ask.need, ask.want),
            "wait_ms_max": ask.wait_ms_max,
            "charge_ms": ask.charge_ms,
            "is_for_job": ask.is_for_job,
            "is_live": ask.is_live,
        },
        **settlement_variables(settlements),
    }


def settlement_variables(settlements: Sequence[Settlement]) -> Document:
    """The variables of `settle_pipeline`: `settled` parts of grants that are open, and `late` entries for the logs.

    An arrival after its grant's last moment is entered whatever has become of the grant: where it is charged already, that
    charge would end too early.
    """
    late = [each for each in settlements if each.arrived and each.arrived_by_ms > each.charged_ms]
    return {
        "settled": [
            {
                "reservation_id": each.reservation_id,
                "before": each.before,
                "w": each.after,
                "arrived": 0 if each in late else each.arrived,
                "by": each.arrived_by_ms,
            }
            for each in settlements
        ],
        "late": [{"t": each.arrived_by_ms, "w": each.arrived} for each in late],
    }


def reserve_pipeline() -> Pipeline:
    """Settle what is reported, then book between `need` and `want` at the first moment at which `need` fits into every window.

    What is under way counts as if it arrived at its last moment.
    """
    booking = {
        "reservation_id": "$$ask.reservation_id",
        "at": "$scratch.offer.at_ms",
        "t": {"$add": ["$scratch.offer.at_ms", "$$ask.charge_ms"]},
        "w": "$scratch.offer.granted",
    }
    has_grant: Document = {"$gt": ["$scratch.offer.granted", 0]}
    return [
        *_opening_stages(usable_limit(_share())),
        {"$set": {"scratch.offer": _offer()}},
        {
            "$set": {
                "limiter.last": {
                    "reservation_id": "$$ask.reservation_id",
                    "granted": "$scratch.offer.granted",
                    "at_ms": "$scratch.offer.at_ms",
                    "clock_ms": "$limiter.clock_ms",
                    "open_count": {"$add": [{"$size": "$limiter.unsettled"}, {"$cond": [has_grant, 1, 0]}]},
                },
                "limiter.last_at_ms": {"$cond": [has_grant, "$scratch.offer.at_ms", "$limiter.last_at_ms"]},
                "limiter.unsettled": {"$concatArrays": ["$limiter.unsettled", {"$cond": [has_grant, [booking], []]}]},
            }
        },
        *_closing_stages(),
    ]


def _offer() -> Document:
    """{at_ms, granted}: the first moment at which the need fits, None if it never does, and what is granted for it."""
    moments = map_array("$scratch.windows", "window", moment_when_free())
    at: Document = {"$max": ["$limiter.clock_ms", _BLOCKED_UNTIL_MS, "$limiter.last_at_ms", {"$max": moments}]}
    is_possible: Document = {"$lte": ["$$ask.need", {"$min": "$scratch.windows.limit"}]}
    is_granted: Document = {
        "$and": [
            {"$lte": [{"$subtract": ["$$at", "$limiter.clock_ms"]}, "$$ask.wait_ms_max"]},
            {"$gte": ["$$careful", "$$ask.need"]},
            {"$lt": [{"$size": "$limiter.unsettled"}, UNSETTLED_MAX]},
            {"$not": [{"$and": ["$$ask.is_for_job", {"$eq": ["$status", "paused"]}]}]},
        ]
    }
    free: Document = {"$min": map_array("$scratch.windows", "window", free_at("$$at"))}
    granted: Document = {"$toLong": {"$cond": [is_granted, {"$min": ["$$ask.want", free, "$$careful"]}, 0]}}
    offer = let("at", {"$toLong": at}, let("careful", _careful_weight(), {"at_ms": "$$at", "granted": granted}))
    return {"$cond": [is_possible, offer, {"at_ms": None, "granted": {"$toLong": 0}}]}


def settle_pipeline() -> Pipeline:
    """Settle what is reported, and nothing more."""
    return [*_opening_stages(), *_closing_stages()]


def usage_pipeline() -> Pipeline:
    """Add a phantom entry to every window: what the exchange counted in its window of `period_ms` and we did not.

    Variables: `period_ms`, `used`. It had arrived by the time of the answer that told of it.
    """
    same = filter_array("$scratch.windows", "window", {"$eq": ["$$window.period_ms", "$$period_ms"]})
    extra = let("same", {"$first": same}, {"$max": [0, {"$subtract": ["$$used", {"$ifNull": ["$$same.total", "$$used"]}]}]})
    phantom = {"t": "$limiter.clock_ms", "w": "$scratch.extra"}
    charged = map_windows({"entries": let("added", phantom, entered("$$window.entries", "$$added"))})
    return [
        *_opening_stages(),
        {"$set": {"scratch.extra": extra}},
        {"$set": {"scratch.windows": {"$cond": [{"$gt": ["$scratch.extra", 0]}, charged, "$scratch.windows"]}}},
        *_closing_stages(),
    ]


def block_pipeline() -> Pipeline:
    """The exchange has refused a request that was sent at `sent_ms`: no grant before `wait_ms` from now; `reason` says why.

    A longer block that stands already stays. A refusal after the end of the last block is a new one, if its request was sent
    after the newest refusal: it halves the share of every limit that is used, and for a period after its block only a few
    requests may be under way. The others were under way with the first. Those that had left after it was written are counted
    in `after_total`.
    """
    until: Document = {"$max": [_BLOCKED_UNTIL_MS, {"$add": ["$limiter.clock_ms", "$$wait_ms"]}]}
    newest: Document = {"$ifNull": ["$limiter.refusal.newest_ms", 0]}
    is_later: Document = {"$or": [{"$eq": ["$$sent_ms", 0]}, {"$gt": ["$$sent_ms", newest]}]}
    is_new: Document = {"$and": [is_later, {"$lte": [_BLOCKED_UNTIL_MS, "$limiter.clock_ms"]}]}
    is_blocked: Document = {"$gt": [_BLOCKED_UNTIL_MS, "$limiter.clock_ms"]}
    is_after: Document = {"$and": [{"$gt": [newest, 0]}, {"$gt": ["$$sent_ms", newest]}, is_blocked]}
    halved: Document = {"$max": [SHARE_PERMILLE_MIN, {"$floor": {"$divide": ["$scratch.share", 2]}}]}
    careful_until: Document = {"$ifNull": ["$limiter.refusal.careful_until_ms", 0]}
    careful_ms: Document = {"$min": [CAREFUL_MS_MAX, "$rate_limit_period_ms"]}
    return [
        {"$set": {"limiter.clock_ms": CLOCK}},
        {
            "$set": {
                "scratch": {"share": _share(), "is_new": is_new, "is_later": is_later, "is_after": is_after, "until": until}
            }
        },
        {
            "$set": {
                "blocked_until": {"$toDate": "$scratch.until"},
                "blocked_reason": "$$reason",
                "limiter.refusal": {
                    "newest_ms": {"$cond": ["$scratch.is_later", "$limiter.clock_ms", newest]},
                    "share": {"$toLong": {"$cond": ["$scratch.is_new", halved, "$scratch.share"]}},
                    "careful_until_ms": {
                        "$toLong": {"$cond": ["$scratch.is_later", {"$add": ["$scratch.until", careful_ms]}, careful_until]}
                    },
                    "total": {"$add": [{"$ifNull": ["$limiter.refusal.total", 0]}, 1]},
                    "after_total": {
                        "$add": [{"$ifNull": ["$limiter.refusal.after_total", 0]}, {"$cond": ["$scratch.is_after", 1, 0]}]
                    },
                },
            }
        },
        {"$unset": "scratch"},
    ]


def _share() -> Document:
    """The share of every limit that is used: halved at a refusal, regained from the end of its block on."""
    since: Document = {"$max": [0, {"$subtract": ["$limiter.clock_ms", _BLOCKED_UNTIL_MS]}]}
    regained: Document = {"$multiply": [since, SHARE_PERMILLE_ALL / RECOVERY_MS]}
    share: Document = {"$add": [{"$ifNull": ["$limiter.refusal.share", SHARE_PERMILLE_ALL]}, regained]}
    return {"$min": [SHARE_PERMILLE_ALL, {"$floor": share}]}


def _careful_weight() -> Document:
    """How much more may be under way: without end, but for a while after a refusal."""
    is_careful: Document = {"$lt": ["$limiter.clock_ms", {"$ifNull": ["$limiter.refusal.careful_until_ms", 0]}]}
    most: Document = {"$multiply": ["$$ask.need", CAREFUL_REQUESTS]}
    return {"$cond": [is_careful, {"$subtract": [most, {"$sum": "$limiter.unsettled.w"}]}, NO_LIMIT]}


def _opening_stages(limit: Any = "$$window.limit") -> Pipeline:
    """The clock; what has arrived, or cannot arrive any more, moves into the logs; what has left its window goes.

    `limit` is how much of each window may be used. A report holds if its grant is as the reporter believes, so that nothing is
    entered twice.
    """
    is_meant: Document = {
        "$and": [
            {"$eq": ["$$each.reservation_id", "$$grant.reservation_id"]},
            {"$in": ["$$each.before", [None, "$$grant.w"]]},
        ]
    }
    reported: Document = {"$mergeObjects": ["$$grant", {"$first": filter_array("$$settled", "each", is_meant)}]}
    is_open: Document = {"$and": [{"$gt": ["$$grant.w", 0]}, {"$gt": ["$$grant.t", "$limiter.clock_ms"]}]}
    is_over: Document = {"$and": [{"$gt": ["$$grant.w", 0]}, {"$lte": ["$$grant.t", "$limiter.clock_ms"]}]}
    fields = {name: f"$$grant.{name}" for name in ("reservation_id", "at", "t", "w")}
    arrived = filter_array("$scratch.grants", "grant", {"$gt": ["$$grant.arrived", 0]})
    return [
        {
            "$set": {
                "limiter.clock_ms": CLOCK,
                "limiter.last_at_ms": {"$ifNull": ["$limiter.last_at_ms", 0]},
                "scratch.grants": map_array({"$ifNull": ["$limiter.unsettled", []]}, "grant", reported),
            }
        },
        {
            "$set": {
                "limiter.unsettled": map_array(filter_array("$scratch.grants", "grant", is_open), "grant", fields),
                "scratch.entered": {
                    "$concatArrays": [
                        "$$late",
                        map_array(arrived, "grant", {"t": "$$grant.by", "w": "$$grant.arrived"}),
                        filter_array("$scratch.grants", "grant", is_over),
                    ]
                },
                "scratch.windows": configured_windows(),
            }
        },
        {"$set": {"scratch.windows": with_entered("$scratch.entered", limit)}},
    ]


def _closing_stages() -> Pipeline:
    """Keep the logs, say what is used now (without what is booked for later), and drop the scratch fields."""
    begun: Document = filter_array("$limiter.unsettled", "grant", {"$lte": ["$$grant.at", "$limiter.clock_ms"]})
    used: Document = {"$add": [{"$sum": "$$window.entries.w"}, {"$sum": "$$begun.w"}]}
    first: Document = {"$first": "$scratch.windows"}
    # `kept_until_ms` is left out where it is missing: of a window that is configured.
    log = {name: f"$$window.{name}" for name in ("period_ms", "entries", "kept_until_ms")}
    return [
        {
            "$set": {
                "limiter.logs": map_array("$scratch.windows", "window", log),
                "rate_limit_usage": let("window", first, let("begun", begun, {"$toLong": used})),
                "period_start_at": {"$toDate": {"$subtract": ["$limiter.clock_ms", {"$toLong": "$rate_limit_period_ms"}]}},
            }
        },
        {"$unset": "scratch"},
    ]
