"""What a process reports of its grants: each part once, in an order that can be carried out, whatever is lost on the way."""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.open_grants import GRANTS_MAX, SETTLEMENTS_MAX, OpenGrants
from shared.domain.rates import Reservation, Settlement

CHARGED_MS = 10_000


def grant(reservation_id: str = "a", granted: int = 10, clock_ms: int = 0) -> Reservation:
    fields: dict[str, Any] = {"at_ms": clock_ms, "use_by_ms": 1_000, "charged_ms": clock_ms + CHARGED_MS, "used": granted}
    rest: dict[str, Any] = {"open_count": 1, "is_paused": False, "refused_ms": 0, "asked_s": 0.0, "replied_s": 0.0}
    return Reservation(reservation_id, granted, clock_ms=clock_ms, **fields, **rest)


@dataclass
class Server:
    """What the limiter does with reports: it carries one out if the weight before is what it has, and enters late arrivals."""

    open: dict[str, int] = field(default_factory=dict)
    arrived: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)

    def hear(self, taken: list[Settlement]) -> None:
        for each in taken:
            is_late = each.arrived_by_ms > each.charged_ms
            if each.before is not None and self.open.get(each.reservation_id) == each.before:
                self.open[each.reservation_id] = each.after
                self.arrived[each.reservation_id] += each.arrived
                self.returned[each.reservation_id] += each.before - each.after - each.arrived
            if is_late:
                self.late[each.reservation_id] += each.arrived


@given(st.randoms(use_true_random=False), st.integers(1, 4), st.integers(5, 60))
def test_every_part_is_reported_once_however_reports_and_acknowledgements_are_lost(
    rng: random.Random, grants_count: int, steps: int
) -> None:
    book, server = OpenGrants(), Server()
    truth = {f"grant-{number}": {"left": rng.randint(1, 9), "arrived": 0, "returned": 0} for number in range(grants_count)}
    late: Counter[str] = Counter()
    reservations = {name: grant(name, counts["left"]) for name, counts in truth.items()}
    for name, reservation in reservations.items():
        book.add(reservation)
        server.open[name] = reservation.granted
    under_way: list[list[Settlement]] = []

    def finish(taken: list[Settlement]) -> None:
        """The report came through or not; and then the answer to it, or not, and nobody knows which."""
        fate = rng.choice(["answered", "heard, but not answered", "lost"])
        if fate != "lost":
            server.hear(taken)
        book.confirm(taken) if fate == "answered" else book.restore(taken)

    for step in range(steps):
        name = rng.choice(list(truth))
        weight = rng.randint(0, truth[name]["left"])
        what = rng.choice(["arrived", "returned", "report", "finish"])
        if what == "arrived":
            # Sometimes after everybody had given it up.
            by_ms = rng.choice([rng.randint(0, CHARGED_MS), CHARGED_MS + rng.randint(1, CHARGED_MS)])
            late[name] += weight if by_ms > CHARGED_MS else 0
            book.note_arrived(reservations[name], weight, by_ms)
        elif what == "returned":
            book.note_returned(name, weight)
        elif what == "report":
            under_way.append(book.take())
        elif under_way:
            # Two may be under way at once, and end in any order.
            finish(under_way.pop(rng.randrange(len(under_way))))
        if what in ("arrived", "returned"):
            truth[name][what] += weight
            truth[name]["left"] -= weight
        for other, open_weight in server.open.items():
            assert open_weight >= truth[other]["left"], "less is open than may still be sent"
        if step == steps // 2 and rng.random() < 0.3:
            # Another grant, of a time at which nothing of all these counts by itself any more: they are forgotten.
            book.add(grant("newest", 1, clock_ms=CHARGED_MS + 1))
            server.open["newest"] = 1
            truth["newest"] = {"left": 1, "arrived": 0, "returned": 0}
            reservations["newest"] = grant("newest", 1, clock_ms=CHARGED_MS + 1)
            break
    else:
        for taken in under_way:
            finish(taken)
        under_way = []
        report_all(book, server)
        for name, counts in truth.items():
            heard = {"left": server.open[name], "arrived": server.arrived[name], "returned": server.returned[name]}
            assert heard == counts
    for taken in under_way:
        finish(taken)
    report_all(book, server)
    # Never less than what came late, whatever was forgotten; what is reported twice may be entered twice.
    assert all(server.late[name] >= weight for name, weight in late.items())


def report_all(book: OpenGrants, server: Server) -> None:
    """Until there is nothing more to say."""
    while book.has_news:
        taken = book.take()
        assert taken
        server.hear(taken)
        book.confirm(taken)


def test_arrivals_are_reported_under_the_latest_of_them() -> None:
    book = OpenGrants()
    book.add(grant())
    book.note_arrived(grant(), 3, 700)
    book.note_arrived(grant(), 2, 400)
    assert book.take() == [Settlement("a", 10, 5, 5, 700, CHARGED_MS)]
    assert not book.has_news


def test_what_comes_while_a_report_is_under_way_waits_for_it() -> None:
    book = OpenGrants()
    book.add(grant())
    book.note_arrived(grant(), 3, 700)
    first = book.take()
    book.note_returned("a", 7)
    assert book.take() == []
    book.confirm(first)
    assert book.take() == [Settlement("a", 7, 0, 0, 0, CHARGED_MS)]


def test_a_late_arrival_of_a_grant_that_is_forgotten_is_reported_and_an_early_one_is_not() -> None:
    book = OpenGrants()
    for by_ms in (CHARGED_MS, CHARGED_MS + 1):
        book.note_arrived(grant(), 3, by_ms)
    assert book.take() == [Settlement("a", 0, 0, 3, CHARGED_MS + 1, CHARGED_MS)]


def test_an_answer_that_was_lost_gives_back_whatever_was_booked() -> None:
    book = OpenGrants()
    book.note_lost("gone")
    (told,) = book.take()
    assert (told.reservation_id, told.before, told.after, told.arrived) == ("gone", None, 0, 0)


@pytest.mark.parametrize("count", [SETTLEMENTS_MAX - 1, SETTLEMENTS_MAX, 3 * SETTLEMENTS_MAX])
def test_one_call_takes_so_many_reports_and_the_next_one_the_rest(count: int) -> None:
    book = OpenGrants()
    for number in range(count):
        book.add(grant(f"grant-{number}", 1))
        book.note_returned(f"grant-{number}", 1)
    taken: list[Settlement] = []
    while book.has_news:
        told = book.take()
        assert 0 < len(told) <= SETTLEMENTS_MAX
        taken += told
        book.confirm(told)
    assert len({each.reservation_id for each in taken}) == count


def test_grants_that_were_never_answered_are_not_kept_for_ever() -> None:
    book = OpenGrants()
    for number in range(2 * GRANTS_MAX):
        book.add(grant(f"grant-{number}", 1))
    book.note_returned("grant-0", 1)
    assert not book.has_news
    # All of the others are over when the next one is booked.
    book.add(grant("new", 1, clock_ms=CHARGED_MS + 1))
    book.note_returned(f"grant-{2 * GRANTS_MAX - 1}", 1)
    assert not book.has_news


def test_late_arrivals_outlast_the_grants_that_are_forgotten() -> None:
    """Many at once, as after a long standstill: more than one call takes, and the next grant is booked in between."""
    book, server = OpenGrants(), Server()
    for number in range(2 * SETTLEMENTS_MAX):
        book.add(grant(f"grant-{number}", 1))
        book.note_arrived(grant(f"grant-{number}", 1), 1, 2 * CHARGED_MS)
    taken = book.take()
    # Of one whose report is under way, the rest came meanwhile.
    book.add(grant("new", 1, clock_ms=3 * CHARGED_MS))
    server.hear(taken)
    book.confirm(taken)
    report_all(book, server)
    assert sum(server.late.values()) == 2 * SETTLEMENTS_MAX


def test_equal_reports_are_all_sent() -> None:
    book = OpenGrants()
    for _ in range(SETTLEMENTS_MAX + 1):
        book.note_arrived(grant(), 1, CHARGED_MS + 1)
    assert [len(book.take()), len(book.take())] == [SETTLEMENTS_MAX, 1]
