"""What became of a grant is told at the next call: unused weight is free again, once; what was sent counts from its arrival."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shared.domain.connectors import Connector
from shared.domain.rates import SKEW_MS, Reservation, Settlement
from shared.stores.limiter_pipeline import UNSETTLED_MAX
from shared.stores.rate_limits import RateLimitStore
from shared.usecases.grants import Grants, NoRoom, Refused
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import add_connector
from tests.waiting import wait_until

MINUTE_MS = 60_000


def reserve(limits: RateLimitStore, want: int, *, need: int = 1, use_by_ms: int = 500, **options: Any) -> Reservation:
    options = {"wait_ms_max": 0, "transit_ms": 0, **options}
    return limits.reserve("binance", need=need, want=want, use_by_ms=use_by_ms, **options)


def limiter_of(platform: Platform) -> dict[str, Any]:
    return platform.database.collection("connectors").find_one({"_id": "binance"})["limiter"]


def booked(platform: Platform) -> int:
    limiter = limiter_of(platform)
    return sum(entry["w"] for entry in [*limiter["logs"][0]["entries"], *limiter["unsettled"]])


@pytest.fixture
def limits(platform: Platform) -> RateLimitStore:
    add_connector(platform, windows=[(10, MINUTE_MS)])
    return platform.limits


def unsettled(platform: Platform) -> set[str]:
    return {grant["reservation_id"] for grant in limiter_of(platform)["unsettled"]}


def test_what_was_not_sent_is_free_again_but_only_once(platform: Platform, limits: RateLimitStore) -> None:
    grant = reserve(limits, 10)
    told = Settlement(grant.reservation_id, 4, grant.latest_ms(time.monotonic()))
    limits.settle("binance", told)
    assert reserve(limits, 10).granted == 6
    for _ in range(3):
        limits.settle("binance", told)
        assert reserve(limits, 10).granted == 0
    assert booked(platform) == 10


def test_a_denied_call_settles_too(platform: Platform, limits: RateLimitStore) -> None:
    grant = reserve(limits, 10)
    limits.settle("binance", Settlement(grant.reservation_id, 9, grant.at_ms))
    assert reserve(limits, 2, need=2).granted == 0
    assert reserve(limits, 2).granted == 1


def test_what_was_sent_counts_from_its_arrival_and_not_from_its_last_moment(platform: Platform, limits: RateLimitStore) -> None:
    grant = reserve(limits, 10, use_by_ms=20_000)
    assert reserve(limits, 1).at_ms == grant.at_ms + 20_000 + MINUTE_MS
    arrived_by_ms = grant.latest_ms(time.monotonic())
    limits.settle("binance", Settlement(grant.reservation_id, 10, arrived_by_ms))
    assert reserve(limits, 1).at_ms == arrived_by_ms + MINUTE_MS


def test_an_arrival_later_than_charged_is_believed(platform: Platform, limits: RateLimitStore) -> None:
    grant = reserve(limits, 10, use_by_ms=20_000)
    limits.settle("binance", Settlement(grant.reservation_id, 10, grant.at_ms + 30_000))
    assert reserve(limits, 1).at_ms == grant.at_ms + 30_000 + MINUTE_MS


def test_settling_out_of_order_keeps_the_log_in_order(platform: Platform, limits: RateLimitStore) -> None:
    grants = [reserve(limits, 1, use_by_ms=20_000) for _ in range(10)]
    for index in (7, 2, 9, 0, 5, 1, 8, 3, 6, 4):
        grant = grants[index]
        limits.settle("binance", Settlement(grant.reservation_id, 1, grant.at_ms + 1_500 * index))
    refused = reserve(limits, 1)
    entries = limiter_of(platform)["logs"][0]["entries"]
    assert [entry["t"] for entry in entries] == sorted(entry["t"] for entry in entries)
    assert sum(entry["w"] for entry in entries) == 10
    assert refused.at_ms >= grants[0].at_ms + MINUTE_MS


def test_what_nobody_settles_is_charged_at_its_last_moment_and_the_list_stays_short(
    platform: Platform, limits: RateLimitStore
) -> None:
    platform.database.collection("connectors").update_one({"_id": "binance"}, {"$set": {"rate_limit": 10_000}})
    grants = [reserve(limits, 1, use_by_ms=30_000) for _ in range(UNSETTLED_MAX + 20)]
    limiter = limiter_of(platform)
    assert len(limiter["unsettled"]) <= UNSETTLED_MAX + 1
    assert booked(platform) == len(grants)
    # The oldest are charged for good: they cannot be settled any more.
    limits.settle("binance", Settlement(grants[0].reservation_id, 0, grants[0].at_ms))
    reserve(limits, 1)
    assert booked(platform) == len(grants) + 1
    first_t = limiter_of(platform)["logs"][0]["entries"][0]["t"]
    assert first_t >= grants[0].charged_ms


def test_the_holder_settles_what_it_used_and_a_request_without_an_answer_stays_charged(
    platform: Platform, limits: RateLimitStore
) -> None:
    connector = platform.connectors.get_connector("binance")
    answered = Grants(limits, connector, 0)
    first = answered.acquire(2, 6)
    answered.note_answer(first)
    answered.close()
    reserve(limits, 1)
    assert booked(platform) == 3
    unanswered = Grants(limits, connector, 0)
    second = unanswered.acquire(2, 4)
    later = unanswered.acquire(2, 4)
    # The answer to the second request says nothing of the first.
    unanswered.note_answer(later)
    unanswered.close()
    reserve(limits, 1)
    assert booked(platform) == 8
    entries = limiter_of(platform)["logs"][0]["entries"]
    assert first.at_ms <= entries[0]["t"] < first.charged_ms
    # Room for the clock of another member that becomes primary.
    assert entries[0]["t"] >= first.at_ms + SKEW_MS
    assert entries[-1]["t"] >= second.charged_ms


def test_a_request_that_waits_for_its_moment_is_not_sent_once_its_run_has_ended(platform: Platform) -> None:
    """Its weight is given back, and others may have sent in its place."""
    add_connector(platform, windows=[(1, 2_000)])
    grants = Grants(platform.limits, platform.connectors.get_connector("binance"), 3_000)
    grants.note_answer(grants.acquire(1, 1))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(grants.acquire, 1, 1)
        wait_until(lambda: booked(platform) == 2)
        grants.close()
        with pytest.raises(Refused):
            waiting.result()
    assert reserve(platform.limits, 1).granted == 1


def test_a_grant_that_is_used_up_is_settled_with_the_last_answer_under_way(platform: Platform, limits: RateLimitStore) -> None:
    """Several requests at once: the next grant is asked for while answers to the one before are still to come."""
    connector = platform.connectors.get_connector("binance")
    grants = Grants(limits, connector, 0)
    first = grants.acquire(2, 6)
    assert (first, first) == (grants.acquire(2, 6), grants.acquire(2, 6))
    second = grants.acquire(2, 2)
    assert second.reservation_id != first.reservation_id
    grants.note_answer(first)
    grants.note_answer(first)
    reserve(limits, 1)
    assert first.reservation_id in unsettled(platform), "settled before its last answer"
    grants.note_answer(first)
    grants.note_answer(second)
    # What is answered after the end of all is nobody's any more.
    grants.close()
    grants.note_answer(second)
    reserve(limits, 1)
    assert booked(platform) == 10
    assert not unsettled(platform) & {first.reservation_id, second.reservation_id}


def test_a_denial_is_remembered_until_it_can_succeed_or_the_connector_is_changed(
    platform: Platform, limits: RateLimitStore
) -> None:
    connector: Connector = platform.connectors.get_connector("binance")
    assert reserve(limits, 10).granted == 10

    def ask(holder: Grants) -> str:
        with pytest.raises(Refused) as refused:
            holder.acquire(1, 1)
        assert isinstance(refused.value.refusal, NoRoom)
        assert 0 < refused.value.refusal.wait_ms <= MINUTE_MS + connector.windows[0].period_ms
        return str(limiter_of(platform)["last"]["reservation_id"])

    asked = ask(Grants(limits, connector, 1_000))
    # Nobody asks the server again, whichever run it is for.
    assert ask(Grants(limits, connector, 1_000)) == asked
    author = Author("me", "admin", "test")
    platform.connector_manager.patch("binance", {"rate_limit": 20}, None, author)
    Grants(limits, platform.connectors.get_connector("binance"), 1_000).acquire(1, 1)
    assert limiter_of(platform)["last"]["reservation_id"] != asked


def test_a_remembered_denial_ends_when_waiting_for_its_moment_is_near_enough(
    platform: Platform, limits: RateLimitStore
) -> None:
    add_connector(platform, "kraken", windows=[(1, 700)])
    connector = platform.connectors.get_connector("kraken")
    Grants(limits, connector, 0).acquire(1, 1)
    holder = Grants(limits, connector, 300)
    asked, end = 0, time.monotonic() + 30
    while time.monotonic() < end:
        asked += 1
        try:
            holder.acquire(1, 1)
            break
        except Refused:
            time.sleep(0.001)
    else:
        raise AssertionError("the denial is remembered for ever")
    assert asked > 10


def test_a_denial_does_not_outlast_what_others_give_back(platform: Platform, limits: RateLimitStore) -> None:
    connector = platform.connectors.get_connector("binance")
    other = RateLimitStore(platform.database)
    grant = reserve(other, 10, use_by_ms=200)
    holder = Grants(limits, connector, 0)
    with pytest.raises(Refused):
        holder.acquire(1, 1)
    other.settle("binance", Settlement(grant.reservation_id, 1, grant.at_ms))
    assert reserve(other, 1).granted == 1
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            assert holder.acquire(1, 1).granted == 1
            return
        except Refused:
            time.sleep(0.01)
    raise AssertionError("a minute's denial is remembered although there is room")


def test_a_run_that_ends_while_it_waits_for_room_books_nothing(platform: Platform, limits: RateLimitStore) -> None:
    """There is room half a second later, and it would be nobody's."""
    add_connector(platform, "kraken", windows=[(10, 900)])
    connector = platform.connectors.get_connector("kraken")
    limits.reserve("kraken", need=10, want=10, wait_ms_max=0, use_by_ms=0, transit_ms=0)
    backfill = Grants(RateLimitStore(platform.database), connector, 5_000, is_live=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(backfill.acquire, 1, 10)
        time.sleep(0.2)
        assert not waiting.done()
        backfill.close()
        with pytest.raises(Refused):
            waiting.result(0.3)
    limiter = platform.database.collection("connectors").find_one({"_id": "kraken"})["limiter"]
    assert sum(grant["w"] for grant in limiter["unsettled"]) <= 10
    assert limiter["last"]["granted"] == 0
