"""docs/state_machine.md, "Grant": every move in every state, on a real mongod, and what counts in each."""

from collections.abc import Callable
from typing import Final

import pytest

from shared.domain.rates import Reservation, Settlement
from shared.domain.timeframes import MINUTE_MS
from shared.wiring import Platform
from tests.factories import add_connector
from tests.limits import grain_end_ms, grain_ms, limiter_of, logged, set_clock, settled, unsettled
from tests.machines.state_scene import ABSENT, WIDE, reserve, rows, transitions

GRANT: Final = transitions("Grant: ")
GRANTED: Final = 7_000
PART: Final = 2_000
SENT: Final = 3_000


@pytest.fixture
def scene(shared_platform: Platform) -> Platform:
    shared_platform.database.collection("connectors").delete_many({})
    add_connector(shared_platform, windows=WIDE)
    return shared_platform


def grant_state(platform: Platform, grant: Reservation) -> str:
    """By what the document holds of it; nobody else's grants weigh so much."""
    if grant.reservation_id in unsettled(platform):
        return "unsettled"
    weight = sum(weight for _, weight in logged(platform))
    return ABSENT if weight < SENT else "settled" if weight < GRANTED else "charged"


def pass_to(platform: Platform, moment_ms: int) -> None:
    """As if the server's clock had come so far when somebody reserves."""
    set_clock(platform, moment_ms)
    reserve(platform)


def tell_part(platform: Platform, grant: Reservation) -> None:
    """Some of it has been sent, and is answered at the grant's own moment."""
    platform.limits.settle("binance", [settled(grant, PART, grant.at_ms, returned=0)])


def tell_rest(platform: Platform, grant: Reservation) -> None:
    """All of what is open, whatever that is, has been sent or will not be."""
    left = unsettled(platform).get(grant.reservation_id, GRANTED)
    told = Settlement(grant.reservation_id, left, 0, SENT, grant.at_ms, grant.charged_ms)
    platform.limits.settle("binance", [told])


def tell_late(platform: Platform, grant: Reservation) -> None:
    """Its holder was held up for so long that even the last moment is over."""
    platform.limits.settle("binance", [settled(grant, SENT, grant.charged_ms + MINUTE_MS // 2)])


GRANT_MOVES: Final[dict[str, Callable[[Platform, Reservation], object]]] = {
    "a part of it is reported": tell_part,
    "the rest of it is reported": tell_rest,
    "its last moment passes": lambda platform, grant: pass_to(platform, grant.charged_ms),
    "an arrival after its last moment is reported": tell_late,
    # A minute's window, as WIDE has it. What is charged counts to the end of its grain.
    "its period passes": lambda platform, grant: pass_to(platform, grant.charged_ms + MINUTE_MS + grain_ms(MINUTE_MS)),
}
GRANT_STATES: Final = ("unsettled", "settled", "charged")


def grant_in(platform: Platform, state: str) -> Reservation:
    grant = reserve(platform, want=GRANTED)
    if state == "settled":
        tell_rest(platform, grant)
    if state == "charged":
        pass_to(platform, grant.charged_ms)
    assert (grant.granted, grant_state(platform, grant)) == (GRANTED, state)
    return grant


def test_the_drawn_grant_has_the_moves_that_are_tried() -> None:
    assert {state for (before, _), after in GRANT.items() for state in (before, after)} == {ABSENT, *GRANT_STATES}
    assert {move for _, move in GRANT} == {"booked", *GRANT_MOVES}
    assert tuple(row[0] for row in rows("Grant: ", "State")) == GRANT_STATES


@pytest.mark.parametrize("move", [move for move in GRANT_MOVES if "after its last moment" not in move])
@pytest.mark.parametrize("state", GRANT_STATES)
def test_a_grant_moves_as_drawn_and_in_no_other_way(scene: Platform, state: str, move: str) -> None:
    grant = grant_in(scene, state)
    before = logged(scene)
    GRANT_MOVES[move](scene, grant)
    assert grant_state(scene, grant) == GRANT.get((state, move), state)
    if state != "unsettled" and "reported" in move:
        assert logged(scene) == before, "what is reported again, or too late, moves nothing"


@pytest.mark.parametrize("state", GRANT_STATES)
def test_an_arrival_after_the_last_moment_is_entered_whatever_has_become_of_the_grant(scene: Platform, state: str) -> None:
    grant = grant_in(scene, state)
    before = dict(logged(scene))
    tell_late(scene, grant)
    late_ms = grain_end_ms(grant.charged_ms + MINUTE_MS // 2, MINUTE_MS)
    assert dict(logged(scene)) == {**before, late_ms: SENT}
    assert grant.reservation_id not in unsettled(scene)


@pytest.mark.parametrize("state", GRANT_STATES)
def test_a_grant_counts_as_the_table_says(scene: Platform, state: str) -> None:
    grant = grant_in(scene, state)
    _, kept_in, weight, since = next(row for row in rows("Grant: ", "State") if row[0] == state)
    open_ones = [(each["t"], each["w"]) for each in limiter_of(scene)["unsettled"]]
    kept = {"`limiter.unsettled`": open_ones, "`limiter.logs`": logged(scene)}[kept_in.split(",")[0]]
    at_ms, kept_weight = next(entry for entry in kept if entry[1] >= SENT)
    assert kept_weight // 1_000 * 1_000 == {"what is not reported": GRANTED, "what has arrived": SENT}[weight]
    counted_ms = {"its last moment": grant.charged_ms, "the answer": grant.at_ms}[since]
    assert at_ms == (counted_ms if state == "unsettled" else grain_end_ms(counted_ms, MINUTE_MS))
