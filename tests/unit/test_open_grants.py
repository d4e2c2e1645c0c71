"""What a process says of its grants: each part once, in an order that can be carried out, whatever is lost on the way."""

import random
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
    rest: dict[str, Any] = {"is_paused": False, "refused_ms": 0, "asked_monotonic": 0.0, "replied_monotonic": 0.0}
    return Reservation(reservation_id, granted, clock_ms=clock_ms, **fields, **rest)


@dataclass
class Server:
    """What the limiter does with words: it carries one out if the weight before is what it has."""

    open: dict[str, int] = field(default_factory=dict)
    arrived: dict[str, int] = field(default_factory=dict)
    returned: dict[str, int] = field(default_factory=dict)

    def hear(self, told: list[Settlement]) -> None:
        for each in told:
            if each.before is not None and self.open.get(each.reservation_id) == each.before:
                self.open[each.reservation_id] = each.after
                self.arrived[each.reservation_id] = self.arrived.get(each.reservation_id, 0) + each.arrived
                given_back = each.before - each.after - each.arrived
                self.returned[each.reservation_id] = self.returned.get(each.reservation_id, 0) + given_back


@given(st.randoms(use_true_random=False), st.integers(1, 4), st.integers(5, 60))
def test_every_part_is_told_once_however_words_and_acknowledgements_are_lost(
    rng: random.Random, grants_count: int, steps: int
) -> None:
    book, server = OpenGrants(), Server()
    truth = {f"grant-{number}": {"left": rng.randint(1, 9), "arrived": 0, "returned": 0} for number in range(grants_count)}
    reservations = {name: grant(name, counts["left"]) for name, counts in truth.items()}
    for name, reservation in reservations.items():
        book.add(reservation)
        server.open[name] = reservation.granted
    under_way: list[list[Settlement]] = []

    def finish(told: list[Settlement]) -> None:
        """The word came through or not; and then the answer to it, or not, and nobody knows which."""
        fate = rng.choice(["answered", "heard, but not answered", "lost"])
        if fate != "lost":
            server.hear(told)
        book.confirm(told) if fate == "answered" else book.restore(told)

    for _ in range(steps):
        name = rng.choice(list(truth))
        weight = rng.randint(0, truth[name]["left"])
        what = rng.choice(["arrived", "returned", "tell", "finish"])
        if what == "arrived":
            book.note_arrived(reservations[name], weight, rng.randint(0, CHARGED_MS))
        elif what == "returned":
            book.note_returned(name, weight)
        elif what == "tell":
            under_way.append(book.take())
        elif under_way:
            # Two may be under way at once, and end in any order.
            finish(under_way.pop(rng.randrange(len(under_way))))
        if what in ("arrived", "returned"):
            truth[name][what] += weight
            truth[name]["left"] -= weight
        for other, open_weight in server.open.items():
            assert open_weight >= truth[other]["left"], "less is open than may still be sent"
    for told in under_way:
        finish(told)
    while book.has_news:
        told = book.take()
        server.hear(told)
        book.confirm(told)
    for name, counts in truth.items():
        heard = {"left": server.open[name], "arrived": server.arrived.get(name, 0), "returned": server.returned.get(name, 0)}
        assert heard == counts


def test_arrivals_are_told_under_the_latest_of_them() -> None:
    book = OpenGrants()
    book.add(grant())
    book.note_arrived(grant(), 3, 700)
    book.note_arrived(grant(), 2, 400)
    assert book.take() == [Settlement("a", 10, 5, 5, 700, CHARGED_MS)]
    assert not book.has_news


def test_what_comes_while_a_word_is_under_way_waits_for_it() -> None:
    book = OpenGrants()
    book.add(grant())
    book.note_arrived(grant(), 3, 700)
    first = book.take()
    book.note_returned("a", 7)
    assert book.take() == []
    book.confirm(first)
    assert book.take() == [Settlement("a", 7, 0, 0, 0, CHARGED_MS)]


def test_a_late_arrival_of_a_grant_that_is_forgotten_is_told_and_an_early_one_is_not() -> None:
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
def test_one_call_takes_so_many_words_and_the_next_one_the_rest(count: int) -> None:
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
