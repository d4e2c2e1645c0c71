"""Runs of one instance ask the limiter together, and get no more than it granted."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from shared.domain.rates import Reservation
from shared.errors import NotFound
from shared.usecases.grants import Grants, Refused
from shared.usecases.instance_limiter import InstanceLimiter
from shared.wiring import Platform
from tests.factories import add_connector
from tests.limits import booked, make_ask, unsettled
from tests.waiting import HANG_S, wait_until

ASKERS = 12
# So long that no grant of a test comes to its last moment while the test goes on.
USE_BY_MS = 600_000


def ask(limiter: InstanceLimiter, connector_id: str = "binance", want: int = 2) -> Reservation:
    return limiter.reserve(connector_id, make_ask(2, want, use_by_ms=USE_BY_MS))


@contextmanager
def held_up(platform: Platform) -> Iterator[None]:
    """The connector's document is held by a transaction: whoever asks the limiter has to wait for its end."""
    with platform.database.open_session() as session:
        session.start_transaction()
        platform.connectors.get_to_edit("binance", session)
        yield
        session.abort_transaction()


def ask_together(platform: Platform, limiter: InstanceLimiter, wants: Sequence[int] = (2,) * ASKERS) -> list[Reservation]:
    """One question is on its way while all others come; those come in the order of `wants`."""
    with ThreadPoolExecutor(len(wants)) as pool:
        futures: list[Future[Reservation]] = []
        with held_up(platform):
            for want in wants:
                futures.append(pool.submit(ask, limiter, want=want))
                wait_until(lambda: limiter.waiting_count == len(futures) - 1)
        return [future.result(HANG_S) for future in futures]


def shared_one(reservations: Sequence[Reservation]) -> list[Reservation]:
    """The shares of the grant that most have a share of."""
    ((reservation_id, count),) = Counter(reservation.reservation_id for reservation in reservations).most_common(1)
    assert count > 1
    return [reservation for reservation in reservations if reservation.reservation_id == reservation_id]


def test_those_who_wait_are_answered_by_one_question_and_all_of_it_is_booked(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, 60_000)])
    reservations = ask_together(platform, InstanceLimiter(platform.limits))
    assert [reservation.granted for reservation in reservations] == [2] * ASKERS
    assert len({reservation.reservation_id for reservation in reservations}) == 2
    assert booked(platform) == 2 * ASKERS


def test_what_one_would_like_waits_until_all_have_what_they_need(platform: Platform) -> None:
    """A backfill's batch stands first in line, behind it runs that need one page each; the limit is enough for the needs."""
    add_connector(platform, windows=[(2 * ASKERS, 60_000)])
    reservations = ask_together(platform, InstanceLimiter(platform.limits), (2, 2 * ASKERS, *(2,) * (ASKERS - 2)))
    assert [reservation.granted for reservation in reservations] == [2] * ASKERS


@pytest.mark.parametrize("limit", [2, 3, 10, 11, 2 * ASKERS - 1])
def test_together_they_get_no_more_than_the_limit_and_all_that_fits(platform: Platform, limit: int) -> None:
    add_connector(platform, windows=[(limit, 60_000)])
    reservations = ask_together(platform, InstanceLimiter(platform.limits))
    granted = [reservation.granted for reservation in reservations]
    assert sorted(granted) == [0] * (ASKERS - limit // 2) + [2] * (limit // 2)
    assert sum(granted) <= booked(platform) <= limit
    assert all(reservation.wait_ms > 0 for reservation in reservations if not reservation.granted)


@pytest.mark.parametrize("limit", [9, 20, 31, 1_000])
def test_the_shares_of_a_grant_add_up_to_no_more_than_was_granted(platform: Platform, limit: int) -> None:
    add_connector(platform, windows=[(limit, 60_000)])
    reservations = ask_together(platform, InstanceLimiter(platform.limits), [2, 6, 2, 5, 3, 4, 2, 6])
    granted = unsettled(platform)
    shares: Counter[str] = Counter()
    for reservation in reservations:
        assert reservation.granted == 0 or reservation.granted >= 2
        shares[reservation.reservation_id] += reservation.granted
    for reservation_id, weight in shares.items():
        assert weight <= granted.get(reservation_id, 0)
    assert sum(shares.values()) <= limit


def test_a_share_may_be_used_no_longer_than_the_grant(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, 60_000)])
    began = time.monotonic()
    reservations = ask_together(platform, InstanceLimiter(platform.limits))
    by_id = {reservation.reservation_id: reservation for reservation in reservations}
    for reservation in reservations:
        same = by_id[reservation.reservation_id]
        assert began <= reservation.asked_s == same.asked_s <= reservation.replied_s
        assert reservation.send_until_s == same.send_until_s


def test_each_share_is_settled_by_itself(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, 600_000)])
    limiter = InstanceLimiter(platform.limits)
    shares = shared_one(ask_together(platform, limiter, [4] * 5))
    grant_id = shares[0].reservation_id
    assert unsettled(platform)[grant_id] == 16
    for share, sent, left in zip(shares, (3, 0, 4, 1), (12, 8, 4, 0), strict=True):
        limiter.note_arrived("binance", share, sent, 0)
        limiter.note_returned("binance", share, 4 - sent)
        wait_until(lambda left=left: unsettled(platform).get(grant_id, 0) == left)


def test_what_nobody_asked_for_is_given_back(platform: Platform) -> None:
    """Of three, one gets its two, and the third is of no use to the other, which needs two."""
    add_connector(platform, windows=[(5, 600_000)])
    limiter = InstanceLimiter(platform.limits)
    reservations = ask_together(platform, limiter, [2, 2, 2])
    assert sorted(reservation.granted for reservation in reservations) == [0, 2, 2]
    wait_until(lambda: booked(platform) == 4)


def test_a_denial_is_everybodys(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 60_000)])
    limiter = InstanceLimiter(platform.limits)
    ask(limiter, want=10)
    reservations = ask_together(platform, limiter)
    assert {reservation.granted for reservation in reservations} == {0}
    assert len({reservation.at_ms for reservation in reservations}) == 1
    assert len({reservation.reservation_id for reservation in reservations}) == 2, "one question for those who waited"


def test_others_wait_for_nobody_of_another_connector(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, 60_000)])
    add_connector(platform, connector_id="other", windows=[(1_000, 60_000)])
    limiter = InstanceLimiter(platform.limits)
    with ThreadPoolExecutor(1) as pool:
        with held_up(platform):
            first = pool.submit(ask, limiter)
            assert ask(limiter, "other").granted == 2
            assert not first.done()
        assert first.result(HANG_S).granted == 2


def test_a_question_that_fails_fails_for_all_and_the_next_one_is_asked_anew(platform: Platform) -> None:
    """The connector is deleted while one question is on its way and the others wait for it."""
    add_connector(platform, windows=[(1_000, 60_000)])
    limiter = InstanceLimiter(platform.limits)
    with ThreadPoolExecutor(ASKERS) as pool:
        with platform.database.open_session() as session, session.start_transaction():
            platform.database.collection("connectors").delete_one({"_id": "binance"}, session=session)
            futures = [pool.submit(ask, limiter) for _ in range(ASKERS)]
            wait_until(lambda: limiter.waiting_count == ASKERS - 1)
        errors = [future.exception(HANG_S) for future in futures]
    assert {type(error) for error in errors} == {NotFound}
    assert len({id(error) for error in errors}) == 2, "one question for those who waited"
    add_connector(platform, windows=[(10, 60_000)])
    assert ask(limiter, want=6).granted == 6
    assert limiter.waiting_count == 0


def test_many_runs_send_no_more_than_the_limit_and_nobody_waits_for_ever(platform: Platform) -> None:
    """Each run asks, sends some of what it got, settles, and goes on until there is no room."""
    limit = 60
    add_connector(platform, windows=[(limit, 600_000)])
    connector = platform.connectors.get_connector("binance")
    limiter = InstanceLimiter(platform.limits)
    barrier = threading.Barrier(ASKERS)

    def run(number: int) -> int:
        barrier.wait(HANG_S)
        sent = 0
        for turn in range(2 * limit):
            held = Grants(limiter, connector, 0)
            try:
                for _ in range(1 + (number + turn) % 3):
                    permit = held.acquire(1, 4)
                    sent += 1
                    held.note_answer(permit)
            except Refused:
                return sent
            finally:
                held.close()
        raise AssertionError("never refused")

    with ThreadPoolExecutor(ASKERS) as pool:
        sent = sum(pool.map(run, range(ASKERS), timeout=HANG_S))
    assert ASKERS < sent <= limit
    assert sent <= booked(platform) <= limit
    assert limiter.waiting_count == 0
