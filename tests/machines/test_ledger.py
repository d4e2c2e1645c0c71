"""The ledger of completeness on a real mongod: what an exchange hides, gives later, never has, or has no more."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.truth import true_candles
from shared.domain.coverage import TRIES_MAX, IntervalState
from shared.domain.indicators import DEFAULT_INDICATORS
from shared.domain.job_ranges import format_ms
from shared.domain.jobs import Job, to_ms
from shared.domain.timeframes import MINUTE_MS
from shared.exchanges.rows import DISPUTED_MAX
from shared.stores.candles import Series
from shared.usecases.read_coverage import Coverage
from shared.usecases.series_jobs import REPAIR_APART_MS
from shared.wiring import Platform
from tests.factories import add_connector, add_job, run_once, run_until_caught_up, stored_documents
from tests.machines.series_scene import CLOSED_MS, NOW_MS, WIDE, back, counts, hide
from tests.replay import assert_series_equals

SEED: Final = 23
SYMBOL: Final = "BTC/USDT"


@pytest.fixture(scope="module")
def shared_simulator() -> Iterator[SimulatorProcess]:
    with start_simulator(freeze_at_ms=NOW_MS, seed=SEED) as running:
        yield running


@pytest.fixture
def simulator(shared_simulator: SimulatorProcess, platform: Platform) -> SimulatorProcess:
    """Frozen at NOW_MS, without faults; `binance` and `coinbase` point at it."""
    shared_simulator.set_faults()
    shared_simulator.clock(now_ms=NOW_MS)
    for exchange in ("binance", "coinbase"):
        shared_simulator.configure(exchange, WIDE)
        add_connector(platform, exchange, base_url=shared_simulator.base_url(exchange), windows=WIDE)
    return shared_simulator


def coverage(platform: Platform, job_id: str, end_ms: int = CLOSED_MS) -> Coverage:
    return platform.coverage_reader.read(job_id, None, end_ms, frozenset(), 100_000)


def spans(platform: Platform, job_id: str, state: IntervalState) -> list[tuple[int, int]]:
    found = coverage(platform, job_id)
    grid = found.timeframe
    return [(grid.open_at(run.first), grid.open_at(run.end)) for run in found.runs if run.state is state]


def stored(platform: Platform, exchange: str = "binance", symbol: str = SYMBOL) -> list[dict[str, Any]]:
    return stored_documents(platform, exchange, symbol, "1m")


def enrich(platform: Platform, job_id: str) -> None:
    """Run the series' enrich job until it is done."""
    assert run_until_caught_up(platform, f"{job_id}:enrich") < 50
    assert platform.jobs.get(f"{job_id}:enrich")["status"] == "done"


def dispute(simulator: SimulatorProcess, start_ms: int, end_ms: int) -> None:
    """From now on the candles of the range come twice and disagree, and every other fault is over."""
    simulator.set_faults({"exchange": "binance", "kind": "conflict", "from_ms": start_ms, "to_ms": end_ms})


def assert_sound(platform: Platform, job_id: str, end_ms: int = CLOSED_MS) -> None:
    """The ledger says what is stored, and every value is as computed from the candles that are."""
    found = platform.series_verifier.verify(job_id, None, end_ms)
    assert (found.ledger_differences_count, found.value_differences_count) == (0, 0)


def repair_until_done(platform: Platform, job_id: str) -> None:
    """Pass after pass, whatever the time between them."""
    for _ in range(TRIES_MAX + 2):
        if run_once(platform, f"{job_id}:repair").outcome.value == "done":
            return
    raise AssertionError("something is still missing")


def assert_truth(platform: Platform, start_ms: int, exchange: str = "binance", symbol: str = SYMBOL) -> None:
    expected = true_candles(SEED, exchange, symbol, "1m", start_ms, CLOSED_MS)
    assert_series_equals(stored(platform, exchange, symbol), expected, DEFAULT_INDICATORS)


def test_a_whole_series_is_stored_and_costs_the_ledger_nothing(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = add_job(platform, start_ms=back(3_000))
    run_until_caught_up(platform, job_id)
    assert counts(platform, job_id) == {"stored": 3_000}
    assert counts(platform, job_id, CLOSED_MS + 5 * MINUTE_MS) == {"stored": 3_000, "pending": 5}
    assert platform.database.collection("coverage").count_documents({}) == 0
    assert platform.jobs.count({}) == 1


def test_candles_that_are_given_later_are_found_and_everything_is_as_one_pass(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    """Holes inside pages and a whole page's worth of them; indicators behind them are right in the end, OBV to the last."""
    hole = (back(2_000), back(1_100))
    hide(simulator, *hole)
    job_id = add_job(platform, start_ms=back(4_000))
    before_ms = platform.database.server_now_ms()
    run_until_caught_up(platform, job_id)
    after_ms = platform.database.server_now_ms()
    assert counts(platform, job_id) == {"stored": 3_100, "missing": 900}
    assert spans(platform, job_id, IntervalState.MISSING) == [hole]
    repair = platform.jobs.get(f"{job_id}:repair")
    assert (repair["kind"], repair["status"], repair["priority"]) == ("repair", "active", 1)
    assert before_ms <= to_ms(repair["next_run_at"]) - REPAIR_APART_MS <= after_ms
    simulator.set_faults()
    assert run_once(platform, f"{job_id}:repair").candles == 900
    assert counts(platform, job_id) == {"stored": 4_000}
    enrich(platform, job_id)
    assert_truth(platform, back(4_000))
    # Nothing is missing any more: its next look ends it.
    assert run_once(platform, f"{job_id}:repair").outcome.value == "done"
    assert platform.database.collection("coverage").count_documents({}) == 0
    # The live job goes on from values that are right now.
    simulator.clock(advance_ms=3 * MINUTE_MS)
    run_until_caught_up(platform, job_id)
    expected = true_candles(SEED, "binance", SYMBOL, "1m", back(4_000), CLOSED_MS + 3 * MINUTE_MS)
    assert_series_equals(stored(platform), expected, DEFAULT_INDICATORS)


def test_what_is_never_there_has_had_no_trades_after_three_tries(platform: Platform, simulator: SimulatorProcess) -> None:
    hide(simulator, back(1_500), back(500), share=0.3)
    job_id = add_job(platform, start_ms=back(2_000))
    run_until_caught_up(platform, job_id)
    missing = counts(platform, job_id)["missing"]
    assert 200 < missing < 400
    before_ms = platform.database.server_now_ms()
    for number in range(1, TRIES_MAX):
        assert run_once(platform, f"{job_id}:repair").outcome.value == "caught_up"
        state = "missing" if number < TRIES_MAX - 1 else "no_trades"
        assert counts(platform, job_id) == {"stored": 2_000 - missing, state: missing}
        # The tries are some time apart.
        assert to_ms(platform.jobs.get(f"{job_id}:repair")["next_run_at"]) >= before_ms + REPAIR_APART_MS
    result = run_once(platform, f"{job_id}:repair")
    assert (result.outcome.value, result.requests) == ("done", 0)
    assert len(stored(platform)) == 2_000 - missing
    # A later page that has a hole wakes the repair job again; what is known stays known.
    simulator.set_faults(
        {"exchange": "binance", "kind": "hide", "from_ms": back(1_500), "to_ms": back(500), "share": 0.3},
        {"exchange": "binance", "kind": "hide", "from_ms": CLOSED_MS, "to_ms": CLOSED_MS + MINUTE_MS},
    )
    simulator.clock(advance_ms=3 * MINUTE_MS)
    run_until_caught_up(platform, job_id)
    assert platform.jobs.get(f"{job_id}:repair")["status"] == "active"
    expected = {"stored": 2_002 - missing, "no_trades": missing, "missing": 1}
    assert counts(platform, job_id, CLOSED_MS + 3 * MINUTE_MS) == expected


def test_a_market_without_trades_is_told_from_missing_candles(platform: Platform, simulator: SimulatorProcess) -> None:
    """An exchange that leaves out intervals without trades: in the end the ledger says of each what it is."""
    symbol = "ZEC/USDT"
    truth = true_candles(SEED, "coinbase", symbol, "1m", back(1_200), CLOSED_MS)
    assert len(truth) < 1_100
    hide(simulator, back(900), back(800), exchange="coinbase")
    job_id = add_job(platform, symbol, connector_id="coinbase", start_ms=back(1_200))
    run_until_caught_up(platform, job_id)
    run_once(platform, f"{job_id}:repair")
    simulator.set_faults()
    repair_until_done(platform, job_id)
    asked_end_ms = to_ms(platform.jobs.get(job_id)["cursor"]["last_ts"]) + MINUTE_MS
    found = counts(platform, job_id, asked_end_ms)
    there = len(truth.between(0, asked_end_ms))
    assert found == {"stored": there, "no_trades": (asked_end_ms - back(1_200)) // MINUTE_MS - there}
    enrich(platform, job_id)
    expected = true_candles(SEED, "coinbase", symbol, "1m", back(1_200), CLOSED_MS)
    assert_series_equals(stored(platform, "coinbase", symbol), expected, DEFAULT_INDICATORS)


def test_a_candle_that_the_exchange_contradicts_itself_about_is_left_out_and_told(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    """Its neighbours are stored and the series goes on; it is asked for apart, and in the end left to a person."""
    disputed = (back(700), back(699))
    dispute(simulator, *disputed)
    job_id = add_job(platform, start_ms=back(2_000))
    run_until_caught_up(platform, job_id)
    assert counts(platform, job_id) == {"stored": 1_999, "disputed": 1}
    assert spans(platform, job_id, IntervalState.DISPUTED) == [disputed]
    assert_sound(platform, job_id)
    (alert,) = platform.alerts.list_("open", 10)
    assert alert["subject"] == "series/binance:BTC-USDT:1m/disputed"
    assert alert["facts"]["opens_at"] == format_ms(disputed[0])
    # With other bounds the exchange might give one candle. It does not, asked twice.
    before = simulator.report()["binance"]["requests_total"]
    assert run_once(platform, f"{job_id}:repair").requests == 2
    assert simulator.report()["binance"]["requests_total"] == before + 2
    repair_until_done(platform, job_id)
    assert simulator.report()["binance"]["requests_total"] == before + 2 * (TRIES_MAX - 1)
    assert counts(platform, job_id) == {"stored": 1_999, "disputed": 1}
    assert len(platform.alerts.list_("open", 10)) == 1
    # One that is resolved by a person stays so, since nobody asks any more.
    simulator.clock(advance_ms=3 * MINUTE_MS)
    platform.alerts.resolve(alert["subject"])
    run_until_caught_up(platform, job_id)
    assert platform.jobs.get(f"{job_id}:repair")["status"] == "done"
    assert platform.alerts.list_("open", 10) == []
    # A backfill of that stretch asks for it, and for nothing else.
    again_id = add_job(platform, start_ms=back(800), end_ms=back(600))
    run_until_caught_up(platform, again_id)
    assert len(platform.alerts.list_("open", 10)) == 1
    simulator.set_faults()
    third_id = add_job(platform, start_ms=back(800), end_ms=back(601))
    assert run_once(platform, third_id).requests == 1
    assert counts(platform, job_id) == {"stored": 2_000}
    assert platform.alerts.list_("open", 10) == []
    enrich(platform, job_id)
    assert_sound(platform, job_id)
    expected = true_candles(SEED, "binance", SYMBOL, "1m", back(2_000), CLOSED_MS + 3 * MINUTE_MS)
    assert_series_equals(stored(platform), expected, DEFAULT_INDICATORS)


def test_a_repair_of_a_dispute_is_a_late_candle_for_what_is_computed_from_it(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    dispute(simulator, back(1_500), back(1_498))
    job_id = add_job(platform, start_ms=back(2_000))
    run_until_caught_up(platform, job_id)
    assert counts(platform, job_id) == {"stored": 1_998, "disputed": 2}
    assert_sound(platform, job_id)
    simulator.set_faults()
    assert run_once(platform, f"{job_id}:repair").candles == 2
    assert counts(platform, job_id) == {"stored": 2_000}
    assert platform.alerts.list_("open", 10) == []
    # The values behind were computed without the two.
    found = platform.series_verifier.verify(job_id, None, CLOSED_MS)
    assert found.ledger_differences_count == 0
    assert found.value_differences_count > 0
    enrich(platform, job_id)
    assert_sound(platform, job_id)
    assert_truth(platform, back(2_000))


def test_a_disputed_candle_that_is_then_withheld_has_not_had_no_trades(platform: Platform, simulator: SimulatorProcess) -> None:
    disputed = (back(700), back(699))
    dispute(simulator, *disputed)
    job_id = add_job(platform, start_ms=back(900))
    run_until_caught_up(platform, job_id)
    hide(simulator, *disputed)
    repair_until_done(platform, job_id)
    assert counts(platform, job_id) == {"stored": 899, "disputed": 1}
    assert len(platform.alerts.list_("open", 10)) == 1


def test_a_dispute_at_the_markets_end_ends_by_itself(platform: Platform, simulator: SimulatorProcess) -> None:
    """The live job goes on without the candle, and finds it when it reads its newest ones again."""
    job_id = add_job(platform, start_ms=back(600))
    run_until_caught_up(platform, job_id)
    dispute(simulator, CLOSED_MS, CLOSED_MS + MINUTE_MS)
    simulator.clock(advance_ms=2 * MINUTE_MS)
    run_until_caught_up(platform, job_id)
    assert counts(platform, job_id, CLOSED_MS + 2 * MINUTE_MS) == {"stored": 601, "disputed": 1}
    simulator.set_faults()
    simulator.clock(advance_ms=MINUTE_MS)
    run_until_caught_up(platform, job_id)
    end_ms = CLOSED_MS + 3 * MINUTE_MS
    assert counts(platform, job_id, end_ms) == {"stored": 603}
    assert platform.alerts.list_("open", 10) == []
    assert_sound(platform, job_id, end_ms)
    expected = true_candles(SEED, "binance", SYMBOL, "1m", back(600), end_ms)
    assert_series_equals(stored(platform), expected, DEFAULT_INDICATORS)


def test_a_stored_candle_that_is_disputed_later_stays_as_it_is(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = add_job(platform, start_ms=back(600))
    run_until_caught_up(platform, job_id)
    dispute(simulator, back(2), CLOSED_MS)
    simulator.clock(advance_ms=MINUTE_MS)
    # Not doubted either: nothing hangs on it.
    assert run_once(platform, job_id).requests == 1
    assert counts(platform, job_id, CLOSED_MS + MINUTE_MS) == {"stored": 601}
    assert platform.alerts.list_("open", 10) == []
    expected = true_candles(SEED, "binance", SYMBOL, "1m", back(600), CLOSED_MS + MINUTE_MS)
    assert_series_equals(stored(platform), expected, DEFAULT_INDICATORS)


def test_a_page_that_contradicts_itself_once_is_asked_for_again_at_once(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    simulator.set_faults({"exchange": "binance", "kind": "conflict", "rows": 3, "count": 1})
    job_id = add_job(platform, start_ms=back(900))
    assert run_once(platform, job_id).requests == 2
    assert counts(platform, job_id) == {"stored": 900}
    assert platform.jobs.count({}) == 1
    assert platform.alerts.list_("open", 10) == []


def test_a_page_with_many_disputes_is_no_page(platform: Platform, simulator: SimulatorProcess) -> None:
    """Two series in one answer are no dispute about candles: nothing of it is believed."""
    dispute(simulator, back(700), back(700 - DISPUTED_MAX - 1))
    job_id = add_job(platform, start_ms=back(900))
    assert run_once(platform, job_id).outcome.value == "failed"
    assert platform.jobs.get(job_id)["last_error"]["code"] == "malformed_page"
    assert stored(platform) == []


def test_a_candle_that_comes_within_the_overlap_fills_its_hole(platform: Platform, simulator: SimulatorProcess) -> None:
    hide(simulator, back(2), back(1))
    job_id = add_job(platform, start_ms=back(600))
    run_until_caught_up(platform, job_id)
    assert counts(platform, job_id) == {"stored": 599, "missing": 1}
    simulator.set_faults()
    simulator.clock(advance_ms=MINUTE_MS)
    run_until_caught_up(platform, job_id)
    assert counts(platform, job_id, CLOSED_MS + MINUTE_MS) == {"stored": 601}
    expected = true_candles(SEED, "binance", SYMBOL, "1m", back(600), CLOSED_MS + MINUTE_MS)
    assert_series_equals(stored(platform), expected, DEFAULT_INDICATORS)


def test_a_backfill_before_a_live_job_leaves_every_value_as_one_pass(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = add_job(platform, start_ms=back(1_200))
    run_until_caught_up(platform, job_id)
    assert counts(platform, job_id) == {"stored": 1_200}
    backfill_id = add_job(platform, start_ms=back(3_500), end_ms=back(1_200))
    assert counts(platform, backfill_id, back(1_200)) == {"pending": 2_300}
    run_until_caught_up(platform, backfill_id)
    assert counts(platform, backfill_id, back(1_200)) == {"stored": 2_300}
    assert counts(platform, backfill_id, back(1_000)) == {"stored": 2_500}
    enrich(platform, job_id)
    assert_truth(platform, back(3_500))


def test_values_wait_for_a_backfill_that_is_on_its_way(platform: Platform, simulator: SimulatorProcess) -> None:
    """Else everything behind would be computed again for each of its pages."""
    job_id = add_job(platform, start_ms=back(1_200))
    run_until_caught_up(platform, job_id)
    backfill_id = add_job(platform, start_ms=back(3_500), end_ms=back(1_200))
    two_pages = platform.runner.run_limits
    object.__setattr__(platform.runner, "run_limits", type(two_pages)(two_pages.lease_ms, 1, two_pages.wait_ms_max, 8))
    assert run_once(platform, backfill_id).outcome.value == "more"
    # It says what is behind it when it ends; somebody else says so before.
    assert platform.jobs.count({"_id": f"{job_id}:enrich"}) == 0
    job, junction_ms = Job.from_document(platform.jobs.get(job_id)), back(1_200)
    platform.database.transact(lambda session: platform.helpers.want_enriching(job, junction_ms, junction_ms, session))
    assert run_once(platform, f"{job_id}:enrich").outcome.value == "caught_up"
    assert platform.series_store.read_stale(Series.of(job)).stretches != []
    run_until_caught_up(platform, backfill_id)
    enrich(platform, job_id)
    assert_truth(platform, back(3_500))


def test_history_that_the_exchange_no_longer_has_is_said_to_be_beyond(platform: Platform, simulator: SimulatorProcess) -> None:
    simulator.configure("kraken", WIDE)
    add_connector(platform, "kraken", base_url=simulator.base_url("kraken"), windows=WIDE)
    job_id = add_job(platform, "BTC/USD", connector_id="kraken", start_ms=back(1_000))
    run_until_caught_up(platform, job_id)
    there = len(stored(platform, "kraken", "BTC/USD"))
    assert there < 1_000
    assert counts(platform, job_id) == {"beyond_history": 1_000 - there, "stored": there}
    # Away for longer than it keeps candles: what is lost in between is beyond too.
    simulator.clock(advance_ms=1_000 * MINUTE_MS)
    run_until_caught_up(platform, job_id)
    end_ms = CLOSED_MS + 1_000 * MINUTE_MS
    found = counts(platform, job_id, end_ms)
    assert found["stored"] == len(stored(platform, "kraken", "BTC/USD"))
    assert found["stored"] + found["beyond_history"] + found.get("pending", 0) == 2_000
