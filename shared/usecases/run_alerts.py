"""The alerts that the end of a run opens, in its transaction."""

from pymongo.client_session import ClientSession

from shared.domain.jobs import RunOutcome
from shared.stores.alerts import AlertStore
from shared.stores.database import Document


def open_run_alerts(
    alerts: AlertStore, record: Document, outcome: RunOutcome, lost: Document | None, session: ClientSession
) -> None:
    """For a run's document as it goes to `job_runs`: history that is `lost` (from, to), and a job that stopped."""
    job_id, error, opened_at = record["job_id"], record["error"], record["finished_at"]
    if lost is not None:
        alerts.open_(
            subject=f"jobs/{job_id}/history",
            title=f"job {job_id} was away for longer than the exchange keeps candles: some are lost",
            facts={"job_id": job_id, **lost},
            opened_at=opened_at,
            session=session,
        )
    if outcome is RunOutcome.ERROR:
        alerts.open_(
            subject=f"jobs/{job_id}",
            title=f"job {job_id} stopped: {error['message'] if error else 'unknown'}",
            facts={"job_id": job_id, "error": error, "run_id": record["_id"]},
            opened_at=opened_at,
            session=session,
        )
