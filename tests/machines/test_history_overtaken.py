"""Jobs of one series that overtake each other between reading and writing: each scene has left a wrong value or hole once."""

from collections.abc import Callable
from typing import Final

from local_emulator.simulator.process import SimulatorProcess
from local_emulator.simulator.truth import true_candles
from shared.domain.indicators import DEFAULT_INDICATORS, IndicatorSpec, resolve_indicators
from shared.domain.timeframes import MINUTE_MS
from shared.usecases.manage_jobs import JobChanges
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import add_job, run_once, run_until_caught_up, stored_documents
from tests.machines.series_scene import CLOSED_MS, back, counts, hide
from tests.replay import assert_series_equals

SEED: Final = 71
AUTHOR: Final = Author("me", "admin", "test")
LIVE: Final = "binance:BTC-USDT:1m"


Overtake = Callable[[Callable[[], object]], None]


def finish_helpers(platform: Platform) -> None:
    """Until neither helper has anything left to do."""
    for _ in range(20):
        left = [job["_id"] for job in platform.jobs.list_({"status": "active", "kind": {"$in": ["repair", "enrich"]}})]
        if not left:
            return
        for job_id in left:
            run_once(platform, job_id)
    raise AssertionError(f"still at work: {left}")


def assert_truth(
    platform: Platform, start_ms: int, specs: tuple[IndicatorSpec, ...] = DEFAULT_INDICATORS, end_ms: int = CLOSED_MS
) -> None:
    finish_helpers(platform)
    expected = true_candles(SEED, "binance", "BTC/USDT", "1m", start_ms, end_ms)
    assert_series_equals(stored_documents(platform, "binance", "BTC/USDT", "1m"), expected, specs)


def test_a_jobs_first_page_heeds_what_was_stored_before_it_meanwhile(
    platform: Platform, simulator: SimulatorProcess, overtake: Overtake
) -> None:
    live_id = add_job(platform, start_ms=back(500))
    backfill_id = add_job(platform, start_ms=back(1_000), end_ms=back(500))
    overtake(lambda: run_until_caught_up(platform, backfill_id))
    run_until_caught_up(platform, live_id)
    assert_truth(platform, back(1_000))


def test_a_jobs_first_page_does_not_continue_from_values_that_were_replaced_meanwhile(
    platform: Platform, simulator: SimulatorProcess, overtake: Overtake
) -> None:
    hide(simulator, back(700), back(690))
    earlier_id = add_job(platform, start_ms=back(800), end_ms=back(600))
    run_until_caught_up(platform, earlier_id)
    simulator.set_faults()
    run_once(platform, f"{LIVE}:repair")
    later_id = add_job(platform, start_ms=back(600), end_ms=back(0))
    # The enrich job waits for backfills that are to store candles before a stretch: this one begins behind it.
    overtake(lambda: run_until_caught_up(platform, f"{LIVE}:enrich"))
    run_until_caught_up(platform, later_id)
    assert_truth(platform, back(800))


def test_a_page_that_follows_the_market_heeds_what_a_backfill_puts_before_it(
    platform: Platform, simulator: SimulatorProcess, overtake: Overtake
) -> None:
    """Neither sees the other's candles: the live job was not given the one before, and nothing is behind the backfill's yet."""
    live_id = add_job(platform, start_ms=back(500))
    run_until_caught_up(platform, live_id)
    simulator.clock(advance_ms=2 * MINUTE_MS)
    hide(simulator, CLOSED_MS, CLOSED_MS + MINUTE_MS)
    backfill_id = add_job(platform, start_ms=back(5), end_ms=CLOSED_MS + MINUTE_MS)

    def fill() -> None:
        simulator.set_faults()
        run_until_caught_up(platform, backfill_id)

    overtake(fill)
    run_until_caught_up(platform, live_id)
    end_ms = CLOSED_MS + 2 * MINUTE_MS
    assert_truth(platform, back(500), end_ms=end_ms)
    assert counts(platform, live_id, end_ms) == {"stored": 502}


def test_a_page_with_the_old_list_is_enriched_with_the_new_one(
    platform: Platform, simulator: SimulatorProcess, overtake: Overtake
) -> None:
    live_id = add_job(platform, start_ms=back(500))
    run_until_caught_up(platform, live_id)
    simulator.clock(advance_ms=MINUTE_MS)
    wanted = [{"name": "SMA", "params": {"timeperiod": 7}}, {"name": "OBV"}]

    def change() -> None:
        platform.job_manager.patch(live_id, JobChanges(indicators=tuple(wanted)), None, AUTHOR)
        finish_helpers(platform)

    overtake(change)
    run_until_caught_up(platform, live_id)
    assert_truth(platform, back(500), resolve_indicators(wanted), CLOSED_MS + MINUTE_MS)


def test_a_list_that_is_changed_while_a_chunk_is_computed_is_the_one_that_counts(
    platform: Platform, simulator: SimulatorProcess, overtake: Overtake
) -> None:
    hide(simulator, back(300), back(290))
    live_id = add_job(platform, start_ms=back(500))
    run_until_caught_up(platform, live_id)
    simulator.set_faults()
    run_once(platform, f"{live_id}:repair")
    wanted = [{"name": "SMA", "params": {"timeperiod": 7}}]
    overtake(lambda: platform.job_manager.patch(live_id, JobChanges(indicators=tuple(wanted)), None, AUTHOR))
    run_until_caught_up(platform, f"{live_id}:enrich")
    assert_truth(platform, back(500), resolve_indicators(wanted))


def test_candles_that_a_job_with_another_list_stores_get_the_values_of_both(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    hide(simulator, back(400), back(390))
    live_id = add_job(platform, start_ms=back(800), indicators=[{"name": "OBV"}])
    run_until_caught_up(platform, live_id)
    simulator.set_faults()
    sma = {"name": "SMA", "params": {"timeperiod": 5}}
    run_until_caught_up(platform, add_job(platform, start_ms=back(400), end_ms=back(390), indicators=[sma]))
    run_until_caught_up(platform, f"{live_id}:enrich")
    assert_truth(platform, back(800), resolve_indicators([{"name": "OBV"}, sma]))


def test_a_candle_that_is_corrected_under_the_enricher_keeps_the_values_of_the_correction(
    platform: Platform, simulator: SimulatorProcess, overtake: Overtake
) -> None:
    simulator.set_faults(
        {"exchange": "binance", "kind": "hide", "from_ms": back(300), "to_ms": back(290)},
        {"exchange": "binance", "kind": "revise", "delay_ms": 1, "from_ms": back(1), "to_ms": back(0)},
    )
    live_id = add_job(platform, start_ms=back(500))
    run_until_caught_up(platform, live_id)
    simulator.set_faults()
    run_once(platform, f"{live_id}:repair")

    def correct() -> None:
        # It is read again because of the overlap, and nothing new comes with it.
        hide(simulator, CLOSED_MS, CLOSED_MS + MINUTE_MS)
        simulator.clock(advance_ms=MINUTE_MS)
        run_until_caught_up(platform, live_id)

    overtake(correct)
    run_until_caught_up(platform, f"{live_id}:enrich")
    assert platform.jobs.get(live_id)["totals"]["revisions"] == 1
    assert_truth(platform, back(500))


def test_a_page_over_candles_that_the_exchange_no_longer_gives_counts_them(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    run_until_caught_up(platform, add_job(platform, start_ms=back(500), end_ms=back(490)))
    hide(simulator, back(500), back(490))
    run_until_caught_up(platform, add_job(platform, start_ms=back(700), end_ms=back(0)))
    simulator.set_faults()
    assert_truth(platform, back(700))


def test_helpers_that_were_paused_with_a_live_job_go_on_when_it_is_deleted(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    hide(simulator, back(300), back(290))
    live_id = add_job(platform, start_ms=back(500))
    run_until_caught_up(platform, live_id)
    run_until_caught_up(platform, add_job(platform, start_ms=back(600), end_ms=back(500)))
    platform.job_manager.pause(live_id, None, AUTHOR)
    platform.job_manager.delete(live_id, None, AUTHOR, with_candles=False)
    assert platform.jobs.get(f"{live_id}:repair")["status"] == "active"
    simulator.set_faults()
    assert_truth(platform, back(600))


def test_a_repair_does_not_ask_for_the_same_gap_again_and_again(platform: Platform, simulator: SimulatorProcess) -> None:
    """A gap so young that its candle may yet come leaves the cursor where it is."""
    hide(simulator, back(2), back(1))
    live_id = add_job(platform, start_ms=back(500))
    run_until_caught_up(platform, live_id)
    assert counts(platform, live_id) == {"stored": 499, "missing": 1}
    result = run_once(platform, f"{live_id}:repair")
    assert (result.outcome.value, result.requests) == ("caught_up", 1)
