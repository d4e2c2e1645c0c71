"""Who is calling, and may they: user tokens (HS256) for admin and metrics, identity tokens (RS256) for tick and worker."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import jwt

from shared.errors import ConfigurationError, Forbidden, Unauthenticated
from shared.settings import Settings

# Clocks of issuer and verifier of user tokens may differ by this much.
LEEWAY_S: Final = 10
# An instance whose clock is wrong by ten minutes goes on working: behind, it sees the issuer's new tokens as not yet valid;
# ahead, it sees those expired that a tick as far behind keeps for five minutes too long (senders/worker_calls.py).
IDENTITY_LEEWAY_S: Final = 960
TOKEN_CHARS_MAX: Final = 8_192
REQUIRED_CLAIMS: Final = ["exp", "iat", "iss", "aud", "sub"]
JWKS_CACHE_S: Final = 300
JWKS_TIMEOUT_S: Final = 5
# Cloud Run puts this in place of the signature of a token that its own access check has verified.
# Source: https://cloud.google.com/run/docs/troubleshooting#signature-removed
REMOVED_SIGNATURE: Final = "SIGNATURE_REMOVED_BY_GOOGLE"


class Role(IntEnum):
    """What a user may do: read; also run, pause and resume; also create, change and delete."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as the audit log names them."""

    subject: str
    role: Role


class UserTokens:
    """Verifies the tokens of people and their tools. Signed with the shared key, HS256 and nothing else."""

    def __init__(self, settings: Settings) -> None:
        self._secret = settings.jwt_secret
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience

    def verify(self, authorization: str, least: Role) -> Caller:
        """The caller of a request with that `Authorization` header, who has at least that role.

        Raises:
            Unauthenticated: no token, or one that does not verify (wrong key, expired, other issuer or audience, `alg: none`).
            Forbidden: the role is lower.
            ConfigurationError: no key is set; nothing is open by default.
        """
        if not self._secret.get_secret_value():
            raise ConfigurationError("CHANDLER_JWT_SECRET is not set; without it nobody can be let in")
        claims = _decode(
            _bearer(authorization),
            key=self._secret.get_secret_value(),
            algorithms=["HS256"],
            leeway=LEEWAY_S,
            issuer=self._issuer,
            audience=self._audience,
        )
        role = Role.__members__.get(str(claims.get("role", "")).upper())
        if role is None:
            raise Forbidden("the token has no role of viewer, operator, admin")
        if role < least:
            raise Forbidden(f"this needs the role {least.name.lower()}; the token has {role.name.lower()}")
        return Caller(str(claims["sub"]), role)


class IdentityTokens:
    """Verifies identity tokens of service accounts (OpenID Connect), issued for this function and no other.

    Source: https://cloud.google.com/docs/authentication/get-id-token#validating
    """

    def __init__(self, settings: Settings, *, audience: str, callers: tuple[str, ...], setting_prefix: str) -> None:
        self._issuers = [settings.identity_issuer, settings.identity_issuer.removeprefix("https://")]
        self._audience = audience
        self._callers = callers
        self._setting_prefix = setting_prefix
        self._is_verified_at_door = settings.platform_verifies_tokens
        self._keys = jwt.PyJWKClient(settings.identity_jwks_url, lifespan=JWKS_CACHE_S, timeout=JWKS_TIMEOUT_S)

    def verify(self, authorization: str) -> str:
        """The e-mail of the calling service account.

        Raises:
            Unauthenticated: no token or one that does not verify.
            Forbidden: a valid token of an account that is not on the list.
            ConfigurationError: audience or callers are not set.
        """
        if not self._audience or not self._callers:
            raise ConfigurationError(f"{self._setting_prefix}_AUDIENCE and {self._setting_prefix}_CALLERS have to be set")
        claims = self._claims(_bearer(authorization))
        email = str(claims.get("email", ""))
        if not claims.get("email_verified") or email not in self._callers:
            raise Forbidden("this service account may not call this function")
        return email

    def _claims(self, token: str) -> dict[str, Any]:
        expected: dict[str, Any] = {"issuer": self._issuers, "audience": self._audience}
        if self._is_verified_at_door and token.endswith(f".{REMOVED_SIGNATURE}"):
            # No request reaches the instance but through the platform's access check, which has verified the signature.
            unsigned = token.removesuffix(REMOVED_SIGNATURE)
            return _decode(
                unsigned, key="", algorithms=["RS256"], leeway=IDENTITY_LEEWAY_S, is_signature_verified=False, **expected
            )
        try:
            key = self._keys.get_signing_key_from_jwt(token).key
        except jwt.PyJWKClientConnectionError as exc:
            raise ConfigurationError("the identity issuer's keys cannot be read; see CHANDLER_IDENTITY_JWKS_URL") from exc
        except jwt.PyJWTError as exc:
            raise Unauthenticated("the identity token does not verify") from exc
        return _decode(token, key=key, algorithms=["RS256"], leeway=IDENTITY_LEEWAY_S, **expected)


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("send a token: Authorization: Bearer TOKEN")
    if len(token) > TOKEN_CHARS_MAX:
        raise Unauthenticated("the token is too long")
    return token.strip()


def _decode(token: str, *, is_signature_verified: bool = True, **options: Any) -> dict[str, Any]:
    checks: Any = {"require": REQUIRED_CLAIMS, "verify_signature": is_signature_verified}
    if not is_signature_verified:
        checks |= {"verify_exp": True, "verify_iat": True, "verify_iss": True, "verify_aud": True}
    try:
        claims: dict[str, Any] = jwt.decode(token, **options, options=checks)
    except jwt.ExpiredSignatureError as exc:
        raise Unauthenticated("the token has expired; get a new one") from exc
    except jwt.PyJWTError as exc:
        raise Unauthenticated("the token does not verify") from exc
    return claims
