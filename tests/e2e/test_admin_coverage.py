"""The ledger of completeness by the admin API: sums, runs of intervals, and what is said to wrong questions."""

from typing import Any

import pytest

from local_emulator.simulator.process import SimulatorProcess
from tests.e2e.admin_api import AdminApi, fields_of
from tests.factories import run_once

RANGE = {"start_at": "2024-01-01T00:00:00Z", "end_at": "2024-01-01T02:00:00+00:00"}
BACKFILL_ID = "binance:BTC-USDT:1m:1704067200000-1704074400000"
PATH = f"/v1/jobs/{BACKFILL_ID}/coverage"
HOLE: dict[str, Any] = {
    "exchange": "binance",
    "kind": "hide",
    "from_ms": 1_704_067_200_000 + 30 * 60_000,
    "to_ms": 1_704_067_200_000 + 40 * 60_000,
}


@pytest.fixture
def backfilled(api: AdminApi, exchange_simulator: SimulatorProcess) -> AdminApi:
    """Two hours of minutes, of which the exchange hid ten."""
    api.add_connector()
    api.add_job(**RANGE)
    exchange_simulator.set_faults(HOLE)
    run_once(api.platform, BACKFILL_ID)
    exchange_simulator.set_faults()
    return api


def test_every_interval_is_accounted_for(api: AdminApi, backfilled: AdminApi) -> None:
    shown = api.get(PATH)
    assert (shown["job_id"], shown["timeframe"], shown["intervals"]) == (BACKFILL_ID, "1m", 120)
    assert (shown["from"], shown["to"]) == ("2024-01-01T00:00:00.000Z", "2024-01-01T02:00:00.000Z")
    assert shown["counts"] == {"stored": 110, "no_trades": 0, "pending": 0, "missing": 10, "disputed": 0, "beyond_history": 0}
    hole = {"from": "2024-01-01T00:30:00.000Z", "to": "2024-01-01T00:40:00.000Z", "state": "missing", "intervals": 10}
    assert [run["state"] for run in shown["runs"]] == ["stored", "missing", "stored"]
    assert shown["runs"][1] == hole
    assert "next_start" not in shown
    assert api.get(f"{PATH}?state=missing,pending")["runs"] == [hole]
    assert api.get(f"{PATH}?state=disputed")["runs"] == []


def test_runs_come_in_pages_and_sums_are_always_of_all(api: AdminApi, backfilled: AdminApi) -> None:
    first = api.get(f"{PATH}?limit=2")
    assert [run["state"] for run in first["runs"]] == ["stored", "missing"]
    assert first["counts"]["stored"] == 110
    rest = api.get(f"{PATH}?limit=2&start={first['next_start']}")
    assert [(run["state"], run["intervals"]) for run in rest["runs"]] == [("stored", 80)]


def test_the_repair_is_a_job_that_can_be_seen(api: AdminApi, backfilled: AdminApi) -> None:
    (repair,) = api.get("/v1/jobs?kind=repair")["items"]
    assert (repair["id"], repair["status"], repair["lag_ms"]) == ("binance:BTC-USDT:1m:repair", "active", None)
    assert run_once(api.platform, repair["id"]).candles == 10
    assert api.get(PATH)["counts"]["stored"] == 120
    assert [job["id"] for job in api.get("/v1/jobs?kind=enrich")["items"]] == ["binance:BTC-USDT:1m:enrich"]


def test_a_dispute_can_be_seen_and_is_ended_by_a_backfill_of_it(api: AdminApi, exchange_simulator: SimulatorProcess) -> None:
    """As the runbook says it, once the exchange has mended its candle."""
    api.add_connector()
    api.add_job(**RANGE)
    opens_ms = HOLE["from_ms"]
    exchange_simulator.set_faults({**HOLE, "kind": "conflict", "to_ms": opens_ms + 60_000})
    run_once(api.platform, BACKFILL_ID)
    disputed = {"from": "2024-01-01T00:30:00.000Z", "to": "2024-01-01T00:31:00.000Z", "state": "disputed", "intervals": 1}
    assert api.get(f"{PATH}?state=disputed")["runs"] == [disputed]
    (alert,) = api.get("/v1/alerts?state=open")["items"]
    assert alert["subject"] == "series/binance:BTC-USDT:1m/disputed"
    assert (alert["facts"]["job_id"], alert["facts"]["opens_at"]) == (BACKFILL_ID, disputed["from"])
    exchange_simulator.set_faults()
    order = {"from": disputed["from"], "to": disputed["to"]}
    told = api.call("POST", f"/v1/jobs/{BACKFILL_ID}/backfill", order, role="operator")
    assert told.status_code == 201, told.text
    assert told.json is not None
    assert [(part["status"], part["wanted"]) for part in told.json["chunks"]] == [("active", 1)]
    assert run_once(api.platform, told.json["chunks"][0]["job_id"]).candles == 1
    assert api.get(PATH)["counts"]["stored"] == 120
    assert api.get("/v1/alerts?state=open")["items"] == []


def test_wrong_questions_are_named(api: AdminApi, backfilled: AdminApi) -> None:
    wrong = {
        "state=lost": ["state.0"],
        "start=2024-01-01T01:00:00Z&end=2024-01-01T01:00:00Z": ["start"],
        "limit=0": ["limit"],
        "colour=red": ["colour"],
    }
    for query, fields in wrong.items():
        response = api.call("GET", f"{PATH}?{query}")
        assert response.status_code == 400
        assert fields_of(response) == fields
    assert "missing" in api.call("GET", f"{PATH}?state=lost").text
    assert api.call("GET", "/v1/jobs/nothing/coverage").status_code == 404
