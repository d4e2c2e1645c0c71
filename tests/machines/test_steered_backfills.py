"""What is decided of a backfill, on the real mongod: who dies in between, who comes late, and pages that were at hand."""

from contextlib import suppress
from typing import Any, Final

import numpy as np
import pytest

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.backfills import BackfillStatus
from shared.domain.coverage import BUCKET, Code
from shared.domain.jobs import to_datetime
from shared.domain.timeframes import MINUTE_MS
from shared.errors import Conflict, NotFound
from shared.stores.database import Document
from shared.usecases.plan_backfills import BackfillOrder
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import add_job, make_platform, run_once, run_until_caught_up, stored_documents
from tests.machines.series_scene import back
from tests.machines.state_scene import transitions
from tests.overtaking import overtake_write

SEED: Final = 81
AUTHOR: Final = Author("me", "admin", "test")
LIVE: Final = "binance:BTC-USDT:1m"
# Eight pages.
FIRST_MS, END_MS = back(9_000), back(1_000)


@pytest.fixture
def ordered(platform: Platform, simulator: SimulatorProcess) -> str:
    """A backfill of two parts; its live job is caught up."""
    live_id = add_job(platform, start_ms=back(500))
    run_until_caught_up(platform, live_id)
    return platform.backfills.create(live_id, BackfillOrder(FIRST_MS, END_MS, 2), AUTHOR).backfill_id


def decide(platform: Platform, backfill_id: str, status: BackfillStatus) -> Document:
    """The decision, and no more: whoever made it has died, or stands still."""
    return platform.database.transact(lambda session: platform.backfill_store.decide(backfill_id, status, session))


def statuses(platform: Platform, backfill_id: str) -> list[str]:
    return [part["status"] for part in platform.backfill_store.list_parts(backfill_id)]


def count(platform: Platform) -> int:
    return len(stored_documents(platform, "binance", "BTC/USDT", "1m"))


@pytest.mark.parametrize(
    ("status", "after"),
    [(BackfillStatus.PAUSED, ["paused", "paused"]), (BackfillStatus.CANCELLED, [])],
)
def test_what_somebody_has_decided_who_died_is_carried_out_later(
    platform: Platform, ordered: str, status: BackfillStatus, after: list[str]
) -> None:
    decide(platform, ordered, status)
    # Whoever has just decided may still be at it.
    assert platform.backfill_steering.carry_out_left() == 0
    assert statuses(platform, ordered) == ["active", "active"]
    long_ago = to_datetime(platform.database.server_now_ms() - 60_000)
    platform.database.collection("backfills").update_one({"_id": ordered}, {"$set": {"decided_at": long_ago}})
    assert platform.backfill_steering.carry_out_left() == 1
    assert statuses(platform, ordered) == after
    assert platform.backfills.read(ordered).status == status
    assert platform.backfill_steering.carry_out_left() == 0


def test_who_dies_after_the_parts_were_told_leaves_nothing_undone(platform: Platform, ordered: str) -> None:
    """Cancelled: the parts stand still under another fence, and are still there."""
    platform.backfill_store.tell_parts(decide(platform, ordered, BackfillStatus.CANCELLED))
    assert statuses(platform, ordered) == ["paused", "paused"]
    assert platform.backfills.read(ordered).left == 8_000
    platform.backfill_steering.follow(ordered)
    progress = platform.backfills.read(ordered)
    assert (progress.status, progress.left, len(progress.parts)) == ("cancelled", 8_000, 2)
    assert statuses(platform, ordered) == []


def test_an_older_decision_that_is_told_late_changes_nothing(platform: Platform, ordered: str) -> None:
    paused = decide(platform, ordered, BackfillStatus.PAUSED)
    platform.backfills.resume(ordered, AUTHOR)
    assert statuses(platform, ordered) == ["active", "active"]
    platform.backfill_store.tell_parts(paused)
    assert statuses(platform, ordered) == ["active", "active"]
    platform.database.transact(lambda session: platform.backfill_store.note_carried_out(paused, session))
    assert platform.backfills.read(ordered).status == "active"


def test_what_was_decided_of_an_earlier_order_does_nothing_to_the_next_one(platform: Platform, ordered: str) -> None:
    """It has the same id, and so have its parts."""
    cancelled = decide(platform, ordered, BackfillStatus.CANCELLED)
    platform.backfill_steering.follow(ordered)
    platform.backfills.create(LIVE, BackfillOrder(FIRST_MS, END_MS, 2), AUTHOR)
    platform.backfill_store.tell_parts(cancelled)
    platform.backfill_steering._settle(cancelled, 1)
    assert (platform.backfills.read(ordered).status, statuses(platform, ordered)) == ("active", ["active", "active"])


def test_a_pause_of_its_own_outlasts_that_of_the_live_job(platform: Platform, ordered: str) -> None:
    platform.job_manager.pause(LIVE, None, AUTHOR)
    assert statuses(platform, ordered) == ["paused", "paused"]
    platform.backfills.pause(ordered, AUTHOR)
    platform.job_manager.resume(LIVE, None, AUTHOR)
    assert statuses(platform, ordered) == ["paused", "paused"]


@pytest.mark.parametrize("pages_max", [1, 20], ids=["the run's last page", "one of many"])
def test_the_page_at_hand_is_not_stored_once_the_backfill_is_paused(
    platform: Platform,
    ordered: str,
    mongodb_uri: str,
    database_name: str,
    monkeypatch: pytest.MonkeyPatch,
    pages_max: int,
) -> None:
    by_page = make_platform(mongodb_uri, database_name, worker_pages_max=pages_max)
    job_id = f"{ordered}:1"
    before = count(platform)
    overtake_write(by_page, monkeypatch, lambda: platform.backfills.pause(ordered, AUTHOR))
    assert run_once(by_page, job_id).outcome.value == "paused"
    assert count(platform) == before
    assert platform.jobs.get(job_id)["cursor"]["last_ts"] is None
    platform.backfills.resume(ordered, AUTHOR)
    for part in platform.backfill_store.list_parts(ordered):
        run_until_caught_up(platform, part["_id"])
    assert (platform.backfills.read(ordered).status, count(platform)) == ("done", before + 8_000)
    by_page.close()


def test_a_resumed_backfill_lets_what_has_failed_try_anew(platform: Platform, ordered: str) -> None:
    part_id = f"{ordered}:2"
    failed = {"status": "error", "attempt": 5, "last_error": {"code": "exchange_unavailable", "message": "gone"}}
    platform.database.collection("jobs").update_one({"_id": part_id}, {"$set": failed})
    assert platform.backfills.read(ordered).status == "error"
    assert platform.backfills.resume(ordered, AUTHOR).status == "active"
    part = platform.jobs.get(part_id)
    assert (part["status"], part["attempt"], part["last_error"]) == ("active", 0, None)
    # Nothing is to be decided of one that is at work.
    revision = platform.backfill_store.find(ordered)["revision"]  # type: ignore[index]
    platform.backfills.resume(ordered, AUTHOR)
    assert platform.backfill_store.find(ordered)["revision"] == revision  # type: ignore[index]


def test_a_backfill_that_is_ordered_again_has_a_document_of_its_own_time(platform: Platform, ordered: str) -> None:
    platform.backfills.cancel(ordered, AUTHOR)
    cancelled = platform.backfills.read(ordered)
    again = platform.backfills.create("binance:BTC-USDT:1m", BackfillOrder(FIRST_MS, END_MS, 1), AUTHOR)
    assert (again.backfill_id, again.status, len(again.parts)) == (ordered, "active", 1)
    assert cancelled.created_ms is not None
    assert again.created_ms is not None
    assert again.created_ms > cancelled.created_ms
    with pytest.raises(Conflict, match=ordered):
        platform.backfills.create("binance:BTC-USDT:1m", BackfillOrder(FIRST_MS, END_MS, 1), AUTHOR)


DRAWN: Final = transitions("Backfill")
STATES: Final = ("[*]", "active", "paused", "done", "cancelled")


def bring_to(platform: Platform, backfill_id: str, state: str) -> None:
    """The backfill, just ordered, to that state; its second part is done in any case."""
    run_until_caught_up(platform, f"{backfill_id}:2")
    if state == "done":
        run_until_caught_up(platform, f"{backfill_id}:1")
    elif state == "paused":
        platform.backfills.pause(backfill_id, AUTHOR)
    elif state in ("cancelled", "[*]"):
        platform.backfills.cancel(backfill_id, AUTHOR)
    if state == "[*]":
        platform.backfills.cancel(backfill_id, AUTHOR)


def lose_one(platform: Platform) -> None:
    """The ledger misses an interval of the range, so that there is something to ask for."""
    number = FIRST_MS // MINUTE_MS + 5
    codes = {number // BUCKET: np.zeros(BUCKET, np.uint8)}
    codes[number // BUCKET][number % BUCKET] = Code.MISSING
    platform.database.transact(lambda session: platform.ledger.coverage.write(LIVE, codes, session))


def move_it(platform: Platform, backfill_id: str, move: str) -> None:
    """Raises as the move is refused."""
    if move == "order":
        lose_one(platform)
        platform.backfills.create(LIVE, BackfillOrder(FIRST_MS, END_MS, 2), AUTHOR)
    elif move == "the last part is done":
        run_until_caught_up(platform, f"{backfill_id}:1")
    elif move == "forget":
        platform.backfill_steering.forget(backfill_id, AUTHOR)
    elif move == "cancel":
        platform.backfill_steering.decide(backfill_id, BackfillStatus.CANCELLED, AUTHOR)
    else:
        {"pause": platform.backfills.pause, "resume": platform.backfills.resume}[move](backfill_id, AUTHOR)


def test_the_drawn_backfill_has_the_codes_statuses() -> None:
    assert {state for state, _ in DRAWN} | set(DRAWN.values()) == set(STATES)
    assert {status.value for status in BackfillStatus} == set(STATES) - {"[*]"}


@pytest.mark.parametrize("move", sorted({move for _, move in DRAWN}))
@pytest.mark.parametrize("state", STATES)
def test_a_backfill_moves_as_drawn_and_in_no_other_way(platform: Platform, ordered: str, state: str, move: str) -> None:
    bring_to(platform, ordered, state)
    with suppress(Conflict, NotFound, IndexError, ValueError):
        move_it(platform, ordered, move)
    found = platform.backfill_store.find(ordered)
    assert ("[*]" if found is None else found["status"]) == DRAWN.get((state, move), state)


def as_version_0_1_0(platform: Platform, backfill_id: str, *part_statuses: str) -> None:
    """Without a document: each part has a copy of the plan."""
    document: Any = platform.database.collection("backfills").find_one_and_delete({"_id": backfill_id})
    plan = {**document["plan"], "job_id": document["job_id"], "start_at": document["start_at"]}
    jobs = platform.database.collection("jobs")
    for number, status in enumerate(part_statuses, start=1):
        fields = {"status": status, "plan": plan, "pace_at": document["created_at"], "pace_left": 4_000}
        jobs.update_one({"_id": f"{backfill_id}:{number}"}, {"$set": fields, "$unset": {"decision": 1, "pace": 1}})


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        (("active", "active"), "active"),
        (("done", "active"), "active"),
        (("paused", "active"), "active"),
        (("done", "paused"), "paused"),
        (("error", "paused"), "error"),
        (("done", "done"), "done"),
    ],
)
def test_backfills_of_an_earlier_version_get_their_documents(
    platform: Platform, ordered: str, parts: tuple[str, str], status: str
) -> None:
    before = platform.backfills.read(ordered)
    as_version_0_1_0(platform, ordered, *parts)
    platform.prepare()
    progress = platform.backfills.read(ordered)
    assert progress.status == status
    assert (progress.job_id, progress.start_ms, progress.end_ms) == (before.job_id, before.start_ms, before.end_ms)
    assert progress.plan == before.plan
    assert [part["job_id"] for part in progress.parts] == [f"{ordered}:1", f"{ordered}:2"]
    assert progress.wanted == 8_000
    if status == "done":
        assert progress.left == 0
        return
    platform.backfills.resume(ordered, AUTHOR)
    for part in platform.backfill_store.list_parts(ordered):
        if part["status"] == "active":
            run_until_caught_up(platform, part["_id"])
    assert platform.backfills.read(ordered).status == "done"


def test_what_version_0_1_0_had_paused_with_its_live_job_goes_on_with_it(platform: Platform, ordered: str) -> None:
    platform.database.collection("jobs").update_one({"_id": LIVE}, {"$set": {"status": "paused"}})
    as_version_0_1_0(platform, ordered, "paused", "paused")
    platform.prepare()
    assert platform.backfills.read(ordered).status == "paused"
    platform.job_manager.resume(LIVE, None, AUTHOR)
    assert statuses(platform, ordered) == ["active", "active"]


def test_one_whose_last_part_a_worker_of_version_0_1_0_has_ended_is_done(platform: Platform, ordered: str) -> None:
    platform.database.collection("jobs").update_many({"backfill_id": ordered}, {"$set": {"status": "done"}})
    progress = platform.backfills.read(ordered)
    assert (progress.status, progress.left) == ("done", 0)
    platform.backfills.pause(ordered, AUTHOR)
    found = platform.backfill_store.find(ordered)
    assert found is not None
    assert (found["status"], found["ended_at"] is not None) == ("done", True)
