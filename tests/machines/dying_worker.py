"""A worker process for tests: begins a claim, is in the middle of storing its first page, says so, and waits to be killed.

Usage: python -m tests.machines.dying_worker MONGODB_URI DATABASE JOB_ID FENCE LEASE_MS
"""

import signal
import sys

from shared.domain.jobs import run_id_of, to_datetime
from tests.factories import make_platform


def main(mongodb_uri: str, database: str, job_id: str, fence: int, lease_ms: int) -> None:
    """One that is not killed waits for ever."""
    platform = make_platform(mongodb_uri, database)
    with platform.database.open_session() as session:
        platform.leases.begin(job_id, fence, run_id_of(job_id, fence), lease_ms, session.session_id["id"])
        with session.start_transaction():
            platform.leases.record_page(job_id, fence, cursor=to_datetime(0), added={}, lease_ms=lease_ms, session=session)
            print("storing", flush=True)
            signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
