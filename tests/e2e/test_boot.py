"""Every entry point boots from a clean copy of what is uploaded, lets in who may come in and nobody else."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from jwt.utils import base64url_encode
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from pymongo import MongoClient

from local_emulator.processes import HOST, Service, Supervisor, free_port
from local_emulator.tokens import admin_token
from main import ENTRY_POINTS
from tests.upload import copy_upload
from tests.waiting import HANG_S

JWT_SECRET = "a secret of the boot test, longer than 32 bytes"
CALLERS = {"tick": "scheduler@test.iam.gserviceaccount.com", "worker": "tick@test.iam.gserviceaccount.com"}
# A path that answers 200 to a token that is good enough, and how it is asked.
USER_REQUESTS = {"admin": "/v1/connectors", "metrics": "/"}
IDENTITY_FUNCTIONS = tuple(CALLERS)
WORKER_CALL = {"job_id": "nobody:BTC-USDT:1m", "fence": 1}


class Issuer:
    """Signs identity tokens, right and wrong ones, and serves its key set from a port of its own."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(issuer.jwks()).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.1,), daemon=True).start()

    def jwks(self) -> dict[str, Any]:
        return {"keys": [{**json.loads(RSAAlgorithm.to_jwk(self.key.public_key())), "kid": "k1", "alg": "RS256", "use": "sig"}]}

    def claims(self, function: str, **changes: Any) -> dict[str, Any]:
        now_s = int(time.time())
        return {
            "iss": self.url,
            "aud": f"https://{function}.test",
            "sub": "1",
            "email": CALLERS[function],
            "email_verified": True,
            "iat": now_s,
            "exp": now_s + 600,
            **changes,
        }

    def token(self, function: str, **changes: Any) -> str:
        return jwt.encode(self.claims(function, **changes), self.key, algorithm="RS256", headers={"kid": "k1"})

    def token_signed_with_the_public_key(self, function: str) -> str:
        """HS256 with the public key as the secret: fools verifiers that take the algorithm from the token."""
        pem = self.key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        head, body = (
            base64url_encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": "k1"}, self.claims(function))
        )
        algorithm = jwt.get_algorithm_by_name("HS256")
        signature = algorithm.sign(head + b"." + body, pem)
        return b".".join((head, body, base64url_encode(signature))).decode()

    def token_without_algorithm(self, function: str) -> str:
        return jwt.encode(self.claims(function), None, algorithm="none", headers={"kid": "k1"})

    def token_with_removed_signature(self, function: str) -> str:
        """As Cloud Run hands it on after its own check; nothing but Cloud Run may be believed that."""
        return self.token(function).rsplit(".", 1)[0] + ".SIGNATURE_REMOVED_BY_GOOGLE"

    def token_of_another_key(self, function: str) -> str:
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return jwt.encode(self.claims(function), other, algorithm="RS256", headers={"kid": "k1"})


@dataclass(frozen=True)
class Deployment:
    """The four functions as they run after a deployment."""

    urls: Mapping[str, str]
    issuer: Issuer
    database: str
    # Before anything else was asked, on a database that nobody had prepared.
    first_tick: requests.Response | None = None

    def call(self, function: str, token: str | None, **headers: str) -> requests.Response:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        with requests.Session() as session:
            session.trust_env = False
            if function in USER_REQUESTS:
                return session.get(self.urls[function] + USER_REQUESTS[function], headers=headers, timeout=HANG_S)
            return session.post(self.urls[function] + "/", json=WORKER_CALL, headers=headers, timeout=HANG_S)


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_upload(tmp_path_factory.mktemp("upload"))


def clean_environment() -> dict[str, str]:
    """What a function's process finds: nothing of ours, and no way to the checkout."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


@pytest.fixture(scope="module")
def deployment(
    upload: Path, tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str, mongo_client: MongoClient[dict[str, Any]]
) -> Iterator[Deployment]:
    database = f"test_boot_{uuid.uuid4().hex[:12]}"
    mongo_client[database]["jobs"].insert_one({"_id": "made before there were indexes", "status": "done"})
    issuer = Issuer()
    environment = {
        **clean_environment(),
        "MONGODB_URI": mongodb_uri,
        "CHANDLER_DATABASE": database,
        "CHANDLER_JWT_SECRET": JWT_SECRET,
        "CHANDLER_IDENTITY_ISSUER": issuer.url,
        "CHANDLER_IDENTITY_JWKS_URL": f"{issuer.url}/certs",
        "CHANDLER_TICK_BUDGET_S": "0",
        "CHANDLER_WORKER_URL": "https://worker.test",
        **{f"CHANDLER_{name.upper()}_AUDIENCE": f"https://{name}.test" for name in CALLERS},
        **{f"CHANDLER_{name.upper()}_CALLERS": email for name, email in CALLERS.items()},
        "THREADS": "2",
    }
    logs = tmp_path_factory.mktemp("logs")
    console_script = str(Path(sys.executable).with_name("functions-framework"))
    services = []
    for name in ENTRY_POINTS:
        port = free_port()
        argv = (console_script, "--target", name, "--host", HOST, "--port", str(port))
        services.append(Service(name, argv, port, environment, logs / f"{name}.log", upload))
    supervisor = Supervisor()
    try:
        supervisor.start(services, HANG_S)
        started = Deployment({service.name: service.url for service in services}, issuer, database)
        first_tick = started.call("tick", issuer.token("tick"))
        mongo_client[database]["jobs"].delete_many({})
        yield replace(started, first_tick=first_tick)
    finally:
        supervisor.stop()
        issuer.server.shutdown()
        issuer.server.server_close()
        mongo_client.drop_database(database)


def assert_refused(response: requests.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["status"] == status
    assert response.json()["request_id"] == response.headers["X-Request-Id"]
    if status == 401:
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("function", ENTRY_POINTS)
def test_nobody_comes_in_without_a_token(deployment: Deployment, function: str) -> None:
    assert_refused(deployment.call(function, None), 401)
    assert_refused(deployment.call(function, "abc"), 401)


@pytest.mark.parametrize("function", USER_REQUESTS)
def test_a_viewer_may_read(deployment: Deployment, function: str) -> None:
    response = deployment.call(function, admin_token(JWT_SECRET, "viewer"))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("function", USER_REQUESTS)
def test_user_tokens_that_are_wrong_are_refused(deployment: Deployment, function: str) -> None:
    claims = jwt.decode(admin_token(JWT_SECRET, "viewer"), options={"verify_signature": False})
    wrong = {
        "another secret": admin_token("another secret, longer than thirty-two bytes", "viewer"),
        "expired": admin_token(JWT_SECRET, "viewer", ttl_s=-3600),
        "no algorithm": jwt.encode(claims, None, algorithm="none"),
        "another audience": jwt.encode({**claims, "aud": "somebody"}, JWT_SECRET, algorithm="HS256"),
        "another issuer": jwt.encode({**claims, "iss": "somebody"}, JWT_SECRET, algorithm="HS256"),
        "an identity token": deployment.issuer.token("worker", aud=claims["aud"], iss=claims["iss"], role="admin"),
    }
    for name, token in wrong.items():
        response = deployment.call(function, token)
        assert response.status_code == 401, f"{name}: {response.text}"
    unknown_role = jwt.encode({**claims, "role": "owner"}, JWT_SECRET, algorithm="HS256")
    assert_refused(deployment.call(function, unknown_role), 403)


def test_the_first_tick_makes_the_indexes_it_needs(deployment: Deployment) -> None:
    assert deployment.first_tick is not None
    assert deployment.first_tick.status_code == 200, deployment.first_tick.text


def test_the_scheduler_may_tick(deployment: Deployment) -> None:
    response = deployment.call("tick", deployment.issuer.token("tick"))
    assert response.status_code == 200, response.text
    assert response.json() == {"passes": 1, "claimed": 0, "started": 0, "given_back": 0}


def test_the_tick_carries_out_what_somebody_who_died_has_decided(
    deployment: Deployment, mongo_client: MongoClient[dict[str, Any]]
) -> None:
    database = mongo_client[deployment.database]
    long_ago = datetime(2026, 1, 1, tzinfo=UTC)
    decided = {"status": "paused", "revision": 2, "is_carried_out": False, "decided_at": long_ago, "parts": []}
    database["backfills"].insert_one({"_id": "b", **decided})
    assert deployment.call("tick", deployment.issuer.token("tick")).status_code == 200
    found = database["backfills"].find_one_and_delete({"_id": "b"})
    assert found is not None
    assert found["is_carried_out"]


def test_the_tick_may_start_a_run(deployment: Deployment) -> None:
    # It got past the door and as far as the database, which has no such claim.
    response = deployment.call("worker", deployment.issuer.token("worker"))
    assert_refused(response, 409)
    assert response.json()["type"] == "urn:chandler:problem:lease_lost"


WRONG_TOKENS: dict[str, tuple[Callable[[Issuer, str], str], int]] = {
    "wrong audience": (lambda issuer, function: issuer.token(function, aud="https://another.test"), 401),
    "wrong issuer": (lambda issuer, function: issuer.token(function, iss="https://another.test"), 401),
    "wrong e-mail": (lambda issuer, function: issuer.token(function, email="intruder@test.iam.gserviceaccount.com"), 403),
    "e-mail not verified": (lambda issuer, function: issuer.token(function, email_verified=False), 403),
    "expired": (lambda issuer, function: issuer.token(function, exp=int(time.time()) - 3600), 401),
    "HS256 with the public key": (Issuer.token_signed_with_the_public_key, 401),
    "alg none": (Issuer.token_without_algorithm, 401),
    "another key": (Issuer.token_of_another_key, 401),
    "removed signature": (Issuer.token_with_removed_signature, 401),
    "user token": (lambda issuer, function: admin_token(JWT_SECRET, "admin"), 401),
}


@pytest.mark.parametrize("function", IDENTITY_FUNCTIONS)
@pytest.mark.parametrize("name", WRONG_TOKENS)
def test_identity_tokens_that_are_wrong_are_refused(deployment: Deployment, function: str, name: str) -> None:
    make, status = WRONG_TOKENS[name]
    assert_refused(deployment.call(function, make(deployment.issuer, function)), status)


def test_the_tokens_of_the_two_callers_are_not_exchangeable(deployment: Deployment) -> None:
    assert_refused(deployment.call("worker", deployment.issuer.token("tick")), 401)
    assert_refused(deployment.call("tick", deployment.issuer.token("worker")), 401)


def test_prometheus_gets_the_format_it_asks_for(deployment: Deployment) -> None:
    token = admin_token(JWT_SECRET, "viewer")
    plain = deployment.call("metrics", token)
    assert plain.headers["Content-Type"].startswith("text/plain; version=")
    assert "chandler_scrape_duration_seconds" in {family.name for family in text_string_to_metric_families(plain.text)}
    openmetrics = deployment.call("metrics", token, Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "chandler_scrape_duration_seconds" in {family.name for family in parse_openmetrics(openmetrics.text)}


@pytest.mark.parametrize("function", ENTRY_POINTS)
def test_a_cold_start_loads_nothing_it_does_not_need(upload: Path, function: str) -> None:
    script = (
        "import importlib.util, json, sys\n"
        "import main\n"
        f"main.{function}\n"
        "found = importlib.util.find_spec('local_emulator')\n"
        "print(json.dumps([sorted(sys.modules), found is None]))\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", script),
        cwd=upload,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_S,
    )
    modules, is_emulator_absent = json.loads(done.stdout)
    # `google.cloud` itself is an empty namespace that functions-framework's .pth file makes in every process.
    unwanted = ("google.cloud.", "google.auth", "google.api_core", "grpc", "ccxt", "rich", "pyarrow", "pandas", "tests")
    assert [module for module in modules if f"{module}.".startswith(unwanted) and module != "google.cloud"] == []
    others = {f"functions.{name}" for name in ENTRY_POINTS if name != function}
    assert others.isdisjoint(modules), "an instance loads the code of its own function only"
    assert is_emulator_absent
    assert importlib.util.find_spec("local_emulator") is not None, "else the line above says nothing"
