"""The clock that bounds what a grant may do."""

import time

import pytest

from shared.deadline import ServerClock, elapsed_s


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="Linux only")
def test_time_that_a_machine_was_suspended_for_counts() -> None:
    """CLOCK_MONOTONIC stands still meanwhile (clock_gettime(2)): a grant would be used hours after its use-by."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now_s = elapsed_s()
    assert before <= now_s <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_the_servers_clock_goes_on_from_its_stamp() -> None:
    began = elapsed_s()
    clock = ServerClock.stamped(1_000_000)
    shown = clock.now_ms()
    assert 1_000_000 <= shown <= 1_000_000 + (elapsed_s() - began) * 1000
