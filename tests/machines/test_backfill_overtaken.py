"""Backfills that are overtaken, or stop in the middle: each scene has left wrong values for good, or a false ledger, once."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from local_emulator.simulator.process import SimulatorProcess
from local_emulator.simulator.truth import true_candles
from shared.domain.indicators import DEFAULT_INDICATORS, IndicatorSpec, resolve_indicators
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import add_job, run_once, run_until_caught_up, run_until_settled, stored_documents
from tests.machines.series_scene import CLOSED_MS, back, counts, hide
from tests.replay import assert_series_equals

SEED: Final = 72
AUTHOR: Final = Author("me", "admin", "test")
LIVE: Final = "binance:BTC-USDT:1m"
ALL: Final = 100
Overtake = Callable[[Callable[[], object]], None]


@pytest.fixture
def live(platform: Platform, simulator: SimulatorProcess) -> str:
    """A live job that is caught up, of the last 500 minutes."""
    job_id = add_job(platform, start_ms=back(500))
    run_until_caught_up(platform, job_id)
    return job_id


def pages_of_a_run(platform: Platform, count: int) -> None:
    object.__setattr__(platform.runner, "run_limits", replace(platform.runner.run_limits, pages_max=count))


def finish_all(platform: Platform) -> None:
    """Whatever the series has, until nothing is left to do."""
    others = {"status": "active", "kind": {"$in": ["repair", "enrich", "backfill"]}}
    for _ in range(60):
        left = [job["_id"] for job in platform.jobs.list_(others)]
        if not left:
            return
        for job_id in left:
            run_once(platform, job_id)
    raise AssertionError(left)


def assert_one_pass(
    platform: Platform, *stretches: tuple[int, int], specs: tuple[IndicatorSpec, ...] = DEFAULT_INDICATORS
) -> None:
    """What is stored are these stretches, with values as one pass over them gives."""
    parts = [true_candles(SEED, "binance", "BTC/USDT", "1m", first, end) for first, end in stretches]
    expected = parts[0]
    for part in parts[1:]:
        expected = expected.then(part)
    assert_series_equals(stored_documents(platform, "binance", "BTC/USDT", "1m"), expected, specs)


def make_again(platform: Platform, job_id: str, **fields: Any) -> str:
    """The live job deleted, its candles left, and made anew."""
    platform.job_manager.delete(job_id, None, AUTHOR, with_candles=False)
    platform.database.collection("job_runs").delete_many({})
    return add_job(platform, lock={"fence": 1_000}, created_at=datetime.now(UTC), **fields)


def test_a_page_that_lands_under_a_chunk_of_the_enrich_job(
    platform: Platform, simulator: SimulatorProcess, live: str, overtake: Overtake
) -> None:
    """The chunk crosses the backfill's cursor, since a hole before it was repaired."""
    hide(simulator, back(4_500), back(4_490))
    backfill = add_job(platform, start_ms=back(5_000), end_ms=back(500))
    pages_of_a_run(platform, 1)
    run_once(platform, backfill)
    simulator.set_faults()
    run_once(platform, f"{LIVE}:repair")
    overtake(lambda: run_once(platform, backfill))
    run_once(platform, f"{LIVE}:enrich")
    pages_of_a_run(platform, ALL)
    finish_all(platform)
    assert_one_pass(platform, (back(5_000), CLOSED_MS))


def test_a_part_that_ends_while_the_next_one_is_on_its_way(
    platform: Platform, simulator: SimulatorProcess, live: str, overtake: Overtake
) -> None:
    first = add_job(platform, start_ms=back(5_000), end_ms=back(4_000))
    second = add_job(platform, start_ms=back(4_000), end_ms=back(500))
    pages_of_a_run(platform, 1)
    run_once(platform, second)
    run_until_caught_up(platform, first)
    overtake(lambda: run_once(platform, second))
    run_once(platform, f"{LIVE}:enrich")
    pages_of_a_run(platform, ALL)
    finish_all(platform)
    assert_one_pass(platform, (back(5_000), CLOSED_MS))


def test_a_part_whose_first_page_lands_while_the_one_before_it_ends(
    platform: Platform, simulator: SimulatorProcess, overtake: Overtake
) -> None:
    first = add_job(platform, start_ms=back(1_900), end_ms=back(1_000))
    second = add_job(platform, start_ms=back(1_000), end_ms=back(100))
    overtake(lambda: run_once(platform, first))
    run_once(platform, second)
    finish_all(platform)
    assert_one_pass(platform, (back(1_900), back(100)))


def test_a_live_job_made_again_with_another_list_over_candles_that_are_there(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    """It passes over them, and its history job finds nothing to ask for."""
    job_id = add_job(platform, start_ms=back(9_000), indicators=[])
    run_until_settled(platform, job_id)
    specs = resolve_indicators([{"name": "SMA", "params": {"timeperiod": 5}}])
    again = make_again(platform, job_id, start_ms=back(9_000), indicators=[spec.to_document() for spec in specs])
    run_until_settled(platform, again)
    finish_all(platform)
    assert_one_pass(platform, (back(9_000), CLOSED_MS), specs=specs)


def test_a_live_job_made_again_while_something_was_stale(platform: Platform, simulator: SimulatorProcess) -> None:
    hide(simulator, back(4_000), back(3_990))
    job_id = add_job(platform, start_ms=back(9_000))
    run_until_settled(platform, job_id)
    simulator.set_faults()
    run_once(platform, f"{LIVE}:repair")
    run_until_settled(platform, make_again(platform, job_id, start_ms=back(9_000)))
    finish_all(platform)
    assert_one_pass(platform, (back(9_000), CLOSED_MS))


def test_the_page_at_hand_when_a_backfill_is_paused(
    platform: Platform, simulator: SimulatorProcess, live: str, overtake: Overtake
) -> None:
    backfill = add_job(platform, start_ms=back(5_000), end_ms=back(500))
    pages_of_a_run(platform, 1)
    run_once(platform, backfill)

    def pause() -> None:
        platform.job_manager.pause(backfill, None, AUTHOR)
        run_until_caught_up(platform, f"{LIVE}:enrich")

    overtake(pause)
    run_once(platform, backfill)
    run_until_caught_up(platform, f"{LIVE}:enrich")
    assert platform.jobs.get(backfill)["status"] == "paused"
    assert_one_pass(platform, (back(5_000), back(4_000)), (back(500), CLOSED_MS))
    platform.job_manager.resume(backfill, None, AUTHOR)
    run_until_caught_up(platform, backfill)
    run_until_caught_up(platform, f"{LIVE}:enrich")
    assert_one_pass(platform, (back(5_000), CLOSED_MS))


def test_a_backfill_whose_attempts_are_used_up(platform: Platform, simulator: SimulatorProcess, live: str) -> None:
    backfill = add_job(platform, start_ms=back(5_000), end_ms=back(500))
    pages_of_a_run(platform, 1)
    run_once(platform, backfill)
    platform.database.collection("jobs").update_one({"_id": backfill}, {"$set": {"attempt": 10_000}})
    assert run_once(platform, backfill).outcome.value == "error"
    run_until_caught_up(platform, f"{LIVE}:enrich")
    assert_one_pass(platform, (back(5_000), back(4_000)), (back(500), CLOSED_MS))


def test_two_backfills_of_the_same_candles(platform: Platform, simulator: SimulatorProcess, overtake: Overtake) -> None:
    """One is overtaken at a page that has stored candles in its middle already."""
    run_until_caught_up(platform, add_job(platform, start_ms=back(4_600), end_ms=back(4_400)))
    slower = add_job(platform, start_ms=back(5_000), end_ms=back(4_000))
    faster = add_job(platform, start_ms=back(4_990), end_ms=back(2_000))
    pages_of_a_run(platform, 1)
    overtake(lambda: run_once(platform, faster))
    run_until_caught_up(platform, slower)
    pages_of_a_run(platform, ALL)
    finish_all(platform)
    assert_one_pass(platform, (back(5_000), back(2_000)))


def test_history_that_is_gone_behind_a_cursor_is_not_said_to_be_stored(platform: Platform, simulator: SimulatorProcess) -> None:
    backfill = add_job(platform, start_ms=back(5_000), end_ms=back(500))
    pages_of_a_run(platform, 1)
    run_once(platform, backfill)
    platform.database.transact(lambda session: platform.ledger.asked.note_begins(LIVE, back(2_500), session))
    pages_of_a_run(platform, ALL)
    run_until_caught_up(platform, backfill)
    stored = len(stored_documents(platform, "binance", "BTC/USDT", "1m"))
    assert counts(platform, backfill, back(500))["stored"] == stored
