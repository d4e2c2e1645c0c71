"""docs/state_machine.md against the code: every move of job, lease and reservation in every state, on a real mongod.

The diagrams and tables are read from the document. What they list has to succeed and to end where they say; every other pair
of state and move has to be refused or to change nothing. Grants: test_grant_states.py. Runs: test_run_outcomes.py.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import pytest

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.deadline import Deadline, elapsed_s
from shared.domain.jobs import JobStatus, RunOutcome, to_datetime, to_ms
from shared.domain.rates import Reservation
from shared.domain.timeframes import MINUTE_MS
from shared.errors import LeaseLost, RequestRejected
from shared.stores.job_leases import Claim, DueJob
from shared.usecases.grants import LATE_GRANTS_MAX
from shared.usecases.instance_limiter import InstanceLimiter
from shared.usecases.manage_jobs import JobChanges
from shared.usecases.plan_jobs import NewJob
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import NOSUCH, claim, put_list
from tests.machines.state_scene import (
    ABSENT,
    CLOSED_MS,
    JOB_ID,
    LEASE_MS,
    NOW_MS,
    START_MS,
    begin,
    expire,
    finish,
    job_of,
    make_job,
    record_page,
    reserve,
    reset,
    rows,
    section,
    transitions,
    try_claim,
    update,
)

AUTHOR: Final = Author("me", "admin", "test")
JOB: Final = transitions("Job: ")
LEASE: Final = transitions("Lease: ")
RESERVATION: Final = transitions("Reservation")


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with start_simulator(freeze_at_ms=NOW_MS, seed=5) as running:
        yield running


@pytest.fixture
def scene(shared_platform: Platform, simulator: SimulatorProcess) -> Platform:
    reset(shared_platform, simulator)
    return shared_platform


# --- job


def create(platform: Platform, is_paused: bool = False) -> None:
    platform.job_manager.create(NewJob("binance", "BTC/USDT", "1m", overlap=2, start_ms=START_MS, is_paused=is_paused), AUTHOR)


def run_that_cannot_succeed(platform: Platform) -> None:
    put_list(platform, [NOSUCH])
    update(platform, next_run_at=to_datetime(0))
    claimed = try_claim(platform)
    assert platform.runner.run(JOB_ID, claimed.fence, "test", Deadline.after(60)).outcome is RunOutcome.ERROR


def run_to_the_end(platform: Platform) -> None:
    update(platform, next_run_at=to_datetime(0))
    claimed = try_claim(platform)
    assert platform.runner.run(JOB_ID, claimed.fence, "test", Deadline.after(60)).outcome is RunOutcome.DONE


def patch_end(platform: Platform, end_ms: int) -> None:
    platform.job_manager.patch(JOB_ID, JobChanges(end_ms=end_ms), None, AUTHOR)


JOB_MOVES: Final[dict[str, Callable[[Platform], object]]] = {
    "create": create,
    "create with status paused": lambda platform: create(platform, is_paused=True),
    "pause": lambda platform: platform.job_manager.pause(JOB_ID, None, AUTHOR),
    "resume": lambda platform: platform.job_manager.resume(JOB_ID, None, AUTHOR),
    "a run that cannot succeed": run_that_cannot_succeed,
    "a backfill that is complete": run_to_the_end,
    "patch with a later end_at": lambda platform: patch_end(platform, CLOSED_MS + MINUTE_MS),
    "delete": lambda platform: platform.job_manager.delete(JOB_ID, None, AUTHOR, with_candles=False),
}
# Moves of the API that change no status and are not drawn.
UNDRAWN_MOVES: Final[dict[str, Callable[[Platform], object]]] = {
    "patch with an earlier end_at": lambda platform: patch_end(platform, CLOSED_MS - MINUTE_MS),
    "run": lambda platform: platform.job_manager.run_now(JOB_ID, AUTHOR),
    "claim": try_claim,
}
STATUSES: Final = (ABSENT, *(status.value for status in JobStatus))


def test_the_drawn_jobs_have_the_codes_statuses_and_the_moves_that_are_tried() -> None:
    assert {state for (before, _), after in JOB.items() for state in (before, after)} == set(STATUSES)
    assert {move for _, move in JOB} == set(JOB_MOVES)


@pytest.mark.parametrize("move", [*JOB_MOVES, *UNDRAWN_MOVES])
@pytest.mark.parametrize("status", STATUSES)
def test_a_job_moves_as_drawn_and_in_no_other_way(scene: Platform, status: str, move: str) -> None:
    make_job(scene, status)
    before = job_of(scene)
    try:
        {**JOB_MOVES, **UNDRAWN_MOVES}[move](scene)
        is_refused = False
    except (RequestRejected, LeaseLost):
        is_refused = True
    job = job_of(scene)
    drawn = JOB.get((status, move))
    if drawn is not None:
        assert not is_refused
    assert (ABSENT if job is None else job["status"]) == (drawn or status)
    if drawn is None and before is not None and (status, move) != ("active", "claim"):
        assert job is not None
        assert (job["lock"], job["cursor"]) == (before["lock"], before["cursor"]), "only an active job is claimed"
    if drawn == "active":
        assert scene.leases.claim([DueJob(JOB_ID)], "test", LEASE_MS), "it is due at once"
    if drawn == "error":
        assert [alert["subject"] for alert in scene.alerts.list_("open", 10)] == [f"jobs/{JOB_ID}"]


@pytest.mark.parametrize("written", ["error", "done"])
@pytest.mark.parametrize("status", [status.value for status in JobStatus])
def test_a_run_that_ends_changes_the_status_only_if_it_still_is_active(scene: Platform, status: str, written: str) -> None:
    make_job(scene, "active")
    claimed = claim(scene, JOB_ID)
    begin(scene, claimed.fence)
    update(scene, status=status)
    finish(scene, claimed.fence, written)
    job = job_of(scene)
    assert job is not None
    assert job["status"] == (written if status == "active" else status)
    assert set(job["lock"]) == {"fence"}


@pytest.mark.parametrize("move", ["resume", "delete"])
def test_an_alert_is_resolved_when_its_job_is_resumed_or_deleted(scene: Platform, move: str) -> None:
    make_job(scene, "active")
    run_that_cannot_succeed(scene)
    assert len(scene.alerts.list_("open", 10)) == 1
    JOB_MOVES[move](scene)
    assert scene.alerts.list_("open", 10) == []
    assert len(scene.alerts.list_("resolved", 10)) == 1


# --- lease

LEASE_MOVES: Final[dict[str, Callable[[Platform, int], object]]] = {
    "claim": lambda platform, _fence: try_claim(platform),
    "claim after expires_at": lambda platform, _fence: claim_after_expiry(platform),
    "begin": begin,
    "give_back": lambda platform, fence: None if platform.leases.give_back(JOB_ID, fence, 0) else raise_lost(),
    "record_page": record_page,
    "finish": finish,
}
CLAIMS: Final = ("claim", "claim after expires_at")
LEASE_STATES: Final = ("free", "claimed", "running")


def claim_after_expiry(platform: Platform) -> Claim:
    expire(platform)
    return try_claim(platform)


def raise_lost() -> None:
    raise LeaseLost("not given back")


def lease_state(platform: Platform) -> str:
    job = job_of(platform)
    assert job is not None
    if "claim_id" not in job["lock"]:
        return "free"
    return "claimed" if job["lock"]["run_id"] is None else "running"


def bring_to(platform: Platform, state: str) -> tuple[int, int]:
    """A job that was claimed twice, in that state under the second claim. Returns the older fence and the newer one."""
    make_job(platform, "active")
    older = claim(platform, JOB_ID).fence
    begin(platform, older)
    expire(platform)
    newer = claim(platform, JOB_ID).fence
    if state != "claimed":
        begin(platform, newer)
    if state == "free":
        finish(platform, newer)
        update(platform, next_run_at=to_datetime(0))
    assert lease_state(platform) == state
    return older, newer


def test_the_drawn_lease_has_the_moves_that_are_tried() -> None:
    assert {state for (before, _), after in LEASE.items() for state in (before, after)} == set(LEASE_STATES)
    assert {move for _, move in LEASE} == set(LEASE_MOVES)
    assert {row[0].strip("`") for row in rows("Lease: ", "Move")} == {move.split()[0] for _, move in LEASE}


@pytest.mark.parametrize("has_run_out", [False, True], ids=["in time", "run out"])
@pytest.mark.parametrize("move", LEASE_MOVES)
@pytest.mark.parametrize("state", LEASE_STATES)
def test_a_lease_moves_as_drawn_and_in_no_other_way(scene: Platform, state: str, move: str, has_run_out: bool) -> None:
    _, fence = bring_to(scene, state)
    if has_run_out and state != "free":
        expire(scene)
    drawn = LEASE.get((state, move))
    if move in CLAIMS and (state == "free" or has_run_out):
        # A free lease has no end to wait for, and for one that has run out both are the same move.
        drawn = "claimed"
    before = job_of(scene)
    if drawn is None:
        with pytest.raises(LeaseLost):
            LEASE_MOVES[move](scene, fence)
        assert job_of(scene) == before
        return
    LEASE_MOVES[move](scene, fence)
    assert lease_state(scene) == drawn
    job = job_of(scene)
    assert job is not None
    assert job["lock"]["fence"] == fence + int(move in CLAIMS)
    if drawn != "free":
        assert to_ms(job["lock"]["expires_at"]) > scene.database.server_now_ms(), "every move on renews the lease"


@pytest.mark.parametrize("move", [move for move in LEASE_MOVES if move not in CLAIMS])
@pytest.mark.parametrize("state", LEASE_STATES)
def test_nothing_moves_under_an_older_fence(scene: Platform, state: str, move: str) -> None:
    older, _ = bring_to(scene, state)
    before = job_of(scene)
    with pytest.raises(LeaseLost):
        LEASE_MOVES[move](scene, older)
    assert job_of(scene) == before


@pytest.mark.parametrize("state", LEASE_STATES)
def test_the_lock_holds_what_the_table_says(scene: Platform, state: str) -> None:
    bring_to(scene, state)
    cells = {row[0]: row[1] for row in rows("Lease: ", "State")}
    assert tuple(cells) == LEASE_STATES
    names = set(re.findall(r"`(\w+)`", cells[state]))
    if state == "running":
        names |= set(re.findall(r"`(\w+)`", cells["claimed"]))
    job = job_of(scene)
    assert job is not None
    assert set(job["lock"]) == names
    assert (job["lock"].get("run_id") is not None) == (state == "running")


@pytest.mark.parametrize("state", LEASE_STATES)
@pytest.mark.parametrize("move", ["run", "pause"])
def test_what_the_admin_does_leaves_a_lease_alone(scene: Platform, state: str, move: str) -> None:
    bring_to(scene, state)
    before = job_of(scene)
    {**JOB_MOVES, **UNDRAWN_MOVES}[move](scene)
    job = job_of(scene)
    assert before is not None
    assert job is not None
    assert job["lock"] == before["lock"]
    assert job["run_requested"] == (move == "run" and state != "free")


# --- reservation


def reservation_state(reservation: Reservation) -> str:
    """The code's own words, as the fetcher asks them: is anything granted, is it late, has its moment come?"""
    if not reservation.granted:
        return "refused"
    if reservation.is_late():
        return "late"
    return "booked" if elapsed_s() < reservation.send_from_s else "usable"


def aged(reservation: Reservation, ms: float) -> Reservation:
    """As it is so much later."""
    return replace(
        reservation,
        asked_s=reservation.asked_s - ms / 1000,
        replied_s=reservation.replied_s - ms / 1000,
    )


def test_the_drawn_reservation_has_the_states_that_the_answers_can_be_in(scene: Platform) -> None:
    set_limit = {"$set": {"rate_limit": 1, "rate_limit_period_ms": 20_000}}
    scene.database.collection("connectors").update_one({"_id": "binance"}, set_limit)
    usable = reserve(scene)
    booked = reserve(scene, wait_ms_max=120_000)
    refused = reserve(scene)
    assert [reservation_state(one) for one in (usable, booked, refused)] == ["usable", "booked", "refused"]
    assert reservation_state(aged(booked, booked.wait_ms)) == RESERVATION["booked", "its moment has come"] == "usable"
    for before, reservation in (("usable", usable), ("booked", booked)):
        too_long = reservation.wait_ms + reservation.use_by_ms + 1
        assert reservation_state(aged(reservation, too_long)) == RESERVATION[before, "use-by has passed"] == "late"
        assert reservation_state(aged(reservation, 10 * too_long)) == "late", "for ever"
    for later_ms in (0, refused.wait_ms, 10 * refused.wait_ms):
        assert reservation_state(aged(refused, later_ms)) == "refused", "a refusal never becomes a grant"
    limiter = InstanceLimiter(scene.limits)
    assert not limiter.is_refused_since("binance", usable)
    limiter.block("binance", 60_000, "429")
    for before, reservation in (("usable", usable), ("booked", booked)):
        is_void = limiter.is_refused_since("binance", reservation)
        assert is_void == (RESERVATION[before, "the exchange has refused a request since"] == "void")
    states = {state for (before, _), after in RESERVATION.items() for state in (before, after)}
    assert states == {ABSENT, "refused", "booked", "usable", "late", "void", "sent"}
    assert f"given back and asked again, {LATE_GRANTS_MAX} times in all" in section("Reservation")
