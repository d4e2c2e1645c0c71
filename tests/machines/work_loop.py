"""A worker process for tests: claims what is due and runs it, until it is told to stop or killed.

Usage: python -m tests.machines.work_loop MONGODB_URI DATABASE SECONDS LEASE_MS PAGES_MAX
"""

import sys
import time

from shared.deadline import Deadline
from shared.domain.jobs import to_datetime
from shared.errors import LeaseLost, StorageUnavailable
from shared.stores.database import storage_errors
from tests.factories import make_platform


def main(mongodb_uri: str, database: str, seconds: float, lease_ms: int, pages_max: int) -> None:
    """Claim one job at a time, as often as there is one."""
    platform = make_platform(mongodb_uri, database, lease_ms=lease_ms, worker_pages_max=pages_max)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with storage_errors():
                now = to_datetime(platform.database.server_now_ms())
                connectors = platform.connectors.list_()
                due = [job for connector in connectors for job in platform.leases.list_due(connector["_id"], now, 8)]
                claims = platform.leases.claim(due[:1], f"pid {sys.argv[0]}", lease_ms) if due else []
            for claimed in claims:
                platform.runner.run(claimed.job_id, claimed.fence, "loop", Deadline.after(100))
            if not claims:
                time.sleep(0.01)
        except (LeaseLost, StorageUnavailable):
            continue
    platform.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
