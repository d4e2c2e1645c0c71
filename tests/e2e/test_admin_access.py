"""Who gets in, and what they get for a path or a method that is not there."""

import base64
import json
import time
from typing import Any

import pytest

from tests.e2e.admin_api import JOB, AdminApi, make_token

ADMIN_ONLY = [
    ("POST", "/v1/connectors"),
    ("PATCH", "/v1/connectors/binance"),
    ("DELETE", "/v1/connectors/binance"),
    ("POST", "/v1/jobs"),
    ("PATCH", "/v1/jobs/binance:BTC-USDT:1m"),
    ("DELETE", "/v1/jobs/binance:BTC-USDT:1m"),
]
OPERATOR_AT_LEAST = [
    *(("POST", f"/v1/connectors/binance/{verb}") for verb in ("pause", "resume", "ping")),
    *(("POST", f"/v1/jobs/binance:BTC-USDT:1m/{verb}") for verb in ("run", "pause", "resume")),
]


def unsigned_token() -> str:
    now_s = int(time.time())
    claims = {"iss": "chandler", "aud": "chandler-admin", "sub": "eve", "role": "admin", "iat": now_s, "exp": now_s + 600}
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer ",
        "Basic YTpi",
        "Bearer not.a.token",
        f"Bearer {unsigned_token()}",
        f"Bearer {make_token(secret='another key that also is long enough for it')}",
        f"Bearer {make_token(algorithm='HS512')}",
        f"Bearer {make_token(exp=int(time.time()) - 60)}",
        f"Bearer {make_token(aud='another')}",
        f"Bearer {make_token(iss='another')}",
        f"Bearer {make_token(sub=None)}",
    ],
)
def test_a_token_that_does_not_verify_changes_nothing(api: AdminApi, authorization: str) -> None:
    response = api.call("POST", "/v1/connectors", {"exchange": "binance"}, headers={"Authorization": authorization})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.content_type == "application/problem+json"
    assert api.count("connectors") == 0


@pytest.mark.parametrize(
    ("role", "calls"), [("viewer", ADMIN_ONLY + OPERATOR_AT_LEAST), ("operator", ADMIN_ONLY)], ids=["viewer", "operator"]
)
def test_a_role_does_what_it_may_and_no_more(api: AdminApi, role: str, calls: list[tuple[str, str]]) -> None:
    api.add_connector()
    api.add_job()
    before = api.count("audit_log")
    assert [api.call(method, path, {}, role=role).status_code for method, path in calls] == [403] * len(calls)
    assert api.count("audit_log") == before
    assert api.get("/v1/jobs", role=role)["items"][0]["status"] == "active"


def test_an_operator_runs_pauses_and_resumes(api: AdminApi) -> None:
    api.add_connector()
    api.add_job()
    statuses = {path: api.call(method, path, role="operator").status_code for method, path in OPERATOR_AT_LEAST}
    assert statuses == {path: 202 if path.endswith("/run") else 200 for _, path in OPERATOR_AT_LEAST}


def test_a_token_without_a_known_role_is_let_in_nowhere(api: AdminApi) -> None:
    for role in (None, "root"):
        headers = {"Authorization": f"Bearer {make_token(role)}"}
        assert api.call("GET", "/v1/health", headers=headers).status_code == 403


def test_unknown_paths_and_methods_are_problems(api: AdminApi) -> None:
    for path in ("/", "/v1", "/v2/jobs", "/v1/jobs/a/b/c", "/v1/jobs//runs"):
        response = api.call("GET", path)
        assert (response.status_code, response.content_type) == (404, "application/problem+json"), path
    response = api.call("PUT", "/v1/jobs/binance:BTC-USDT:1m", JOB)
    assert response.status_code == 405
    assert response.headers["Allow"] == "DELETE, GET, PATCH"
    assert api.call("DELETE", "/v1/health").headers["Allow"] == "GET"


def test_a_body_on_a_get_is_ignored_and_the_request_id_comes_back(api: AdminApi) -> None:
    response = api.call("GET", "/v1/health", b"{not json", role="viewer", headers={"X-Request-Id": "req-7"})
    health: dict[str, Any] = response.json or {}
    assert health["status"] == "ok"
    assert health["mongodb"]["replica_set"]
    assert response.headers["X-Request-Id"] == "req-7"


def test_the_first_admitted_request_makes_the_indexes(api: AdminApi) -> None:
    api.call("GET", "/v1/health", headers={"Authorization": ""})
    assert api.platform.database.collection("jobs").index_information() == {}
    api.get("/v1/health")
    assert len(api.platform.database.collection("jobs").index_information()) > 1
