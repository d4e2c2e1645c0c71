"""Crash at every call: whichever of a run's calls fails, or is the worker's last, the end is as if nothing had happened.

The calls are those of a recorded run, MongoDB commands and HTTP requests alike, so one that is added later is among them.
"""

import signal
from collections.abc import Iterator
from typing import Any, Final

import pytest
from pymongo import MongoClient

from tests.faults.fault_scene import TAIL, Scene, open_scene
from tests.faults.one_run import ENDED, LEASE_LOST, STORAGE_UNAVAILABLE
from tests.faults.wire_proxy import Call, Fate
from tests.waiting import SOAK_HANG_S

KILLS: Final = (Fate.KILL_BEFORE, Fate.KILL_AFTER)
CUTS: Final = (Fate.CUT, Fate.CUT_FOR_A_WHILE, Fate.LOSE_REPLY, Fate.TIME_OUT)
# How often a call comes depends on which pages are stored together; the first of each kind comes nearly always.
TRIES_MAX: Final = 5
CALLS_OF_A_KIND_MAX: Final = 50
NEW_JOB: Final = 0


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest, mongodb_uri: str, mongo_client: MongoClient[dict[str, Any]]) -> Iterator[Scene]:
    """The parameter is how many candles are stored before the run."""
    with open_scene(mongodb_uri, mongo_client, request.param) as opened:
        yield opened


def first(scene: Scene, beginning: str) -> Call:
    return next(call for call in scene.recorded if call.kind.startswith(beginning))


def last(scene: Scene, beginning: str) -> Call:
    return next(call for call in reversed(scene.recorded) if call.kind.startswith(beginning))


def crash(scene: Scene, call: Call, fate: Fate) -> bool:
    """One run with that fate of that call, recovery, and all laws. Returns whether there was such a call."""
    status, is_struck = scene.strike(call, fate)
    if not is_struck:
        assert status == ENDED, call
    elif fate in KILLS:
        assert status == -signal.SIGKILL, call
    else:
        # Who was told of a time-out though the commit that ended the run is done finds the lease gone.
        assert status in (ENDED, STORAGE_UNAVAILABLE, *((LEASE_LOST,) if fate is Fate.TIME_OUT else ())), call
    expected = scene.expected_outcome()
    scene.recover()
    assert scene.outcome() == expected, call
    scene.assert_as_undisturbed()
    return is_struck


def crash_surely(scene: Scene, call: Call, fate: Fate) -> None:
    assert any(crash(scene, call, fate) for _ in range(TRIES_MAX)), f"no run had the call {call}"


@pytest.mark.parametrize("scene", [TAIL], indirect=True)
def test_the_recording_sees_all_that_a_run_does(scene: Scene) -> None:
    kinds = [call.kind for call in scene.recorded]
    # What the first page, the last page and the run's end are made of, in this order; between them may be more.
    landmarks = [
        "findAndModify jobs",
        "findAndModify connectors",
        "GET /binance/api/v3/klines",
        "findAndModify jobs in a transaction",
        "update candles_binance_BTC-USDT_1m in a transaction",
        "insert job_runs in a transaction",
        "commitTransaction after insert job_runs in a transaction",
    ]
    assert [kind for kind in dict.fromkeys(kinds) if kind in landmarks] == landmarks
    assert sum(kind.startswith("commitTransaction") for kind in kinds) >= 2
    assert kinds[-1] == landmarks[-1]


@pytest.mark.parametrize("scene", [TAIL], indirect=True)
@pytest.mark.parametrize("fate", [Fate.KILL_AFTER, Fate.LOSE_REPLY], ids=lambda fate: fate.name)
@pytest.mark.parametrize("beginning", ["findAndModify jobs", "findAndModify connectors"])
def test_the_run_begun_and_weight_reserved_without_a_reply(scene: Scene, beginning: str, fate: Fate) -> None:
    crash_surely(scene, first(scene, beginning), fate)


@pytest.mark.parametrize("scene", [TAIL], indirect=True)
@pytest.mark.parametrize("fate", KILLS, ids=lambda fate: fate.name)
def test_a_crash_around_the_commit_of_the_first_page(scene: Scene, fate: Fate) -> None:
    crash_surely(scene, first(scene, "commitTransaction"), fate)


@pytest.mark.parametrize("scene", [TAIL], indirect=True)
@pytest.mark.parametrize("fate", [*KILLS, Fate.LOSE_REPLY, Fate.TIME_OUT], ids=lambda fate: fate.name)
def test_a_crash_around_the_commit_of_the_last_page(scene: Scene, fate: Fate) -> None:
    crash_surely(scene, last(scene, "commitTransaction"), fate)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_HANG_S)
@pytest.mark.parametrize("scene", [TAIL, NEW_JOB], indirect=True, ids=["tail", "new"])
@pytest.mark.parametrize("fate", [*KILLS, *CUTS], ids=lambda fate: fate.name)
def test_a_crash_at_every_call_leaves_what_an_undisturbed_run_leaves(scene: Scene, fate: Fate) -> None:
    for kind in dict.fromkeys(call.kind for call in scene.recorded):
        crash_surely(scene, Call(kind, 1), fate)
        number = 2
        while crash(scene, Call(kind, number), fate):
            number += 1
            assert number <= CALLS_OF_A_KIND_MAX
