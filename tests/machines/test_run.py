"""One run of a job on a real mongod and a simulated exchange: what it stores, when it ends, and what it may not touch."""

import threading
import time
from typing import Any, Final

import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandListener, CommandStartedEvent

from local_emulator.simulator.process import SimulatorProcess
from local_emulator.simulator.truth import true_candles
from shared.deadline import Deadline
from shared.domain.candles import CandleBatch
from shared.domain.indicators import DEFAULT_INDICATORS, resolve_indicators
from shared.domain.jobs import to_datetime, to_ms
from shared.domain.timeframes import MINUTE_MS
from shared.errors import LeaseLost
from shared.stores import database
from shared.stores.database import Database
from shared.stores.job_leases import Claim
from shared.usecases.run_job import TURN_MS
from shared.usecases.send_requests import PAGE_RESERVE_MS
from shared.usecases.windows_ahead import IN_FLIGHT_MAX
from shared.wiring import Platform
from tests.factories import NOSUCH, add_job, claim, make_platform, put_list, run_once, run_until_caught_up, stored_documents
from tests.machines.series_scene import CLOSED_MS, back
from tests.overtaking import Overtake
from tests.replay import assert_series_equals, values_of

SEED: Final = 17
COLLECTION: Final = "candles_binance_BTC-USDT_1m"
PAGE: Final = 1_000


def truth(start_ms: int, end_ms: int = CLOSED_MS) -> CandleBatch:
    return true_candles(SEED, "binance", "BTC/USDT", "1m", start_ms, end_ms)


def requests_total(simulator: SimulatorProcess) -> int:
    return int(simulator.report()["binance"]["requests_total"])


def stored(platform: Platform) -> list[dict[str, Any]]:
    return stored_documents(platform, "binance", "BTC/USDT", "1m")


def update(platform: Platform, job_id: str, **fields: Any) -> None:
    platform.database.collection("jobs").update_one({"_id": job_id}, {"$set": fields})


def runs_of(platform: Platform, job_id: str) -> list[dict[str, Any]]:
    return platform.runs.list_of_job(job_id, None, 100)


# --- how it ends


def test_a_run_begins_no_page_when_its_deadline_is_near_and_leaves_the_rest_to_the_next(
    platform: Platform, simulator: SimulatorProcess, overtake: Overtake
) -> None:
    job_id = add_job(platform, start_ms=back(60 * PAGE), end_ms=CLOSED_MS, indicators=[])
    claimed = claim(platform, job_id)
    before = requests_total(simulator)
    # Earlier than the end of its turn, so that it is this one that counts.
    deadline = Deadline.after((PAGE_RESERVE_MS + TURN_MS) / 1000 - 0.1)
    sent = 0

    def come_near() -> None:
        nonlocal sent
        object.__setattr__(deadline, "at_monotonic", time.monotonic() + PAGE_RESERVE_MS / 1000)
        sent = requests_total(simulator) - before

    overtake(come_near)
    result = platform.runner.run(job_id, claimed.fence, "test", deadline)
    assert result.outcome.value == "more"
    assert 0 < sent <= result.requests <= sent + IN_FLIGHT_MAX
    # What was under way is stored all the same.
    assert len(stored(platform)) == result.requests * PAGE < 60 * PAGE
    job = platform.jobs.get(job_id)
    assert (job["attempt"], job["lock"]) == (0, {"fence": claimed.fence})
    assert to_ms(job["next_run_at"]) <= platform.database.server_now_ms()


def test_a_run_takes_as_many_pages_as_it_may_and_is_due_again_at_once(
    mongodb_uri: str, database_name: str, platform: Platform, simulator: SimulatorProcess
) -> None:
    job_id = add_job(platform, start_ms=back(5 * PAGE), end_ms=CLOSED_MS, indicators=[])
    two_pages = make_platform(mongodb_uri, database_name, worker_pages_max=2)
    try:
        assert run_once(two_pages, job_id).outcome.value == "more"
        (run,) = runs_of(platform, job_id)
        assert (run["pages"], run["requests"], run["candles"]) == (2, 2, 2 * PAGE)
        assert len(stored(platform)) == 2 * PAGE
        assert to_ms(platform.jobs.get(job_id)["next_run_at"]) <= platform.database.server_now_ms()
        assert run_until_caught_up(two_pages, job_id) == 2
    finally:
        two_pages.close()
    assert_series_equals(stored(platform), truth(back(5 * PAGE)), ())


def test_a_pause_ends_the_run_of_a_backfill_before_the_page_at_hand(
    platform: Platform, simulator: SimulatorProcess, overtake: Overtake
) -> None:
    job_id = add_job(platform, start_ms=back(30 * PAGE), end_ms=CLOSED_MS, indicators=[])
    counts: list[int] = []

    def pause() -> None:
        update(platform, job_id, status="paused")
        counts.append(len(stored(platform)))

    overtake(pause, number=2)
    assert run_once(platform, job_id).outcome.value == "paused"
    documents, job = stored(platform), platform.jobs.get(job_id)
    assert 0 < counts[0] == len(documents)
    assert (job["status"], set(job["lock"])) == ("paused", {"fence"})
    # What it has is whole, and goes on from there.
    assert_series_equals(documents, truth(back(30 * PAGE))[: len(documents)], ())
    assert to_ms(job["cursor"]["last_ts"]) == to_ms(documents[-1]["_id"])
    assert not platform.leases.has_due(to_datetime(2**41))


def test_a_backfill_ends_as_done_with_exactly_its_range(platform: Platform, simulator: SimulatorProcess) -> None:
    start_ms, end_ms = back(4_000), back(1_500)
    # Neither bound lies on the grid: the first interval that opens in the range is the first one stored.
    job_id = add_job(platform, start_ms=start_ms - 17_000, end_ms=end_ms - 30_000)
    assert run_once(platform, job_id).outcome.value == "done"
    job = platform.jobs.get(job_id)
    assert (job["status"], job["totals"]["candles"]) == ("done", 2_500)
    assert_series_equals(stored(platform), truth(start_ms, end_ms), DEFAULT_INDICATORS)
    assert not platform.leases.has_due(to_datetime(2**41))


def test_a_start_between_two_candles_begins_with_the_next_one(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = add_job(platform, start_ms=back(10) + 1, indicators=[])
    run_until_caught_up(platform, job_id)
    assert_series_equals(stored(platform), truth(back(9)), ())


# --- what it may not touch


def test_a_job_deleted_during_its_run_writes_nothing_more(
    platform: Platform, simulator: SimulatorProcess, overtake: Overtake
) -> None:
    job_id = add_job(platform, start_ms=back(30 * PAGE), end_ms=CLOSED_MS, indicators=[])
    counts: list[int] = []

    def delete() -> None:
        platform.database.transact(lambda session: platform.jobs.delete(job_id, None, session))
        counts.append(len(stored(platform)))

    overtake(delete, number=2)
    with pytest.raises(LeaseLost):
        run_once(platform, job_id)
    assert len(stored(platform)) == counts[0] > 0
    assert platform.jobs.count({}) == 0
    assert runs_of(platform, job_id) == []


def test_a_run_that_was_overtaken_stores_nothing_further(
    platform: Platform, simulator: SimulatorProcess, overtake: Overtake
) -> None:
    job_id = add_job(platform, start_ms=back(30 * PAGE), end_ms=CLOSED_MS, indicators=[])
    claims: list[Claim] = []
    left: list[tuple[int, Any]] = []

    def take_over() -> None:
        update(platform, job_id, **{"lock.expires_at": to_datetime(0), "next_run_at": to_datetime(0)})
        claims.append(claim(platform, job_id))
        left.append((len(stored(platform)), platform.jobs.get(job_id)["cursor"]))

    overtake(take_over, number=2)
    with pytest.raises(LeaseLost):
        run_once(platform, job_id)
    job, (new,), ((count, cursor),) = platform.jobs.get(job_id), claims, left
    assert (len(stored(platform)), job["cursor"], job["lock"]["fence"]) == (count, cursor, new.fence)
    assert count > 0
    assert job["lock"]["run_id"] is None
    assert platform.runner.run(job_id, new.fence, "test", Deadline.after(100)).outcome.value == "done"
    assert_series_equals(stored(platform), truth(back(30 * PAGE)), ())
    assert [run["outcome"] for run in runs_of(platform, job_id)] == ["done", "lost"]


def test_the_run_of_a_deleted_job_cannot_write_under_the_one_made_again(
    platform: Platform, simulator: SimulatorProcess, overtake: Overtake
) -> None:
    made_at = to_datetime(platform.database.server_now_ms())
    job_id = add_job(platform, start_ms=back(30 * PAGE), end_ms=CLOSED_MS, indicators=[], created_at=made_at)
    counts: list[int] = []

    def make_again() -> None:
        platform.database.transact(lambda session: platform.jobs.delete(job_id, None, session))
        made_again_at = to_datetime(platform.database.server_now_ms())
        add_job(platform, start_ms=back(30 * PAGE), end_ms=CLOSED_MS, indicators=[], created_at=made_again_at)
        new = claim(platform, job_id)
        platform.leases.begin(job_id, new.fence, "the new run", 60_000)
        counts.append(len(stored(platform)))

    overtake(make_again, number=2)
    with pytest.raises(LeaseLost):
        run_once(platform, job_id)
    assert len(stored(platform)) == counts[0] > 0
    assert platform.jobs.get(job_id)["cursor"]["last_ts"] is None


def test_a_page_that_could_not_be_stored_does_not_move_the_cursor(
    platform: Platform,
    simulator: SimulatorProcess,
    mongo_client: MongoClient[dict[str, Any]],
    database_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It does not help to try it again for eight seconds.
    monkeypatch.setattr(database, "TRANSACTION_TRIES_MAX", 2)
    job_id = add_job(platform, start_ms=back(3 * PAGE), indicators=[])
    fail = {
        "failCommands": ["insert"],
        "errorCode": 112,
        "namespace": f"{database_name}.{COLLECTION}",
        "errorLabels": ["TransientTransactionError"],
    }
    # How many pages go into one insert is a matter of speed, so: the first insert fails, then the second, until none does. The
    # last one of a run is stored together with the run's end.
    for inserts_before_failure in range(4):
        update(platform, job_id, cursor={"last_ts": None})
        mongo_client[database_name][COLLECTION].delete_many({})
        mongo_client.admin.command("configureFailPoint", "failCommand", mode={"skip": inserts_before_failure}, data=fail)
        try:
            result = run_once(platform, job_id)
        finally:
            mongo_client.admin.command("configureFailPoint", "failCommand", mode="off")
        job, documents = platform.jobs.get(job_id), stored(platform)
        last_stored = documents[-1]["_id"] if documents else None
        assert job["cursor"]["last_ts"] == last_stored
        assert runs_of(platform, job_id)[0]["cursor_after"] == last_stored
        if result.outcome.value == "caught_up":
            break
        assert result.outcome.value == "failed"
        assert job["last_error"]["code"] == "storage_busy"
        assert inserts_before_failure * PAGE <= len(documents) < 3 * PAGE
        assert len(documents) % PAGE == 0
    assert result.outcome.value == "caught_up"
    assert inserts_before_failure >= 1
    assert_series_equals(stored(platform), truth(back(3 * PAGE)), ())


# --- what it stores


def test_a_job_made_again_over_its_old_series_goes_on_without_an_error(platform: Platform, simulator: SimulatorProcess) -> None:
    earliest_ms = CLOSED_MS
    for start_ms in (back(2_500), back(3_700), back(1_200)):
        # What is there begins later than the new job, then earlier; and it has a hole, as if somebody had deleted candles.
        earliest_ms = min(earliest_ms, start_ms)
        made_at = to_datetime(platform.database.server_now_ms())
        job_id = add_job(platform, start_ms=start_ms, created_at=made_at)
        run_until_caught_up(platform, job_id)
        assert {(run["outcome"], run["error"]) for run in runs_of(platform, job_id)} == {("caught_up", None)}
        assert_series_equals(stored(platform), truth(earliest_ms), DEFAULT_INDICATORS)
        platform.database.transact(lambda session, job_id=job_id: platform.jobs.delete(job_id, None, session))
        hole = {"$gte": to_datetime(back(900)), "$lt": to_datetime(back(700))}
        platform.database.candles_collection("binance", COLLECTION).delete_many({"_id": hole})


def test_an_indicator_added_later_continues_from_the_whole_history(platform: Platform, simulator: SimulatorProcess) -> None:
    late = resolve_indicators([{"name": "OBV"}, {"name": "AD"}])
    first = resolve_indicators([{"name": "EMA"}, {"name": "RSI"}])
    job_id = add_job(platform, start_ms=back(3_500), indicators=[spec.to_document() for spec in first])
    run_until_caught_up(platform, job_id)
    before = len(stored(platform))
    put_list(platform, [spec.to_document() for spec in (*first, *late)])
    simulator.clock(advance_ms=1_500 * MINUTE_MS)
    run_until_caught_up(platform, job_id)
    whole = truth(back(3_500), CLOSED_MS + 1_500 * MINUTE_MS)
    documents = stored(platform)
    assert_series_equals(documents, whole, first)
    one_pass = values_of(whole, late)
    for row, document in enumerate(documents):
        for name, column in one_pass.items():
            if row < before:
                assert name not in document.get("ind", {})
            else:
                assert document["ind"][name] == column[row], (name, row)


def test_an_indicator_that_the_engine_does_not_know_stops_the_job_and_says_which(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    job_id = add_job(platform, start_ms=back(100))
    put_list(platform, [NOSUCH])
    requests_before = simulator.report()["binance"]["requests_total"]
    assert run_once(platform, job_id).outcome.value == "error"
    job = platform.jobs.get(job_id)
    assert (job["status"], job["last_error"]["code"], set(job["lock"])) == ("error", "invalid_request", {"fence"})
    assert "indicators.0.name: unknown function 'NOSUCH'" in job["last_error"]["message"]
    assert simulator.report()["binance"]["requests_total"] == requests_before
    assert [alert["subject"] for alert in platform.alerts.list_("open", 10)] == [f"jobs/{job_id}"]


def test_raw_candles_land_where_indicators_fail_and_the_run_says_so(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = add_job(platform, start_ms=back(50))
    bad = {name: float("nan") for name in ("open", "high", "low", "close", "volume")}
    platform.database.candles_collection("binance", COLLECTION).insert_one({"_id": to_datetime(back(51)), **bad})
    assert run_once(platform, job_id).outcome.value == "caught_up"
    documents = stored(platform)[1:]
    assert_series_equals(documents, truth(back(50)), ())
    assert not any("ind" in document for document in documents)
    (run,) = runs_of(platform, job_id)
    assert "not finite" in run["enrichment_error"]


# --- what it costs


class Commands(CommandListener):
    """The names of commands that were sent, in order."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.lock = threading.Lock()

    def started(self, event: CommandStartedEvent) -> None:
        with self.lock:
            self.names.append(event.command_name)

    def succeeded(self, event: object) -> None:
        pass

    def failed(self, event: object) -> None:
        pass


def test_a_run_of_a_job_that_follows_the_market_takes_eight_commands_at_most(
    mongodb_uri: str, platform: Platform, simulator: SimulatorProcess
) -> None:
    job_id = add_job(platform, start_ms=back(2_000))
    commands = Commands()
    client: MongoClient[dict[str, Any]] = MongoClient(
        mongodb_uri, tz_aware=True, w="majority", retryWrites=True, event_listeners=[commands]
    )
    counted = Platform(platform.settings)
    counted.__dict__["database"] = Database(client, platform.settings)
    try:
        run_until_caught_up(counted, job_id)
        for _ in range(3):
            simulator.clock(advance_ms=MINUTE_MS)
            update(platform, job_id, next_run_at=to_datetime(0))
            claimed = claim(platform, job_id)
            commands.names.clear()
            result = counted.runner.run(job_id, claimed.fence, "test", Deadline.after(100))
            assert (result.outcome.value, result.candles, result.requests) == ("caught_up", 1, 1)
            print(commands.names)
            assert len(commands.names) <= 8, commands.names
    finally:
        counted.close()
    assert_series_equals(stored(platform), truth(back(2_000), CLOSED_MS + 3 * MINUTE_MS), DEFAULT_INDICATORS)
