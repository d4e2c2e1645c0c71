"""Wait for what a test has to see. How long that takes is no law: a limit only tells what hangs, and what it waited for."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

# On one core beside three busy loops nothing that works has come near it. Pytest's own limit (pyproject.toml), which cannot say
# what was waited for, is twice as long.
HANG_S: Final = 300.0
# The same for whole tests of the soak.
SOAK_HANG_S: Final = 7_200
POLL_S: Final = 0.01

T = TypeVar("T")


def wait_until(holds: Callable[[], T | None], told: Callable[[], object] | None = None, limit_s: float = HANG_S) -> T:
    """Poll until `holds` gives something true, and give it; an AssertionError with what `told` says after `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while not (seen := holds()):
        assert time.monotonic() < deadline, f"it has not come to hold in {limit_s:.0f} s: {told() if told else holds}"
        time.sleep(POLL_S)
    return seen
