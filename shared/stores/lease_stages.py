"""The parts of commands that job_leases.py is made of: conditions and pipeline stages, all decided on the server's clock."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pymongo import ASCENDING

from shared.domain.jobs import to_datetime
from shared.domain.slots import SlotClass
from shared.stores.database import Document

# Abandoned leases noted on the job until its next run writes them to job_runs; more than this many only if none ever ends.
ABANDONED_MAX: Final = 20
# Between two marks of a pace.
PACE_APART_MS: Final = 15_000
# A released lock. As an expression it replaces the lock; a bare document in $set would be merged into it.
ONLY_FENCE: Final[Document] = {"$mergeObjects": [{"fence": "$lock.fence"}]}
# Slots that pass until the next try are counted under this reason; jobs without slots stay without.
NOT_STARTED_LEDGER: Final[Document] = {
    "$cond": [
        {"$and": [{"$eq": [{"$type": "$slot_ledger"}, "object"]}, {"$eq": ["$status", "active"]}]},
        {"$mergeObjects": ["$slot_ledger", {"reason": SlotClass.NOT_STARTED.value}]},
        "$slot_ledger",
    ]
}


def due_by(now: datetime, priorities: Sequence[int]) -> Document:
    """Active jobs of these priorities that are due."""
    return {"status": "active", "priority": {"$in": list(priorities)}, "next_run_at": {"$lte": now}}


def due_branch(connector_id: str, now: datetime, limit: int, priorities: Sequence[int]) -> list[Document]:
    """One connector's due jobs, in the order that they are served."""
    return [
        {"$match": {"connector_id": connector_id, **due_by(now, priorities)}},
        {"$sort": {"priority": ASCENDING, "next_run_at": ASCENDING}},
        {"$limit": limit},
        {"$project": {"connector_id": 1, "priority": 1, "lock.session_id": 1}},
    ]


def still_due(job_ids: Sequence[str]) -> Document:
    """Those of the jobs that may be claimed, by the server's clock."""
    return {
        "_id": {"$in": list(job_ids)},
        "status": "active",
        "$expr": {
            "$and": [
                {"$lte": ["$next_run_at", "$$NOW"]},
                {"$lte": [{"$ifNull": ["$lock.expires_at", to_datetime(0)]}, "$$NOW"]},
            ]
        },
    }


def claim_pipeline(claim_id: str, holder: str, lease_ms: int) -> list[Document]:
    """The update that takes a job: a new fence, a lease, and a note of the one that was lost."""
    expires = {"$add": ["$$NOW", lease_ms]}
    was_abandoned = {"$ne": [{"$ifNull": ["$lock.claim_id", None]}, None]}
    has_died = {"$ne": [{"$ifNull": ["$lock.run_id", None]}, None]}
    lost_lease = {
        "fence": "$lock.fence",
        "holder": "$lock.holder",
        "run_id": {"$ifNull": ["$lock.run_id", None]},
        "scheduled_at": "$lock.scheduled_at",
        "claimed_at": "$lock.claimed_at",
        "started_at": {"$ifNull": ["$lock.started_at", None]},
        "expired_at": "$lock.expires_at",
    }
    abandoned = {"$ifNull": ["$abandoned", []]}
    created_ms = {"$toLong": {"$ifNull": ["$created_at", 0]}}
    return [
        {
            "$set": {
                "abandoned": {
                    "$cond": [
                        was_abandoned,
                        {"$slice": [{"$concatArrays": [abandoned, [lost_lease]]}, -ABANDONED_MAX]},
                        abandoned,
                    ]
                },
                "lock": {
                    # An expression replaces the old lock; a bare document would be merged into it.
                    "$mergeObjects": [
                        {
                            # A job made again under an id begins above all fences of the one that was deleted, whose last
                            # worker may still be at work and whose runs are in job_runs: nobody claims once a millisecond.
                            "fence": {"$add": [{"$max": [{"$ifNull": ["$lock.fence", 0]}, created_ms]}, 1]},
                            "holder": {"$literal": holder},
                            "claim_id": claim_id,
                            "run_id": None,
                            "claimed_at": "$$NOW",
                            "expires_at": expires,
                            # A lease that ran out stands for the slot it was claimed for.
                            "scheduled_at": {"$cond": [was_abandoned, "$lock.scheduled_at", "$next_run_at"]},
                        }
                    ]
                },
                "next_run_at": expires,
                # A run that dies again and again has to end in `error` like one that fails again and again.
                "attempt": {"$add": ["$attempt", {"$cond": [has_died, 1, 0]}]},
            }
        }
    ]


def cursor_stage(cursor: datetime | None, begins_at: datetime | None) -> Document:
    """The cursor only moves forward; None leaves it. Where the job begins is kept from its first page on."""
    moved = {} if cursor is None else {"cursor.last_ts": {"$max": ["$cursor.last_ts", cursor]}}
    return moved if begins_at is None else {**moved, "begins_at": {"$ifNull": ["$begins_at", begins_at]}}


def totals_stage(added: Document) -> Document:
    """So much more in each of the totals."""
    return {f"totals.{name}": {"$add": [{"$ifNull": [f"$totals.{name}", 0]}, count]} for name, count in added.items()}


def pace_stage(asked: int) -> Document:
    """Two marks of what has been asked for and when, so that the pace of late can be told: since 15 to 30 s ago, or longer

    where nothing comes. The first mark of a job is its first page, so that no wait before it counts.
    """
    count = {"$add": [{"$ifNull": ["$totals.asked", 0]}, asked]}
    fresh = {"from_at": "$$NOW", "from_asked": count, "mid_at": "$$NOW", "mid_asked": count}
    moved = {"from_at": "$pace.mid_at", "from_asked": "$pace.mid_asked", "mid_at": "$$NOW", "mid_asked": count}
    is_old = {"$gt": [{"$subtract": ["$$NOW", "$pace.mid_at"]}, PACE_APART_MS]}
    known = {"$cond": [is_old, moved, "$pace"]}
    return {"pace": {"$cond": [{"$eq": [{"$type": "$pace"}, "object"]}, known, fresh]}}


def ledger_stage(ledgers: tuple[Document | None, Document] | None) -> Document:
    """The new ledger, if the job still has the one that it was made from. An edit that came between must not be undone."""
    if ledgers is None:
        return {}
    found, new = ledgers
    is_unchanged = {"$eq": [{"$ifNull": ["$slot_ledger", None]}, {"$literal": found}]}
    return {"slot_ledger": {"$cond": [is_unchanged, {"$literal": new}, "$slot_ledger"]}}
