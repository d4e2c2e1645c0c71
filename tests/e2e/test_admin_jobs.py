"""Jobs by the admin API: made with all defaults, changed, run, paused, resumed and deleted, each with its audit entry."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.indicators import DEFAULT_INDICATORS
from shared.domain.jobs import to_datetime, to_ms
from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES
from shared.stores.candles import Series
from tests.e2e.admin_api import JOB, AdminApi, fields_of, set_fields
from tests.factories import add_candles, claim, make_candles, run_once

JOB_ID = "binance:BTC-USDT:1m"
PATH = f"/v1/jobs/{JOB_ID}"
RANGE = {"start_at": "2024-01-01T00:00:00Z", "end_at": "2024-01-01T02:00:00+00:00"}
BACKFILL_ID = f"{JOB_ID}:1704067200000-1704074400000"


def test_three_fields_are_enough_for_a_live_job_that_is_due(api: AdminApi) -> None:
    api.add_connector()
    response = api.call("POST", "/v1/jobs", JOB, headers={"X-Request-Id": "req-9"})
    now_ms = api.platform.database.server_now_ms()
    assert response.status_code == 201
    assert response.headers["Location"] == PATH
    job = api.get(PATH)
    assert (job["id"], job["kind"], job["status"], job["priority"], job["overlap"]) == (JOB_ID, "live", "active", 0, 2)
    assert job["indicators"] == [spec.to_document() for spec in DEFAULT_INDICATORS]
    assert job["end_at"] is None
    assert job["lease"] == {"fence": 0, "expires_at": None}
    assert job["lag_ms"] > 0
    document = api.platform.jobs.get(JOB_ID)
    assert to_ms(document["start_at"]) in {now_ms // MINUTE_MS * MINUTE_MS - count * MINUTE_MS for count in (500, 501)}
    assert api.platform.leases.has_due(to_datetime(now_ms))
    (entry,) = api.get(f"/v1/audit?target=jobs/{JOB_ID}")["items"]
    assert (entry["action"], entry["actor"], entry["request_id"], entry["before"]) == ("job.create", "ann", "req-9", None)
    assert entry["after"]["start_at"] == job["start_at"]
    assert "lock" not in entry["after"]
    assert api.get("/v1/jobs/binance%3ABTC-USDT%3A1m")["id"] == JOB_ID


def test_a_given_end_makes_a_backfill_named_after_its_range(api: AdminApi) -> None:
    api.add_connector()
    job = api.add_job(**RANGE, indicators=[], overlap=0, status="paused")
    assert (job["id"], job["kind"], job["status"], job["priority"]) == (BACKFILL_ID, "backfill", "paused", 2)
    assert (job["start_at"], job["end_at"]) == ("2024-01-01T00:00:00.000Z", "2024-01-01T02:00:00.000Z")
    assert (job["indicators"], job["overlap"]) == ([], 0)
    again = api.call(
        "POST", "/v1/jobs", {**JOB, "start_at": 1_704_067_200_000, "end_at": 1_704_074_400_000, "kind": "backfill"}
    )
    assert again.status_code == 409
    assert api.actions(f"jobs/{BACKFILL_ID}") == ["job.create"]


def test_indicators_are_kept_with_all_their_parameters(api: AdminApi) -> None:
    api.add_connector()
    asked = [{"name": "rsi"}, {"name": "EMA", "params": {"timeperiod": 9}, "as": "fast"}]
    assert api.add_job(indicators=asked)["indicators"] == [
        {"name": "RSI", "params": {"timeperiod": 14}, "as": "rsi_14"},
        {"name": "EMA", "params": {"timeperiod": 9}, "as": "fast"},
    ]


def test_a_default_start_is_no_further_back_than_there_were_markets(api: AdminApi) -> None:
    api.add_connector()
    assert api.add_job(timeframe="1M")["start_at"] == "2009-01-03T00:00:00.000Z"


def test_two_creations_at_once_make_one_job(api: AdminApi) -> None:
    api.add_connector()
    api.get("/v1/connectors/binance/symbols")
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda _: api.call("POST", "/v1/jobs", JOB).status_code, range(8)))
    assert sorted(statuses) == [201] + 7 * [409]
    assert api.count("jobs") == 1
    assert api.actions(f"jobs/{JOB_ID}") == ["job.create"]


def test_many_jobs_of_one_connector_can_be_made_at_once(api: AdminApi) -> None:
    api.add_connector()
    bodies = [
        {**JOB, "symbol": symbol, "timeframe": name} for symbol in ("BTC/USDT", "ETH/USDT") for name in ("1m", "5m", "1h", "1d")
    ]
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda body: api.call("POST", "/v1/jobs", body).status_code, bodies))
    assert statuses == [201] * 8
    assert (api.count("jobs"), api.count("audit_log")) == (8, 9)


def test_a_job_and_the_end_of_its_connector_never_both_happen(api: AdminApi) -> None:
    for number in range(6):
        connector_id = f"c{number}"
        api.add_connector(id=connector_id)
        api.get(f"/v1/connectors/{connector_id}/symbols")
        body = {**JOB, "connector_id": connector_id, "symbol": "ETH/BTC"}
        with ThreadPoolExecutor(2) as threads:
            made = threads.submit(api.call, "POST", "/v1/jobs", body)
            ended = threads.submit(api.call, "DELETE", f"/v1/connectors/{connector_id}")
        assert (made.result().status_code, ended.result().status_code) in {(201, 409), (400, 204)}
        assert api.call("DELETE", f"/v1/jobs/{connector_id}:ETH-BTC:1m").status_code in (204, 404)


def test_without_its_audit_entry_no_change_is_made(api: AdminApi) -> None:
    api.add_connector()
    api.add_job()
    database = api.platform.database.collection("audit_log").database
    database.command("collMod", "audit_log", validator={"actor": {"$ne": "ann"}})
    before = api.get(PATH)
    calls = [("POST", "/v1/jobs", {**JOB, "timeframe": "5m"}), ("PATCH", PATH, {"overlap": 5}), ("DELETE", PATH, None)]
    calls += [("POST", f"{PATH}/{verb}", None) for verb in ("pause", "run")]
    assert [api.call(method, path, body).status_code for method, path, body in calls] == [500] * len(calls)
    after = api.get(PATH)
    assert {**after, "lag_ms": None} == {**before, "lag_ms": None}
    assert (api.count("jobs"), api.count("audit_log")) == (1, 2)


def test_patch_changes_what_it_names_under_the_revision(api: AdminApi) -> None:
    api.add_connector()
    api.add_job()
    body = {"indicators": [{"name": "SMA", "params": {"timeperiod": 5}}], "overlap": 4, "priority": 1}
    response = api.call("PATCH", PATH, body, headers={"If-Match": '"1"'})
    assert (response.status_code, response.headers["ETag"]) == (200, '"3"')
    job = api.get(PATH)
    assert (job["indicators"][0]["as"], job["overlap"], job["priority"], job["revision"]) == ("sma_5", 4, 1, 3)
    assert api.call("PATCH", PATH, {"overlap": 0}, headers={"If-Match": '"1"'}).status_code == 412
    assert api.call("PATCH", PATH, {"indicators": []}).json["indicators"] == []
    assert api.actions(f"jobs/{JOB_ID}") == ["job.create", "job.patch", "job.patch"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"status": "paused"}, "status"),
        ({"symbol": "ETH/USDT"}, "symbol"),
        ({"overlap": 11}, "overlap"),
        ({"priority": 3}, "priority"),
        ({"indicators": [{"name": "RSI", "params": {"timeperiod": 1}}]}, "indicators.0.params.timeperiod"),
        ({"end_at": "2030-01-01T00:00:00Z"}, "end_at"),
    ],
)
def test_a_wrong_patch_changes_nothing(api: AdminApi, body: dict[str, Any], field: str) -> None:
    api.add_connector()
    api.add_job()
    response = api.call("PATCH", PATH, body)
    assert (response.status_code, fields_of(response)) == (400, [field])
    assert api.get(PATH)["revision"] == 1
    assert api.call("PATCH", PATH, {}).status_code == 400


def test_a_later_end_lets_a_finished_backfill_go_on(api: AdminApi) -> None:
    api.add_connector()
    api.add_job(**RANGE)
    path = f"/v1/jobs/{BACKFILL_ID}"
    assert run_once(api.platform, BACKFILL_ID).outcome == "done"
    assert api.call("POST", f"{path}/run").status_code == 409
    assert api.call("POST", f"{path}/resume").status_code == 409
    assert fields_of(api.call("PATCH", path, {"end_at": "2023-12-31T00:00:00Z"})) == ["start_at", "end_at"]
    assert api.call("PATCH", path, {"end_at": "2024-01-01T03:00:00Z"}).json["status"] == "active"
    assert run_once(api.platform, BACKFILL_ID).outcome == "done"
    assert len(api.get(f"{path}/candles")["items"]) == 180


def test_run_now_makes_a_waiting_job_due_and_waits_for_one_that_runs(api: AdminApi) -> None:
    api.add_connector()
    api.add_job()
    later = to_datetime(api.platform.database.server_now_ms() + 3_600_000)
    set_fields(api, JOB_ID, next_run_at=later)
    assert api.call("POST", f"{PATH}/run").status_code == 202
    assert api.platform.leases.has_due(to_datetime(api.platform.database.server_now_ms()))
    claimed = claim(api.platform, JOB_ID)
    assert api.get(PATH)["lease"]["expires_at"] is not None
    assert api.call("POST", f"{PATH}/run").status_code == 202
    document = api.platform.jobs.get(JOB_ID)
    assert (document["run_requested"], document["lock"]["fence"]) == (True, claimed.fence)
    assert api.actions(f"jobs/{JOB_ID}") == ["job.create", "job.run", "job.run"]
    assert api.call("POST", "/v1/jobs/nobody:A-B:1m/run").status_code == 404


def test_pause_and_resume(api: AdminApi) -> None:
    api.add_connector()
    api.add_job()
    paused = api.call("POST", f"{PATH}/pause").json
    assert (paused["status"], paused["revision"]) == ("paused", 2)
    assert api.call("POST", f"{PATH}/pause").json["revision"] == 2
    assert api.call("POST", f"{PATH}/run").status_code == 409
    set_fields(api, JOB_ID, next_run_at=to_datetime(api.platform.database.server_now_ms() + 3_600_000))
    assert api.call("POST", f"{PATH}/resume", headers={"If-Match": "1"}).status_code == 412
    assert api.call("POST", f"{PATH}/resume").json["status"] == "active"
    assert api.platform.leases.has_due(to_datetime(api.platform.database.server_now_ms()))
    assert api.actions(f"jobs/{JOB_ID}") == ["job.create", "job.pause", "job.resume"]


def test_resume_lets_a_job_in_error_try_anew_and_resolves_its_alert(
    api: AdminApi, exchange_simulator: SimulatorProcess
) -> None:
    api.add_connector()
    api.add_job()
    exchange_simulator.set_faults({"exchange": "binance", "kind": "status", "status": 451, "count": 1})
    assert run_once(api.platform, JOB_ID).outcome == "error"
    job = api.get(PATH)
    assert (job["status"], job["last_error"]["code"], job["attempt"]) == ("error", "exchange_rejected", 1)
    assert job["last_error"]["at"].endswith("Z")
    assert [alert["subject"] for alert in api.get("/v1/alerts?state=open")["items"]] == [f"jobs/{JOB_ID}"]
    assert api.call("POST", f"{PATH}/pause").status_code == 409
    job = api.call("POST", f"{PATH}/resume").json
    assert (job["status"], job["last_error"], job["attempt"]) == ("active", None, 0)
    assert api.get("/v1/alerts?state=open")["items"] == []
    assert [alert["state"] for alert in api.get("/v1/alerts")["items"]] == ["resolved"]
    assert run_once(api.platform, JOB_ID).outcome == "caught_up"


def test_runs_and_lag_are_shown(api: AdminApi) -> None:
    api.add_connector()
    api.add_job()
    for _ in range(3):
        run_once(api.platform, JOB_ID)
    job = api.get(PATH)
    assert 0 <= job["lag_ms"] < 2 * MINUTE_MS
    assert job["totals"]["runs"] == 3
    first = api.get(f"{PATH}/runs?limit=2")
    second = api.get(f"{PATH}/runs?limit=2&cursor={first['next_cursor']}")
    fence = api.platform.jobs.get(JOB_ID)["lock"]["fence"]
    assert [run["id"] for run in first["items"] + second["items"]] == [f"{JOB_ID}#{fence - back}" for back in range(3)]
    assert "next_cursor" not in second
    assert second["items"][0]["candles"] > 400
    assert api.call("GET", "/v1/jobs/nobody:A-B:1m/runs").status_code == 404


def test_candles_come_by_half_open_range_in_pages(api: AdminApi) -> None:
    api.add_connector()
    api.add_job(**RANGE)
    run_once(api.platform, BACKFILL_ID)
    path = f"/v1/jobs/{BACKFILL_ID}/candles"
    everything = api.get(path)
    assert len(everything["items"]) == 120
    assert "next_start" not in everything
    first, last = everything["items"][0], everything["items"][-1]
    assert (first["open_at"], last["open_at"]) == ("2024-01-01T00:00:00.000Z", "2024-01-01T01:59:00.000Z")
    assert set(first) >= {"open", "high", "low", "close", "volume"}
    assert "ema_20" in last["ind"]
    part = api.get(f"{path}?start=2024-01-01T00:10:00Z&end=1704068400000&limit=7")
    assert part["next_start"] == "2024-01-01T00:17:00.000Z"
    rest = api.get(f"{path}?start={part['next_start']}&end=1704068400000")
    assert part["items"] + rest["items"] == everything["items"][10:20]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=abc", "limit"),
        ("limit=0", "limit"),
        ("limit=5001", "limit"),
        ("start=yesterday", "start"),
        ("end=99999999999999999", "end"),
        ("start=2024-01-02T00:00:00Z&end=2024-01-01T00:00:00Z", "start"),
        ("colour=red", "colour"),
    ],
)
def test_a_wrong_range_is_named(api: AdminApi, query: str, field: str) -> None:
    api.add_connector()
    api.add_job(indicators=[])
    response = api.call("GET", f"{PATH}/candles?{query}")
    assert (response.status_code, fields_of(response)) == (400, [field])


def test_lists_filter_and_page(api: AdminApi) -> None:
    api.add_connector()
    names = ["1m", "5m", "1h"]
    for name in names:
        api.add_job(timeframe=name)
    api.add_job(**RANGE)
    api.call("POST", f"{PATH}/pause")
    assert len(api.get("/v1/jobs")["items"]) == 4
    assert [job["id"] for job in api.get("/v1/jobs?kind=backfill")["items"]] == [BACKFILL_ID]
    assert [job["id"] for job in api.get("/v1/jobs?status=paused&connector_id=binance")["items"]] == [JOB_ID]
    assert len(api.get("/v1/jobs?symbol=BTC/USDT&timeframe=1m")["items"]) == 2
    first = api.get("/v1/jobs?kind=live&limit=2")
    second = api.get(f"/v1/jobs?kind=live&limit=2&cursor={first['next_cursor']}")
    assert [job["timeframe"] for job in first["items"] + second["items"]] == ["1h", "1m", "5m"]
    for query, field in (("limit=501", "limit"), ("status=late", "status"), ("cursor=%C3%A4", "cursor"), ("sort=id", "sort")):
        assert fields_of(api.call("GET", f"/v1/jobs?{query}")) == [field]
    assert fields_of(api.call("GET", f"{PATH}/runs?cursor=YWJj")) == ["cursor"]
    assert fields_of(api.call("GET", "/v1/audit?cursor=YWJj")) == ["cursor"]


def test_the_start_may_reach_back_to_the_wall_of_the_exchange(api: AdminApi) -> None:
    api.add_connector("kraken")
    hour = TIMEFRAMES["1h"]
    now_ms = api.platform.database.server_now_ms()
    body = {"connector_id": "kraken", "symbol": "BTC/USD", "timeframe": "1h"}
    response = api.call("POST", "/v1/jobs", {**body, "start_at": hour.shift(hour.floor(now_ms), -720)})
    assert (response.status_code, fields_of(response)) == (400, ["start_at"])
    assert "earliest possible start" in response.json["detail"]
    assert api.add_job(**body, start_at=hour.shift(hour.floor(now_ms), -717))["kind"] == "live"


def test_a_label_keeps_its_meaning(api: AdminApi) -> None:
    """The candles hold values under it, which a running total would be continued from."""
    api.add_connector()
    api.add_job(indicators=[{"name": "EMA", "params": {"timeperiod": 20}, "as": "x"}])
    add_candles(api.platform, Series("binance", "BTC/USDT", "1m"), make_candles(0, 1), {})
    obv = {"indicators": [{"name": "RSI"}, {"name": "OBV", "as": "x"}]}
    refused = api.call("PATCH", PATH, obv)
    assert refused.status_code == 400
    assert fields_of(refused) == ["indicators.1.as"]
    assert "has been EMA(timeperiod=20)" in refused.text
    assert api.call("PATCH", PATH, {"indicators": []}).status_code == 200
    assert fields_of(api.call("PATCH", PATH, obv)) == ["indicators.1.as"]
    again = {"indicators": [{"name": "EMA", "params": {"timeperiod": 20}, "as": "x"}, {"name": "OBV", "as": "y"}]}
    assert api.call("PATCH", PATH, again).status_code == 200
    assert "indicator_fields" not in api.get(PATH)
    # Where the body names no list, the error points at the field that would hold it.
    assert api.call("PATCH", PATH, {"indicators": []}).status_code == 200
    assert api.call("DELETE", PATH).status_code == 204
    usual = {"name": "RSI", "as": "ema_20"}
    api.add_job(indicators=[usual])
    assert api.call("DELETE", PATH).status_code == 204
    refused = api.call("POST", "/v1/jobs", {"connector_id": "binance", "symbol": "BTC/USDT", "timeframe": "1m"})
    assert (refused.status_code, fields_of(refused)) == (400, ["indicators"])
    assert "'ema_20' has been RSI(timeperiod=14)" in refused.text


def test_the_revision_counts_what_others_have_made_of_the_list(api: AdminApi) -> None:
    """The list is the series', so an edit of it through another job is an edit of this one too."""
    api.add_connector()
    revision = api.add_job(indicators=[{"name": "EMA"}])["revision"]
    api.add_job(start_at="2024-01-01", end_at="2024-01-02", indicators=[{"name": "RSI"}])
    listed = {"indicators": [{"name": "EMA"}]}
    assert api.call("PATCH", PATH, listed, headers={"If-Match": f'"{revision}"'}).status_code == 412
    for verb in ("pause", "resume"):
        refused = api.call("POST", f"{PATH}/{verb}", role="operator", headers={"If-Match": f'"{revision}"'})
        assert refused.status_code == 412
    for query in ("", "?candles=delete"):
        assert api.call("DELETE", f"{PATH}{query}", headers={"If-Match": f'"{revision}"'}).status_code == 412
    known = api.get(PATH)["revision"]
    assert known > revision
    assert [job["revision"] for job in api.get("/v1/jobs?kind=live")["items"]] == [known]
    assert api.call("PATCH", PATH, listed, headers={"If-Match": f'"{known}"'}).status_code == 200


def test_resume_resolves_the_alert_of_lost_candles_too_and_a_new_loss_opens_a_new_one(api: AdminApi) -> None:
    """Kraken keeps 720 candles."""
    api.add_connector("kraken")
    job_id = api.add_job(connector_id="kraken", symbol="BTC/USD")["id"]
    ids = []
    for _ in range(2):
        # As if it had stood still for 900 minutes.
        away_ms = api.platform.database.server_now_ms() // MINUTE_MS * MINUTE_MS - 900 * MINUTE_MS
        set_fields(api, job_id, **{"start_at": to_datetime(away_ms), "cursor.last_ts": to_datetime(away_ms)})
        assert run_once(api.platform, job_id).outcome == "caught_up"
        (alert,) = api.get("/v1/alerts?state=open")["items"]
        assert alert["subject"] == f"jobs/{job_id}/history"
        ids.append(alert["id"])
        assert api.call("POST", f"/v1/jobs/{job_id}/pause").status_code == 200
        assert api.call("POST", f"/v1/jobs/{job_id}/resume").status_code == 200
        assert api.get("/v1/alerts?state=open")["items"] == []
    assert len(set(ids)) == 2


def test_an_alert_ends_with_its_job_or_by_a_person(api: AdminApi) -> None:
    api.add_connector()
    api.add_job()

    def lose() -> None:
        api.platform.database.transact(
            lambda session: api.platform.alerts.open_(
                subject=f"jobs/{JOB_ID}/history", title="lost", facts={}, opened_at=to_datetime(0), session=session
            )
        )

    lose()
    (alert,) = api.get("/v1/alerts?state=open")["items"]
    path = f"/v1/alerts/{alert['id']}/resolve"
    assert api.call("POST", path, role="viewer").status_code == 403
    resolved = api.call("POST", path, role="operator")
    assert (resolved.status_code, resolved.json["state"]) == (200, "resolved")
    assert api.call("POST", path, role="operator").json == resolved.json
    assert api.actions(f"alerts/{alert['id']}") == ["alert.resolve"]
    for unknown in ("0" * 24, "nonsense"):
        assert api.call("POST", f"/v1/alerts/{unknown}/resolve").status_code == 404
    lose()
    (again,) = api.get("/v1/alerts?state=open")["items"]
    assert again["id"] != alert["id"]
    assert api.call("DELETE", PATH).status_code == 204
    assert api.get("/v1/alerts?state=open")["items"] == []
