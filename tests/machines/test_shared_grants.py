"""Runs of one instance ask the limiter together, get no more than it granted, and settle a grant when all are done with it."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from shared.domain.rates import Reservation, Settlement
from shared.errors import NotFound
from shared.usecases.grants import Grants, Refused
from shared.usecases.shared_grants import SharedGrants
from shared.wiring import Platform
from tests.factories import add_connector
from tests.waiting import wait_until

ASKERS = 12
LIMIT_S = 20.0
# So long that no grant of a test comes to its charged moment while the test goes on.
USE_BY_MS = 600_000


def ask(grants: SharedGrants, connector_id: str = "binance", want: int = 2) -> Reservation:
    return grants.reserve(connector_id, need=2, want=want, wait_ms_max=0, use_by_ms=USE_BY_MS, transit_ms=0)


def limiter_of(platform: Platform) -> dict[str, Any]:
    document = platform.database.collection("connectors").find_one({"_id": "binance"})
    assert document is not None
    return dict(document["limiter"])


def unsettled(platform: Platform) -> dict[str, int]:
    """By reservation: the weight of which the limiter does not know yet what became of it."""
    return {grant["reservation_id"]: grant["w"] for grant in limiter_of(platform)["unsettled"]}


def charged(platform: Platform) -> list[tuple[int, int]]:
    """(moment, weight) of what is in the log."""
    (log,) = limiter_of(platform)["logs"]
    return [(entry["t"], entry["w"]) for entry in log["entries"]]


def booked(platform: Platform) -> int:
    return sum(unsettled(platform).values()) + sum(weight for _, weight in charged(platform))


@contextmanager
def held_up(platform: Platform) -> Iterator[None]:
    """The connector's document is held by a transaction: whoever asks the limiter has to wait for its end."""
    with platform.database.open_session() as session:
        session.start_transaction()
        platform.connectors.get_to_edit("binance", session)
        yield
        session.abort_transaction()


def ask_together(platform: Platform, grants: SharedGrants, wants: Sequence[int] = (2,) * ASKERS) -> list[Reservation]:
    """One question is on its way while all others come; those come in the order of `wants`."""
    with ThreadPoolExecutor(len(wants)) as pool:
        futures: list[Future[Reservation]] = []
        with held_up(platform):
            for want in wants:
                futures.append(pool.submit(ask, grants, want=want))
                wait_until(lambda: grants.waiting_count == len(futures) - 1)
        return [future.result(LIMIT_S) for future in futures]


def shared_one(reservations: Sequence[Reservation]) -> list[Reservation]:
    """The shares of the grant that most have a share of."""
    ((reservation_id, count),) = Counter(reservation.reservation_id for reservation in reservations).most_common(1)
    assert count > 1
    return [reservation for reservation in reservations if reservation.reservation_id == reservation_id]


def test_those_who_wait_are_answered_by_one_question_and_all_of_it_is_booked(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, 60_000)])
    reservations = ask_together(platform, SharedGrants(platform.database))
    assert [reservation.granted for reservation in reservations] == [2] * ASKERS
    assert len({reservation.reservation_id for reservation in reservations}) == 2
    assert booked(platform) == 2 * ASKERS


def test_what_one_would_like_waits_until_all_have_what_they_need(platform: Platform) -> None:
    """A backfill's batch stands first in line, behind it runs that need one page each; the limit is enough for the needs."""
    add_connector(platform, windows=[(2 * ASKERS, 60_000)])
    reservations = ask_together(platform, SharedGrants(platform.database), (2, 2 * ASKERS, *(2,) * (ASKERS - 2)))
    assert [reservation.granted for reservation in reservations] == [2] * ASKERS


@pytest.mark.parametrize("limit", [2, 3, 10, 11, 2 * ASKERS - 1])
def test_together_they_get_no_more_than_the_limit_and_all_that_fits(platform: Platform, limit: int) -> None:
    add_connector(platform, windows=[(limit, 60_000)])
    reservations = ask_together(platform, SharedGrants(platform.database))
    granted = [reservation.granted for reservation in reservations]
    assert sorted(granted) == [0] * (ASKERS - limit // 2) + [2] * (limit // 2)
    assert sum(granted) <= booked(platform) <= limit
    assert all(reservation.wait_ms > 0 for reservation in reservations if not reservation.granted)


@pytest.mark.parametrize("limit", [9, 20, 31, 1_000])
def test_the_shares_of_a_grant_add_up_to_no_more_than_was_granted(platform: Platform, limit: int) -> None:
    add_connector(platform, windows=[(limit, 60_000)])
    reservations = ask_together(platform, SharedGrants(platform.database), [2, 6, 2, 5, 3, 4, 2, 6])
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
    reservations = ask_together(platform, SharedGrants(platform.database))
    by_id = {reservation.reservation_id: reservation for reservation in reservations}
    for reservation in reservations:
        same = by_id[reservation.reservation_id]
        assert began <= reservation.asked_monotonic == same.asked_monotonic <= reservation.replied_monotonic
        assert reservation.send_until_monotonic == same.send_until_monotonic


def test_a_grant_is_settled_when_all_its_shares_are_and_not_before(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, 600_000)])
    grants = SharedGrants(platform.database)
    shares = shared_one(ask_together(platform, grants, [4] * 5))
    grant = shares[0]
    assert [share.granted for share in shares] == [4] * 4
    # What became of each: (sent, ms after the grant's moment until it was there). The latest is not the last one said.
    became = [(3, 1_000), (0, 0), (4, 90_000), (1, 20_000)]
    for share, (used, arrived_ms) in zip(shares, became, strict=True):
        ask(grants)
        assert unsettled(platform)[grant.reservation_id] == 16
        assert charged(platform) == []
        grants.settle("binance", Settlement(share.reservation_id, used, grant.at_ms + arrived_ms))
    ask(grants)
    assert grant.reservation_id not in unsettled(platform)
    assert charged(platform) == [(grant.at_ms + 90_000, 8)]


def test_a_share_that_is_never_settled_leaves_the_whole_grant_charged(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, 600_000)])
    grants = SharedGrants(platform.database)
    *heard_of, _lost = shared_one(ask_together(platform, grants, [4] * 5))
    for share in heard_of:
        grants.settle("binance", Settlement(share.reservation_id, 0, share.at_ms))
    ask(grants)
    grant = heard_of[0]
    assert unsettled(platform)[grant.reservation_id] == 16
    platform.database.collection("connectors").update_one({}, {"$set": {"limiter.clock_ms": grant.charged_ms}})
    ask(grants)
    assert grant.reservation_id not in unsettled(platform)
    assert sum(weight for _, weight in charged(platform)) >= 16
    assert charged(platform)[-1][0] >= grant.charged_ms


def test_grants_that_nobody_shares_are_settled_each_by_itself(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 600_000)])
    grants = SharedGrants(platform.database)
    alone = ask(grants, want=10)
    assert (alone.granted, grants.waiting_count) == (10, 0)
    # Asked at once: the answer is the limiter's newest.
    assert limiter_of(platform)["last"]["reservation_id"] == alone.reservation_id
    grants.settle("binance", Settlement(alone.reservation_id, 3, alone.at_ms))
    again = ask(grants, want=10)
    assert again.granted == 7
    assert unsettled(platform) == {again.reservation_id: 7}


def test_a_denial_is_everybodys(platform: Platform) -> None:
    add_connector(platform, windows=[(10, 60_000)])
    grants = SharedGrants(platform.database)
    ask(grants, want=10)
    reservations = ask_together(platform, grants)
    assert {reservation.granted for reservation in reservations} == {0}
    assert len({reservation.at_ms for reservation in reservations}) == 1
    assert len({reservation.reservation_id for reservation in reservations}) == 2, "one question for those who waited"


def test_others_wait_for_nobody_of_another_connector(platform: Platform) -> None:
    add_connector(platform, windows=[(1_000, 60_000)])
    add_connector(platform, connector_id="other", windows=[(1_000, 60_000)])
    grants = SharedGrants(platform.database)
    with ThreadPoolExecutor(1) as pool:
        with held_up(platform):
            first = pool.submit(ask, grants)
            assert ask(grants, "other").granted == 2
            assert not first.done()
        assert first.result(LIMIT_S).granted == 2


def test_a_question_that_fails_fails_for_all_and_the_next_one_is_asked_anew(platform: Platform) -> None:
    """The connector is deleted while one question is on its way and the others wait for it."""
    add_connector(platform, windows=[(1_000, 60_000)])
    grants = SharedGrants(platform.database)
    with ThreadPoolExecutor(ASKERS) as pool:
        with platform.database.open_session() as session, session.start_transaction():
            platform.database.collection("connectors").delete_one({"_id": "binance"}, session=session)
            futures = [pool.submit(ask, grants) for _ in range(ASKERS)]
            wait_until(lambda: grants.waiting_count == ASKERS - 1)
        errors = [future.exception(LIMIT_S) for future in futures]
    assert {type(error) for error in errors} == {NotFound}
    assert len({id(error) for error in errors}) == 2, "one question for those who waited"
    add_connector(platform, windows=[(10, 60_000)])
    assert ask(grants, want=6).granted == 6
    assert grants.waiting_count == 0


def test_many_runs_send_no_more_than_the_limit_and_nobody_waits_for_ever(platform: Platform) -> None:
    """Each run asks, sends some of what it got, settles, and goes on until there is no room."""
    limit = 60
    add_connector(platform, windows=[(limit, 600_000)])
    connector = platform.connectors.get_connector("binance")
    grants = SharedGrants(platform.database)
    barrier = threading.Barrier(ASKERS)

    def run(number: int) -> int:
        barrier.wait(LIMIT_S)
        sent = 0
        for turn in range(2 * limit):
            held = Grants(grants, connector, 0)
            try:
                for _ in range(1 + (number + turn) % 3):
                    reservation = held.acquire(1, 4)
                    sent += 1
                    held.note_answer(reservation)
            except Refused:
                return sent
            finally:
                held.close()
        raise AssertionError("never refused")

    with ThreadPoolExecutor(ASKERS) as pool:
        sent = sum(pool.map(run, range(ASKERS), timeout=LIMIT_S))
    assert ASKERS < sent <= limit
    assert sent <= booked(platform) <= limit
    assert grants.waiting_count == 0
