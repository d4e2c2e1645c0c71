"""Settings: read once from the environment, frozen, secrets hidden in every repr.

Every name has the prefix `CHANDLER_` except `MONGODB_URI`, `GOOGLE_CLOUD_PROJECT` and `GCE_METADATA_HOST`, which the
platforms themselves set. A value `sm://project/secret/version` is read from Secret Manager.
"""

from typing import Annotated, Any, Final

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import ConfigurationError
from shared.secret_references import is_reference, resolve_reference

# HS256 keys shorter than the hash output weaken it (RFC 7518 section 3.2).
JWT_SECRET_BYTES_MIN: Final = 32
GOOGLE_ISSUER: Final = "https://accounts.google.com"
GOOGLE_JWKS_URL: Final = "https://www.googleapis.com/oauth2/v3/certs"

CommaSeparated = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """What one instance needs to know. Empty strings mean: not set; what needs the setting then refuses by name."""

    model_config = SettingsConfigDict(env_prefix="CHANDLER_", frozen=True, extra="ignore", populate_by_name=True)

    mongodb_uri: SecretStr = Field(default=SecretStr(""), validation_alias="MONGODB_URI")
    database: str = Field(default="chandler", min_length=1)
    candles_database: str = Field(default="chandler", min_length=1, description="may hold the placeholder {exchange}")
    mongodb_pool_size: int = Field(default=17, ge=1, le=200, description="two for each thread of the instance, plus one")

    jwt_secret: SecretStr = Field(default=SecretStr(""), description="HS256 key of admin and metrics tokens")
    jwt_issuer: str = "chandler"
    jwt_audience: str = "chandler-admin"

    identity_issuer: str = GOOGLE_ISSUER
    identity_jwks_url: str = GOOGLE_JWKS_URL
    platform_verifies_tokens: bool = Field(
        default=False, description="behind Cloud Run's access check, which removes the signature of tokens it has verified"
    )
    tick_audience: str = Field(default="", description="`aud` of the identity tokens that tick accepts: its own URL")
    tick_callers: CommaSeparated = Field(default=(), description="e-mails of the service accounts that may call tick")
    worker_audience: str = Field(default="", description="`aud` of the identity tokens that worker accepts: its own URL")
    worker_callers: CommaSeparated = ()
    worker_url: str = Field(default="", description="where tick sends jobs")
    metadata_host: str = Field(default="metadata.google.internal", validation_alias="GCE_METADATA_HOST")

    tick_budget_s: float = Field(default=55.0, ge=0, le=1700, description="how long one tick goes on claiming")
    tick_starts_max: int = Field(default=200, ge=1, le=5000, description="jobs claimed in one pass at most")
    tick_calls_max: int = Field(default=64, ge=1, le=1000, description="worker calls that one tick holds open")
    lease_ms: int = Field(default=60_000, ge=40_000, le=900_000, description="has to outlast the slowest page")
    worker_deadline_s: float = Field(default=240.0, ge=40, le=3500, description="a run ends before this")
    worker_pages_max: int = Field(default=1_000, ge=1, le=100_000, description="pages of one run at most")
    worker_wait_ms_max: int = Field(default=1_500, ge=0, le=30_000, description="a longer wait gives the job back")
    attempts_max: int = Field(default=8, ge=1, le=100, description="failed runs in a row before the job goes to error")
    run_ttl_days: int = Field(default=30, ge=1, le=3650, description="how long job_runs are kept")

    alert_webhook_url: SecretStr = SecretStr("")
    hosts_allowed: CommaSeparated = Field(
        default=(), description="hosts (or host:port) that base_url and webhook may name though they are private"
    )
    google_cloud_project: str = Field(default="", validation_alias="GOOGLE_CLOUD_PROJECT")
    revision: str = Field(default="local", validation_alias="K_REVISION")

    @field_validator("tick_callers", "worker_callers", "hosts_allowed", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("mongodb_uri", "jwt_secret", "alert_webhook_url", mode="before")
    @classmethod
    def _resolve(cls, value: Any) -> Any:
        return resolve_reference(value) if isinstance(value, str) and is_reference(value) else value

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and len(value.get_secret_value().encode()) < JWT_SECRET_BYTES_MIN:
            raise ValueError(f"an HS256 key needs at least {JWT_SECRET_BYTES_MIN} bytes")
        return value

    def candles_database_of(self, exchange: str) -> str:
        """Name of the database that holds an exchange's candles."""
        return self.candles_database.replace("{exchange}", exchange)


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; keyword arguments (field names) go before it.

    Raises:
        ConfigurationError: a value is missing or wrong; names the variable, never shows its value.
    """
    try:
        return Settings(**overrides)
    except ValidationError as exc:
        problems = "; ".join(f"{_variable(str(error['loc'][0]))}: {error['msg']}" for error in exc.errors())
        raise ConfigurationError(f"settings: {problems}") from None


def _variable(location: str) -> str:
    """The environment variable of a field or alias, as the user has to write it."""
    return location if location.isupper() else f"CHANDLER_{location.upper()}"
