"""Wait for what a test has to see, with a limit."""

import time
from collections.abc import Callable
from typing import Final

LIMIT_S: Final = 60.0
POLL_S: Final = 0.005


def wait_until(holds: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Poll until `holds` returns something true; an AssertionError after `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(POLL_S)
