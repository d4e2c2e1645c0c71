"""Every close of a live job is accounted for, on a real mongod and a simulated exchange.

Time passes by moving all dates of the job and of its connector into the past, by whole intervals; the runs' documents stay.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

import pytest

from functions.admin_views import document_view, job_view
from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.deadline import Deadline
from shared.domain.jobs import to_datetime, to_ms
from shared.domain.slots import count_closes, open_ledger
from shared.domain.timeframes import DAY_MS, TIMEFRAMES, Timeframe
from shared.usecases.record_changes import Author
from shared.usecases.run_job import RunResult
from shared.wiring import Platform
from tests.factories import add_connector, add_job, claim
from tests.overtaking import Overtake

AUTHOR: Final = Author("ann", "operator", "req-1")
WIDE: Final = [(100_000, 60_000)]
BROKEN: Final[dict[str, object]] = {"exchange": "binance", "kind": "status", "status": 404}
PASSED: Final = 5
STEPS: Final = 45


def calm_frame() -> Timeframe:
    """The timeframe that is farthest from its next close, so that none comes while a test runs. No month: they differ."""
    now_ms = int(time.time() * 1000)
    frames = [TIMEFRAMES[name] for name in ("1d", "3d", "1w")]
    return max(frames, key=lambda frame: frame.close(frame.floor(now_ms)) - now_ms)


FRAME: Final = calm_frame()


@pytest.fixture(scope="module")
def shared_simulator() -> Iterator[SimulatorProcess]:
    with start_simulator(seed=5) as running:
        yield running


@pytest.fixture
def simulator(shared_simulator: SimulatorProcess, platform: Platform) -> SimulatorProcess:
    """Without faults and with all the weight one can use; `binance` points at it."""
    shared_simulator.set_faults()
    shared_simulator.configure("binance", WIDE)
    add_connector(platform, base_url=shared_simulator.base_url("binance"), windows=WIDE)
    return shared_simulator


def add_live_job(platform: Platform, **fields: Any) -> str:
    """A live job made now; its newest interval but one has closed before."""
    now_ms = platform.database.server_now_ms()
    start_ms = FRAME.shift(FRAME.floor(now_ms), -3)
    is_paused = fields.get("status") == "paused"
    ledger = open_ledger(FRAME, now_ms, start_ms, is_paused=is_paused).to_document()
    return add_job(platform, timeframe=FRAME.name, start_ms=start_ms, indicators=[], slot_ledger=ledger, **fields)


def update(platform: Platform, job_id: str, **fields: Any) -> None:
    platform.database.collection("jobs").update_one({"_id": job_id}, {"$set": fields})


def let_pass(platform: Platform, job_id: str, intervals: int) -> None:
    """As if so much time had gone by since anything happened to the job and its connector."""
    by = timedelta(milliseconds=intervals * FRAME.step_ms)
    for name, document in (("jobs", platform.jobs.get(job_id)), ("connectors", platform.connectors.get("binance"))):
        moved = {field: moved_back(value, by) for field, value in document.items() if field != "_id"}
        platform.database.collection(name).update_one({"_id": document["_id"]}, {"$set": moved})


def moved_back(value: Any, by: timedelta) -> Any:
    if isinstance(value, datetime):
        return value - by
    if isinstance(value, dict):
        return {name: moved_back(inner, by) for name, inner in value.items()}
    return [moved_back(inner, by) for inner in value] if isinstance(value, list) else value


def run(platform: Platform, job_id: str) -> RunResult:
    """Claim the job, which has to be due, and run it."""
    claimed = claim(platform, job_id)
    return platform.runner.run(job_id, claimed.fence, "test", Deadline.after(100))


def slots_of(platform: Platform, job_id: str) -> dict[str, int]:
    """The classes of the newest run's slots that are not zero, flat."""
    (newest,) = platform.runs.list_of_job(job_id, None, 1)
    return flat(newest["slots"])


def flat(slots: dict[str, Any]) -> dict[str, int]:
    counts = {"ran": slots["ran"], "coalesced": slots["coalesced"], "paused": slots["paused"], **slots["skipped"]}
    return {name: count for name, count in counts.items() if count}


def assert_all_accounted(platform: Platform, job_id: str) -> None:
    """The law: the runs' documents, with what waits for the next one, are the closes up to `until`; the API says the same."""
    job = platform.jobs.get(job_id)
    ledger = job["slot_ledger"]
    in_runs: Counter[str] = Counter()
    for document in platform.database.collection("job_runs").find({"job_id": job_id, "slots": {"$exists": True}}):
        assert min(0, *flat(document["slots"]).values(), 0) == 0
        in_runs.update(flat(document["slots"]))
    assert in_runs + Counter(ledger["carried"]) == Counter(ledger["totals"])
    since_ms, until_ms = to_ms(ledger["since"]), to_ms(ledger["until"])
    assert sum(ledger["totals"].values()) == count_closes(FRAME, since_ms, until_ms)
    now_ms = platform.database.server_now_ms()
    shown = job_view(job, now_ms)["slots"]
    assert sum(flat(shown).values()) + shown["pending"] == count_closes(FRAME, since_ms, now_ms)
    assert "slot_ledger" not in job_view(job, now_ms)


# --- one thing at a time


def test_a_steady_job_runs_in_each_slot(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = add_live_job(platform)
    run(platform, job_id)
    assert slots_of(platform, job_id) == {}
    for _ in range(3):
        let_pass(platform, job_id, 1)
        run(platform, job_id)
        assert slots_of(platform, job_id) == {"ran": 1}
        assert_all_accounted(platform, job_id)
    update(platform, job_id, next_run_at=to_datetime(0))
    run(platform, job_id)
    assert slots_of(platform, job_id) == {}
    shown = job_view(platform.jobs.get(job_id), platform.database.server_now_ms())["slots"]
    assert {name: shown[name] for name in ("ran", "coalesced", "paused", "skipped", "pending")} == {
        "ran": 3, "coalesced": 0, "paused": 0, "skipped": {}, "pending": 0,
    }  # fmt: skip
    (newest,) = platform.runs.list_of_job(job_id, None, 1)
    assert document_view(newest)["slots"] == {"ran": 0, "coalesced": 0, "paused": 0, "skipped": {}}


def test_a_late_start_coalesces_all_but_the_newest(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = add_live_job(platform)
    run(platform, job_id)
    let_pass(platform, job_id, PASSED)
    run(platform, job_id)
    assert slots_of(platform, job_id) == {"ran": 1, "coalesced": PASSED - 1}
    assert_all_accounted(platform, job_id)


def test_a_pause_is_told_even_if_a_dead_worker_held_the_job(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = add_live_job(platform)
    run(platform, job_id)
    for has_died in (False, True):
        if has_died:
            update(platform, job_id, next_run_at=to_datetime(0))
            dead = claim(platform, job_id)
            platform.leases.begin(job_id, dead.fence, f"{job_id}#{dead.fence}", 1_000)
        platform.job_manager.pause(job_id, None, AUTHOR)
        let_pass(platform, job_id, PASSED)
        platform.job_manager.resume(job_id, None, AUTHOR)
        assert_all_accounted(platform, job_id)
        run(platform, job_id)
        counts = Counter(slots_of(platform, job_id))
        # The newest close came in the pause too, but in time for the run.
        assert counts["paused"] == PASSED - 1
        assert sum(counts.values()) == PASSED
        assert counts["ran"] == 1
        assert_all_accounted(platform, job_id)


def test_a_job_made_paused_counts_from_its_making(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = add_live_job(platform, status="paused")
    let_pass(platform, job_id, 40)
    platform.job_manager.resume(job_id, None, AUTHOR)
    run(platform, job_id)
    assert slots_of(platform, job_id) == {"ran": 1, "paused": 39}
    assert_all_accounted(platform, job_id)


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_lease_that_ran_out_names_its_slots(platform: Platform, simulator: SimulatorProcess, has_begun: bool) -> None:
    job_id = add_live_job(platform)
    run(platform, job_id)
    let_pass(platform, job_id, 2)
    lease_ms = PASSED * FRAME.step_ms
    dead = claim(platform, job_id, lease_ms)
    if has_begun:
        platform.leases.begin(job_id, dead.fence, f"{job_id}#{dead.fence}", lease_ms)
    let_pass(platform, job_id, PASSED + 2)
    run(platform, job_id)
    # One had passed when it was claimed, and two did after the lease had run out.
    assert slots_of(platform, job_id) == {"ran": 1, "coalesced": 3, "lost" if has_begun else "not_started": PASSED}
    assert_all_accounted(platform, job_id)


def test_a_claim_that_was_given_back_was_not_started(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = add_live_job(platform)
    run(platform, job_id)
    let_pass(platform, job_id, PASSED)
    assert platform.leases.give_back(job_id, claim(platform, job_id).fence, 0)
    run(platform, job_id)
    assert slots_of(platform, job_id) == {"ran": 1, "not_started": PASSED - 1}
    assert_all_accounted(platform, job_id)


@pytest.mark.parametrize(("status", "reason"), [(429, "throttled"), (503, "failed")])
def test_a_run_that_was_refused_names_the_slots_until_it_was_to_come_back(
    platform: Platform, simulator: SimulatorProcess, status: int, reason: str
) -> None:
    job_id = add_live_job(platform)
    run(platform, job_id)
    let_pass(platform, job_id, 1)
    simulator.set_faults({"exchange": "binance", "kind": "status", "status": status})
    assert run(platform, job_id).outcome.value == reason
    # The newest slot may still run, and no other has passed.
    assert slots_of(platform, job_id) == {}
    simulator.set_faults()
    update(platform, job_id, next_run_at=to_datetime(platform.database.server_now_ms() + PASSED * FRAME.step_ms))
    let_pass(platform, job_id, PASSED + 2)
    platform.connector_manager.unblock("binance", AUTHOR)
    platform.database.collection("connectors").update_one({"_id": "binance"}, {"$unset": {"unblocked_at": ""}})
    run(platform, job_id)
    # The slot that was refused and those that passed in the wait; then it was late, and two more passed.
    assert slots_of(platform, job_id) == {"ran": 1, "coalesced": 2, reason: PASSED}
    assert_all_accounted(platform, job_id)


def test_a_connectors_pause_and_block_are_told_apart(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = add_live_job(platform)
    run(platform, job_id)
    platform.connector_manager.pause("binance", None, AUTHOR)
    let_pass(platform, job_id, PASSED)
    assert run(platform, job_id).outcome.value == "paused"
    assert slots_of(platform, job_id) == {"connector_paused": PASSED - 1}
    let_pass(platform, job_id, 2)
    platform.connector_manager.resume("binance", None, AUTHOR)
    run(platform, job_id)
    assert slots_of(platform, job_id) == {"ran": 1, "connector_paused": 2}
    blocked_until = to_datetime(platform.database.server_now_ms() + 3 * FRAME.step_ms)
    platform.database.collection("connectors").update_one({"_id": "binance"}, {"$set": {"blocked_until": blocked_until}})
    let_pass(platform, job_id, PASSED)
    run(platform, job_id)
    assert slots_of(platform, job_id) == {"ran": 1, "coalesced": PASSED - 3, "blocked": 2}
    platform.database.collection("connectors").update_one({"_id": "binance"}, {"$set": {"blocked_until": blocked_until}})
    let_pass(platform, job_id, 2)
    platform.connector_manager.unblock("binance", AUTHOR)
    run(platform, job_id)
    assert slots_of(platform, job_id) == {"ran": 1, "blocked": 1}
    assert_all_accounted(platform, job_id)


def test_an_error_names_its_slots_until_the_job_is_resumed(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = add_live_job(platform, attempt=99)
    let_pass(platform, job_id, 3)
    assert run(platform, job_id).outcome.value == "error"
    assert slots_of(platform, job_id) == {"coalesced": 2}
    let_pass(platform, job_id, PASSED)
    platform.job_manager.resume(job_id, None, AUTHOR)
    run(platform, job_id)
    assert slots_of(platform, job_id) == {"ran": 1, "error": PASSED}
    assert_all_accounted(platform, job_id)


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_pause_in_the_middle_of_a_run_counts_nothing_twice(
    platform: Platform, simulator: SimulatorProcess, overtake: Overtake, is_resumed: bool
) -> None:
    job_id = add_live_job(platform)
    run(platform, job_id)
    let_pass(platform, job_id, PASSED)

    def pause() -> None:
        assert platform.jobs.get(job_id)["lock"]["run_id"], "it is on its way"
        platform.job_manager.pause(job_id, None, AUTHOR)
        if is_resumed:
            platform.job_manager.resume(job_id, None, AUTHOR)

    overtake(pause)
    run(platform, job_id)
    assert slots_of(platform, job_id) == {"ran": 1, "coalesced": PASSED - 1}
    job = platform.jobs.get(job_id)
    assert (job["slot_ledger"]["reason"], job["slot_ledger"]["carried"]) == ("coalesced" if is_resumed else "paused", {})
    assert_all_accounted(platform, job_id)


def test_a_job_made_again_begins_anew_and_one_without_a_ledger_with_its_next_run(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    job_id = add_live_job(platform)
    let_pass(platform, job_id, PASSED)
    run(platform, job_id)
    platform.job_manager.delete(job_id, None, AUTHOR, with_candles=False)
    platform.database.collection("job_runs").delete_many({})
    add_live_job(platform)
    run(platform, job_id)
    assert platform.jobs.get(job_id)["slot_ledger"]["totals"] == {}
    platform.database.collection("jobs").update_one({"_id": job_id}, {"$unset": {"slot_ledger": ""}})
    let_pass(platform, job_id, PASSED)
    run(platform, job_id)
    assert slots_of(platform, job_id) == {}
    let_pass(platform, job_id, 1)
    run(platform, job_id)
    assert slots_of(platform, job_id) == {"ran": 1}
    assert_all_accounted(platform, job_id)


def test_a_backfill_has_no_slots(platform: Platform, simulator: SimulatorProcess) -> None:
    end_ms = FRAME.floor(platform.database.server_now_ms())
    start_ms = FRAME.shift(end_ms, -5)
    job_id = add_job(platform, timeframe=FRAME.name, start_ms=start_ms, end_ms=end_ms, indicators=[])
    assert run(platform, job_id).outcome.value == "done"
    assert "slot_ledger" not in platform.jobs.get(job_id)
    assert "slots" not in platform.runs.list_of_job(job_id, None, 1)[0]
    assert job_view(platform.jobs.get(job_id), end_ms + DAY_MS)["slots"] is None


def test_metrics_count_slots_by_class(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = add_live_job(platform)
    let_pass(platform, job_id, PASSED)
    run(platform, job_id)
    (family,) = [family for family in platform.metrics.collect() if family.name == "chandler_slots"]
    counted = {sample.labels["class"]: sample.value for sample in family.samples if sample.labels["connector"] == "binance"}
    assert {name: count for name, count in counted.items() if count} == {"ran": 1, "coalesced": PASSED - 1}
    assert len(counted) == 11


# --- anything, in any order


@pytest.mark.parametrize("seed", [1, 2])
def test_after_any_history_every_slot_is_in_one_class(platform: Platform, simulator: SimulatorProcess, seed: int) -> None:
    rng = random.Random(seed)
    job_id = add_live_job(platform)
    manager, connectors = platform.job_manager, platform.connector_manager

    def pass_time() -> None:
        let_pass(platform, job_id, rng.choice((0, 0, 1, 1, 2, 7)))

    def claim_and_die() -> None:
        lease_ms = rng.choice((1_000, FRAME.step_ms, 3 * FRAME.step_ms))
        if due():
            dead = claim(platform, job_id, lease_ms)
            if rng.random() < 0.5:
                platform.leases.begin(job_id, dead.fence, f"{job_id}#{dead.fence}", lease_ms)
            elif rng.random() < 0.5:
                platform.leases.give_back(job_id, dead.fence, 1_000)

    def run_if_due() -> None:
        simulator.set_faults(*rng.choice(([], [], [BROKEN], [{**BROKEN, "status": 503}], [{**BROKEN, "status": 429}])))
        if due():
            run(platform, job_id)

    def due() -> bool:
        job, now = platform.jobs.get(job_id), to_datetime(platform.database.server_now_ms())
        return job["status"] == "active" and job["next_run_at"] <= now >= job["lock"].get("expires_at", now)

    def pause() -> None:
        if platform.jobs.get(job_id)["status"] == "active":
            manager.pause(job_id, None, AUTHOR)

    moves = [
        pass_time,
        pass_time,
        run_if_due,
        run_if_due,
        claim_and_die,
        pause,
        lambda: manager.resume(job_id, None, AUTHOR),
        lambda: connectors.pause("binance", None, AUTHOR),
        lambda: connectors.resume("binance", None, AUTHOR),
        lambda: connectors.unblock("binance", AUTHOR),
    ]
    for _ in range(STEPS):
        rng.choice(moves)()
        assert_all_accounted(platform, job_id)
    simulator.set_faults()
    connectors.resume("binance", None, AUTHOR)
    manager.resume(job_id, None, AUTHOR)
    let_pass(platform, job_id, 12)
    connectors.unblock("binance", AUTHOR)
    assert run(platform, job_id).outcome.value == "caught_up"
    assert_all_accounted(platform, job_id)
    assert job_view(platform.jobs.get(job_id), platform.database.server_now_ms())["slots"]["pending"] == 0
