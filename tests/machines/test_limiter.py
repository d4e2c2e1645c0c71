"""The limiter on a real mongod: no sliding window goes over, whoever asks, however the clocks behave."""

import random
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.rates import Reservation
from shared.errors import ConfigurationError, NotFound
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import add_connector


def reserve(platform: Platform, need: int = 1, want: int = 1, wait_ms_max: int = 0, use_by: int = 100) -> Reservation:
    return platform.limits.reserve("binance", need=need, want=want, wait_ms_max=wait_ms_max, use_by_ms=use_by, transit_ms=0)


def set_fields(platform: Platform, **fields: object) -> None:
    platform.database.collection("connectors").update_one({"_id": "binance"}, {"$set": fields})


def test_a_batch_is_cut_to_what_is_free_and_the_next_call_is_told_when(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 60_000)])
    assert reserve(platform, need=2, want=8).granted == 8
    assert reserve(platform, need=1, want=8).granted == 2
    refused = reserve(platform, need=1)
    assert refused.granted == 0
    # Everything was booked at its use-by: it leaves a period after that.
    assert 59_000 < refused.wait_ms <= 60_100


def test_all_windows_hold_at_once(platform: Platform) -> None:
    add_connector(platform, windows=[(100, 60_000), (3, 1_000)])
    assert reserve(platform, want=50).granted == 3
    refused = reserve(platform)
    assert refused.granted == 0
    assert 0 < refused.wait_ms <= 1_100


def test_a_request_heavier_than_the_limit_is_a_fault_of_configuration(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 60_000)])
    with pytest.raises(ConfigurationError, match="weighs 11"):
        reserve(platform, need=11)


def test_a_connector_that_is_not_there_grants_nothing(platform: Platform) -> None:
    with pytest.raises(NotFound):
        reserve(platform)


def test_a_clock_that_goes_back_frees_nothing(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 60_000)])
    ahead_ms = int((time.time() + 600) * 1000)
    assert reserve(platform, want=10).granted == 10
    # As after a failover to a member whose clock is ten minutes behind: the log was written by the one ahead.
    set_fields(
        platform,
        **{"limiter.clock_ms": ahead_ms, "limiter.logs": [{"period_ms": 60_000, "entries": [{"t": ahead_ms, "w": 10}]}]},
    )
    refused = reserve(platform)
    assert refused.granted == 0
    assert refused.clock_ms >= ahead_ms
    assert refused.at_ms >= ahead_ms + 60_000


def test_a_block_stops_every_grant_until_it_ends_and_a_shorter_one_does_not_end_it(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 1_000)])
    until_ms = platform.limits.block("binance", 5_000, "418")
    assert platform.limits.block("binance", 100, "429") == until_ms
    refused = reserve(platform, wait_ms_max=1_000)
    assert (refused.granted, refused.at_ms) == (0, until_ms)


def test_a_changed_limit_holds_at_the_next_call_in_both_directions(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 60_000)])
    assert reserve(platform, want=10).granted == 10
    set_fields(platform, rate_limit=15)
    assert reserve(platform, want=10).granted == 5
    set_fields(platform, rate_limit=5)
    assert reserve(platform).granted == 0


def test_a_changed_period_inherits_what_was_used(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 60_000)])
    assert reserve(platform, want=10).granted == 10
    set_fields(platform, rate_limit_period_ms=30_000)
    refused = reserve(platform)
    assert refused.granted == 0
    assert refused.wait_ms <= 30_100


def test_what_the_exchange_counts_beyond_ours_is_charged_and_less_is_ignored(platform: Platform) -> None:
    add_connector(platform, windows=[(100, 60_000)])
    assert reserve(platform, want=20).granted == 20
    platform.limits.record_usage("binance", 60_000, 70, 100)
    assert reserve(platform, want=100).granted == 30
    platform.limits.record_usage("binance", 60_000, 5, 100)
    assert platform.connectors.get("binance")["rate_limit_usage"] == 100


def test_merged_entries_keep_the_later_time(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, 60_000)])
    for _ in range(30):
        last = reserve(platform)
    logs = platform.database.collection("connectors").find_one({"_id": "binance"})["limiter"]["logs"]
    (log,) = logs
    assert sum(entry["w"] for entry in log["entries"]) == 30
    assert len(log["entries"]) <= 3
    assert log["entries"][-1]["t"] >= last.at_ms + 100


def test_a_wait_is_booked_at_its_moment_and_later_callers_queue_behind(platform: Platform) -> None:
    add_connector(platform, windows=[(1, 500)])
    first, second = reserve(platform), reserve(platform, wait_ms_max=5_000)
    third = reserve(platform, wait_ms_max=5_000)
    assert (first.granted, second.granted, third.granted) == (1, 1, 1)
    assert second.at_ms >= first.at_ms + 600
    assert third.at_ms >= second.at_ms + 600


def test_no_sliding_window_goes_over_with_many_threads_weights_and_windows(platform: Platform) -> None:
    """Uses are taken at the worst moment a holder may choose: anywhere between its moment and its use-by."""
    windows = [(60, 1_500), (25, 400)]
    add_connector(platform, windows=windows)
    uses: list[tuple[float, int]] = []
    lock = threading.Lock()
    end = time.monotonic() + 5

    def work(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < end:
            need = rng.randint(1, 4)
            grant = reserve(platform, need=need, want=need * rng.randint(1, 3), wait_ms_max=rng.choice([0, 200]), use_by=60)
            if not grant.granted:
                time.sleep(min(grant.wait_ms, 50) / 1000)
                continue
            moment = rng.choice([grant.send_from_monotonic, grant.send_until_monotonic])
            if moment >= grant.send_from_monotonic:
                with lock:
                    uses.append((moment, grant.granted))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    uses.sort()
    assert len(uses) > 20
    for limit, period_ms in windows:
        worst = max(sum(weight for at, weight in uses if first <= at < first + period_ms / 1000) for first, _ in uses)
        assert worst <= limit, (limit, period_ms)


def test_a_late_answer_leaves_nothing_to_use(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 60_000)])
    grant = reserve(platform)
    late = replace(grant, asked_monotonic=time.monotonic() - 1)
    assert not grant.is_late()
    assert late.is_late()


def test_a_paused_connector_grants_nothing_to_jobs_and_something_to_people(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 60_000)], status="paused")
    refused = reserve(platform)
    assert (refused.granted, refused.is_paused) == (0, True)
    asked = platform.limits.reserve("binance", need=1, want=1, wait_ms_max=0, use_by_ms=100, transit_ms=0, is_for_job=False)
    assert (asked.granted, asked.is_paused) == (1, False)


def test_a_connector_can_be_paused_while_the_limiter_is_busy(platform: Platform) -> None:
    add_connector(platform, windows=[(10_000_000, 60_000)])
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            reserve(platform)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        author = Author("me", "admin", "test")
        for _ in range(10):
            platform.connector_manager.pause("binance", None, author)
            assert platform.connector_manager.resume("binance", None, author)["status"] == "active"
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_usage_and_window_start_can_be_read_from_the_connector(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 60_000)])
    reserve(platform, want=4)
    document = platform.connectors.get("binance")
    assert document["rate_limit_usage"] == 4
    assert abs(document["period_start_at"] - (datetime.now(UTC) - timedelta(seconds=60))) < timedelta(seconds=5)
