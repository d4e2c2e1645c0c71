"""Connectors by the admin API: made, changed, paused, deleted, asked, and what is refused."""

from typing import Any

import pytest

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.jobs import to_datetime
from shared.exchanges.catalog import EXCHANGES
from tests.e2e.admin_api import AdminApi, fields_of
from tests.factories import run_once


def test_an_exchange_name_is_enough_and_brings_the_documented_limits(api: AdminApi) -> None:
    response = api.call("POST", "/v1/connectors", {"exchange": "kraken"}, headers={"X-Request-Id": "req-1"})
    assert response.status_code == 201
    assert response.headers["Location"] == "/v1/connectors/kraken"
    assert response.headers["ETag"] == '"1"'
    made = api.get("/v1/connectors/kraken")
    assert made == response.json
    assert (made["id"], made["rate_limit"], made["rate_limit_period_ms"], made["base_url"]) == ("kraken", 1, 1_200, None)
    assert "limiter" not in made
    assert "_id" not in made
    (entry,) = api.get("/v1/audit?target=connectors/kraken")["items"]
    assert (entry["action"], entry["actor"], entry["role"], entry["request_id"]) == (
        "connector.create",
        "ann",
        "admin",
        "req-1",
    )
    assert entry["before"] is None
    assert entry["after"]["rate_limit"] == 1
    assert "limiter" not in entry["after"]


def test_all_fields_can_be_given(api: AdminApi) -> None:
    extra = [{"rate_limit": 9_000, "rate_limit_period_ms": 600_000}]
    fields: dict[str, Any] = {"rate_limit": 100, "rate_limit_period_ms": 5_000, "extra_rate_limits": extra}
    made = api.add_connector(id="binance-2", settle_delay_ms=700, publish_grace_ms=0, **fields)
    assert made["id"] == "binance-2"
    assert {name: made[name] for name in fields} == fields
    assert (made["settle_delay_ms"], made["publish_grace_ms"]) == (700, 0)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "exchange"),
        ({"exchange": "mtgox"}, "exchange"),
        ({"exchange": 7}, "exchange"),
        ({"exchange": "binance", "id": "Not A Slug"}, "id"),
        ({"exchange": "binance", "colour": "red"}, "colour"),
        ({"exchange": "binance", "limiter": {}}, "limiter"),
        ({"exchange": "binance", "rate_limit": "6000"}, "rate_limit"),
        ({"exchange": "binance", "rate_limit": True}, "rate_limit"),
        ({"exchange": "binance", "rate_limit": None}, "rate_limit"),
        ({"exchange": "binance", "rate_limit": 0}, "rate_limit"),
        ({"exchange": "binance", "rate_limit": 19}, "rate_limit"),
        ({"exchange": "binance", "rate_limit_period_ms": 99}, "rate_limit_period_ms"),
        ({"exchange": "binance", "settle_delay_ms": -1}, "settle_delay_ms"),
        ({"exchange": "binance", "extra_rate_limits": [{"rate_limit": 50}]}, "extra_rate_limits.0.rate_limit_period_ms"),
        (
            {"exchange": "binance", "extra_rate_limits": [{"rate_limit": 50, "rate_limit_period_ms": 60_000}]},
            "extra_rate_limits.0.rate_limit_period_ms",
        ),
        (
            {
                "exchange": "binance",
                "extra_rate_limits": [{"rate_limit": 50, "rate_limit_period_ms": 1_000 * n} for n in range(1, 6)],
            },
            "extra_rate_limits",
        ),
        ({"exchange": "binance", "base_url": "ftp://example.com"}, "base_url"),
        ({"exchange": "binance", "base_url": "https://me:secret@example.com"}, "base_url"),
        ({"exchange": "binance", "base_url": "https://1.1.1.1/?key=secret"}, "base_url"),
        ({"exchange": "binance", "base_url": "http://127.0.0.1"}, "base_url"),
        ({"exchange": "binance", "base_url": "http://localhost:1"}, "base_url"),
        ({"exchange": "binance", "base_url": "http://2130706433"}, "base_url"),
        ({"exchange": "binance", "base_url": "http://169.254.169.254/computeMetadata"}, "base_url"),
        ({"exchange": "binance", "base_url": "http://[::ffff:10.0.0.1]"}, "base_url"),
        ({"exchange": "binance", "base_url": "http://[fe80::1]:80"}, "base_url"),
        ({"exchange": "binance", "base_url": "https://host.invalid"}, "base_url"),
        ({"exchange": "binance", "base_url": "https://1.1.1.1:99999"}, "base_url"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_stored(api: AdminApi, body: dict[str, Any], field: str) -> None:
    response = api.call("POST", "/v1/connectors", body)
    assert response.status_code == 400
    assert fields_of(response) == [field]
    assert "secret" not in response.text
    assert (api.count("connectors"), api.count("audit_log")) == (0, 0)


def test_a_taken_id_is_a_conflict_without_an_audit_entry(api: AdminApi) -> None:
    api.add_connector()
    response = api.call("POST", "/v1/connectors", {"exchange": "coinbase", "id": "binance"})
    assert response.status_code == 409
    assert api.get("/v1/connectors/binance")["exchange"] == "binance"
    assert api.actions("connectors/binance") == ["connector.create"]


def test_a_patch_under_an_old_revision_is_refused_and_leaves_no_trace(api: AdminApi) -> None:
    api.add_connector()
    path = "/v1/connectors/binance"
    response = api.call("PATCH", path, {"rate_limit": 500}, headers={"If-Match": '"1"'})
    assert (response.status_code, response.headers["ETag"]) == (200, '"2"')
    for header in ('"1"', "1"):
        assert api.call("PATCH", path, {"rate_limit": 900}, headers={"If-Match": header}).status_code == 412
    assert api.call("DELETE", path, headers={"If-Match": "1"}).status_code == 412
    assert fields_of(api.call("PATCH", path, {"rate_limit": 900}, headers={"If-Match": "abc"})) == ["If-Match"]
    assert api.get(path)["rate_limit"] == 500
    assert api.actions("connectors/binance") == ["connector.create", "connector.patch"]
    entry = api.get("/v1/audit?target=connectors/binance")["items"][0]
    assert (entry["before"]["rate_limit"], entry["after"]["rate_limit"]) == (6_000, 500)
    # Without the header the last write wins.
    assert api.call("PATCH", path, {"base_url": None}).json["base_url"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"rate_limit": 19}, "rate_limit"),
        ({"exchange": "kraken"}, "exchange"),
        ({"status": "paused"}, "status"),
        ({"base_url": "http://10.0.0.1"}, "base_url"),
        (
            {"extra_rate_limits": [{"rate_limit": 99, "rate_limit_period_ms": 60_000}]},
            "extra_rate_limits.0.rate_limit_period_ms",
        ),
    ],
)
def test_a_wrong_patch_changes_nothing(api: AdminApi, body: dict[str, Any], field: str) -> None:
    made = api.add_connector()
    response = api.call("PATCH", "/v1/connectors/binance", body)
    assert (response.status_code, fields_of(response)) == (400, [field])
    assert api.get("/v1/connectors/binance") == made


def test_an_empty_patch_and_an_unknown_connector(api: AdminApi) -> None:
    api.add_connector()
    assert api.call("PATCH", "/v1/connectors/binance", {}).status_code == 400
    for method, path in (
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/ping"),
        ("POST", "/pause"),
        ("GET", "/symbols"),
    ):
        assert api.call(method, f"/v1/connectors/nobody{path}", {"rate_limit": 99}).status_code == 404


def test_a_connector_is_deleted_once_no_job_uses_it(api: AdminApi) -> None:
    api.add_connector()
    api.add_job()
    assert api.call("DELETE", "/v1/connectors/binance").status_code == 409
    assert api.call("DELETE", "/v1/jobs/binance:BTC-USDT:1m").status_code == 204
    assert api.call("DELETE", "/v1/connectors/binance").status_code == 204
    assert api.call("GET", "/v1/connectors/binance").status_code == 404
    assert api.actions("connectors/binance") == ["connector.create", "connector.delete"]


def test_lists_page_by_cursor(api: AdminApi) -> None:
    ids = sorted(api.add_connector(id=f"c{number}")["id"] for number in range(5))
    seen: list[str] = []
    cursor = ""
    for _ in range(4):
        page = api.get(f"/v1/connectors?limit=2{cursor}")
        seen += [connector["id"] for connector in page["items"]]
        if "next_cursor" not in page:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ids


def test_a_paused_connector_s_jobs_are_due_when_it_resumes(api: AdminApi) -> None:
    api.add_connector()
    job_id = api.add_job()["id"]
    assert api.call("POST", "/v1/connectors/binance/pause").json["status"] == "paused"
    assert api.call("POST", "/v1/connectors/binance/pause").json["revision"] == 2
    result = run_once(api.platform, job_id)
    now_ms = api.platform.database.server_now_ms()
    assert result.outcome == "paused"
    assert api.platform.jobs.get(job_id)["next_run_at"] > to_datetime(now_ms + 30_000)
    assert api.call("POST", "/v1/connectors/binance/resume").json["status"] == "active"
    assert api.platform.jobs.get(job_id)["next_run_at"] <= to_datetime(api.platform.database.server_now_ms())
    assert api.actions("connectors/binance") == ["connector.create", "connector.pause", "connector.resume"]


def test_a_ping_is_reserved_first_and_refused_where_there_is_no_room(
    api: AdminApi, exchange_simulator: SimulatorProcess
) -> None:
    api.add_connector("kraken", rate_limit=1, rate_limit_period_ms=60_000)
    response = api.call("POST", "/v1/connectors/kraken/ping", role="operator")
    assert response.json["latency_ms"] >= 0
    sent = exchange_simulator.report()["kraken"]["requests_total"]
    response = api.call("POST", "/v1/connectors/kraken/ping", role="operator")
    assert response.status_code == 503
    assert 30 < int(response.headers["Retry-After"]) <= 63
    assert response.json["type"].endswith("rate_limit_reached")
    assert api.call("GET", "/v1/connectors/kraken/symbols").status_code == 503
    assert exchange_simulator.report()["kraken"]["requests_total"] == sent
    limits = api.get("/v1/connectors/kraken/rate-limit")
    assert limits["windows"] == [{"rate_limit": 1, "rate_limit_period_ms": 60_000, "usable": 1, "usage": 1}]
    assert limits["documented"]["limits"] == [{"rate_limit": 1, "rate_limit_period_ms": 1_200}]


def test_a_refusal_for_speed_blocks_the_connector(api: AdminApi, exchange_simulator: SimulatorProcess) -> None:
    api.add_connector()
    exchange_simulator.set_faults(
        {"exchange": "binance", "kind": "status", "status": 429, "retry_after_s": 40, "everywhere": True, "count": 1}
    )
    response = api.call("POST", "/v1/connectors/binance/ping")
    assert (response.status_code, response.headers["Retry-After"]) == (502, "40")
    limits = api.get("/v1/connectors/binance/rate-limit")
    assert limits["blocked_until"].endswith("Z")
    assert "429" in limits["blocked_reason"]
    assert (limits["share"], limits["requests_under_way_max"]) == (0.5, 4)
    assert (limits["windows"][0]["rate_limit"], limits["windows"][0]["usable"]) == (6_000, 3_000)
    assert (limits["refused_total"], limits["refused_after_total"]) == (1, 0)
    refused = api.call("POST", "/v1/connectors/binance/ping")
    assert refused.status_code == 503
    assert f"blocked until {limits['blocked_until']}" in refused.json["detail"]
    assert "/v1/connectors/binance/unblock" in refused.json["detail"]
    # A block that is over is none.
    over = api.platform.database.server_now_ms() - 1
    api.platform.database.collection("connectors").update_one({}, {"$set": {"blocked_until": to_datetime(over)}})
    limits = api.get("/v1/connectors/binance/rate-limit")
    assert (limits["blocked_until"], limits["blocked_reason"], limits["refused_total"]) == (None, None, 1)


def test_symbols_are_asked_for_once_an_hour(api: AdminApi, exchange_simulator: SimulatorProcess) -> None:
    api.add_connector()
    before = exchange_simulator.report()["binance"]["requests_total"]
    symbols = {market["symbol"]: market["is_active"] for market in api.get("/v1/connectors/binance/symbols")["items"]}
    assert symbols["BTC/USDT"] is True
    assert symbols["OMG/USDT"] is False
    api.get("/v1/connectors/binance/symbols")
    assert exchange_simulator.report()["binance"]["requests_total"] == before + 1
    assert api.get("/v1/connectors/binance/rate-limit")["windows"][0]["usage"] == 20


def test_exchanges_tell_what_they_offer(api: AdminApi) -> None:
    exchanges = {exchange["name"]: exchange for exchange in api.get("/v1/exchanges")["items"]}
    assert set(exchanges) == set(EXCHANGES)
    assert exchanges["kraken"]["history_candles_max"]["1m"] == 718
    assert exchanges["binance"]["history_candles_max"] is None
    assert exchanges["binance"]["weights"] == {"candles": 2, "candles_up_to": [], "symbols": 20, "ping": 1}
    assert "1M" in exchanges["binance"]["timeframes"]
    assert exchanges["okx"]["archive"] == {"page_size": 100, "after_candles": 1400}
    assert all(exchange["quirks"] for name, exchange in exchanges.items())
    for name, exchange in exchanges.items():
        assert api.get(f"/v1/exchanges/{name}") == exchange
    through_ccxt = api.get("/v1/exchanges/ccxt:kraken")
    assert "1h" in through_ccxt["timeframes"]
    missing = api.call("GET", "/v1/exchanges/nowhere")
    assert missing.status_code == 404
    assert "known are binance" in missing.json["detail"]
