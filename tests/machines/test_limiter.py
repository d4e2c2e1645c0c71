"""The limiter on a real mongod: no sliding window goes over, whoever asks, however the clocks behave."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import pytest
from pymongo import MongoClient
from pymongo.errors import ExecutionTimeout

from shared.deadline import elapsed_s
from shared.domain.jobs import to_ms
from shared.domain.rates import UNSETTLED_MAX, Reservation
from shared.errors import ConfigurationError, NotFound
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import add_connector
from tests.limits import grain_end_ms, logged, make_ask, set_clock, set_fields, settled, unsettled
from tests.waiting import HANG_S, wait_until

# The limiter's clock may be ahead of the server's, and is then followed: from here on time passes as `ask_at` says. It is the
# end of a grain of every window here.
AHEAD_MS: Final = 4_102_444_800_000
MINUTE_MS: Final = 60_000


def reserve(platform: Platform, need: int = 1, want: int = 1, wait_ms_max: int = 0, use_by: int = 100) -> Reservation:
    return platform.limits.reserve("binance", make_ask(need, want, wait_ms_max, use_by))


def look_at(platform: Platform, clock_ms: int) -> None:
    """The limiter does at that moment what it does at each call, and grants nothing: what is past its moment is charged."""
    set_clock(platform, clock_ms)
    platform.limits.record_usage("binance", 1, 0)


def ask_at(platform: Platform, clock_ms: int, need: int = 1, wait_ms_max: int = 0, use_by: int = 100) -> Reservation:
    """What the limiter says at that moment."""
    set_clock(platform, clock_ms)
    return reserve(platform, need, need, wait_ms_max, use_by)


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
    log = {"period_ms": 60_000, "entries": [{"t": ahead_ms, "w": 10}]}
    set_fields(platform, **{"limiter.clock_ms": ahead_ms, "limiter.logs": [log]})
    refused = reserve(platform)
    assert refused.granted == 0
    assert refused.clock_ms >= ahead_ms
    assert refused.at_ms >= ahead_ms + 60_000


def test_grants_blocks_and_usage_go_on_from_the_clock_that_was_ahead(platform: Platform) -> None:
    add_connector(platform, windows=[(2, 60_000)])
    assert ask_at(platform, AHEAD_MS).at_ms == AHEAD_MS
    # The server's own clock is decades behind now, as it would be after a failover, and each of these reads it.
    second = reserve(platform)
    assert (second.granted, second.at_ms, second.clock_ms) == (1, AHEAD_MS, AHEAD_MS)
    assert platform.limits.block("binance", 1_000, "429").until_ms == AHEAD_MS + 1_000
    platform.limits.record_usage("binance", 60_000, 5)
    refused = reserve(platform)
    assert (refused.granted, refused.clock_ms, refused.at_ms) == (0, AHEAD_MS, AHEAD_MS + 60_100)


def test_a_write_that_waited_for_another_one_does_not_bring_its_old_now_along(
    platform: Platform, mongo_client: "MongoClient[dict[str, Any]]"
) -> None:
    """$$NOW is taken when a command begins. What it would free by then, another one may have dropped meanwhile."""
    add_connector(platform, windows=[(1, 600)])
    leaves_ms = grain_end_ms(reserve(platform).charged_ms, 600) + 600
    connectors = platform.database.collection("connectors")
    in_conflict = {"command.findAndModify": "connectors", "writeConflicts": {"$gte": 1}}
    with ThreadPoolExecutor(1) as pool, platform.database.open_session() as session:
        with session.start_transaction():
            connectors.update_one({"_id": "binance"}, {"$set": {"limiter.clock_ms": leaves_ms}}, session=session)
            waiting = pool.submit(reserve, platform)
            wait_until(lambda: list(mongo_client.admin.aggregate([{"$currentOp": {}}, {"$match": in_conflict}])))
            wait_until(lambda: platform.database.server_now_ms() > leaves_ms)
            # What any call does that comes first, though it has begun later.
            later_ms = platform.database.server_now_ms()
            dropped = {"limiter.clock_ms": later_ms, "limiter.logs": [{"period_ms": 600, "entries": []}]}
            connectors.update_one({"_id": "binance"}, {"$set": dropped}, session=session)
        grant = waiting.result(HANG_S)
    assert grant.granted == 1
    assert grant.clock_ms >= later_ms
    assert grant.at_ms >= leaves_ms


def test_a_block_stops_every_grant_until_it_ends_and_a_shorter_one_does_not_end_it(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 1_000)])
    until_ms = platform.limits.block("binance", 5_000, "418").until_ms
    assert platform.limits.block("binance", 100, "429").until_ms == until_ms
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
    platform.limits.record_usage("binance", 60_000, 70)
    assert reserve(platform, want=100).granted == 30
    platform.limits.record_usage("binance", 60_000, 5)
    assert platform.connectors.get("binance")["rate_limit_usage"] == 100


def test_entries_of_one_grain_become_one_that_counts_to_its_end(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, MINUTE_MS)])
    for step_ms in range(30):
        last = ask_at(platform, AHEAD_MS + 40 * step_ms)
    assert len(unsettled(platform)) == 3
    look_at(platform, last.charged_ms)
    assert unsettled(platform) == {}
    # 30 grants in 1.26 s, a grain is half a second.
    assert [weight for _, weight in logged(platform)] == [11, 12, 7]
    assert logged(platform)[-1][0] == grain_end_ms(last.charged_ms, MINUTE_MS)


def test_merged_bookings_count_until_the_last_of_them_has_left(platform: Platform) -> None:
    add_connector(platform, windows=[(2, MINUTE_MS)])
    grain_ms = 500
    first = ask_at(platform, AHEAD_MS)
    second = ask_at(platform, AHEAD_MS + grain_ms - 101)
    look_at(platform, second.charged_ms)
    assert logged(platform) == [(AHEAD_MS + grain_ms, 2)]
    refused = ask_at(platform, first.at_ms + 100 + MINUTE_MS)
    assert (refused.granted, refused.at_ms) == (0, AHEAD_MS + grain_ms + MINUTE_MS)


def test_merging_into_a_log_that_was_taken_over_from_a_shorter_window_counts_nothing_twice(platform: Platform) -> None:
    add_connector(platform, windows=[(100, 1_000)])
    for step_ms in range(10):
        ask_at(platform, AHEAD_MS + 20 * step_ms, use_by=5)
    # Its grain is half a second: all of the ten lie in one.
    set_fields(platform, rate_limit_period_ms=60_000)
    assert [ask_at(platform, AHEAD_MS + 300 + 20 * step_ms, use_by=5).used for step_ms in range(5)] == [11, 12, 13, 14, 15]
    look_at(platform, AHEAD_MS + 499)
    assert sum(weight for _, weight in logged(platform)) == 15
    assert logged(platform)[-1] == (AHEAD_MS + 500, 6)


def test_what_is_told_twice_counts_once(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 60_000)])
    ask = make_ask(want=10, use_by_ms=1_000)
    grant = platform.limits.reserve("binance", ask)
    told = settled(grant, 4, grant.at_ms)
    assert platform.limits.reserve("binance", ask, [told, told]).granted == 6
    assert platform.limits.reserve("binance", ask, [told]).granted == 0


def test_a_booking_counts_to_its_last_moment_and_not_beyond(platform: Platform) -> None:
    add_connector(platform, windows=[(1, 60_000)])
    grant = ask_at(platform, AHEAD_MS, use_by=500)
    leaves_ms = grant.at_ms + 500 + 60_000
    refused = ask_at(platform, leaves_ms - 1)
    assert (refused.granted, refused.at_ms) == (0, leaves_ms)
    assert ask_at(platform, leaves_ms).granted == 1


def test_more_grants_in_doubt_than_the_document_can_bear_are_not_added_to(platform: Platform) -> None:
    """Until some are settled, or cannot arrive any more."""
    add_connector(platform, windows=[(10_000, 60_000)])
    grants = [ask_at(platform, AHEAD_MS, use_by=30_000) for _ in range(UNSETTLED_MAX)]
    assert all(grant.granted for grant in grants)
    refused = ask_at(platform, AHEAD_MS)
    assert refused.granted == 0
    assert AHEAD_MS < refused.at_ms < AHEAD_MS + 1_000
    platform.limits.settle("binance", [settled(grants[7], 1, AHEAD_MS)])
    assert ask_at(platform, AHEAD_MS, use_by=30_000).granted == 1
    assert ask_at(platform, AHEAD_MS).granted == 0
    assert ask_at(platform, AHEAD_MS + 30_000).granted == 1
    assert len(unsettled(platform)) == 1


def test_a_use_by_that_is_shortened_does_not_shorten_what_is_booked(platform: Platform) -> None:
    add_connector(platform, windows=[(2, 6_000)])
    first = ask_at(platform, AHEAD_MS, use_by=1_000)
    # Its last moment lies before that of the first.
    assert ask_at(platform, AHEAD_MS + 200).granted == 1
    look_at(platform, AHEAD_MS + 500)
    assert unsettled(platform) == {first.reservation_id: 1}
    look_at(platform, AHEAD_MS + 1_000)
    assert [at_ms for at_ms, _ in logged(platform)] == [AHEAD_MS + 300, AHEAD_MS + 1_000]
    assert ask_at(platform, AHEAD_MS + 6_999, need=2).granted == 0
    assert ask_at(platform, AHEAD_MS + 7_000, need=2).granted == 2


def test_a_raised_limit_lets_nobody_pass_those_who_wait(platform: Platform) -> None:
    add_connector(platform, windows=[(1, 10_000)])
    assert ask_at(platform, AHEAD_MS).granted == 1
    waiting = ask_at(platform, AHEAD_MS, wait_ms_max=20_000)
    assert waiting.at_ms == AHEAD_MS + 10_100
    set_fields(platform, rate_limit=10)
    assert ask_at(platform, AHEAD_MS, wait_ms_max=20_000).at_ms == waiting.at_ms


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
    lock, is_over = threading.Lock(), threading.Event()

    def work(seed: int) -> None:
        rng, use_by = random.Random(seed), 60
        while not is_over.is_set():
            need = rng.randint(1, 4)
            want, wait_ms_max = need * rng.randint(1, 3), rng.choice([0, 200])
            grant = reserve(platform, need=need, want=want, wait_ms_max=wait_ms_max, use_by=use_by)
            if not grant.granted:
                is_over.wait(min(grant.wait_ms, 50) / 1000)
                continue
            if grant.send_from_s > grant.send_until_s:
                # Too late to be used: a slower machine needs longer.
                use_by *= 2
                continue
            with lock:
                uses.append((rng.choice([grant.send_from_s, grant.send_until_s]), grant.granted))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(uses) >= 40 or not all(thread.is_alive() for thread in threads))
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    uses.sort()
    assert len(uses) >= 40
    for limit, period_ms in windows:
        worst = max(sum(weight for at, weight in uses if first <= at < first + period_ms / 1000) for first, _ in uses)
        assert worst <= limit, (limit, period_ms)


def test_a_late_answer_leaves_nothing_to_use(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 60_000)])
    grant = reserve(platform)
    late = replace(grant, asked_s=elapsed_s() - 1)
    assert not grant.is_late()
    assert late.is_late()


def test_a_paused_connector_grants_nothing_to_jobs_and_something_to_people(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 60_000)], status="paused")
    refused = reserve(platform)
    assert (refused.granted, refused.is_paused) == (0, True)
    asked = platform.limits.reserve("binance", make_ask(is_for_job=False))
    assert (asked.granted, asked.is_paused) == (1, False)


def test_a_connector_can_be_paused_while_the_limiter_is_busy(platform: Platform) -> None:
    add_connector(platform, windows=[(10_000_000, 60_000)])
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            # However slow the database is: whoever asked would ask again.
            with suppress(ExecutionTimeout):
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
    before_ms = platform.database.server_now_ms()
    reserve(platform, want=4)
    after_ms = platform.database.server_now_ms()
    document = platform.connectors.get("binance")
    assert document["rate_limit_usage"] == 4
    assert before_ms - 60_000 <= to_ms(document["period_start_at"]) <= after_ms - 60_000
