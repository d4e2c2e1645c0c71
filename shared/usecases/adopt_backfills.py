"""Give each backfill that version 0.1.0 has ordered a document of its own, from what its parts say."""

from collections.abc import Sequence
from itertools import groupby

from shared.domain.backfills import BackfillStatus
from shared.domain.jobs import JobStatus
from shared.stores.backfills import BackfillStore, summarize_part
from shared.stores.database import Document
from shared.stores.jobs import JobStore
from shared.telemetry import event


def adopt_backfills(backfills: BackfillStore, jobs: JobStore) -> None:
    """At each start: functions of 0.1.0 may order some as long as they run. Two at once do the same."""
    for backfill_id, parts in groupby(backfills.list_orphans(), lambda part: part["backfill_id"]):
        document = _document_of(backfill_id, list(parts))
        # 0.1.0 paused and resumed all of them with their live job.
        is_with_job = document["status"] == BackfillStatus.PAUSED and jobs.count(
            {"_id": document["job_id"], "status": "paused"}
        )
        backfills.adopt({**document, "is_paused_with_job": bool(is_with_job)})
        event("backfill_adopted", "NOTICE", backfill_id=backfill_id, status=document["status"])


def _document_of(backfill_id: str, parts: Sequence[Document]) -> Document:
    """Its parts were what was decided: it is active if any of them is, or has failed."""
    statuses = {part["status"] for part in parts}
    first, plan = parts[0], parts[0]["plan"]
    status = BackfillStatus.DONE if statuses == {JobStatus.DONE} else BackfillStatus.ACTIVE
    if statuses <= {JobStatus.DONE, JobStatus.PAUSED} and JobStatus.PAUSED in statuses:
        status = BackfillStatus.PAUSED
    ended = [part["done_at"] for part in parts if part.get("done_at")] if status is BackfillStatus.DONE else []
    return {
        "_id": backfill_id,
        **{name: first[name] for name in ("exchange", "symbol", "timeframe", "connector_id")},
        "job_id": plan["job_id"],
        "start_at": plan["start_at"],
        "end_at": max(part["end_at"] for part in parts),
        "status": status.value,
        "revision": 1,
        "is_carried_out": True,
        "decided_at": first["created_at"],
        "created_at": first["created_at"],
        "ended_at": max(ended, default=first["created_at"]) if status is BackfillStatus.DONE else None,
        "plan": {name: value for name, value in plan.items() if name not in ("job_id", "start_at")},
        "parts": [summarize_part(part, 0 if part["status"] == JobStatus.DONE else part["wanted"]) for part in parts],
    }
