"""What bad input gets when a job is made: a clear error that names the field, and nothing stored."""

from typing import Any

import pytest

from functions.gateway import BODY_BYTES_MAX
from local_emulator.simulator.process import SimulatorProcess
from tests.e2e.admin_api import JOB, AdminApi, fields_of

INDICATOR = "indicators.0.params.timeperiod"


def assert_nothing_stored(api: AdminApi) -> None:
    assert (api.count("jobs"), api.count("audit_log")) == (0, 1)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"connector_id": "nobody"}, "connector_id"),
        ({"connector_id": "\x00"}, "connector_id"),
        ({"symbol": "NOPE/USDT"}, "symbol"),
        ({"symbol": "OMG/USDT"}, "symbol"),
        ({"symbol": "BTCUSDT"}, "symbol"),
        ({"symbol": "btc/usdt"}, "symbol"),
        ({"symbol": "BTC/USDT:USDT"}, "symbol"),
        ({"symbol": ["BTC/USDT"]}, "symbol"),
        ({"timeframe": "7m"}, "timeframe"),
        ({"timeframe": "10m"}, "timeframe"),
        ({"timeframe": 60}, "timeframe"),
        ({"kind": "repair"}, "kind"),
        ({"kind": "live", "end_at": "2024-01-01T00:00:00Z"}, "end_at"),
        ({"kind": "backfill", "start_at": "2024-01-01T00:00:00Z"}, "end_at"),
        ({"end_at": "2024-01-01T00:00:00Z"}, "start_at"),
        ({"start_at": "soon"}, "start_at"),
        ({"start_at": 1.5}, "start_at"),
        ({"start_at": True}, "start_at"),
        ({"start_at": -1}, "start_at"),
        ({"start_at": 10**18}, "start_at"),
        ({"start_at": "2008-12-31T00:00:00Z"}, "start_at"),
        ({"start_at": "2099-01-01T00:00:00Z"}, "start_at"),
        ({"indicators": [{"name": "NOSUCH"}]}, "indicators.0.name"),
        ({"indicators": [{"name": "HT_SINE"}]}, "indicators.0.name"),
        ({"indicators": [{"name": "RSI", "params": {"period": 14}}]}, "indicators.0.params.period"),
        ({"indicators": [{"name": "RSI", "params": {"timeperiod": "14"}}]}, INDICATOR),
        ({"indicators": [{"name": "RSI", "params": {"timeperiod": 1}}]}, INDICATOR),
        ({"indicators": [{"name": "RSI", "params": {"timeperiod": 10**400}}]}, "indicators.0"),
        ({"indicators": [{"name": "RSI", "as": "Not A Name"}]}, "indicators.0.as"),
        ({"indicators": [{"name": "RSI"}, {"name": "RSI"}]}, "indicators.1.as"),
        ({"indicators": ["RSI"]}, "indicators.0"),
        ({"indicators": "RSI"}, "indicators"),
        ({"indicators": [{"name": "SMA", "params": {"timeperiod": n}} for n in range(2, 53)]}, "indicators"),
        ({"overlap": 11}, "overlap"),
        ({"overlap": "2"}, "overlap"),
        ({"priority": -1}, "priority"),
        ({"status": "done"}, "status"),
        ({"colour": "red"}, "colour"),
        ({"_id": "mine"}, "_id"),
    ],
)
def test_a_wrong_field_is_named(api: AdminApi, fields: dict[str, Any], field: str) -> None:
    api.add_connector()
    response = api.call("POST", "/v1/jobs", {**JOB, **fields})
    assert response.status_code == 400
    assert response.content_type == "application/problem+json"
    assert field in fields_of(response)
    assert_nothing_stored(api)


def test_a_start_after_the_end_names_both(api: AdminApi) -> None:
    api.add_connector()
    for start_at in ("2024-02-01T00:00:00Z", "2024-01-01T00:00:00Z"):
        response = api.call("POST", "/v1/jobs", {**JOB, "start_at": start_at, "end_at": "2024-01-01T01:00:00+01:00"})
        assert (response.status_code, fields_of(response)) == (400, ["start_at", "end_at"])
    assert_nothing_stored(api)


def test_a_timeframe_the_exchange_lacks_comes_with_those_it_has(api: AdminApi) -> None:
    api.add_connector("coinbase")
    response = api.call("POST", "/v1/jobs", {"connector_id": "coinbase", "symbol": "BTC/USD", "timeframe": "4h"})
    (error,) = (response.json or {})["errors"]
    assert error["field"] == "timeframe"
    assert "1m, 5m, 15m, 1h, 6h, 1d" in error["message"]


def test_every_missing_field_is_named_at_once(api: AdminApi) -> None:
    response = api.call("POST", "/v1/jobs", {})
    assert (response.status_code, fields_of(response)) == (400, ["connector_id", "symbol", "timeframe"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'"text"',
        b"null",
        b'{"symbol": NaN}',
        b"[" * 100_000,
        b'{"symbol": "\\ud800"}',
        b'{"\\ud800": 1}',
    ],
)
def test_a_body_that_is_no_json_object_is_refused(api: AdminApi, body: bytes) -> None:
    api.add_connector()
    response = api.call("POST", "/v1/jobs", body)
    assert (response.status_code, response.content_type) == (400, "application/problem+json")
    assert_nothing_stored(api)


def test_a_body_that_is_too_large_is_refused(api: AdminApi) -> None:
    api.add_connector()
    response = api.call("POST", "/v1/jobs", b" " * BODY_BYTES_MAX + b"{}")
    assert response.status_code == 413
    assert_nothing_stored(api)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"kind": "status", "status": 503}, 502),
        ({"kind": "drop"}, 502),
        ({"kind": "not_json"}, 502),
        ({"kind": "status", "status": 429, "retry_after_s": 30}, 502),
    ],
)
def test_nothing_is_stored_while_the_exchange_cannot_be_asked(
    api: AdminApi, exchange_simulator: SimulatorProcess, fault: dict[str, Any], status: int
) -> None:
    api.add_connector()
    exchange_simulator.set_faults({"exchange": "binance", "everywhere": True, "count": 1, **fault})
    response = api.call("POST", "/v1/jobs", JOB)
    assert (response.status_code, "Retry-After" in response.headers) == (status, True)
    assert "binance" in response.json["detail"]
    assert_nothing_stored(api)


def test_nothing_is_stored_while_the_limit_has_no_room_for_asking(api: AdminApi) -> None:
    api.add_connector(rate_limit=20, rate_limit_period_ms=60_000)
    api.call("POST", "/v1/connectors/binance/ping")
    response = api.call("POST", "/v1/jobs", JOB)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 30
    assert_nothing_stored(api)


def test_nonsense_does_not_spend_the_limit(api: AdminApi, exchange_simulator: SimulatorProcess) -> None:
    api.add_connector()
    before = exchange_simulator.report()["binance"]["requests_total"]
    for number in range(5):
        assert fields_of(api.call("POST", "/v1/jobs", {**JOB, "symbol": f"NOPE{number}/USDT"})) == ["symbol"]
    assert exchange_simulator.report()["binance"]["requests_total"] == before + 1
