"""Stop at every write: a worker that stood still while another one took its job over and finished it changes nothing more.

It is stopped (SIGSTOP) while one of its calls is on the way to the server, and goes on when everything is over; then that call
arrives too. All calls of a recorded run are tried, the writes and the rest.
"""

from collections.abc import Iterator
from typing import Any, Final

import pytest
from pymongo import MongoClient

from tests.faults.fault_scene import TAIL, Scene, open_scene
from tests.faults.one_run import LEASE_LOST
from tests.faults.wire_proxy import Call

TRIES_MAX: Final = 5
CALLS_OF_A_KIND_MAX: Final = 50
NEW_JOB: Final = 0


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest, mongodb_uri: str, mongo_client: MongoClient[dict[str, Any]]) -> Iterator[Scene]:
    """The parameter is how many candles are stored before the run."""
    with open_scene(mongodb_uri, mongo_client, request.param) as opened:
        yield opened


def stop(scene: Scene, call: Call) -> bool:
    """One run that is stopped at that call, and all laws. Returns whether there was such a call."""
    ended = scene.stop_and_overtake(call)
    if ended is None:
        return False
    status, before, after = ended
    assert status == LEASE_LOST, call
    assert after.job == before.job, f"{call}: the job was changed under an old fence"
    assert after.runs == before.runs, f"{call}: a run was recorded under an old fence"
    assert after.candles == before.candles, f"{call}: candles were written under an old fence"
    scene.assert_as_undisturbed()
    return True


def stop_surely(scene: Scene, call: Call) -> None:
    assert any(stop(scene, call) for _ in range(TRIES_MAX)), f"no run had the call {call}"


@pytest.mark.parametrize("scene", [TAIL], indirect=True)
def test_a_worker_stopped_before_its_run_began_cannot_begin_it(scene: Scene) -> None:
    stop_surely(scene, Call("findAndModify jobs", 1))


@pytest.mark.parametrize("scene", [TAIL], indirect=True)
@pytest.mark.parametrize("beginning", ["findAndModify jobs in a transaction", "insert candles", "commitTransaction"])
def test_a_worker_stopped_while_it_stores_its_first_page_stores_nothing(scene: Scene, beginning: str) -> None:
    stop_surely(scene, next(call for call in scene.recorded if call.kind.startswith(beginning)))


@pytest.mark.parametrize("scene", [TAIL], indirect=True)
@pytest.mark.parametrize("beginning", ["insert job_runs", "commitTransaction"])
def test_a_worker_stopped_while_it_ends_its_run_does_not_end_it(scene: Scene, beginning: str) -> None:
    stop_surely(scene, next(call for call in reversed(scene.recorded) if call.kind.startswith(beginning)))


@pytest.mark.soak
@pytest.mark.parametrize("scene", [TAIL, NEW_JOB], indirect=True, ids=["tail", "new"])
def test_nothing_is_accepted_from_a_worker_stopped_at_any_of_its_calls(scene: Scene) -> None:
    for kind in dict.fromkeys(call.kind for call in scene.recorded):
        stop_surely(scene, Call(kind, 1))
        number = 2
        while stop(scene, Call(kind, number)):
            number += 1
            assert number <= CALLS_OF_A_KIND_MAX
