"""Every reachable state of the protocol's model, in small (always) and in large (soak): no broken law, no dead end.

How many states there are is asserted roughly, so that a change that makes the model blind does not go unnoticed.
"""

from typing import Any

import pytest

from tests.model.backfills import Backfills
from tests.model.leases import Leases
from tests.model.limiter import OVER, Limiter
from tests.model.protocol import Protocol
from tests.model.search import NO_WAY_ON, Model, search
from tests.model.series import BACKFILL, SeriesModel
from tests.waiting import SOAK_HANG_S

# The smallest limiter that still has a window, a use-by, a way to the exchange and a clock that goes back.
NARROW = Limiter(limit=1, period=2, wait_max=0, want_max=1)


def assert_holds(model: Model[Any], states_min: int) -> None:
    found = search(model)
    print(f"{found.states:,} states, {found.moves:,} moves")
    assert found.broken is None, (found.broken, found.trace, found.state)
    assert found.states >= states_min, "the model reaches fewer states than it did: what can no longer happen?"


def test_three_processes_and_two_jobs_with_any_two_faults() -> None:
    assert_holds(Leases(slots=3, jobs=2, pages=2, faults=2), 51_000)


def test_two_processes_and_a_job_that_may_be_deleted_and_made_again() -> None:
    assert_holds(Leases(slots=2, jobs=1, pages=2, faults=3, deletes=True), 39_500)


def test_two_askers_for_ever_with_crashes_lost_replies_pauses_and_clocks_that_go_back() -> None:
    assert_holds(Limiter(slots=2, limit=1), 11_500)


def test_batches_of_which_a_part_is_sent_and_the_rest_settled() -> None:
    assert_holds(Limiter(slots=2, limit=2, period=2, wait_max=0), 54_000)


def test_a_way_that_is_longer_than_everything_else() -> None:
    assert_holds(Limiter(slots=2, limit=1, way=2, wait_max=0), 7_300)


def test_a_request_that_takes_longer_than_anybody_thought_counts_once_it_is_told() -> None:
    assert_holds(Limiter(slots=2, limit=1, period=2, wait_max=0, late=True, back=0), 18_900)


def test_entries_that_share_a_grain() -> None:
    assert_holds(Limiter(slots=2, limit=2, period=4, grain=2, want_max=1, wait_max=0, use_by=0, back=0), 21_500)


def test_workers_that_need_the_limiter_for_each_page() -> None:
    assert_holds(Protocol(Leases(slots=2, jobs=1, pages=2, faults=1, asks=True), NARROW), 55_500)


def test_a_backfill_that_two_decide_on_while_its_workers_are_at_it() -> None:
    assert_holds(Backfills(), 19_500)


def test_a_list_that_is_changed_while_values_are_computed_and_a_hole_is_filled() -> None:
    assert_holds(SeriesModel(), 57_500)


def test_a_clock_that_jumps_ahead_is_the_one_thing_the_limiter_does_not_stand() -> None:
    """What docs/limits.md admits. If this begins to hold, the document can promise more."""
    found = search(Limiter(slots=2, limit=1, forward=True))
    assert found.broken == OVER
    assert "clock ahead" in found.trace


def test_the_search_notices_a_dead_end() -> None:
    found = search(Leases(slots=1, jobs=1, pages=1, faults=1, bugs=frozenset({"leases never run out"})))
    assert (found.broken, found.trace) == (NO_WAY_ON, ("claim", "crash"))


@pytest.mark.soak
@pytest.mark.timeout(SOAK_HANG_S)
@pytest.mark.parametrize(
    ("model", "states_min"),
    [
        (Leases(slots=3, jobs=2, pages=2, faults=3), 850_000),
        (Leases(slots=3, jobs=2, pages=3, faults=2, deletes=True), 120_000),
        (Limiter(slots=2, limit=2), 310_000),
        (Limiter(slots=3, limit=2, period=2, wait_max=0, back=0), 93_000),
        (Limiter(slots=2, limit=2, period=4, grain=2, want_max=1, wait_max=0), 135_000),
        # Entries stand at the end of a grain only: anywhere in it, as 0.1.0 had them, they would make 698,013 states of this.
        (Limiter(slots=2, limit=2, period=4, grain=2, want_max=1, back=0), 388_000),
        (Backfills(parts=2, pages=2, deciders=3, decisions=3), 286_000),
        (SeriesModel(candles=4, edits=3), 735_000),
        (SeriesModel(candles=4, kind=BACKFILL), 565_000),
        (Protocol(Leases(slots=3, jobs=2, pages=1, faults=1, asks=True), NARROW), 315_000),
        (Protocol(Leases(slots=2, jobs=2, pages=2, faults=1, asks=True), NARROW), 570_000),
    ],
    ids=[
        "jobs, three faults",
        "jobs with deletions",
        "batches",
        "three askers",
        "grains, clocks back",
        "grains, waits",
        "a backfill",
        "a series with a repair",
        "a series with a backfill",
        "all together, three processes",
        "all together, two pages",
    ],
)
def test_every_state_of_a_larger_world(model: Model[Any], states_min: int) -> None:
    assert_holds(model, states_min)
