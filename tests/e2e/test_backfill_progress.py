"""Backfills on their way: progress and what keeps them, pause, resume, cancel, and what becomes of their chunks."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import pytest
from werkzeug.test import TestResponse

from local_emulator.simulator.process import SimulatorProcess
from local_emulator.snapshot import take_snapshot
from shared.deadline import Deadline
from shared.domain.jobs import Job, to_datetime
from shared.domain.timeframes import MINUTE_MS
from shared.errors import LeaseLost
from shared.stores import database
from shared.stores.job_leases import DueJob
from shared.wiring import Platform
from tests.e2e.admin_api import AdminApi, set_fields
from tests.e2e.backfill_scene import ID, LIVE_ID, ORDER, chunk_ids, order
from tests.factories import run_once, run_until_caught_up, stored_documents
from tests.waiting import HANG_S, wait_until

PAGE: Final = 1_000


def test_a_backfill_can_be_paused_resumed_and_cancelled(live: AdminApi, exchange_simulator: SimulatorProcess) -> None:
    order(live, workers=2)
    first = chunk_ids(live)[0]
    assert run_once(live.platform, first).outcome.value == "done"
    paused = live.call("POST", f"/v1/backfills/{ID}/pause", role="operator").json
    assert (paused["status"], paused["eta_seconds"], paused["eta_at"]) == ("paused", None, None)
    assert 0.3 < paused["share"] < 0.7
    assert [chunk["status"] for chunk in paused["chunks"]] == ["done", "paused"]
    assert live.call("POST", f"/v1/backfills/{ID}/pause", role="operator").status_code == 200
    resumed = live.call("POST", f"/v1/backfills/{ID}/resume", role="operator").json
    assert resumed["status"] == "active"
    assert resumed["left"] == paused["left"]
    assert resumed["eta_seconds"] is not None
    assert live.call("DELETE", f"/v1/backfills/{ID}", role="operator").status_code == 204
    cancelled = live.get(f"/v1/backfills/{ID}")
    assert (cancelled["status"], cancelled["left"], cancelled["eta_seconds"]) == ("cancelled", paused["left"], None)
    assert (cancelled["candles"], cancelled["share"]) == (paused["candles"], paused["share"])
    assert resumed["created_at"] < cancelled["finished_at"]
    assert [chunk["status"] for chunk in cancelled["chunks"]] == ["done", "cancelled"]
    assert [each["id"] for each in live.get(f"/v1/jobs/{LIVE_ID}/backfills")["items"]] == [ID]
    assert live.get("/v1/jobs?kind=backfill&include=tasks")["items"] == []
    for verb in ("pause", "resume"):
        refused = live.call("POST", f"/v1/backfills/{ID}/{verb}", role="operator")
        assert (refused.status_code, "is cancelled" in refused.json["detail"]) == (409, True)
    # What it had asked for stays known: ordered again, it is the rest that is asked for.
    again = order(live)
    assert again["plan"]["counts"]["stored"] == len(stored_documents(live.platform, "binance", "BTC/USDT", "1m"))
    assert again["wanted"] == paused["left"]
    actions = ["create", "pause", "resume", "cancel", "create"]
    assert live.actions(f"backfills/{ID}") == [f"backfill.{action}" for action in actions]


def test_what_has_ended_is_kept_until_it_is_forgotten(live: AdminApi) -> None:
    order(live)
    (job_id,) = chunk_ids(live)
    assert run_once(live.platform, job_id).outcome.value == "done"
    done = live.get(f"/v1/backfills/{ID}")
    assert done["status"] == "done"
    assert live.call("POST", f"/v1/backfills/{ID}/pause", role="operator").status_code == 409
    # Its live job goes, and takes the jobs of the parts along; what became of it stays known.
    assert live.call("DELETE", f"/v1/jobs/{LIVE_ID}").status_code == 204
    assert live.get(f"/v1/backfills/{ID}") == done
    assert live.call("DELETE", f"/v1/backfills/{ID}", role="operator").status_code == 204
    assert live.call("GET", f"/v1/backfills/{ID}", role="viewer").status_code == 404
    assert live.call("DELETE", f"/v1/backfills/{ID}", role="operator").status_code == 404
    assert live.actions(f"backfills/{ID}") == ["backfill.create", "backfill.forget"]


def ask_until_served(live: AdminApi, method: str, path: str) -> TestResponse:
    """503 says that the database has others to serve and to try again, which is what a client then does."""

    def answer() -> TestResponse | None:
        response = live.call(method, path, role="operator")
        return None if response.status_code == 503 else response

    return wait_until(answer)


def work_on(platform: Platform, job_id: str) -> str:
    """As workers at full speed: one run of the job after the other, until it may not be run, or a run does not say `more`."""
    while True:
        platform.database.collection("jobs").update_one({"_id": job_id}, {"$set": {"next_run_at": to_datetime(0)}})
        claims = platform.leases.claim([DueJob(job_id)], "test", 60_000)
        if not claims:
            return "not due"
        try:
            outcome = platform.runner.run(job_id, claims[0].fence, "test", Deadline.after(HANG_S)).outcome.value
        except LeaseLost:
            return "lease lost"
        if outcome != "more":
            return outcome


@pytest.fixture
def long_backfill(live: AdminApi, exchange_simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch) -> str:
    """Id of a backfill of eight years in four parts, without a limit that binds: none is done before the test is."""
    # Runs give up a page that others keep from landing for so long, and on a slow machine it takes long.
    monkeypatch.setattr(database, "TRANSACTION_TIMEOUT_S", HANG_S)
    exchange_simulator.configure("binance", [(1_000_000, 60_000)])
    assert live.call("PATCH", "/v1/connectors/binance", {"rate_limit": 1_000_000}).status_code == 200
    return str(order(live, **{"from": "2018-01-01T00:00:00Z"}, to="2026-01-01T00:00:00Z", workers=4)["id"])


def test_a_backfill_at_full_speed_can_be_paused_and_cancelled(live: AdminApi, long_backfill: str) -> None:
    """Its workers write all the while. Whoever pauses or cancels it wins in the end, and then nothing more is stored."""
    path, ids = f"/v1/backfills/{long_backfill}", chunk_ids(live, long_backfill)
    candles = live.platform.database.candles_collection("binance", "candles_binance_BTC-USDT_1m")
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work_on, live.platform, job_id) for job_id in ids]
        wait_until(lambda: candles.estimated_document_count() > 4_000)
        paused = ask_until_served(live, "POST", f"{path}/pause")
        assert (paused.status_code, paused.json["status"]) == (200, "paused"), paused.text
        count, paused_at = candles.count_documents({}), to_datetime(live.platform.database.server_now_ms())
        # One whose turn was over just before finds nothing that is due.
        assert {each.result() for each in running} <= {"paused", "not due"}
        ended_since = {"finished_at": {"$gt": paused_at}}
        assert set(live.platform.database.collection("job_runs").distinct("outcome", ended_since)) <= {"paused"}
        # Not even the pages that were at hand.
        assert candles.count_documents({}) == count
        assert {job["status"] for job in live.get("/v1/jobs?kind=backfill&include=tasks")["items"]} == {"paused"}

        assert live.call("POST", f"{path}/resume", role="operator").status_code == 200
        running = [pool.submit(work_on, live.platform, job_id) for job_id in ids]
        wait_until(lambda: candles.estimated_document_count() > count + 4_000)
        assert ask_until_served(live, "DELETE", path).status_code == 204
        count = candles.count_documents({})
        # A run may read the decision before its own job is changed, and then stops by itself.
        assert {each.result() for each in running} <= {"lease lost", "not due", "paused"}
        assert candles.count_documents({}) == count
    assert live.get(path)["status"] == "cancelled"


def test_the_list_can_be_changed_while_a_backfill_is_at_full_speed(live: AdminApi, long_backfill: str) -> None:
    """A change does not wait for its pages. Those that were computed for the old list get their values in the end."""
    candles = live.platform.database.candles_collection("binance", "candles_binance_BTC-USDT_1m")
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work_on, live.platform, job_id) for job_id in chunk_ids(live, long_backfill)]
        wait_until(lambda: candles.estimated_document_count() > 4_000)
        for name in ("RSI", "EMA", "OBV"):
            patched = live.call("PATCH", f"/v1/jobs/{LIVE_ID}", {"indicators": [{"name": name}]})
            assert patched.status_code == 200, patched.text
        assert ask_until_served(live, "DELETE", f"/v1/backfills/{long_backfill}").status_code == 204
        assert {each.result() for each in running} <= {"lease lost", "not due", "paused"}
    run_until_caught_up(live.platform, f"{LIVE_ID}:enrich")
    found = live.platform.series_verifier.verify(LIVE_ID, None, None)
    assert found.candles_count == candles.count_documents({})
    assert (found.value_differences_count, found.stale_count) == (0, 0)


def test_a_live_job_takes_its_backfills_along(live: AdminApi) -> None:
    order(live, workers=2)
    revision = live.get(f"/v1/jobs/{LIVE_ID}")["revision"]
    assert live.call("POST", f"/v1/jobs/{LIVE_ID}/pause", role="operator").status_code == 200
    assert live.get(f"/v1/backfills/{ID}")["status"] == "paused"
    assert live.call("POST", f"/v1/jobs/{LIVE_ID}/resume", role="operator").status_code == 200
    assert live.get(f"/v1/backfills/{ID}")["status"] == "active"
    assert live.call("DELETE", f"/v1/jobs/{LIVE_ID}", headers={"If-Match": f'"{revision + 2}"'}).status_code == 204
    assert live.get(f"/v1/backfills/{ID}")["status"] == "cancelled"
    assert live.get("/v1/jobs?kind=backfill&include=tasks")["items"] == []
    # Each of it is in the audit log under the backfill's own name, and its parts are not.
    entries = live.platform.audit_log.list_(f"backfills/{ID}", None, 10)
    changes = [(entry["action"], (entry["before"] or {}).get("status"), entry["after"]["status"]) for entry in entries]
    assert changes == [
        ("backfill.cancel", "active", "cancelled"),
        ("backfill.resume", "paused", "active"),
        ("backfill.pause", "active", "paused"),
        ("backfill.create", None, "active"),
    ]
    assert live.actions(f"jobs/{ID}:1") == []


def test_a_backfill_that_was_paused_by_itself_stays_so_when_its_live_job_goes_on(live: AdminApi) -> None:
    order(live)
    other = order(live, **{"from": "2024-02-01T00:00:00Z"}, to="2024-02-02T00:00:00Z")["id"]
    assert live.call("POST", f"/v1/backfills/{ID}/pause", role="operator").status_code == 200
    for verb in ("pause", "resume"):
        assert live.call("POST", f"/v1/jobs/{LIVE_ID}/{verb}", role="operator").status_code == 200
    assert [live.get(f"/v1/backfills/{each}")["status"] for each in (ID, other)] == ["paused", "active"]


def test_a_paused_connector_is_named_and_nothing_is_promised(live: AdminApi) -> None:
    order(live)
    assert live.get(f"/v1/backfills/{ID}")["waiting_for"] is None
    live.call("POST", "/v1/connectors/binance/pause", role="operator")
    shown = live.get(f"/v1/backfills/{ID}")
    assert (shown["status"], shown["waiting_for"], shown["eta_seconds"]) == ("active", "connector_paused", None)


def test_a_block_is_named_and_counts_for_the_time_that_is_left(live: AdminApi) -> None:
    order(live)
    eta_s = live.get(f"/v1/backfills/{ID}")["eta_seconds"]
    live.platform.limits.block("binance", 3_600_000, "told to stay away")
    shown = live.get(f"/v1/backfills/{ID}")
    assert (shown["status"], shown["waiting_for"]) == ("active", "connector_blocked")
    assert eta_s + 3_000 < shown["eta_seconds"] <= eta_s + 3_600


def test_a_chunk_in_error_is_told_and_goes_on_when_resumed(live: AdminApi) -> None:
    order(live)
    (job_id,) = chunk_ids(live)
    set_fields(live, job_id, status="error", last_error={"code": "exchange_unavailable", "message": "no connection"})
    shown = live.get(f"/v1/backfills/{ID}")
    assert (shown["status"], shown["eta_seconds"]) == ("error", None)
    assert shown["chunks"][0]["last_error"]["message"] == "no connection"
    assert live.call("POST", f"/v1/backfills/{ID}/resume", role="operator").json["status"] == "active"
    assert run_once(live.platform, job_id).outcome.value == "done"


def pace(live: AdminApi, job_id: str, asked: int, since_ms: int) -> None:
    """The part has asked for so many intervals since then."""
    at = to_datetime(since_ms)
    marks = {"from_at": at, "from_asked": 0, "mid_at": at, "mid_asked": 0}
    set_fields(live, job_id, pace=marks, **{"totals.asked": asked})


def test_the_time_that_is_left_follows_the_pace_of_late(live: AdminApi) -> None:
    order(live, workers=2)
    now_ms = live.platform.database.server_now_ms()
    first, second = chunk_ids(live)
    # Days ago it was ordered; lately the two ask for 40 and 60 intervals a second.
    pace(live, first, 400_000, now_ms - 10_000_000)
    pace(live, second, 600_000, now_ms - 10_000_000)
    shown = live.get(f"/v1/backfills/{ID}")
    assert shown["eta_seconds"] == pytest.approx(shown["left"] / 100, rel=0.1)
    set_fields(live, first, status="done")
    shown = live.get(f"/v1/backfills/{ID}")
    assert shown["eta_seconds"] == pytest.approx(shown["left"] / 60, rel=0.1)


def test_a_worker_that_is_silent_is_waited_for_as_long_as_its_lease_runs(live: AdminApi) -> None:
    """It was killed. The others go on; then nothing moves any more until the lease has run out."""
    order(live, workers=2)
    now_ms = live.platform.database.server_now_ms()
    first, second = chunk_ids(live)
    for job_id in (first, second):
        pace(live, job_id, 400_000, now_ms - 10_000_000)
    lock = {"fence": 1, "run_id": "r", "claim_id": "c", "expires_at": to_datetime(now_ms + 30_000)}
    set_fields(live, first, lock=lock)
    shown = live.get(f"/v1/backfills/{ID}")
    assert [chunk["lease_until"] is not None for chunk in shown["chunks"]] == [True, False]
    assert shown["waiting_for"] is None
    assert shown["eta_seconds"] == pytest.approx(30 + shown["chunks"][0]["left"] / 40, rel=0.1)
    set_fields(live, second, status="done")
    assert live.get(f"/v1/backfills/{ID}")["waiting_for"] == "lease"
    set_fields(live, first, **{"lock.expires_at": to_datetime(now_ms - 1)})
    shown = live.get(f"/v1/backfills/{ID}")
    assert (shown["waiting_for"], shown["chunks"][0]["lease_until"]) == (None, None)


def test_a_backfill_that_goes_with_its_live_job_leaves_no_alert_and_is_in_the_audit_log(live: AdminApi) -> None:
    for query, action in (("", "backfill.cancel"), ("?candles=delete", "backfill.forget")):
        order(live)
        live.platform.database.transact(
            lambda session: live.platform.alerts.open_(
                subject=f"jobs/{ID}:1", title="stopped", facts={}, opened_at=to_datetime(0), session=session
            )
        )
        assert live.call("DELETE", f"/v1/jobs/{LIVE_ID}{query}").status_code == 204
        assert live.get("/v1/alerts?state=open")["items"] == []
        assert live.actions(f"backfills/{ID}")[-1] == action
        live.add_job()


def test_years_without_a_market_are_no_measure_of_the_pace(live: AdminApi, exchange_simulator: SimulatorProcess) -> None:
    """One request passes them all; what comes then takes a request for each thousand."""
    limits = replace(live.platform.runner.run_limits, pages_max=2)
    object.__setattr__(live.platform.runner, "run_limits", limits)
    listed = {"from": "2012-01-01T00:00:00Z", "to": "2017-10-01T00:00:00Z"}
    plan = order(live, **listed)
    (job_id,) = chunk_ids(live, plan["id"])
    assert run_once(live.platform, job_id).outcome.value == "more"
    asked = live.platform.jobs.get(job_id)["totals"]["asked"]
    assert 0 < asked <= 2_000
    shown = live.get(f"/v1/backfills/{plan['id']}")
    assert shown["share"] > 0.9
    assert 50_000 < shown["left"] < 70_000
    pace(live, job_id, asked, live.platform.database.server_now_ms() - 20_000)
    assert live.get(f"/v1/backfills/{plan['id']}")["eta_seconds"] > shown["left"] / 2_000 * 20


def test_the_terminal_view_shows_a_backfill_as_one(live: AdminApi) -> None:
    order(live, workers=3)
    assert run_once(live.platform, f"{ID}:2").outcome.value == "done"
    rows = take_snapshot(live.platform.database.client[live.platform.settings.database]).jobs
    assert [row.job_id for row in rows] == [LIVE_ID, ID]
    row, share = rows[1], live.get(f"/v1/backfills/{ID}")["share"]
    assert (row.state, row.stretch) == ("waiting", "2024-01-01 … 2024-01-04")
    assert row.progress == pytest.approx(share, abs=1e-3)
    assert row.candles == live.get(f"/v1/backfills/{ID}")["candles"] > 0


def test_a_chunk_stays_as_it_was_ordered(live: AdminApi) -> None:
    order(live, workers=2)
    for method, path, body in (
        ("DELETE", f"/v1/jobs/{ID}:1", None),
        ("DELETE", f"/v1/jobs/{ID}:1?candles=delete", None),
        ("PATCH", f"/v1/jobs/{ID}:1", {"end_at": "2024-01-03T00:00:00Z"}),
        ("POST", f"/v1/jobs/{ID}:1/pause", None),
        ("POST", f"/v1/jobs/{ID}:1/resume", None),
    ):
        refused = live.call(method, path, body)
        assert refused.status_code == 409
        assert ID in refused.json["detail"]
    assert live.call("PATCH", f"/v1/jobs/{ID}:1", {"priority": 1}).status_code == 200


def test_with_its_candles_a_live_job_takes_its_backfills_along(live: AdminApi) -> None:
    order(live, workers=2)
    for job_id in chunk_ids(live):
        run_until_caught_up(live.platform, job_id)
    order(live, **{"from": "2024-01-10T00:00:00Z"}, to="2024-01-11T00:00:00Z")
    assert live.call("DELETE", f"/v1/jobs/{LIVE_ID}?candles=delete").status_code == 204
    assert stored_documents(live.platform, "binance", "BTC/USDT", "1m") == []
    assert live.get("/v1/jobs?include=tasks")["items"] == []
    # What somebody has made by hand stands in the way, and is named.
    live.add_job()
    own = live.add_job(start_at="2024-01-01T00:00:00Z", end_at="2024-01-02T00:00:00Z")["id"]
    refused = live.call("DELETE", f"/v1/jobs/{LIVE_ID}?candles=delete")
    assert refused.status_code == 409
    assert own in refused.json["detail"]


def test_another_connectors_backfill_of_the_series_stays(live: AdminApi) -> None:
    """Two connectors of one exchange keep the same series: each live job, or what stands for it, has its own."""
    live.add_connector(id="other")
    own = live.add_job(connector_id="other", start_at="2024-02-01T00:00:00Z", end_at="2024-02-02T00:00:00Z")["id"]
    told = live.call("POST", f"/v1/jobs/{own}/backfill", ORDER, role="operator").json
    (chunk,) = [each["job_id"] for each in told["chunks"]]
    assert live.call("POST", f"/v1/jobs/{LIVE_ID}/pause", role="operator").status_code == 200
    assert live.get(f"/v1/jobs/{chunk}")["status"] == "active"
    assert live.call("DELETE", f"/v1/jobs/{LIVE_ID}").status_code == 204
    assert live.get(f"/v1/backfills/{told['id']}")["status"] == "active"


def test_a_history_job_that_begins_anew_has_a_pace_of_its_own(live: AdminApi) -> None:
    """It had asked for thousands, long ago."""
    now_ms = live.platform.database.server_now_ms() // MINUTE_MS * MINUTE_MS
    job = Job.from_document(live.platform.jobs.get(LIVE_ID))

    def pass_over(first: int, end: int) -> None:
        start_ms, end_ms = now_ms - first * MINUTE_MS, now_ms - end * MINUTE_MS
        helpers = live.platform.helpers
        live.platform.database.transact(lambda session: helpers.want_history(job, start_ms, end_ms, session))

    history = f"{LIVE_ID}:history"
    pass_over(30_000, 20_000)
    pace(live, history, 9_000, 0)
    set_fields(live, history, status="done")
    pass_over(2_000, 500)
    shown = live.get(f"/v1/backfills/{history}")
    assert (shown["wanted"], shown["left"], shown["eta_seconds"]) == (1_500, 1_500, None)
