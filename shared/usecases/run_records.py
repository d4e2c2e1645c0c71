"""What is written down of a run, as parts of its document in `job_runs`, and what its job keeps of it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from shared.domain.indicators import ENGINE_VERSION, IndicatorSpec, indicators_hash
from shared.domain.jobs import Job, JobKind, RunOutcome, run_id_of, to_datetime
from shared.errors import PlatformError
from shared.stores.database import Document
from shared.usecases.send_requests import FetchTotals
from shared.usecases.store_pages import Change, StoreTotals

MESSAGE_CHARS_MAX: Final = 1_000


def spent_fields(totals: FetchTotals) -> Document:
    """Requests, weight, retries, and how long the run waited for the limit (ms)."""
    return asdict(totals)


def stored_fields(totals: StoreTotals, change: Change) -> Document:
    """Candles stored and revised, and their span; `change` is about to be stored and not in the totals yet."""
    first_ms, last_ms = totals.first_ms, totals.last_ms
    if len(change.candles):
        first_ms = int(change.candles.open_ms[0]) if first_ms is None else first_ms
        last_ms = int(change.candles.open_ms[-1])
    return {
        "candles": totals.stored + change.new_count,
        "revised": totals.revised + change.revised_count,
        "first_candle_at": None if first_ms is None else to_datetime(first_ms),
        "last_candle_at": None if last_ms is None else to_datetime(last_ms),
        "enrichment_error": totals.enrichment_error,
    }


def error_document(error: PlatformError | None, at_ms: int) -> Document | None:
    """Why a run failed, as jobs and runs show it."""
    if error is None:
        return None
    return {
        "code": error.code,
        "message": error.message[:MESSAGE_CHARS_MAX],
        "at": to_datetime(at_ms),
        "retry": error.retry.value,
    }


def kept_facts(job: Job, specs: tuple[IndicatorSpec, ...] | None, history_start_ms: int | None) -> Document:
    """What the job keeps about its values and its series; None: the run did not get to know it."""
    facts: Document = {}
    if specs is not None:
        facts["indicators_engine"] = ENGINE_VERSION
        facts["indicators_hash"] = indicators_hash(specs)
    if history_start_ms is not None and job.kind is JobKind.LIVE:
        facts["history_start_at"] = to_datetime(history_start_ms)
    return facts


def lost_runs(job: Job, abandoned: Iterable[Mapping[str, Any]]) -> list[Document]:
    """Runs of the job whose lease ran out: nobody else can write down that they were."""
    return [
        {
            "_id": run_id_of(job.job_id, lost["fence"]),
            "job_id": job.job_id,
            "connector_id": job.connector_id,
            "holder": lost["holder"],
            "fence": lost["fence"],
            "scheduled_at": lost["scheduled_at"],
            "claimed_at": lost["claimed_at"],
            "started_at": lost["started_at"] or lost["claimed_at"],
            "finished_at": lost["expired_at"],
            "outcome": (RunOutcome.LOST if lost["run_id"] else RunOutcome.NOT_STARTED).value,
        }
        for lost in abandoned
    ]
