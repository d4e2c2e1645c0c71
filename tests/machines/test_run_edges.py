"""Runs at the edges: moved ends, series shared by jobs, candles read again, pauses, failures after progress."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
import requests

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.truth import true_candles
from shared.deadline import Deadline
from shared.domain.indicators import DEFAULT_INDICATORS
from shared.domain.jobs import to_datetime, to_ms
from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES
from shared.usecases.record_changes import Author
from shared.usecases.windows_ahead import IN_FLIGHT_MAX
from shared.wiring import Platform
from tests.contract.loopback_venue import Venue
from tests.factories import add_connector, add_job, claim, make_platform, run_once, run_until_caught_up, stored_documents
from tests.limits import make_ask
from tests.replay import assert_series_equals
from tests.waiting import HANG_S, wait_until

SEED: Final = 13
NOW_MS: Final = 1_760_000_042_000
END_MS: Final = NOW_MS // MINUTE_MS * MINUTE_MS
WIDE: Final = [(100_000, 60_000)]
RSI: Final = [{"name": "RSI", "params": {"timeperiod": 14}}]


@pytest.fixture(scope="module")
def shared_simulator() -> Iterator[SimulatorProcess]:
    with start_simulator(freeze_at_ms=NOW_MS, seed=SEED) as running:
        yield running


@pytest.fixture
def simulator(shared_simulator: SimulatorProcess) -> SimulatorProcess:
    """Frozen at NOW_MS, without faults and with all the weight one can use."""
    shared_simulator.set_faults()
    shared_simulator.clock(freeze=True, now_ms=NOW_MS)
    for exchange in ("binance", "coinbase"):
        shared_simulator.configure(exchange, WIDE)
    return shared_simulator


def connect(platform: Platform, simulator: SimulatorProcess, exchange: str = "binance", **fields: Any) -> None:
    add_connector(platform, exchange, base_url=simulator.base_url(exchange), windows=WIDE, **fields)


def requests_total(simulator: SimulatorProcess, exchange: str = "binance") -> int:
    return int(simulator.report()[exchange]["requests_total"])


def jobs(platform: Platform) -> Any:
    return platform.database.collection("jobs")


def test_an_end_that_is_moved_during_the_last_run_is_not_lost(platform: Platform, simulator: SimulatorProcess) -> None:
    connect(platform, simulator)
    job_id = add_job(platform, start_ms=END_MS - 500 * MINUTE_MS, end_ms=END_MS - 300 * MINUTE_MS)
    claimed = claim(platform, job_id)
    simulator.set_faults({"exchange": "binance", "kind": "slow", "delay_ms": 300})
    moved = to_datetime(END_MS - 100 * MINUTE_MS)
    document = platform.leases.begin(job_id, claimed.fence, f"{job_id}#1", 60_000)
    jobs(platform).update_one({"_id": job_id}, {"$set": {"end_at": moved}})
    platform.database.transact(
        lambda session: platform.leases.finish(
            job_id, claimed.fence, status="done", end_at=document["end_at"], next_run_at=to_datetime(NOW_MS), attempt=0,
            last_error=None, cursor=None, added={}, facts={}, session=session,
        )
    )  # fmt: skip
    assert platform.jobs.get(job_id)["status"] == "active"
    run_until_caught_up(platform, job_id)
    assert platform.jobs.get(job_id)["status"] == "done"
    assert to_ms(platform.jobs.get(job_id)["cursor"]["last_ts"]) == END_MS - 101 * MINUTE_MS


def test_a_job_over_the_same_series_leaves_the_other_jobs_indicators(platform: Platform, simulator: SimulatorProcess) -> None:
    connect(platform, simulator)
    live = add_job(platform, start_ms=END_MS - 900 * MINUTE_MS, indicators=RSI)
    run_until_caught_up(platform, live)
    ema = [{"name": "EMA", "params": {"timeperiod": 20}}]
    start_ms, end_ms = END_MS - 900 * MINUTE_MS, END_MS - 700 * MINUTE_MS
    run_until_caught_up(platform, add_job(platform, start_ms=start_ms, end_ms=end_ms, indicators=ema))
    run_until_caught_up(platform, f"{live}:enrich")
    for document in stored_documents(platform, "binance", "BTC/USDT", "1m")[50:150]:
        assert set(document["ind"]) == {"rsi_14", "ema_20"}


def test_a_stretch_without_trades_behind_candles_read_again_is_passed(platform: Platform, simulator: SimulatorProcess) -> None:
    """The last run ended at the last candle before the stretch, so the next one reads that candle again first."""
    connect(platform, simulator, "coinbase")
    connect(platform, simulator)
    start_ms, end_ms = END_MS - 400 * MINUTE_MS, END_MS - 200 * MINUTE_MS
    job_id = add_job(platform, start_ms=start_ms, end_ms=end_ms)
    run_once(platform, job_id)
    # As if the exchange had nothing after the 100th candle.
    series_end_ms = start_ms + 100 * MINUTE_MS
    platform.database.collection("candles_binance_BTC-USDT_1m").delete_many({"_id": {"$gte": to_datetime(series_end_ms)}})
    jobs(platform).update_one(
        {"_id": job_id}, {"$set": {"status": "active", "cursor.last_ts": to_datetime(series_end_ms - MINUTE_MS)}}
    )
    simulator.set_faults({"exchange": "binance", "kind": "cut_rows", "rows": 100})
    run_until_caught_up(platform, job_id, runs_max=3)
    assert platform.jobs.get(job_id)["status"] == "done"


def test_a_revised_candle_mends_the_stored_ones_that_its_page_lacks(platform: Platform, simulator: SimulatorProcess) -> None:
    connect(platform, simulator)
    job_id = add_job(platform, start_ms=END_MS - 900 * MINUTE_MS)
    run_until_caught_up(platform, job_id)
    candles = platform.database.collection("candles_binance_BTC-USDT_1m")
    before_last = to_datetime(END_MS - 2 * MINUTE_MS)
    stored = candles.find_one({"_id": before_last})
    # Stored otherwise than the exchange has it, with the indicators of both candles accordingly wrong.
    candles.update_one({"_id": before_last}, {"$set": {"close": stored["low"]}})
    candles.update_many({"_id": {"$gte": before_last}}, {"$set": {"ind.sma_20": 1.0}})
    simulator.clock(advance_ms=MINUTE_MS)
    simulator.set_faults({"exchange": "binance", "kind": "cut_rows", "rows": 2, "count": 1})
    run_once(platform, job_id)
    simulator.set_faults()
    run_until_caught_up(platform, job_id)
    expected = true_candles(SEED, "binance", "BTC/USDT", "1m", END_MS - 900 * MINUTE_MS, END_MS + MINUTE_MS)
    assert_series_equals(stored_documents(platform, "binance", "BTC/USDT", "1m"), expected, DEFAULT_INDICATORS)


def test_pausing_the_connector_stops_a_run_at_its_next_request(platform: Platform, simulator: SimulatorProcess) -> None:
    # A window in which one reservation holds one page: every page has to ask the limiter.
    add_connector(platform, base_url=simulator.base_url("binance"), windows=[(10_000, 1_000)])
    # Nobody gets through so much before the pause.
    job_id = add_job(platform, start_ms=END_MS - 2_000_000 * MINUTE_MS, end_ms=END_MS)
    claimed = claim(platform, job_id)
    simulator.set_faults({"exchange": "binance", "kind": "slow", "delay_ms": 150})
    before = requests_total(simulator)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(platform.runner.run, job_id, claimed.fence, "test", Deadline.after(HANG_S))
        wait_until(lambda: running.done() or requests_total(simulator) >= before + 3)
        platform.connector_manager.pause("binance", None, Author("me", "admin", "test"))
        sent = requests_total(simulator) - before
        result = running.result()
    assert result.outcome.value == "paused"
    # What was under way when it was paused, and what was held for as many more.
    assert result.requests <= sent + 2 * IN_FLIGHT_MAX


def test_a_run_that_got_on_before_it_failed_is_no_repeated_failure(
    mongodb_uri: str, database_name: str, simulator: SimulatorProcess
) -> None:
    platform = make_platform(mongodb_uri, database_name, worker_pages_max=50)
    try:
        connect(platform, simulator)
        job_id = add_job(
            platform, start_ms=END_MS - 9_000 * MINUTE_MS, end_ms=END_MS, attempt=platform.settings.attempts_max - 1
        )
        simulator.set_faults({"exchange": "binance", "kind": "status", "status": 503, "rate": 0.6})
        for _ in range(30):
            outcome = run_once(platform, job_id).outcome.value
            job = platform.jobs.get(job_id)
            if outcome == "failed" and job["totals"]["candles"]:
                break
            jobs(platform).update_one({"_id": job_id}, {"$set": {"attempt": 7, "status": "active"}})
        assert outcome == "failed"
        assert job["status"] == "active"
    finally:
        platform.close()


@pytest.mark.parametrize("uri", ["mongodb://user:s3cr/et@host/", "mongodb://us/er:s3cret@host:27017/", "mongodb://a:b@[::1/"])
def test_no_piece_of_a_malformed_uri_is_shown(uri: str) -> None:
    from shared.errors import ConfigurationError
    from shared.settings import load_settings
    from shared.stores.database import Database

    with pytest.raises(ConfigurationError, match="MONGODB_URI is malformed") as caught:
        Database.connect(load_settings(mongodb_uri=uri))
    assert "s3cr" not in str(caught.value)
    assert "et@" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_exchange_whose_clock_is_behind_is_asked_by_its_own_clock(platform: Platform) -> None:
    """By ours its candle would be due 2.5 s before it closes there, and the job would run again and again until then.

    Its clock stands still at a full second, so that it is known exactly how far it is behind when the run asks it.
    """
    settle_ms, frame = 500, TIMEFRAMES["1m"]
    exchange_ms = platform.database.server_now_ms() // 1_000 * 1_000 - 2_000
    with start_simulator(seed=SEED, freeze_at_ms=exchange_ms) as simulator:
        simulator.configure("binance", WIDE)
        connect(platform, simulator, settle_delay_ms=settle_ms)
        job_id = add_job(platform, start_ms=exchange_ms - 30 * MINUTE_MS, indicators=[])
        asked_ms = platform.database.server_now_ms()
        assert run_once(platform, job_id).outcome.value == "caught_up"
        answered_ms = platform.database.server_now_ms()
    close_ms = frame.close(frame.floor(exchange_ms))
    after_close_ms = to_ms(platform.jobs.get(job_id)["next_run_at"]) - close_ms - settle_ms
    assert asked_ms - exchange_ms <= after_close_ms <= answered_ms - exchange_ms


def test_an_empty_answer_is_asked_for_again_before_it_is_believed(platform: Platform, simulator: SimulatorProcess) -> None:
    connect(platform, simulator)
    start_ms = END_MS - 2_500 * MINUTE_MS
    job_id = add_job(platform, start_ms=start_ms, end_ms=END_MS, indicators=[])
    for number in range(3):
        simulator.set_faults({"exchange": "binance", "kind": "cut_rows", "rows": 10_000, "count": 1})
        run_once(platform, job_id)
        if platform.jobs.get(job_id)["status"] == "done":
            break
        assert number < 2
    expected = true_candles(SEED, "binance", "BTC/USDT", "1m", start_ms, END_MS)
    assert_series_equals(stored_documents(platform, "binance", "BTC/USDT", "1m"), expected, [])


def test_an_empty_answer_is_doubted_though_the_exchange_does_not_tell_its_time(platform: Platform) -> None:
    venue = Venue()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(venue.serve_forever, 0.02)
        try:
            venue.says([], date_ms=None)
            add_connector(platform, base_url=venue.url, windows=WIDE)
            job_id = add_job(platform, start_ms=platform.database.server_now_ms() - 50 * MINUTE_MS, indicators=[])
            assert run_once(platform, job_id).requests == len(venue.asked) == 2
        finally:
            venue.shutdown()
            venue.server_close()


def test_a_range_without_any_candle_is_passed_when_two_answers_say_so(platform: Platform, simulator: SimulatorProcess) -> None:
    connect(platform, simulator)
    # NOVA was listed later.
    start_ms, end_ms = END_MS - 4_000 * MINUTE_MS, END_MS - 1_000 * MINUTE_MS
    job_id = add_job(platform, "NOVA/USDT", start_ms=start_ms, end_ms=end_ms, indicators=[])
    before = requests_total(simulator)
    assert run_once(platform, job_id).outcome.value == "done"
    assert requests_total(simulator) == before + 2
    assert platform.jobs.get(job_id)["status"] == "done"


def test_failures_before_a_run_that_got_on_are_no_row(platform: Platform, simulator: SimulatorProcess) -> None:
    """Seven failed, then one stores pages and has to wait for the limit: the next failure is the first of a row."""
    window = [(8, 3_600_000)]
    add_connector(platform, base_url=simulator.base_url("binance"), windows=window)
    job_id = add_job(platform, start_ms=END_MS - 30_000 * MINUTE_MS, end_ms=END_MS, indicators=[], attempt=7)
    result = run_once(platform, job_id)
    assert result.outcome.value == "waiting"
    assert result.candles > 0
    assert platform.jobs.get(job_id)["attempt"] == 0


def test_failures_before_a_run_that_got_on_and_was_refused_are_no_row(platform: Platform, simulator: SimulatorProcess) -> None:
    connect(platform, simulator)
    # Three pages of it, of which the exchange gives two.
    simulator.configure("binance", [(4, 60_000)])
    job_id = add_job(platform, start_ms=END_MS - 2_500 * MINUTE_MS, indicators=[], attempt=7)
    result = run_once(platform, job_id)
    assert (result.outcome.value, result.candles) == ("throttled", 2_000)
    assert platform.jobs.get(job_id)["attempt"] == 0


def test_a_backfill_leaves_room_for_a_live_job(platform: Platform, simulator: SimulatorProcess) -> None:
    """A page weighs 2: of a limit of 100 the last one is for a live job."""
    add_connector(platform, base_url=simulator.base_url("binance"), windows=[(100, 3_600_000)])
    backfill_id = add_job(platform, "ETH/USDT", start_ms=END_MS - 60_000 * MINUTE_MS, end_ms=END_MS, indicators=[])

    def has_all_it_may() -> bool:
        """Not always in one run: of a grant that came too late it is not known at once that nothing of it was sent."""
        assert run_once(platform, backfill_id).outcome.value in ("more", "waiting")
        weight = arrived()
        assert weight <= 98
        return weight == 98

    def arrived() -> int:
        return int(simulator.report()["binance"]["windows"][0]["total"])

    wait_until(has_all_it_may)
    assert run_once(platform, backfill_id).outcome.value == "waiting"
    assert arrived() == 98
    live_id = add_job(platform, start_ms=END_MS - 10 * MINUTE_MS, indicators=[])
    assert run_once(platform, live_id).outcome.value == "caught_up"


def test_what_others_use_is_charged_even_if_it_is_little_once_the_window_is_nearly_full(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    window = [(1_000, MINUTE_MS)]
    simulator.configure("binance", window, punish=False)
    add_connector(platform, base_url=simulator.base_url("binance"), windows=window)
    # The exchange counts from minute to minute on this clock. The requests come in one of them.
    wait_until(lambda: time.monotonic() % 60 < 45)
    ours = platform.limits.reserve("binance", make_ask(850, 850))
    assert ours.granted == 850
    with requests.Session() as other:
        other.trust_env = False
        # All of what we have booked, and 10 that we have not: one per cent of the limit.
        for _ in range(43):
            url = simulator.base_url("binance") + "/api/v3/exchangeInfo"
            assert other.get(url, timeout=HANG_S).status_code == 200
    run_once(platform, add_job(platform, start_ms=END_MS - 10 * MINUTE_MS, indicators=[]))
    rest = platform.limits.reserve("binance", make_ask(want=1_000))
    assert rest.granted == 1_000 - 850 - 10 - 2


def test_a_backfill_behind_the_exchanges_history_ends_and_says_so(platform: Platform, simulator: SimulatorProcess) -> None:
    """Made in time and run too late: what is gone is told, in an alert, and the job is not due for ever."""
    # The wall is where it is by the database's clock.
    simulator.clock(freeze=False, offset_ms=0)
    end_ms = platform.database.server_now_ms() // MINUTE_MS * MINUTE_MS
    add_connector(platform, "gate", base_url=simulator.base_url("gate"))

    def backfill(first: int, last: int) -> str:
        start_at, end_at = (end_ms - minutes * MINUTE_MS for minutes in (first, last))
        return add_job(platform, connector_id="gate", start_ms=start_at, end_ms=end_at, indicators=[])

    gone, cut = backfill(12_000, 11_000), backfill(10_500, 9_500)
    before = requests_total(simulator, "gate")
    assert run_once(platform, gone).outcome.value == "done"
    assert requests_total(simulator, "gate") == before
    run_until_caught_up(platform, cut)
    assert platform.jobs.get(cut)["status"] == "done"
    passed_ms = platform.database.server_now_ms() // MINUTE_MS * MINUTE_MS - end_ms
    stored = [to_ms(document["_id"]) for document in stored_documents(platform, "gate", "BTC/USDT", "1m")]
    assert 0 <= stored[0] - end_ms + 9_990 * MINUTE_MS <= passed_ms
    assert stored == list(range(stored[0], end_ms - 9_500 * MINUTE_MS, MINUTE_MS))
    alerts = {alert["subject"]: alert["facts"] for alert in platform.alerts.list_("open", 10)}
    assert set(alerts) == {f"jobs/{gone}/history", f"jobs/{cut}/history"}
    assert to_ms(alerts[f"jobs/{cut}/history"]["to"]) == stored[0]
