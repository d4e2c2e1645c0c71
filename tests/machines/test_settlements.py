"""What became of a grant is told: what arrived counts from then on, what will not be sent is free again, each of it once."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pymongo import MongoClient

from shared.deadline import elapsed_s
from shared.domain.rates import EXPECTED_ANSWER_MS, IN_DOUBT_MS, SKEW_MS, UNSETTLED_MAX, USE_BY_MS, Reservation
from shared.errors import StorageUnavailable
from shared.stores.database import storage_errors
from shared.stores.rate_limits import RateLimitStore
from shared.usecases.grants import Grants, Refused
from shared.usecases.instance_limiter import InstanceLimiter
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import add_connector
from tests.limits import booked, grain_end_ms, limiter_of, logged, make_ask, set_clock, set_fields, settled, unsettled
from tests.waiting import HANG_S, wait_until

MINUTE_MS = 60_000
# The driver does not try again by itself.
MAX_TIME_EXPIRED = 50


@pytest.fixture
def limits(platform: Platform) -> RateLimitStore:
    add_connector(platform, windows=[(10, MINUTE_MS)])
    return platform.limits


@pytest.fixture
def limiter(limits: RateLimitStore) -> InstanceLimiter:
    return InstanceLimiter(limits)


def reserve(limits: RateLimitStore, want: int, *, reported: Any = (), need: int = 1, use_by_ms: int = 5_000) -> Reservation:
    return limits.reserve("binance", make_ask(need, want, use_by_ms=use_by_ms), reported)


def grants_of(platform: Platform, limiter: InstanceLimiter, wait_ms_max: int = 0) -> Grants:
    return Grants(limiter, platform.connectors.get_connector("binance"), wait_ms_max)


# --- what the limiter does with it


def test_what_was_not_sent_is_free_again_but_only_once(platform: Platform, limits: RateLimitStore) -> None:
    grant = reserve(limits, 10)
    told = settled(grant, 4, grant.at_ms)
    assert reserve(limits, 10, reported=[told]).granted == 6
    for _ in range(3):
        assert reserve(limits, 10, reported=[told]).granted == 0
    assert booked(platform) == 10


def test_a_denied_call_settles_too(limits: RateLimitStore) -> None:
    grant = reserve(limits, 10)
    assert reserve(limits, 2, need=2, reported=[settled(grant, 9, grant.at_ms)]).granted == 0
    assert reserve(limits, 2).granted == 1


def test_a_grant_is_settled_part_by_part(platform: Platform, limits: RateLimitStore) -> None:
    """Each request counts from its own arrival, and what is left open counts to the last moment."""
    grant = reserve(limits, 10, use_by_ms=40_000)
    first = settled(grant, 3, grant.at_ms + 1_000, returned=0)
    limits.settle("binance", [first])
    assert unsettled(platform) == {grant.reservation_id: 7}
    second = type(first)(grant.reservation_id, 7, 2, 4, grant.at_ms + 20_000, grant.charged_ms)
    limits.settle("binance", [second])
    assert unsettled(platform) == {grant.reservation_id: 2}
    # One weight was given back.
    assert booked(platform) == 9
    assert logged(platform) == [
        (grain_end_ms(grant.at_ms + 1_000, MINUTE_MS), 3), (grain_end_ms(grant.at_ms + 20_000, MINUTE_MS), 4)
    ]  # fmt: skip
    # Told again, in any order, it changes nothing.
    limits.settle("binance", [first])
    limits.settle("binance", [second, first])
    assert booked(platform) == 9


def test_what_was_sent_counts_from_its_arrival_and_not_from_its_last_moment(limits: RateLimitStore) -> None:
    grant = reserve(limits, 10, use_by_ms=20_000)
    # Foretold for an answer as they usually come.
    assert reserve(limits, 1).at_ms == grant.at_ms + EXPECTED_ANSWER_MS + MINUTE_MS
    arrived_by_ms = grant.latest_ms(elapsed_s())
    limits.settle("binance", [settled(grant, 10, arrived_by_ms)])
    assert reserve(limits, 1).at_ms == grain_end_ms(arrived_by_ms, MINUTE_MS) + MINUTE_MS


def test_an_arrival_later_than_charged_is_believed(limits: RateLimitStore) -> None:
    grant = reserve(limits, 10, use_by_ms=20_000)
    limits.settle("binance", [settled(grant, 10, grant.at_ms + 30_000)])
    assert reserve(limits, 1).at_ms == grain_end_ms(grant.at_ms + 30_000, MINUTE_MS) + MINUTE_MS


def test_an_arrival_that_is_told_after_its_last_moment_was_charged_moves_the_charge(
    platform: Platform, limits: RateLimitStore
) -> None:
    """Whoever was held up for longer than anybody thought: what it proves counts as soon as it is told."""
    grant = reserve(limits, 10, use_by_ms=1_000)
    set_clock(platform, grant.charged_ms)
    assert reserve(limits, 1).granted == 0
    assert unsettled(platform) == {}
    late_ms = grant.charged_ms + 40_000
    set_clock(platform, late_ms)
    limits.settle("binance", [settled(grant, 10, late_ms)])
    # By its own charge it would have left.
    set_clock(platform, late_ms + MINUTE_MS - 1)
    assert reserve(limits, 1).granted == 0
    set_clock(platform, grain_end_ms(late_ms, MINUTE_MS) + MINUTE_MS)
    assert reserve(limits, 10).granted == 10


def test_a_late_word_never_makes_a_charge_end_earlier(platform: Platform, limits: RateLimitStore) -> None:
    """What it proves to have arrived sooner is charged already, with others perhaps, and stays so."""
    grant = reserve(limits, 10, use_by_ms=1_000)
    set_clock(platform, grant.charged_ms)
    reserve(limits, 1)
    before = logged(platform)
    limits.settle("binance", [settled(grant, 4, grant.at_ms)])
    assert logged(platform) == before


def test_settling_out_of_order_counts_each_until_its_own_arrival_has_left(platform: Platform, limits: RateLimitStore) -> None:
    grants = [reserve(limits, 1, use_by_ms=20_000) for _ in range(10)]
    for index in (7, 2, 9, 0, 5, 1, 8, 3, 6, 4):
        limits.settle("binance", [settled(grants[index], 1, grants[index].at_ms + 1_500 * index)])
    ends_ms = [at_ms for at_ms, _ in logged(platform)]
    assert len(ends_ms) == 10
    for left, end_ms in enumerate(ends_ms):
        assert reserve(limits, 1, need=left + 1).at_ms == end_ms + MINUTE_MS


def test_a_question_whose_answer_was_lost_gives_all_back(platform: Platform, limits: RateLimitStore) -> None:
    """Its asker does not know how much was booked, and sends nothing for it."""
    reserve(limits, 3)
    lost = reserve(limits, 4)
    told = type(settled(lost, 0, 0))(lost.reservation_id, None, 0, 0, 0, 0)
    limits.settle("binance", [told])
    assert booked(platform) == 3


# --- who tells it


def test_each_request_is_settled_by_its_own_answer_and_one_without_stays_open(
    platform: Platform, limiter: InstanceLimiter
) -> None:
    grants = grants_of(platform, limiter)
    first, second, third = (grants.acquire(2, 6) for _ in range(3))
    grants.note_answer(second)
    assert first.reservation == second.reservation == third.reservation
    limiter.reserve("binance", make_ask(need=10))
    assert unsettled(platform) == {first.reservation.reservation_id: 4}
    grants.close()
    limiter.reserve("binance", make_ask(need=10))
    assert unsettled(platform) == {first.reservation.reservation_id: 4}, "nobody knows where the other two are"
    (entry,) = logged(platform)
    grant = first.reservation
    assert grant.charged_ms == grant.at_ms + USE_BY_MS + IN_DOUBT_MS
    # Room for the clock of another member that becomes primary.
    assert grant.at_ms + SKEW_MS <= entry[0] < grant.charged_ms
    # An answer that comes when all is over is told as well.
    grants.note_answer(first)
    limiter.reserve("binance", make_ask(need=10))
    assert unsettled(platform) == {grant.reservation_id: 2}


def test_what_a_run_has_not_sent_is_given_back_without_another_question(platform: Platform, limiter: InstanceLimiter) -> None:
    grants = grants_of(platform, limiter)
    grants.note_answer(grants.acquire(2, 10))
    grants.close()
    wait_until(lambda: booked(platform) == 2 and not unsettled(platform))


def test_what_has_arrived_is_told_without_another_question(platform: Platform, limiter: InstanceLimiter) -> None:
    set_fields(platform, rate_limit_period_ms=1_000)
    grants = grants_of(platform, limiter)
    permit = grants.acquire(2, 2)
    assert unsettled(platform) == {permit.reservation.reservation_id: 2}
    grants.note_answer(permit)
    wait_until(lambda: not unsettled(platform))


def test_an_instance_that_stops_tells_what_is_left(platform: Platform, limiter: InstanceLimiter) -> None:
    grants = grants_of(platform, limiter)
    grants.note_answer(grants.acquire(2, 2))
    limiter.close()
    assert not unsettled(platform)


def test_at_the_end_of_a_run_it_is_told_at_once_where_there_is_little_room(
    platform: Platform, limiter: InstanceLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance may be put to sleep then, and what nobody knows of counts for longer."""
    # Without the end it would be told in an hour.
    monkeypatch.setattr("shared.usecases.grants.report_within_ms", lambda _windows: 3_600_000)
    grants = grants_of(platform, limiter)
    grants.note_answer(grants.acquire(5, 5))
    grants.close()
    wait_until(lambda: not unsettled(platform))


def test_what_could_not_be_told_is_told_again_and_counts_once(
    platform: Platform, limiter: InstanceLimiter, mongo_client: MongoClient[dict[str, Any]], database_name: str
) -> None:
    """The write was carried out and its answer was lost, as far as this process knows: it asks again all the same."""
    grants = grants_of(platform, limiter)
    permits = [grants.acquire(1, 4) for _ in range(3)]
    grants.note_answer(permits[0])
    failing = {
        "failCommands": ["findAndModify"],
        "namespace": f"{database_name}.connectors",
        "writeConcernError": {"code": MAX_TIME_EXPIRED, "errmsg": "the majority did not answer in time"},
    }
    mongo_client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=failing)
    with pytest.raises(StorageUnavailable), storage_errors():
        limiter.reserve("binance", make_ask(want=3))
    assert booked(platform) == 7, "carried out, and three booked for who will never know"
    grants.note_answer(permits[1])
    limiter.reserve("binance", make_ask(need=11 - 3))
    wait_until(lambda: sum(weight for _, weight in logged(platform)) == 2)
    assert booked(platform) == 4


def test_a_question_that_failed_is_reported_without_another_one(
    platform: Platform, limiter: InstanceLimiter, mongo_client: MongoClient[dict[str, Any]], database_name: str
) -> None:
    """What was booked for it nobody holds, and its process may have nothing more to ask."""
    failing = {
        "failCommands": ["findAndModify"],
        "namespace": f"{database_name}.connectors",
        "writeConcernError": {"code": MAX_TIME_EXPIRED, "errmsg": "the majority did not answer in time"},
    }
    mongo_client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=failing)
    with pytest.raises(StorageUnavailable), storage_errors():
        limiter.reserve("binance", make_ask(want=8, use_by_ms=600_000))
    assert sum(unsettled(platform).values()) == 8
    wait_until(lambda: not unsettled(platform))


def test_what_is_given_back_while_a_report_is_on_its_way_does_not_wait_for_an_arrivals_time(
    platform: Platform, limiter: InstanceLimiter
) -> None:
    """That is five seconds in a window of a minute; here as long as the test may take at all."""
    reservation = limiter.reserve("binance", make_ask(want=10, use_by_ms=3_600_000))
    limiter.note_arrived("binance", reservation, 1, 3_600_000)
    with ThreadPoolExecutor(1) as pool, platform.database.open_session() as session:
        session.start_transaction()
        platform.connectors.get_to_edit("binance", session)
        asked = pool.submit(limiter.reserve, "binance", make_ask(need=10))
        known = limiter._known["binance"]
        wait_until(lambda: not known.grants.has_news)
        limiter.note_returned("binance", reservation, 9)
        # Until its own time has passed, with nothing to be taken along.
        wait_until(lambda: not limiter._reporter._due)
        session.abort_transaction()
        asked.result(HANG_S)
    wait_until(lambda: not unsettled(platform))


def test_a_run_that_ends_where_many_grants_are_open_reports_at_once(
    platform: Platform, limits: RateLimitStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little weight that is: so many instances may have ended a run."""
    monkeypatch.setattr("shared.usecases.grants.report_within_ms", lambda _windows: 3_600_000)
    set_fields(platform, rate_limit=100_000)
    for _ in range(UNSETTLED_MAX // 2):
        reserve(limits, 1, use_by_ms=3_600_000)
    limiter = InstanceLimiter(limits)
    grants = grants_of(platform, limiter)
    permit = grants.acquire(1, 1)
    grants.note_answer(permit)
    grants.close()
    wait_until(lambda: permit.reservation.reservation_id not in unsettled(platform))


def test_a_request_that_waits_for_its_moment_is_not_sent_once_its_run_has_ended(platform: Platform) -> None:
    """Its weight is given back, and others may have sent in its place."""
    add_connector(platform, windows=[(1, MINUTE_MS)])
    limiter = InstanceLimiter(platform.limits)
    grants = grants_of(platform, limiter, wait_ms_max=2 * MINUTE_MS)
    grants.note_answer(grants.acquire(1, 1))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(grants.acquire, 1, 1)
        wait_until(lambda: limiter_of(platform)["last"]["granted"] == 1 and len(unsettled(platform)) == 1)
        grants.close()
        with pytest.raises(Refused):
            waiting.result()
    wait_until(lambda: not unsettled(platform))


def test_a_run_that_ends_while_it_waits_for_room_books_nothing(platform: Platform) -> None:
    """There is room later, and it would be nobody's."""
    connector_id = add_connector(platform, "kraken", windows=[(10, MINUTE_MS)])
    platform.limits.reserve(connector_id, make_ask(10, 10, use_by_ms=0))
    connector = platform.connectors.get_connector(connector_id)
    backfill = Grants(InstanceLimiter(platform.limits), connector, 5 * MINUTE_MS, is_live=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(backfill.acquire, 1, 10)
        wait_until(lambda: limiter_of(platform, connector_id)["last"]["granted"] == 0)
        backfill.close()
        with pytest.raises(Refused):
            waiting.result(HANG_S)
    # When the window has emptied, all of it is there for others.
    set_clock(platform, platform.database.server_now_ms() + 2 * MINUTE_MS, connector_id)
    wait_until(lambda: platform.limits.reserve(connector_id, make_ask(10, 10, use_by_ms=0)).granted == 10)


# --- denials


def is_served(grants: Grants) -> bool:
    try:
        return grants.acquire(1, 1).weight == 1
    except Refused:
        return False


def test_a_denial_is_remembered_until_the_connector_is_changed(platform: Platform, limits: RateLimitStore) -> None:
    limiter = InstanceLimiter(limits)
    connector = platform.connectors.get_connector("binance")
    reserve(limits, 10)

    def is_remembered() -> bool:
        denials = [limiter.reserve("binance", make_ask(), connector.version) for _ in range(2)]
        assert [denial.granted for denial in denials] == [0, 0]
        assert 0 < denials[1].wait_ms <= MINUTE_MS + 5_000
        return denials[0].reservation_id == denials[1].reservation_id

    wait_until(is_remembered)
    platform.connector_manager.patch("binance", {"rate_limit": 20}, None, Author("me", "admin", "test"))
    changed = platform.connectors.get_connector("binance")
    assert limiter.reserve("binance", make_ask(), changed.version).granted == 1


def test_a_remembered_denial_ends_when_waiting_for_its_moment_is_near_enough(platform: Platform) -> None:
    connector_id = add_connector(platform, "kraken", windows=[(1, 700)])
    connector = platform.connectors.get_connector(connector_id)
    limiter = InstanceLimiter(platform.limits)
    first = Grants(limiter, connector, 0)
    first.note_answer(first.acquire(1, 1))
    wait_until(lambda: is_served(Grants(limiter, connector, 0)))


def test_a_denial_does_not_outlast_what_others_give_back(platform: Platform, limits: RateLimitStore) -> None:
    # By itself it would end in an hour.
    set_fields(platform, rate_limit_period_ms=60 * MINUTE_MS)
    grant = reserve(limits, 10)
    holder = grants_of(platform, InstanceLimiter(limits))
    with pytest.raises(Refused):
        holder.acquire(1, 1)
    limits.settle("binance", [settled(grant, 1, grant.at_ms)])
    wait_until(lambda: is_served(holder))


def test_a_patient_question_is_not_refused_by_an_impatient_ones_denial(platform: Platform) -> None:
    connector_id = add_connector(platform, windows=[(1, MINUTE_MS)])
    connector = platform.connectors.get_connector(connector_id)
    limiter = InstanceLimiter(platform.limits)
    first = limiter.reserve(connector_id, make_ask(use_by_ms=0))
    assert limiter.reserve(connector_id, make_ask(wait_ms_max=0), connector.version).granted == 0
    assert limiter.reserve(connector_id, make_ask(wait_ms_max=600_000), connector.version).granted == 1
    assert first.granted == 1


def test_a_denial_does_not_outlast_the_processs_own_report(platform: Platform, limits: RateLimitStore) -> None:
    connector = platform.connectors.get_connector("binance")
    limiter = InstanceLimiter(limits)
    held = limiter.reserve("binance", make_ask(want=10, use_by_ms=3_600_000), connector.version)
    assert limiter.reserve("binance", make_ask(), connector.version).granted == 0
    limiter.note_returned("binance", held, 10)
    # Reports by itself, and returns when that is done.
    limiter.close()
    assert not unsettled(platform)
    assert limiter.reserve("binance", make_ask(want=10), connector.version).granted == 10
