"""Ordering backfills by the admin API: what one would cost, its chunks, what it leaves, and wrong orders."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import numpy as np
import pytest
from pymongo import MongoClient

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.coverage import BUCKET, Code
from shared.domain.indicators import DEFAULT_INDICATORS, resolve_indicators
from shared.domain.jobs import to_ms
from shared.domain.timeframes import HOUR_MS, MINUTE_MS
from shared.errors import Conflict
from shared.stores import database
from shared.usecases.plan_backfills import BackfillOrder
from shared.usecases.record_changes import Author
from tests.e2e.admin_api import AdminApi, fields_of
from tests.e2e.backfill_scene import DAY, ID, LIVE_ID, ORDER, PATH, START_MS, assert_truth, chunk_ids, order, requests_total
from tests.factories import run_once, run_until_caught_up

RSI: Final[list[dict[str, Any]]] = [{"name": "RSI", "params": {"timeperiod": 14}}]


def test_a_dry_run_tells_what_it_would_cost_and_makes_nothing(live: AdminApi) -> None:
    response = live.call("POST", PATH, {**ORDER, "dry_run": True}, role="operator")
    assert response.status_code == 200, response.text
    told = dict(response.json)
    expected_s = told["plan"].pop("expected_seconds")
    assert told.pop("eta_seconds") == expected_s > 0
    assert told.pop("eta_at") is not None
    assert told == {
        "id": ID,
        "job_id": LIVE_ID,
        "connector_id": "binance",
        "symbol": "BTC/USDT",
        "timeframe": "1m",
        "from": "2024-01-01T00:00:00.000Z",
        "to": "2024-01-04T00:00:00.000Z",
        "status": "planned",
        "waiting_for": None,
        "wanted": 3 * DAY,
        "left": 3 * DAY,
        "share": 0.0,
        "candles": 0,
        "created_at": None,
        "finished_at": None,
        "plan": {
            "counts": {"stored": 0, "no_trades": 0, "pending": 3 * DAY, "missing": 0, "disputed": 0, "beyond_history": 0},
            "requests": 5,
            "weight": 10,
            "bound_by": "round_trips",
            "holes": [],
        },
        "chunks": [
            {
                "job_id": f"{ID}:1",
                "status": "planned",
                "from": "2024-01-01T00:00:00.000Z",
                "to": "2024-01-04T00:00:00.000Z",
                "last_ts": None,
                "wanted": 3 * DAY,
                "left": 3 * DAY,
                "lease_until": None,
                "last_error": None,
            }
        ],
    }
    assert live.get("/v1/jobs?kind=backfill&include=tasks")["items"] == []
    assert live.get(f"/v1/jobs/{LIVE_ID}/backfills")["items"] == []


def test_an_order_is_fetched_with_the_requests_that_were_told_and_counts_itself(
    live: AdminApi, exchange_simulator: SimulatorProcess
) -> None:
    plan = order(live)
    shown = live.get(f"/v1/backfills/{ID}")
    assert (shown["status"], shown["wanted"], shown["left"], shown["share"]) == ("active", 3 * DAY, 3 * DAY, 0.0)
    assert shown["eta_seconds"] == plan["plan"]["expected_seconds"]
    # The order's answer is what is told of it ever after.
    assert {**shown, "eta_at": None} == {**plan, "eta_at": None}
    assert shown["created_at"] is not None
    assert shown["eta_at"] is not None
    before = requests_total(exchange_simulator)
    (job_id,) = chunk_ids(live)
    assert run_once(live.platform, job_id).outcome.value == "done"
    assert requests_total(exchange_simulator) - before == plan["plan"]["requests"] == 5
    shown = live.get(f"/v1/backfills/{ID}")
    assert (shown["status"], shown["left"], shown["share"], shown["eta_seconds"]) == ("done", 0, 1.0, 0.0)
    assert (shown["candles"], shown["eta_at"]) == (3 * DAY, None)
    assert shown["created_at"] < shown["finished_at"]
    assert_truth(live, DEFAULT_INDICATORS)
    # Ordered again there is nothing to do, and nothing is made.
    again = live.call("POST", PATH, ORDER, role="operator")
    assert (again.status_code, again.json["status"], again.json["wanted"], again.json["chunks"]) == (200, "done", 0, [])
    assert again.json["plan"]["requests"] == 0
    assert [each["id"] for each in live.get(f"/v1/jobs/{LIVE_ID}/backfills")["items"]] == [ID]


def test_only_what_is_not_there_is_asked_for(live: AdminApi, exchange_simulator: SimulatorProcess) -> None:
    """A day in the middle is stored, and of another the exchange hid an hour."""
    hidden_ms = START_MS + (4 * DAY + 600) * MINUTE_MS
    hide = {"exchange": "binance", "kind": "hide", "from_ms": hidden_ms, "to_ms": hidden_ms + 60 * MINUTE_MS}
    exchange_simulator.set_faults(hide)
    for first, end in (("02", "03"), ("05", "06")):
        fields = {"start_at": f"2024-01-{first}T00:00:00Z", "end_at": f"2024-01-{end}T00:00:00Z"}
        run_until_caught_up(live.platform, live.add_job(**fields)["id"])
    exchange_simulator.set_faults()
    wide = {**ORDER, "to": "2024-01-07T00:00:00Z"}
    plan = live.call("POST", PATH, wide, role="operator").json
    assert {state: count for state, count in plan["plan"]["counts"].items() if count} == {
        "stored": 2 * DAY - 60,
        "pending": 4 * DAY,
        "missing": 60,
    }
    assert plan["wanted"] == 4 * DAY + 60
    before = requests_total(exchange_simulator)
    (job_id,) = chunk_ids(live, plan["id"])
    run_until_caught_up(live.platform, job_id)
    assert requests_total(exchange_simulator) - before == plan["plan"]["requests"]
    counts = live.get(f"/v1/jobs/{job_id}/coverage")["counts"]
    assert counts["stored"] == 6 * DAY
    run_until_caught_up(live.platform, f"{LIVE_ID}:enrich")
    assert_truth(live, DEFAULT_INDICATORS, days=6)


@pytest.mark.parametrize("indicators", [RSI, None])
def test_several_workers_at_once_leave_what_one_would(
    api: AdminApi, exchange_simulator: SimulatorProcess, indicators: list[dict[str, Any]] | None
) -> None:
    """With indicators that run on from candle to candle (OBV is a default one) too."""
    api.add_connector()
    api.add_job(**({} if indicators is None else {"indicators": indicators}))
    plan = order(api, workers=3)
    assert len(plan["chunks"]) == 3
    assert [chunk["to"] for chunk in plan["chunks"][:-1]] == [chunk["from"] for chunk in plan["chunks"][1:]]
    assert (plan["chunks"][0]["from"], plan["chunks"][-1]["to"]) == (plan["from"], plan["to"])
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(lambda job_id: run_once(api.platform, job_id).outcome.value, chunk_ids(api)))
    assert outcomes == ["done"] * 3
    assert api.get(f"/v1/backfills/{ID}")["status"] == "done"
    # Parts that happened to end one after the other leave nothing to be computed again.
    if api.get("/v1/jobs?kind=enrich")["items"]:
        run_until_caught_up(api.platform, f"{LIVE_ID}:enrich")
    assert_truth(api, DEFAULT_INDICATORS if indicators is None else resolve_indicators(indicators))


def test_one_worker_by_default_where_an_indicator_runs_on_and_more_where_none_does(api: AdminApi) -> None:
    api.add_connector()
    api.add_job()
    api.add_job(symbol="ETH/USDT", indicators=RSI)
    # Half a year, 263 pages.
    half = {"from": "2024-01-01T00:00:00Z", "to": "2024-07-01T12:00:00Z", "dry_run": True}
    told = {
        symbol: api.call("POST", f"/v1/jobs/binance:{symbol}:1m/backfill", half, role="operator").json
        for symbol in ("BTC-USDT", "ETH-USDT")
    }
    assert {symbol: len(plan["chunks"]) for symbol, plan in told.items()} == {"BTC-USDT": 1, "ETH-USDT": 4}
    assert told["BTC-USDT"]["plan"]["requests"] == 263


def test_holes_that_an_order_leaves_are_told(live: AdminApi, exchange_simulator: SimulatorProcess) -> None:
    def holes(first: str, end: str) -> list[dict[str, str]]:
        body = {"from": f"2024-01-{first}T00:00:00Z", "to": f"2024-01-{end}T00:00:00Z", "dry_run": True}
        found: list[dict[str, str]] = live.call("POST", PATH, body, role="operator").json["plan"]["holes"]
        return found

    order(live, **{"from": "2024-01-10T00:00:00Z"}, to="2024-01-11T00:00:00Z")
    run_until_caught_up(live.platform, f"{LIVE_ID}:backfill:20240110T0000-20240111T0000:1")
    assert holes("09", "10") == holes("11", "12") == []
    before, behind = holes("05", "08"), holes("12", "13")
    assert before == [{"from": "2024-01-08T00:00:00.000Z", "to": "2024-01-10T00:00:00.000Z"}]
    assert behind == [{"from": "2024-01-11T00:00:00.000Z", "to": "2024-01-12T00:00:00.000Z"}]
    # What several chunks of another are on their way to fill is none, and what of it they leave is told.
    order(live, **{"from": "2024-01-07T00:00:00Z"}, to="2024-01-09T12:00:00Z", workers=2)
    rest = {"from": "2024-01-09T12:00:00.000Z", "to": "2024-01-10T00:00:00.000Z"}
    assert holes("05", "07") == [rest]
    assert holes("03", "05") == [{"from": "2024-01-05T00:00:00.000Z", "to": "2024-01-07T00:00:00.000Z"}, rest]


def test_what_a_series_makes_for_itself_is_listed_when_it_is_asked_for(live: AdminApi) -> None:
    now_ms = live.platform.database.server_now_ms() // MINUTE_MS * MINUTE_MS
    live.add_job(symbol="ETH/USDT", start_at=now_ms - 10 * DAY * MINUTE_MS)
    assert run_once(live.platform, "binance:ETH-USDT:1m").outcome.value == "caught_up"
    order(live, workers=2)
    made, tasks = {LIVE_ID, "binance:ETH-USDT:1m"}, {f"{ID}:1", f"{ID}:2", "binance:ETH-USDT:1m:history"}
    assert {job["id"] for job in live.get("/v1/jobs")["items"]} == made
    assert {job["id"] for job in live.get("/v1/jobs?include=tasks")["items"]} == made | tasks
    assert live.get("/v1/jobs?kind=backfill")["items"] == []
    pages = [live.get("/v1/jobs?include=tasks&limit=3")]
    pages.append(live.get(f"/v1/jobs?include=tasks&limit=3&cursor={pages[0]['next_cursor']}"))
    assert [len(page["items"]) for page in pages] == [3, 2]
    assert live.call("GET", "/v1/jobs?include=all", role="viewer").status_code == 400


def test_a_connector_that_is_in_use_says_by_what_people_have_made(live: AdminApi) -> None:
    order(live, workers=2)
    for job_id in chunk_ids(live):
        run_once(live.platform, job_id)

    def refusal() -> str:
        response = live.call("DELETE", "/v1/connectors/binance")
        assert response.status_code == 409
        return str(response.json["detail"]).split(" connector ")[0]

    assert refusal() == "1 job and 1 backfill use"
    assert live.call("DELETE", f"/v1/backfills/{ID}", role="operator").status_code == 204
    assert refusal() == "1 job uses"
    live.add_job(symbol="ETH/USDT")
    assert refusal() == "2 jobs use"
    for job_id in (LIVE_ID, "binance:ETH-USDT:1m"):
        assert live.call("DELETE", f"/v1/jobs/{job_id}").status_code == 204
    assert live.call("DELETE", "/v1/connectors/binance").status_code == 204


def test_what_a_live_job_passes_over_is_a_backfill_like_others(live: AdminApi) -> None:
    """Ten days of minutes: the newest page at once, the rest by the history job."""
    now_ms = live.platform.database.server_now_ms()
    start_ms = (now_ms // MINUTE_MS - 10 * DAY) * MINUTE_MS
    live.add_job(symbol="ETH/USDT", start_at=start_ms)
    live_id, history_id = "binance:ETH-USDT:1m", "binance:ETH-USDT:1m:history"
    assert run_once(live.platform, live_id).outcome.value == "caught_up"
    (shown,) = live.get(f"/v1/jobs/{live_id}/backfills")["items"]
    assert (shown["id"], shown["status"]) == (history_id, "active")
    job = live.get(f"/v1/jobs/{live_id}")
    assert job["lag_ms"] < 2 * MINUTE_MS
    assert shown["left"] == shown["wanted"] == 10 * DAY - 2_000 or shown["left"] > 10 * DAY - 2_010
    run_until_caught_up(live.platform, history_id)
    assert live.get(f"/v1/backfills/{history_id}")["share"] == 1.0
    counts = live.get(f"/v1/jobs/{live_id}/coverage")["counts"]
    assert counts["pending"] + counts["missing"] <= 3
    assert counts["stored"] >= 10 * DAY - 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "from"),
        ({"from": "2024-01-02T00:00:00Z", "to": "2024-01-01T00:00:00Z"}, "from"),
        ({"from": "2024-01-01T00:00:00Z", "to": "2999-01-01T00:00:00Z"}, "to"),
        ({"from": "2999-01-01T00:00:00Z"}, "from"),
        ({"from": "2001-01-01T00:00:00Z"}, "from"),
        ({"from": "yesterday"}, "from"),
        ({"from": 1_704_067_200}, "from"),
        ({"from": "2024-01-01T00:00:30Z", "to": "2024-01-01T00:00:40Z"}, "from"),
        ({**ORDER, "workers": 9}, "workers"),
        ({**ORDER, "dry_run": "yes"}, "dry_run"),
        ({**ORDER, "start": 1}, "start"),
    ],
)
def test_a_wrong_order_is_refused_with_the_field_that_is_wrong(live: AdminApi, body: dict[str, Any], field: str) -> None:
    for is_dry in ({}, {"dry_run": True}):
        response = live.call("POST", PATH, {**is_dry, **body}, role="operator")
        assert (response.status_code, fields_of(response)) == (400, [field]), response.text
    assert live.get("/v1/jobs?kind=backfill&include=tasks")["items"] == []


def test_two_orders_of_the_same_intervals_are_not_taken_at_once(live: AdminApi) -> None:
    order(live)
    overlapping = {"from": "2024-01-03T00:00:00Z", "to": "2024-01-05T00:00:00Z"}
    for body in (overlapping, {**overlapping, "dry_run": True}):
        refused = live.call("POST", PATH, body, role="operator")
        assert refused.status_code == 409
        assert ID in refused.json["detail"]
    beside = {"from": "2024-01-04T00:00:00Z", "to": "2024-01-05T00:00:00Z"}
    assert live.call("POST", PATH, beside, role="operator").status_code == 201


def test_what_lies_behind_a_running_backfill_can_be_ordered_again(live: AdminApi, exchange_simulator: SimulatorProcess) -> None:
    """Up to its cursor it asks for nothing more; an hour there was hidden, and is missing."""
    limits = replace(live.platform.runner.run_limits, pages_max=1)
    object.__setattr__(live.platform.runner, "run_limits", limits)
    hide = {"exchange": "binance", "kind": "hide", "from_ms": START_MS + HOUR_MS, "to_ms": START_MS + 2 * HOUR_MS}
    exchange_simulator.set_faults(hide)
    order(live)
    (job_id,) = chunk_ids(live)
    assert run_once(live.platform, job_id).outcome.value == "more"
    exchange_simulator.set_faults()
    cursor_ms = to_ms(live.platform.jobs.get(job_id)["cursor"]["last_ts"])
    behind = {"from": START_MS, "to": cursor_ms + MINUTE_MS}
    again = live.call("POST", PATH, behind, role="operator")
    assert (again.status_code, again.json["wanted"]) == (201, 60), again.text
    further = {"from": START_MS, "to": cursor_ms + 2 * MINUTE_MS, "dry_run": True}
    assert live.call("POST", PATH, further, role="operator").status_code == 409


def test_an_order_that_never_comes_between_the_writes_of_others_says_so(
    live: AdminApi, mongo_client: MongoClient[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "TRANSACTION_TRIES_MAX", 3)
    conflicts = {
        "failCommands": ["insert"],
        "namespace": f"{live.platform.settings.database}.jobs",
        "errorCode": 112,
        "errorLabels": ["TransientTransactionError"],
    }
    mongo_client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=conflicts)
    try:
        refused = live.call("POST", PATH, ORDER, role="operator")
    finally:
        mongo_client.admin.command("configureFailPoint", "failCommand", mode="off")
    assert (refused.status_code, refused.json["type"]) == (503, "urn:chandler:problem:storage_busy"), refused.text
    assert int(refused.headers["Retry-After"]) > 0
    assert live.call("POST", PATH, ORDER, role="operator").status_code == 201


def test_what_is_missing_before_the_exchanges_history_is_in_nobodys_way(
    api: AdminApi, exchange_simulator: SimulatorProcess
) -> None:
    """Kraken keeps 718 candles. What was missing when it had them still is, and cannot be had any more."""
    api.add_connector("kraken")
    live_id = api.add_job(connector_id="kraken", symbol="BTC/USD")["id"]
    now_ms = api.platform.database.server_now_ms() // MINUTE_MS * MINUTE_MS
    number = now_ms // MINUTE_MS - 1_000
    codes = {number // BUCKET: np.zeros(BUCKET, np.uint8)}
    codes[number // BUCKET][number % BUCKET] = Code.MISSING
    api.platform.database.transact(lambda session: api.platform.ledger.coverage.write(live_id, codes, session))
    for back in (2_000, 1_100):
        body = {"from": now_ms - back * MINUTE_MS, "dry_run": True}
        told = api.call("POST", f"/v1/jobs/{live_id}/backfill", body, role="operator")
        assert told.status_code == 200, told.text
        assert (told.json["plan"]["counts"]["missing"], told.json["plan"]["requests"]) == (1, 1)
        assert 700 < told.json["wanted"] <= 718
    before = {"from": now_ms - 1_100 * MINUTE_MS, "to": now_ms - 900 * MINUTE_MS}
    told = api.call("POST", f"/v1/jobs/{live_id}/backfill", before, role="operator")
    assert (told.status_code, told.json["wanted"], told.json["chunks"]) == (200, 0, []), told.text


def test_an_order_for_a_job_that_is_deleted_meanwhile_is_not_taken(live: AdminApi, monkeypatch: pytest.MonkeyPatch) -> None:
    planner = type(live.platform.backfills.planner)
    plan = planner.plan

    def overtaken(*args: Any) -> Any:
        planned = plan(*args)
        assert live.call("DELETE", f"/v1/jobs/{LIVE_ID}?candles=delete").status_code == 204
        return planned

    monkeypatch.setattr(planner, "plan", overtaken)
    assert live.call("POST", PATH, ORDER, role="operator").status_code == 404
    assert live.get("/v1/jobs?include=tasks")["items"] == []


def test_of_orders_that_come_at_once_only_one_is_taken(live: AdminApi) -> None:
    shifted = [{"from": START_MS + minute * MINUTE_MS, "to": START_MS + (DAY + minute) * MINUTE_MS} for minute in range(6)]
    manager, author = live.platform.backfills, Author("me", "admin", "test")

    def take(body: dict[str, int]) -> bool:
        try:
            manager.create(LIVE_ID, BackfillOrder(body["from"], body["to"], None), author)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(take, shifted)) == 1
    assert len(live.get("/v1/jobs?kind=backfill&include=tasks")["items"]) == 1


def test_who_may_not_order_and_what_is_not_there(live: AdminApi) -> None:
    assert live.call("POST", PATH, ORDER, role="viewer").status_code == 403
    assert live.call("POST", "/v1/jobs/binance:XRP-USDT:1m/backfill", ORDER, role="operator").status_code == 404
    for method, path in (("GET", ""), ("POST", "/pause"), ("POST", "/resume"), ("DELETE", "")):
        assert live.call(method, f"/v1/backfills/nothing{path}", role="operator").status_code == 404
    # Neither a live job nor a chunk is one.
    order(live)
    assert live.call("GET", f"/v1/backfills/{ID}:1", role="operator").status_code == 404
    assert live.call("GET", f"/v1/backfills/{LIVE_ID}", role="operator").status_code == 404


def test_what_an_exchange_no_longer_has_is_told_before_and_not_asked_for(api: AdminApi) -> None:
    api.add_connector("kraken")
    api.add_job(connector_id="kraken", symbol="BTC/USD")
    now_ms = api.platform.database.server_now_ms()
    body = {"from": (now_ms // MINUTE_MS - 2_000) * MINUTE_MS}
    plan = api.call("POST", "/v1/jobs/kraken:BTC-USD:1m/backfill", body, role="operator").json
    assert plan["plan"]["counts"]["beyond_history"] in range(1_279, 1_283)
    assert (plan["plan"]["requests"], plan["plan"]["weight"]) == (1, 1)
    (chunk,) = plan["chunks"]
    assert to_ms(datetime.fromisoformat(chunk["from"])) >= now_ms - 721 * MINUTE_MS
