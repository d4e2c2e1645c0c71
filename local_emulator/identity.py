"""A small identity provider in Google's place: its key set, and the metadata server that gives functions their tokens.

Formats: https://cloud.google.com/docs/authentication/get-id-token#metadata-server and
https://cloud.google.com/run/docs/securing/service-identity. On Google each function asks the same address and the platform
knows who asks. Here each account has a port of its own, and `GCE_METADATA_HOST` of a function names its account's port.
"""

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

from local_emulator.processes import HOST

KEY_BITS: Final = 2048
PUBLIC_EXPONENT: Final = 65537
TOKEN_TTL_S: Final = 3600
CERTS_PATH: Final = "/certs"
DEFAULT_ACCOUNT_PATH: Final = "/computeMetadata/v1/instance/service-accounts/default"
FLAVOR_HEADER: Final = "Metadata-Flavor"
FLAVOR: Final = "Google"


class IdentityProvider:
    """Signs identity tokens for the given accounts (e-mail addresses) with a key made at its start.

    Serves from threads of this process on loopback until `stop`.
    """

    def __init__(self, accounts: Sequence[str]) -> None:
        self._key: RSAPrivateKey = generate_private_key(PUBLIC_EXPONENT, KEY_BITS)
        self._key_id = uuid.uuid4().hex
        self._certs = _Server(self, account=None)
        self._metadata = {account: _Server(self, account) for account in accounts}
        for server in (self._certs, *self._metadata.values()):
            threading.Thread(target=server.serve_forever, args=(0.1,), name="identity", daemon=True).start()

    @property
    def issuer(self) -> str:
        """`iss` of the tokens."""
        return f"http://{self._certs.address}"

    @property
    def jwks_url(self) -> str:
        """Where the public key is."""
        return self.issuer + CERTS_PATH

    def metadata_host(self, account: str) -> str:
        """`host:port` of the metadata server of that account."""
        return self._metadata[account].address

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The key set (RFC 7517)."""
        public = json.loads(RSAAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [{**public, "kid": self._key_id, "alg": "RS256", "use": "sig"}]}

    def token(self, account: str, audience: str) -> str:
        """An identity token of that account for that audience, valid for one hour."""
        now_s = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": audience,
            "azp": _subject(account),
            "sub": _subject(account),
            "email": account,
            "email_verified": True,
            "iat": now_s,
            "exp": now_s + TOKEN_TTL_S,
        }
        return self.sign(claims)

    def sign(self, claims: Mapping[str, object]) -> str:
        """A token with exactly these claims."""
        return jwt.encode(dict(claims), self._key, algorithm="RS256", headers={"kid": self._key_id})

    def stop(self) -> None:
        """Close all ports."""
        for server in (self._certs, *self._metadata.values()):
            server.shutdown()
            server.server_close()


def _subject(account: str) -> str:
    """A service account's unique id: 21 digits, always the same for an e-mail."""
    return str(int.from_bytes(hashlib.sha256(account.encode()).digest()[:9]))[:21].rjust(21, "1")


class _Server(ThreadingHTTPServer):
    """One port: of the key set (account None) or of one account's metadata server."""

    daemon_threads = True

    def __init__(self, provider: IdentityProvider, account: str | None) -> None:
        super().__init__((HOST, 0), _Handler)
        self.provider = provider
        self.account = account

    @property
    def address(self) -> str:
        return f"{HOST}:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30.0
    server: _Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        account = self.server.account
        if account is None:
            if url.path == CERTS_PATH:
                self._answer(200, json.dumps(self.server.provider.jwks()), "application/json")
            else:
                self._answer(404, "not found")
        elif self.headers.get(FLAVOR_HEADER) != FLAVOR:
            self._answer(403, f"Missing required header: {FLAVOR_HEADER}")
        else:
            self._answer_metadata(account, url.path.rstrip("/"), parse_qs(url.query))

    def _answer_metadata(self, account: str, path: str, query: dict[str, list[str]]) -> None:
        if path == f"{DEFAULT_ACCOUNT_PATH}/identity":
            audience = query.get("audience", [""])[0]
            if audience:
                self._answer(200, self.server.provider.token(account, audience))
            else:
                self._answer(400, "non-empty audience parameter required")
        elif path == f"{DEFAULT_ACCOUNT_PATH}/email":
            self._answer(200, account)
        elif path == "":
            self._answer(200, "computeMetadata/")
        else:
            self._answer(404, "not found")

    def _answer(self, status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header(FLAVOR_HEADER, FLAVOR)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: tokens are fetched all the time, and the view owns the terminal."""
