"""Admin tokens for the emulator's own admin function."""

import time
from typing import Final

import jwt

from shared.settings import Settings

ROLES: Final = ("viewer", "operator", "admin")
TTL_S_DEFAULT: Final = 3600
ISSUER: Final[str] = Settings.model_fields["jwt_issuer"].default
AUDIENCE: Final[str] = Settings.model_fields["jwt_audience"].default


def admin_token(secret: str, role: str, ttl_s: int = TTL_S_DEFAULT, subject: str = "local") -> str:
    """An HS256 JWT as the admin and metrics functions accept it, valid for `ttl_s` seconds from now."""
    now_s = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "role": role,
        "iat": now_s,
        "exp": now_s + ttl_s,
    }
    return jwt.encode(claims, secret, algorithm="HS256")
