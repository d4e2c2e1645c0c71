"""Constants of different files that only hold together: each is right by itself, and wrong beside another."""

from shared.domain.backfills import SILENT_MS
from shared.exchanges.transport import READ_TIMEOUTS_TOTAL
from shared.settings import Settings
from shared.stores.database import TRANSACTION_TIMEOUT_S
from shared.stores.job_leases import CLAIM_TIMEOUT_S
from shared.stores.lease_stages import PACE_APART_MS
from shared.usecases import manage_jobs, steer_backfills
from shared.usecases.run_job import TURN_MS
from shared.usecases.send_requests import PAGE_RESERVE_MS
from shared.wiring import EXCHANGE_TIMEOUT_S


def least(name: str) -> float:
    """The smallest value that a setting may have."""
    return next(rule.ge for rule in Settings.model_fields[name].metadata if hasattr(rule, "ge"))


def test_a_page_that_is_begun_in_time_is_stored_in_time_however_slow_everybody_is() -> None:
    connect_s, read_s = EXCHANGE_TIMEOUT_S
    wait_s = Settings.model_fields["worker_wait_ms_max"].default / 1000
    # The page, and the end of the run where that has to be written by itself.
    slowest_s = wait_s + connect_s + read_s * READ_TIMEOUTS_TOTAL + 2 * TRANSACTION_TIMEOUT_S
    assert slowest_s * 1000 <= PAGE_RESERVE_MS


def test_a_run_under_the_shortest_lease_and_deadline_has_time_for_pages() -> None:
    assert least("lease_ms") >= PAGE_RESERVE_MS + 5_000
    assert least("worker_deadline_s") * 1000 >= PAGE_RESERVE_MS + 5_000
    # A turn of a backfill may end by itself, and not by its deadline.
    assert Settings.model_fields["worker_deadline_s"].default * 1000 > PAGE_RESERVE_MS + TURN_MS


def test_who_still_may_be_at_it_is_not_taken_for_dead() -> None:
    """A decision or a deletion takes a transaction or two; a slow claim is given up before its lease ends."""
    for left_ms in (steer_backfills.LEFT_MS, manage_jobs.LEFT_MS):
        assert left_ms > TRANSACTION_TIMEOUT_S * 1000
    assert least("lease_ms") > CLAIM_TIMEOUT_S * 1000


def test_a_worker_is_called_silent_only_after_pages_should_have_come() -> None:
    """And while its lease still has long to run, or nobody would ever see it."""
    assert PACE_APART_MS <= SILENT_MS < least("lease_ms") / 2
