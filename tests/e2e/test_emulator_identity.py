"""The identity provider gives tokens as Google's metadata server does, and PyJWT's own client verifies them."""

import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
import requests

from local_emulator.identity import IdentityProvider
from local_emulator.state import StateDirectory
from local_emulator.tokens import admin_token
from tests.waiting import HANG_S

SCHEDULER = "scheduler@chandler-local.iam.gserviceaccount.com"
TICK = "tick@chandler-local.iam.gserviceaccount.com"
IDENTITY = "/computeMetadata/v1/instance/service-accounts/default/identity"
FLAVOR = {"Metadata-Flavor": "Google"}


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    provider = IdentityProvider([SCHEDULER, TICK])
    yield provider
    provider.stop()


def fetch(provider: IdentityProvider, path: str, headers: dict[str, str] | None = None) -> requests.Response:
    return requests.get(f"http://{provider.metadata_host(TICK)}{path}", headers=headers, timeout=HANG_S)


def test_a_function_gets_a_token_of_its_own_account_that_verifies_by_the_key_set(provider: IdentityProvider) -> None:
    before_s = int(time.time())
    answer = fetch(provider, f"{IDENTITY}?audience=http://127.0.0.1:8082&format=full", FLAVOR)
    assert answer.headers["Metadata-Flavor"] == "Google"
    key = jwt.PyJWKClient(provider.jwks_url).get_signing_key_from_jwt(answer.text)
    claims = jwt.decode(
        answer.text,
        key,
        algorithms=["RS256"],
        audience="http://127.0.0.1:8082",
        issuer=provider.issuer,
        options={"require": ["iss", "aud", "sub", "email", "email_verified", "iat", "exp"]},
    )
    assert (claims["email"], claims["email_verified"]) == (TICK, True)
    assert claims["exp"] - claims["iat"] == 3600
    assert before_s <= claims["iat"] <= time.time()
    assert claims["sub"].isdigit()


def test_each_account_has_an_address_of_its_own(provider: IdentityProvider) -> None:
    assert provider.metadata_host(TICK) != provider.metadata_host(SCHEDULER)
    claims = jwt.decode(provider.token(SCHEDULER, "x"), options={"verify_signature": False})
    assert claims["email"] == SCHEDULER


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (f"{IDENTITY}?audience=x", {}, 403),
        (f"{IDENTITY}?audience=x", {"Metadata-Flavor": "other"}, 403),
        (IDENTITY, FLAVOR, 400),
        ("/computeMetadata/v1/nothing", FLAVOR, 404),
        ("/computeMetadata/v1/instance/service-accounts/default/email", FLAVOR, 200),
    ],
)
def test_it_refuses_what_the_metadata_server_refuses(
    provider: IdentityProvider, path: str, headers: dict[str, str], status: int
) -> None:
    assert fetch(provider, path, headers).status_code == status


def test_admin_tokens_are_signed_with_the_state_directorys_own_secret(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    secret = state.jwt_secret()
    assert (state.path / "jwt_secret").stat().st_mode & 0o777 == 0o600
    assert StateDirectory(tmp_path / "state").jwt_secret() == secret
    assert StateDirectory(tmp_path / "other").jwt_secret() != secret
    token = admin_token(secret, "operator", ttl_s=60)
    claims = jwt.decode(token, secret, algorithms=["HS256"], audience="chandler-admin", issuer="chandler")
    assert claims["role"] == "operator"
    assert claims["exp"] - claims["iat"] == 60
