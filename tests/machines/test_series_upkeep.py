"""Edits of jobs and what they mean for the series: its ledger, its repair and enrich jobs, and values that are stale."""

import threading
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from local_emulator.simulator.process import SimulatorProcess
from local_emulator.simulator.truth import true_candles
from shared.domain.coverage import TRIES_MAX
from shared.domain.indicators import DEFAULT_INDICATORS, IndicatorSpec, resolve_indicators
from shared.domain.jobs import Job, to_datetime, to_ms
from shared.domain.timeframes import MINUTE_MS
from shared.stores.candles import Series
from shared.usecases.manage_jobs import JobChanges
from shared.usecases.plan_jobs import NewJob
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import add_connector, add_job, make_platform, run_once, run_until_caught_up, stored_documents
from tests.machines.series_scene import CLOSED_MS, WIDE, back, counts, hide
from tests.replay import assert_series_equals
from tests.waiting import HANG_S

SEED: Final = 31
AUTHOR: Final = Author("me", "admin", "test")


def assert_truth(
    platform: Platform, start_ms: int, specs: tuple[IndicatorSpec, ...] = DEFAULT_INDICATORS, end_ms: int = CLOSED_MS
) -> None:
    expected = true_candles(SEED, "binance", "BTC/USDT", "1m", start_ms, end_ms)
    assert_series_equals(stored_documents(platform, "binance", "BTC/USDT", "1m"), expected, specs)


def test_another_list_of_indicators_reaches_all_of_the_history_without_asking_the_exchange(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    job_id = add_job(platform, start_ms=back(3_000))
    run_until_caught_up(platform, job_id)
    wanted = [{"name": "SMA", "params": {"timeperiod": 7}}, {"name": "OBV"}, {"name": "AD"}, {"name": "KAMA"}]
    requests = simulator.report()["binance"]["requests_total"]
    platform.job_manager.patch(job_id, JobChanges(indicators=tuple(wanted)), None, AUTHOR)
    run_until_caught_up(platform, f"{job_id}:enrich")
    assert simulator.report()["binance"]["requests_total"] == requests
    assert_truth(platform, back(3_000), resolve_indicators(wanted))
    assert platform.jobs.get(f"{job_id}:enrich")["status"] == "done"


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_another_list_reaches_what_a_backfill_has_stored_before_the_job(
    platform: Platform, simulator: SimulatorProcess, mongodb_uri: str, database_name: str, when: str
) -> None:
    """Whoever stored it: the job itself knows nothing of what is before its start."""
    by_page = make_platform(mongodb_uri, database_name, worker_pages_max=1)
    job_id = add_job(platform, start_ms=back(500))
    run_until_caught_up(platform, job_id)
    wanted = [{"name": "EMA", "params": {"timeperiod": 20}}, {"name": "RSI"}, {"name": "OBV"}]

    def change_list() -> None:
        platform.job_manager.patch(job_id, JobChanges(indicators=tuple(wanted)), None, AUTHOR)

    chunk_id = add_job(platform, start_ms=back(3_500), end_ms=back(500))
    if when == "before":
        change_list()
    elif when == "during":
        run_once(by_page, chunk_id)
        change_list()
    run_until_caught_up(platform, chunk_id)
    by_page.close()
    run_until_caught_up(platform, f"{job_id}:enrich")
    if when == "after":
        change_list()
        run_until_caught_up(platform, f"{job_id}:enrich")
    assert platform.helpers.count_stale(Series.of(Job.from_document(platform.jobs.get(job_id)))) == 0
    assert_truth(platform, back(3_500), resolve_indicators(wanted))
    found = platform.series_verifier.verify(job_id, back(3_500), None)
    assert (found.value_differences_count, found.candles_count) == (0, 3_500)


def test_a_deleted_job_leaves_what_is_known_to_the_one_made_after_it(platform: Platform, simulator: SimulatorProcess) -> None:
    hide(simulator, back(700), back(690))
    job_id = add_job(platform, start_ms=back(1_000))
    run_until_caught_up(platform, job_id)
    platform.job_manager.delete(job_id, None, AUTHOR, with_candles=False)
    assert platform.jobs.count({}) == 0
    # Its fences begin above those of the one that was deleted.
    again = add_job(platform, start_ms=back(1_000), created_at=datetime.now(UTC))
    assert counts(platform, again) == {"stored": 990, "missing": 10}
    simulator.set_faults()
    run_until_caught_up(platform, again)
    assert counts(platform, again) == {"stored": 1_000}


@pytest.mark.parametrize("later", [300, 2_000])
def test_a_job_made_anew_does_what_was_left_to_do_when_the_last_one_was_deleted(
    platform: Platform, simulator: SimulatorProcess, later: int
) -> None:
    """Wherever it begins: holes before it are asked for again, and what was stale is computed."""
    hide(simulator, back(700), back(690))
    job_id = add_job(platform, start_ms=back(1_000))
    run_until_caught_up(platform, job_id)
    # Something is stale, and something missing, when the job goes.
    chunk_id = add_job(platform, start_ms=back(1_500), end_ms=back(1_000))
    run_until_caught_up(platform, chunk_id)
    for each in (chunk_id, job_id):
        platform.job_manager.delete(each, None, AUTHOR, with_candles=False)
    simulator.set_faults()
    simulator.clock(advance_ms=MINUTE_MS)
    new = NewJob("binance", "BTC/USDT", "1m", overlap=2, start_ms=back(later))
    assert platform.job_manager.create(new, AUTHOR)["_id"] == job_id
    run_until_caught_up(platform, job_id)
    run_until_caught_up(platform, f"{job_id}:repair")
    run_until_caught_up(platform, f"{job_id}:enrich")
    assert_truth(platform, back(max(later, 1_500)), end_ms=CLOSED_MS + MINUTE_MS)


def test_a_second_job_with_another_list_reaches_all_that_is_stored(platform: Platform, simulator: SimulatorProcess) -> None:
    """Also where the first one is done, and asks for nothing any more. Its own list stays: both are computed for all."""
    first, second = ([{"name": "EMA", "params": {"timeperiod": 9}}], [{"name": "RSI"}, {"name": "OBV"}])
    listed = [spec.to_document() for spec in resolve_indicators(first)]
    run_until_caught_up(platform, add_job(platform, start_ms=back(2_000), end_ms=back(1_000), indicators=listed))
    new = NewJob("binance", "BTC/USDT", "1m", overlap=2, start_ms=back(1_000), indicators=tuple(second))
    job_id = platform.job_manager.create(new, AUTHOR)["_id"]
    run_until_caught_up(platform, job_id)
    run_until_caught_up(platform, f"{job_id}:enrich")
    assert_truth(platform, back(2_000), resolve_indicators([*first, *second]))
    # One with a list that is there already makes nothing stale.
    new = NewJob("binance", "BTC/USDT", "1m", overlap=2, start_ms=back(1_900), end_ms=back(1_800), indicators=tuple(first))
    platform.job_manager.create(new, AUTHOR)
    assert platform.jobs.get(f"{job_id}:enrich")["status"] == "done"


def test_with_its_candles_everything_that_is_known_goes(platform: Platform, simulator: SimulatorProcess) -> None:
    hide(simulator, back(700), back(690))
    job_id = add_job(platform, start_ms=back(1_000))
    run_until_caught_up(platform, job_id)
    platform.job_manager.delete(job_id, None, AUTHOR, with_candles=True)
    assert platform.jobs.count({}) == 0
    assert platform.database.collection("coverage").count_documents({}) == 0
    assert counts(platform, add_job(platform, start_ms=back(1_000))) == {"pending": 1_000}


@pytest.mark.parametrize("with_candles", [False, True])
def test_the_alert_about_a_dispute_ends_with_the_series_last_job(
    platform: Platform, simulator: SimulatorProcess, with_candles: bool
) -> None:
    """Nobody asks for the candle any more. While another job of the series is there, it stays."""
    simulator.set_faults({"exchange": "binance", "kind": "conflict", "from_ms": back(700), "to_ms": back(699)})
    job_id = add_job(platform, start_ms=back(1_000))
    run_until_caught_up(platform, job_id)
    other_id = add_job(platform, start_ms=back(1_100), end_ms=back(1_000))
    run_until_caught_up(platform, other_id)
    platform.job_manager.delete(other_id, None, AUTHOR, with_candles=False)
    (alert,) = platform.alerts.list_("open", 10)
    assert alert["subject"] == f"series/{job_id}/disputed"
    platform.job_manager.delete(job_id, None, AUTHOR, with_candles=with_candles)
    assert platform.alerts.list_("open", 10) == []


def test_pause_and_resume_take_the_helpers_along(platform: Platform, simulator: SimulatorProcess) -> None:
    hide(simulator, back(700), back(690))
    job_id = add_job(platform, start_ms=back(1_000))
    run_until_caught_up(platform, job_id)
    platform.job_manager.pause(job_id, None, AUTHOR)
    assert platform.jobs.get(f"{job_id}:repair")["status"] == "paused"
    platform.job_manager.resume(job_id, None, AUTHOR)
    assert platform.jobs.get(f"{job_id}:repair")["status"] == "active"


def test_a_page_that_lands_while_values_are_computed_again_continues_from_the_new_ones(
    platform: Platform, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The live job has read its tail when the enricher replaces the values in it; and the other way round."""
    hide(simulator, back(600), back(590))
    job_id = add_job(platform, start_ms=back(1_000))
    run_until_caught_up(platform, job_id)
    simulator.set_faults()
    run_once(platform, f"{job_id}:repair")
    # The live run stands still between its answer and its transaction, while the enricher works to the end.
    simulator.clock(advance_ms=MINUTE_MS)
    read, go_on = threading.Event(), threading.Event()
    transact = platform.database.transact

    def held(work: object, session: object = None) -> object:
        if threading.current_thread().name == "live":
            read.set()
            assert go_on.wait(HANG_S)
        return transact(work, session)  # type: ignore[arg-type]

    monkeypatch.setattr(platform.database, "transact", held)
    live = threading.Thread(target=run_once, args=(platform, job_id), name="live")
    live.start()
    assert read.wait(HANG_S)
    run_until_caught_up(platform, f"{job_id}:enrich")
    go_on.set()
    live.join(HANG_S)
    assert_truth(platform, back(1_000), end_ms=CLOSED_MS + MINUTE_MS)


def test_a_candle_stored_after_a_chunk_was_read_is_not_left_with_old_values(
    platform: Platform, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(simulator, back(600), back(590))
    job_id = add_job(platform, start_ms=back(1_000))
    run_until_caught_up(platform, job_id)
    simulator.set_faults()
    run_once(platform, f"{job_id}:repair")
    simulator.clock(advance_ms=MINUTE_MS)
    is_first = [True]
    read_range = platform.candles.read_range

    def overtaken(*args: object, **options: object) -> object:
        found = read_range(*args, **options)  # type: ignore[arg-type]
        if is_first and "limit" in options:
            is_first.clear()
            run_once(platform, job_id)
        return found

    monkeypatch.setattr(platform.candles, "read_range", overtaken)
    run_until_caught_up(platform, f"{job_id}:enrich")
    assert not is_first
    assert_truth(platform, back(1_000), end_ms=CLOSED_MS + MINUTE_MS)


def test_candles_repaired_after_a_chunk_was_read_are_not_forgotten(
    platform: Platform, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(simulator, back(600), back(500))
    job_id = add_job(platform, start_ms=back(1_000))
    run_until_caught_up(platform, job_id)
    hide(simulator, back(550), back(500))
    run_once(platform, f"{job_id}:repair")
    simulator.set_faults()
    is_first, read_range = [True], platform.candles.read_range

    def overtaken(*args: object, **options: object) -> object:
        found = read_range(*args, **options)  # type: ignore[arg-type]
        if is_first and "limit" in options:
            is_first.clear()
            run_once(platform, f"{job_id}:repair")
        return found

    monkeypatch.setattr(platform.candles, "read_range", overtaken)
    run_until_caught_up(platform, f"{job_id}:enrich")
    assert not is_first
    assert_truth(platform, back(1_000))


def test_a_candle_that_comes_where_another_job_had_none_is_stored_in_the_ledger_too(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    """Another job had asked for an interval that the live job comes to later, one by one, when its candle is there."""
    live_id = add_job(platform, start_ms=back(500))
    run_until_caught_up(platform, live_id)
    simulator.clock(advance_ms=5 * MINUTE_MS)
    hide(simulator, CLOSED_MS + 2 * MINUTE_MS, CLOSED_MS + 3 * MINUTE_MS)
    backfill_id = add_job(platform, start_ms=back(10), end_ms=CLOSED_MS + 5 * MINUTE_MS)
    run_until_caught_up(platform, backfill_id)
    for _ in range(TRIES_MAX):
        run_until_caught_up(platform, f"{live_id}:repair")
    end_ms = CLOSED_MS + 5 * MINUTE_MS
    assert counts(platform, live_id, end_ms) == {"stored": 504, "no_trades": 1}
    simulator.set_faults()
    run_until_caught_up(platform, live_id)
    assert counts(platform, live_id, end_ms) == {"stored": 505}


@pytest.mark.parametrize("kind", ["repair", "enrich"])
def test_a_helper_that_is_woken_while_it_ends_goes_on(
    platform: Platform, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    hide(simulator, back(600), back(590))
    live_id = add_job(platform, start_ms=back(1_000))
    run_until_caught_up(platform, live_id)
    simulator.set_faults()
    for each in ("repair", "enrich"):
        run_until_caught_up(platform, f"{live_id}:{each}")
    # Nothing is left to do, and it has not looked yet.
    helper_id = f"{live_id}:{kind}"
    platform.database.collection("jobs").update_one({"_id": helper_id}, {"$set": {"status": "active"}})
    helpers, job = platform.runner.helpers, Job.from_document(platform.jobs.get(live_id))
    finish = platform.leases.finish

    def woken(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        want = helpers.want_repair if kind == "repair" else helpers.want_enriching
        platform.database.transact(lambda session: want(job, back(600), back(590), session))
        return finish(*args, **options)

    monkeypatch.setattr(platform.leases, "finish", woken)
    assert run_once(platform, helper_id).outcome.value == "done"
    after = platform.jobs.get(helper_id)
    assert after["status"] == "active"
    assert to_ms(after["next_run_at"]) <= platform.database.server_now_ms()
    run_until_caught_up(platform, helper_id)
    assert platform.jobs.get(helper_id)["status"] == "done"


def test_an_enrich_job_that_is_paused_ends_with_its_chunk(
    platform: Platform, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.usecases.enrich_series.CHUNK", 100)
    live_id = add_job(platform, start_ms=back(1_000))
    run_until_caught_up(platform, live_id)
    platform.job_manager.patch(live_id, JobChanges(indicators=({"name": "OBV"}, {"name": "TRANGE"})), None, AUTHOR)
    read_range, chunks = platform.candles.read_range, list[int]()

    def paused(*args: Any, **options: Any) -> Any:
        if "limit" in options:
            chunks.append(1)
            if len(chunks) == 2:
                platform.job_manager.pause(live_id, None, AUTHOR)
        return read_range(*args, **options)

    monkeypatch.setattr(platform.candles, "read_range", paused)
    assert run_once(platform, f"{live_id}:enrich").outcome.value == "paused"
    assert len(chunks) == 2
    platform.job_manager.resume(live_id, None, AUTHOR)
    run_until_caught_up(platform, f"{live_id}:enrich")
    assert_truth(platform, back(1_000), resolve_indicators([{"name": "OBV"}, {"name": "TRANGE"}]))


def test_raw_candles_are_stored_where_indicators_fail_and_get_their_values_later(
    platform: Platform, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_options: object) -> object:
        raise Exception("TA-Lib is unwell")

    job_id = add_job(platform, start_ms=back(1_500))
    with monkeypatch.context() as patched:
        patched.setattr("shared.usecases.read_history.compute_indicators", broken)
        run_until_caught_up(platform, job_id)
        stored = stored_documents(platform, "binance", "BTC/USDT", "1m")
        assert len(stored) == 1_500
        assert all("ind" not in document for document in stored)
        assert run_once(platform, f"{job_id}:enrich").outcome.value == "failed"
    platform.database.collection("jobs").update_one({"_id": f"{job_id}:enrich"}, {"$set": {"next_run_at": to_datetime(0)}})
    run_until_caught_up(platform, f"{job_id}:enrich")
    assert_truth(platform, back(1_500))


def test_two_connectors_of_one_exchange_share_the_helpers_and_hand_them_over(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    add_connector(platform, connector_id="second", base_url=simulator.base_url("binance"), windows=WIDE)
    hide(simulator, back(700), back(690))
    live_id = add_job(platform, start_ms=back(1_000))
    run_until_caught_up(platform, live_id)
    backfill_id = add_job(platform, connector_id="second", start_ms=back(2_000), end_ms=back(1_000))
    run_until_caught_up(platform, backfill_id)
    simulator.set_faults()
    helpers = {job["_id"]: job["connector_id"] for job in platform.jobs.list_({"kind": {"$in": ["repair", "enrich"]}})}
    assert helpers == {"binance:BTC-USDT:1m:repair": "binance", "binance:BTC-USDT:1m:enrich": "second"}
    platform.job_manager.delete(backfill_id, None, AUTHOR, with_candles=False)
    assert platform.jobs.count({"connector_id": "second"}) == 0
    for kind in ("repair", "enrich"):
        run_until_caught_up(platform, f"{live_id}:{kind}")
    assert_truth(platform, back(2_000))
