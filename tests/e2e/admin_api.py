"""The admin API as its users see it: the function's own app on the real database, and tokens for every role."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

import jwt
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from functions.gateway import get_platform
from shared.wiring import Platform

SECRET = "a key for tests of the admin function that is long enough for HS256 and HS512"
JOB = {"connector_id": "binance", "symbol": "BTC/USDT", "timeframe": "1m"}


def make_token(role: str | None = "admin", *, secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token as the admin function accepts it, but for what the arguments change."""
    now_s = int(time.time())
    body = {"iss": "chandler", "aud": "chandler-admin", "sub": "ann", "iat": now_s, "exp": now_s + 600, "role": role, **claims}
    return jwt.encode({name: value for name, value in body.items() if value is not None}, secret, algorithm=algorithm)


@dataclass(slots=True)
class AdminApi:
    """Calls with a token of the role; `body` is sent as JSON, bytes as they are."""

    client: FlaskClient
    simulator_url: str
    tokens: dict[str, str] = field(default_factory=lambda: {role: make_token(role) for role in ("viewer", "operator", "admin")})

    @property
    def platform(self) -> Platform:
        """The instance's own platform, for looking behind the API."""
        return get_platform()

    def call(
        self, method: str, path: str, body: Any = None, *, role: str = "admin", headers: dict[str, str] | None = None
    ) -> TestResponse:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {self.tokens[role]}", "Content-Type": "application/json", **(headers or {})}
        return self.client.open(path, method=method, data=data, headers=sent)

    def get(self, path: str, *, role: str = "viewer") -> Any:
        response = self.call("GET", path, role=role)
        assert response.status_code == 200, response.text
        return response.json

    def add_connector(self, exchange: str = "binance", **fields: Any) -> dict[str, Any]:
        """A connector whose exchange is the simulator."""
        body = {"exchange": exchange, "base_url": f"{self.simulator_url}/{exchange}", **fields}
        response = self.call("POST", "/v1/connectors", body)
        assert response.status_code == 201, response.text
        return dict(response.json or {})

    def add_job(self, **fields: Any) -> dict[str, Any]:
        response = self.call("POST", "/v1/jobs", {**JOB, **fields})
        assert response.status_code == 201, response.text
        return dict(response.json or {})

    def count(self, collection: str) -> int:
        """How many documents there are."""
        return self.platform.database.collection(collection).count_documents({})

    def actions(self, target: str) -> list[str]:
        """What the audit log says was done to the target, oldest first."""
        return [entry["action"] for entry in self.get(f"/v1/audit?target={target}")["items"]][::-1]


def fields_of(response: TestResponse) -> list[str]:
    """The fields that a refusal names."""
    return [error["field"] for error in (response.json or {}).get("errors", [])]


def set_fields(api: AdminApi, job_id: str, **fields: Any) -> None:
    """Change a job behind the API."""
    api.platform.database.collection("jobs").update_one({"_id": job_id}, {"$set": fields})
