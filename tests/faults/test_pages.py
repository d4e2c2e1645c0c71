"""Whatever an exchange answers, no wrong candle is stored, and once it answers properly nothing is missing."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.truth import true_candles
from shared.domain.candles import PRICE_COLUMNS, CandleBatch
from shared.domain.coverage import IntervalState
from shared.domain.indicators import DEFAULT_INDICATORS
from shared.domain.jobs import to_ms
from shared.domain.timeframes import MINUTE_MS
from shared.wiring import Platform
from tests.factories import add_connector, add_job, run_once, run_until_caught_up, run_until_settled, stored_documents
from tests.replay import assert_series_equals

SEED: Final = 11
NOW_MS: Final = 1_760_000_042_000
INTERVALS: Final = 2_600
START_MS: Final = NOW_MS // MINUTE_MS * MINUTE_MS - INTERVALS * MINUTE_MS
# As far back as Kraken goes, and a little less.
FILLED_START_MS: Final = NOW_MS // MINUTE_MS * MINUTE_MS - 600 * MINUTE_MS
WIDE: Final = [(100_000, 60_000)]
SYMBOLS: Final = {"binance": "BTC/USDT", "coinbase": "BTC/USD", "kraken": "BTC/USD", "deribit": "BTC/USDC"}

BROKEN_PAGES: Final[dict[str, dict[str, object]]] = {
    "rows cut off at the end": {"kind": "cut_rows", "rows": 7},
    "out of order": {"kind": "shuffle"},
    "doubled": {"kind": "double", "rows": 5},
    "doubled with other values": {"kind": "conflict", "rows": 2},
    "a price that is no number": {"kind": "nan"},
    "times in the wrong unit": {"kind": "wrong_unit"},
    "times off the grid": {"kind": "off_grid"},
    "not JSON": {"kind": "not_json"},
    "cut off in the middle": {"kind": "cut"},
    "connection dropped": {"kind": "drop"},
    "HTTP 500": {"kind": "status", "status": 500},
    "HTTP 503": {"kind": "status", "status": 503},
}


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with start_simulator(freeze_at_ms=NOW_MS, seed=SEED) as running:
        for exchange in SYMBOLS:
            running.configure(exchange, WIDE)
        yield running


def truth(exchange: str, end_ms: int = NOW_MS // MINUTE_MS * MINUTE_MS) -> CandleBatch:
    return true_candles(SEED, exchange, SYMBOLS[exchange], "1m", START_MS, end_ms)


def assert_nothing_wrong(documents: list[dict[str, Any]], expected: CandleBatch) -> None:
    rows = {
        int(open_ms): tuple(float(getattr(expected, name)[row]) for name in PRICE_COLUMNS)
        for row, open_ms in enumerate(expected.open_ms)
    }
    for document in documents:
        assert rows.get(to_ms(document["_id"])) == tuple(document[name] for name in PRICE_COLUMNS)


@pytest.mark.parametrize(
    ("exchange", "fault"),
    # A page that silently lacks rows cannot be told from minutes without trades where an exchange leaves those out; and
    # what breaks below the rows is the same code for all.
    [("binance", fault) for fault in BROKEN_PAGES] + [("coinbase", fault) for fault in ("out of order", "doubled", "not JSON")],
)
def test_broken_pages_never_put_a_wrong_candle_in_the_database(
    platform: Platform, simulator: SimulatorProcess, exchange: str, fault: str
) -> None:
    add_connector(platform, exchange, base_url=simulator.base_url(exchange), windows=WIDE)
    job_id = add_job(platform, SYMBOLS[exchange], connector_id=exchange, start_ms=START_MS)
    expected = truth(exchange)
    simulator.set_faults({"exchange": exchange, "rate": 0.6, **BROKEN_PAGES[fault]})
    for number in range(20):
        run_once(platform, job_id)
        assert_nothing_wrong(stored_documents(platform, exchange, SYMBOLS[exchange], "1m"), expected)
        # Chance may spare the few requests of three runs.
        if number >= 2 and sum(listed["applied"] for listed in simulator.faults()) > 0:
            break
    assert sum(listed["applied"] for listed in simulator.faults()) > 0
    simulator.set_faults()
    if platform.jobs.count({"kind": "repair"}):
        # A candle that came with other values too was left out, and is asked for again.
        assert fault == "doubled with other values"
        assert run_once(platform, f"{job_id}:repair").outcome.value == "caught_up"
    run_until_settled(platform, job_id)
    assert_series_equals(stored_documents(platform, exchange, SYMBOLS[exchange], "1m"), expected, DEFAULT_INDICATORS)


def test_a_candle_published_late_is_waited_for_and_not_passed(platform: Platform) -> None:
    with start_simulator(freeze_at_ms=NOW_MS, seed=SEED) as simulator:
        simulator.configure("binance", WIDE)
        add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)
        job_id = add_job(platform, start_ms=START_MS)
        simulator.set_faults({"exchange": "binance", "kind": "late", "delay_ms": 60_000, "keeps_running": True})
        run_once(platform, job_id)
        job = platform.jobs.get(job_id)
        # The candle that closed 2 s ago is not there yet: the cursor stands before it, and it is asked for soon.
        assert to_ms(job["cursor"]["last_ts"]) == NOW_MS // MINUTE_MS * MINUTE_MS - 2 * MINUTE_MS
        simulator.clock(advance_ms=61_000)
        expected = truth("binance", NOW_MS // MINUTE_MS * MINUTE_MS + MINUTE_MS)
        run_once(platform, job_id)
        documents = stored_documents(platform, "binance", "BTC/USDT", "1m")
        assert_series_equals(documents, expected[: len(documents)], DEFAULT_INDICATORS)
        assert len(documents) >= INTERVALS


def test_a_candle_revised_after_its_close_is_corrected_with_what_depends_on_it(platform: Platform) -> None:
    with start_simulator(freeze_at_ms=NOW_MS, seed=SEED) as simulator:
        simulator.configure("binance", WIDE)
        add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)
        job_id = add_job(platform, start_ms=START_MS)
        simulator.set_faults({"exchange": "binance", "kind": "revise", "delay_ms": 90_000})
        run_until_settled(platform, job_id)
        first = stored_documents(platform, "binance", "BTC/USDT", "1m")[-1]
        simulator.clock(advance_ms=2 * MINUTE_MS)
        simulator.set_faults()
        run_until_settled(platform, job_id)
        expected = truth("binance", NOW_MS // MINUTE_MS * MINUTE_MS + 2 * MINUTE_MS)
        documents = stored_documents(platform, "binance", "BTC/USDT", "1m")
        assert_series_equals(documents, expected, DEFAULT_INDICATORS)
        assert first["close"] != next(d for d in documents if d["_id"] == first["_id"])["close"]
        # Two had closed less than a minute and a half ago.
        assert platform.jobs.get(job_id)["totals"]["revisions"] == 2
        revision, _ = platform.revisions.list_("binance:BTC-USDT:1m", None, 10)
        assert (revision["open_at"], revision["old"]["close"]) == (first["_id"], first["close"])
        assert revision["new"]["close"] == next(d for d in documents if d["_id"] == first["_id"])["close"]
        assert revision["run_id"] in {run["_id"] for run in platform.runs.list_of_job(job_id, None, 10)}


def test_a_market_without_trades_does_not_hold_the_cursor_for_ever(platform: Platform) -> None:
    with start_simulator(freeze_at_ms=NOW_MS, seed=SEED) as simulator:
        simulator.configure("coinbase", WIDE)
        add_connector(platform, "coinbase", base_url=simulator.base_url("coinbase"), windows=WIDE)
        job_id = add_job(platform, "BTC/USD", connector_id="coinbase", start_ms=START_MS)
        simulator.set_faults({"exchange": "coinbase", "kind": "cut_rows", "rows": 10_000})
        run_until_settled(platform, job_id)
        cursor_ms = to_ms(platform.jobs.get(job_id)["cursor"]["last_ts"])
        grace_ms = platform.connectors.get_connector("coinbase").publish_grace_ms
        assert stored_documents(platform, "coinbase", "BTC/USD", "1m") == []
        # Passed, but for what closed within the grace time.
        assert NOW_MS - grace_ms - 2 * MINUTE_MS < cursor_ms < NOW_MS - grace_ms


@pytest.fixture(params=["kraken", "deribit"])
def filled_job(platform: Platform, simulator: SimulatorProcess, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """An exchange that leaves out no interval, and the job of one series of it: (exchange, job)."""
    exchange: str = request.param
    add_connector(platform, exchange, base_url=simulator.base_url(exchange), windows=WIDE)
    yield exchange, add_job(platform, SYMBOLS[exchange], connector_id=exchange, start_ms=FILLED_START_MS)
    simulator.set_faults()


def assert_filled(platform: Platform, exchange: str) -> None:
    expected = true_candles(SEED, exchange, SYMBOLS[exchange], "1m", FILLED_START_MS, NOW_MS // MINUTE_MS * MINUTE_MS)
    assert_series_equals(stored_documents(platform, exchange, SYMBOLS[exchange], "1m"), expected, DEFAULT_INDICATORS)


def test_a_page_that_lacks_a_row_is_asked_for_again_where_the_exchange_leaves_out_none(
    platform: Platform, simulator: SimulatorProcess, filled_job: tuple[str, str]
) -> None:
    exchange, job_id = filled_job
    simulator.set_faults({"exchange": exchange, "kind": "gap", "count": 1})
    result = run_once(platform, job_id)
    assert (result.outcome.value, result.requests) == ("caught_up", 2)
    assert_filled(platform, exchange)
    assert platform.jobs.count({"kind": "repair"}) == 0


def test_a_hole_that_stays_keeps_nothing_waiting_and_is_repaired_when_it_comes(
    platform: Platform, simulator: SimulatorProcess, filled_job: tuple[str, str]
) -> None:
    """A market that was halted, or an exchange that is back from an outage with half a page: nobody can tell yet."""
    exchange, job_id = filled_job
    simulator.set_faults({"exchange": exchange, "kind": "gap"})
    assert run_once(platform, job_id).outcome.value == "caught_up"
    counts = platform.coverage_reader.read(job_id, None, NOW_MS, frozenset(), 10).counts
    assert counts[IntervalState.MISSING] == 1
    simulator.set_faults()
    run_once(platform, f"{job_id}:repair")
    run_until_caught_up(platform, f"{job_id}:enrich")
    assert_filled(platform, exchange)


def test_what_is_behind_the_last_row_is_not_passed_where_the_exchange_leaves_out_none(
    platform: Platform, simulator: SimulatorProcess, filled_job: tuple[str, str]
) -> None:
    exchange, job_id = filled_job
    simulator.set_faults({"exchange": exchange, "kind": "cut_rows", "rows": 100, "count": 1})
    run_until_settled(platform, job_id)
    assert_filled(platform, exchange)


def test_throttling_blocks_the_connector_and_counts_no_attempt(platform: Platform, simulator: SimulatorProcess) -> None:
    add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)
    job_id = add_job(platform, start_ms=START_MS)
    simulator.set_faults({"exchange": "binance", "kind": "status", "status": 429, "retry_after_s": 30, "count": 1})
    assert run_once(platform, job_id).outcome.value == "throttled"
    job, connector = platform.jobs.get(job_id), platform.connectors.get("binance")
    assert job["attempt"] == 0
    assert job["status"] == "active"
    wait_ms = to_ms(connector["blocked_until"]) - platform.database.server_now_ms()
    assert 25_000 < wait_ms <= 30_000
    assert abs(to_ms(job["next_run_at"]) - to_ms(connector["blocked_until"])) < 2_000
    requests_before = simulator.report()["binance"]["requests_total"]
    assert run_once(platform, job_id).outcome.value == "waiting"
    assert simulator.report()["binance"]["requests_total"] == requests_before


def test_a_failure_backs_off_and_too_many_stop_the_job_with_an_alert(platform: Platform, simulator: SimulatorProcess) -> None:
    add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)
    job_id = add_job(platform, start_ms=START_MS)
    simulator.set_faults({"exchange": "binance", "kind": "status", "status": 503})
    assert run_once(platform, job_id).outcome.value == "failed"
    job = platform.jobs.get(job_id)
    assert job["attempt"] == 1
    assert job["last_error"]["code"] == "exchange_unavailable"
    platform.database.collection("jobs").update_one({"_id": job_id}, {"$set": {"attempt": platform.settings.attempts_max - 1}})
    assert run_once(platform, job_id).outcome.value == "error"
    assert platform.jobs.get(job_id)["status"] == "error"
    assert len(platform.alerts.list_("open", 10)) == 1
    simulator.set_faults()


def test_an_unknown_symbol_stops_the_job_at_once(platform: Platform, simulator: SimulatorProcess) -> None:
    add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)
    job_id = add_job(platform, "NOSUCH/USDT", start_ms=START_MS)
    assert run_once(platform, job_id).outcome.value == "error"
    job = platform.jobs.get(job_id)
    assert job["last_error"]["code"] == "exchange_rejected"
    assert job["lock"] == {"fence": 1}
