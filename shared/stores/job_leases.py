"""The lease on a job: claimed by a tick, begun and renewed by a worker, under whose fence every write of a run stands.

A claim moves `next_run_at` to the lease's end, as does every renewal: so `next_run_at` always says when the job may be claimed
next, a job that is running is not met by the search for due ones, and a dead worker's job falls due by itself. What slot
the run stands for is kept in `lock.scheduled_at`.

`lock.fence` is +1 at every claim and never reset. Every write of a run names {_id, lock.fence}: matching nothing means that
the lease is lost.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import pymongo
from pymongo import ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.errors import PyMongoError

from shared.domain.jobs import PRIORITIES, JobKind
from shared.errors import LeaseLost
from shared.stores.database import Database, Document
from shared.stores.lease_stages import (
    NOT_STARTED_LEDGER,
    ONLY_FENCE,
    claim_pipeline,
    cursor_stage,
    due_branch,
    due_by,
    ledger_stage,
    pace_stage,
    still_due,
    totals_stage,
)

COLLECTION: Final = "jobs"
CLAIM_TIMEOUT_S: Final = 3.0
# Made in jobs.py. The first holds all that a search for due jobs returns, so that it reads no document.
DUE_INDEX: Final = "due"
UNBEGUN_INDEX: Final = "unbegun"
# Connectors that one search for due jobs covers. Each is a plan of its own: 0.1 ms and 300 bytes of command.
BRANCHES_MAX: Final = 100
# All that a pass lists or claims comes in one reply (the server's own default is 101 documents).
LISTED_BATCH: Final = 10_000
_ALL_PRIORITIES: Final = tuple(sorted(set(PRIORITIES.values())))
# What a run has to know of its job once it has written: others may have changed it meanwhile.
_KEPT_FIELDS: Final = ("status", "slot_ledger", "epoch", "codes_until")


@dataclass(frozen=True, slots=True)
class DueJob:
    """A job that may be claimed. `session_id`: of the run that held it before and never released it."""

    job_id: str
    session_id: Any = None
    priority: int = PRIORITIES[JobKind.LIVE]


@dataclass(frozen=True, slots=True)
class Claim:
    """One job that a tick may start: the worker is told {job_id, fence}."""

    job_id: str
    connector_id: str
    fence: int
    priority: int = PRIORITIES[JobKind.LIVE]


class JobLeases:
    """Claims, leases and the writes of runs, on the collection `jobs`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._collection = database.collection(COLLECTION)

    def has_due(self, now: datetime) -> bool:
        """Whether any active job is due: one command, of a few index keys per connector and no document."""
        condition = {"connector_id": {"$gte": ""}, **due_by(now, _ALL_PRIORITIES)}
        return self._collection.find_one(condition, {"_id": 0, "status": 1}, hint=DUE_INDEX) is not None

    def list_due(self, connector_id: str, now: datetime, limit: int) -> list[DueJob]:
        """One connector's due jobs, at most `limit`."""
        return self.list_due_by_connector({connector_id: limit}, now)[connector_id]

    def list_due_by_connector(
        self, limits: Mapping[str, int], now: datetime, priorities: Sequence[int] = _ALL_PRIORITIES
    ) -> dict[str, list[DueJob]]:
        """Due jobs of several connectors (id -> how many at most): smaller priority first, then those due longest.

        One command for up to BRANCHES_MAX connectors. It is answered from the index alone and stops at each limit: a look at a
        million jobs costs what a look at ten thousand does.
        """
        found: dict[str, list[DueJob]] = {connector_id: [] for connector_id in limits}
        wanted = [(connector_id, limit) for connector_id, limit in limits.items() if limit > 0]
        for first in range(0, len(wanted), BRANCHES_MAX):
            branches = [
                due_branch(connector_id, now, limit, priorities) for connector_id, limit in wanted[first : first + BRANCHES_MAX]
            ]
            pipeline = [
                *branches[0],
                *({"$unionWith": {"coll": COLLECTION, "pipeline": branch}} for branch in branches[1:]),
            ]
            for document in self._collection.aggregate(pipeline, hint=DUE_INDEX, batchSize=LISTED_BATCH):
                found[document["connector_id"]].append(
                    DueJob(document["_id"], document.get("lock", {}).get("session_id"), document["priority"])
                )
        return found

    def count_unbegun(self) -> dict[str, int]:
        """Per connector how many jobs are claimed, under a lease that has not run out, and not begun by a worker.

        Only these are examined, not the leases of runs on their way: there are never more than the ticks of the last minutes
        have open calls.
        """
        counted = self._collection.aggregate(
            [
                {
                    "$match": {
                        "lock.run_id": None,
                        "lock.expires_at": {"$exists": True},
                        "$expr": {"$gt": ["$lock.expires_at", "$$NOW"]},
                    }
                },
                {"$group": {"_id": "$connector_id", "count": {"$sum": 1}}},
            ],
            hint=UNBEGUN_INDEX,
        )
        return {row["_id"]: row["count"] for row in counted}

    def claim(self, jobs: Sequence[DueJob], holder: str, lease_ms: int) -> list[Claim]:
        """Take the right to run those of the jobs that are still due, on the server's clock, in two commands.

        A reply that was lost does no harm: what was claimed is read back by the claim's own id, and a claim that nobody uses
        falls due again when its lease runs out. Nor does a job whose document is held by some transaction: the claim gives
        up on it after CLAIM_TIMEOUT_S and keeps the others.
        """
        claim_id = uuid.uuid4().hex
        ids = [job.job_id for job in jobs]
        self._database.end_sessions([job.session_id for job in jobs if job.session_id is not None])
        try:
            with pymongo.timeout(CLAIM_TIMEOUT_S):
                # Given an index that begins with `status`, the planner walked all active jobs in search of these: with a
                # million of them until the time was up.
                self._collection.update_many(still_due(ids), claim_pipeline(claim_id, holder, lease_ms), hint="_id_")
        except PyMongoError as exc:
            if not exc.timeout:
                raise
        claimed = self._collection.find(
            {"_id": {"$in": ids}, "lock.claim_id": claim_id},
            {"connector_id": 1, "lock.fence": 1},
            hint="_id_",
            batch_size=LISTED_BATCH,
        )
        by_id = {document["_id"]: document for document in claimed}
        return [
            Claim(job.job_id, by_id[job.job_id]["connector_id"], by_id[job.job_id]["lock"]["fence"], job.priority)
            for job in jobs
            if job.job_id in by_id
        ]

    def give_back(self, job_id: str, fence: int, delay_ms: int) -> bool:
        """Undo a claim whose worker was not started: due again after `delay_ms`. Not if the worker has begun after all."""
        result = self._collection.update_one(
            # A run that has ended leaves a lock with nothing but its fence: that is no claim to be given back.
            {"_id": job_id, "lock.fence": fence, "lock.run_id": None, "lock.claim_id": {"$exists": True}},
            [
                {
                    "$set": {
                        "next_run_at": {"$max": ["$lock.scheduled_at", {"$add": ["$$NOW", delay_ms]}]},
                        "lock": ONLY_FENCE,
                        "slot_ledger": NOT_STARTED_LEDGER,
                    }
                }
            ],
        )
        return result.matched_count == 1

    def begin(self, job_id: str, fence: int, run_id: str, lease_ms: int, session_id: Any = None) -> Document:
        """Start the run of a claim: once. Renews the lease and stamps `lock.started_at`; returns the job.

        `session_id` is that of the session whose transactions the run will write in; who takes the job over ends it.

        Raises:
            LeaseLost: the fence is not the job's, or a worker has begun this claim already.
        """
        document = self._collection.find_one_and_update(
            {"_id": job_id, "lock.fence": fence, "lock.run_id": None, "lock.claim_id": {"$exists": True}},
            [
                {
                    "$set": {
                        "lock.run_id": run_id,
                        "lock.session_id": session_id,
                        "lock.started_at": "$$NOW",
                        "lock.expires_at": {"$add": ["$$NOW", lease_ms]},
                        "next_run_at": {"$add": ["$$NOW", lease_ms]},
                    }
                }
            ],
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            raise LeaseLost(f"job {job_id}: fence {fence} is not to be run (again)", job_id=job_id, fence=fence)
        return document

    def record_page(
        self,
        job_id: str,
        fence: int,
        *,
        cursor: datetime | None,
        begins_at: datetime | None = None,
        added: Document,
        facts: Document | None = None,
        lease_ms: int,
        session: ClientSession,
    ) -> Document:
        """A page's cursor and totals, and the lease renewed, in the transaction that stores its candles. Returns as `finish`.

        `facts` are fields of the job to be set besides. `added` may have `asked`, the intervals that were asked for.

        Raises:
            LeaseLost: the fence has moved on; the transaction must not commit.
        """
        return self._write_under_lease(
            job_id,
            fence,
            {
                **cursor_stage(cursor, begins_at),
                **totals_stage(added),
                **(pace_stage(added["asked"]) if "asked" in added else {}),
                **(facts or {}),
                # It gets on: what failed before no longer counts.
                "attempt": 0,
                "lock.expires_at": {"$add": ["$$NOW", lease_ms]},
                "next_run_at": {"$add": ["$$NOW", lease_ms]},
            },
            session,
        )

    def finish(
        self,
        job_id: str,
        fence: int,
        *,
        status: str | None,
        end_at: datetime | None = None,
        wakes: int = 0,
        next_run_at: datetime,
        attempt: int,
        last_error: Document | None,
        cursor: datetime | None,
        begins_at: datetime | None = None,
        added: Document,
        facts: Document,
        ledgers: tuple[Document | None, Document] | None = None,
        session: ClientSession,
    ) -> Document:
        """The last write of a run: the lease is released (the fence stays) and the next run set. `status` None leaves it.

        A run that was asked for meanwhile is due at once, and a status that was changed meanwhile (paused) stays. `done` is
        only written if the job's end still is `end_at` and it was woken `wakes` times; else it goes on at once. `ledgers`: the
        slot ledger as it was read (None: there was none) and as it is to be; one that was changed meanwhile stays. Returns
        what others may have changed, as it now is.

        Raises:
            LeaseLost: the fence has moved on; the transaction must not commit.
        """
        is_other = [{"$ne": ["$end_at", end_at]}, {"$ne": [{"$ifNull": ["$wakes", 0]}, wakes]}]
        is_moved = {"$and": [status == "done", {"$or": is_other}]}
        is_to_change = {"$and": [{"$eq": ["$status", "active"]}, {"$not": [is_moved]}]}
        changed_status = {} if status is None else {"status": {"$cond": [is_to_change, status, "$status"]}}
        requested = {"$or": [{"$ifNull": ["$run_requested", False]}, is_moved]}
        return self._write_under_lease(
            job_id,
            fence,
            {
                **cursor_stage(cursor, begins_at),
                **totals_stage(added),
                **changed_status,
                **ledger_stage(ledgers),
                **facts,
                "next_run_at": {"$cond": [requested, "$$NOW", next_run_at]},
                "run_requested": False,
                "attempt": attempt,
                "last_error": {"$literal": last_error},
                "lock": ONLY_FENCE,
                "abandoned": [],
            },
            session,
        )

    def amend_slot_ledger(self, job_id: str, fence: int, ledger: Document, session: ClientSession) -> None:
        """After `finish`, in the same transaction: the slot ledger of a job that was edited during its run."""
        self._collection.update_one({"_id": job_id, "lock.fence": fence}, {"$set": {"slot_ledger": ledger}}, session=session)

    def _write_under_lease(self, job_id: str, fence: int, fields: Document, session: ClientSession) -> Document:
        document = self._collection.find_one_and_update(
            {"_id": job_id, "lock.fence": fence, "lock.run_id": {"$ne": None}},
            [{"$set": fields}],
            projection=_KEPT_FIELDS,
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        if document is None:
            raise LeaseLost(f"job {job_id}: fence {fence} has been passed on", job_id=job_id, fence=fence)
        return document
