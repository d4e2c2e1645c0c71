"""Identity tokens as their bearer sees them: opaque but for the time until which they may be used."""

import base64
import binascii
import json
from dataclasses import dataclass

from shared.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class IdentityToken:
    """A signed token somebody else will verify. `expires_at_s` is its `exp` claim, seconds since the epoch."""

    text: str
    expires_at_s: int

    def __repr__(self) -> str:
        return f"IdentityToken(expires_at_s={self.expires_at_s})"

    @classmethod
    def parse(cls, text: str) -> "IdentityToken":
        """Read `exp` without verifying anything.

        Raises:
            ConfigurationError: this is no JWT.
        """
        try:
            payload = text.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            return cls(text, int(claims["exp"]))
        except (IndexError, KeyError, TypeError, ValueError, binascii.Error) as exc:
            raise ConfigurationError("the metadata server answered something that is no identity token") from exc
