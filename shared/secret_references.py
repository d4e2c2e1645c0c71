"""`sm://project/secret/version` references, resolved by Google Secret Manager.

The client library is imported only when a reference is met, because it costs about 0.3 s of a cold start.
"""

from typing import TYPE_CHECKING, Final

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from google.cloud.secretmanager import SecretManagerServiceClient

REFERENCE_PREFIX: Final = "sm://"
# A cold start waits for this: the platform's own start-up probes give up later than that.
RESOLVE_TIMEOUT_S: Final = 10.0


def is_reference(value: str) -> bool:
    """Whether the value stands for a secret instead of being one."""
    return value.startswith(REFERENCE_PREFIX)


def secret_version_name(reference: str) -> str:
    """`sm://P/S/V` as Secret Manager's resource name; the version may be left out and is then `latest`.

    Raises:
        ConfigurationError: not of that form.
    """
    parts = reference.removeprefix(REFERENCE_PREFIX).split("/")
    if len(parts) == 2:
        parts.append("latest")
    if len(parts) != 3 or not all(parts):
        raise ConfigurationError(f"secret reference {reference!r} is not of the form sm://project/secret/version")
    project, secret, version = parts
    return f"projects/{project}/secrets/{secret}/versions/{version}"


def resolve_reference(reference: str, client: "SecretManagerServiceClient | None" = None) -> str:
    """The secret's value, as text without a trailing newline.

    Raises:
        ConfigurationError: not of the form, no access, or no such secret; the message names the reference, never a value.
    """
    name = secret_version_name(reference)
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    try:
        if client is None:
            from google.cloud.secretmanager import SecretManagerServiceClient

            client = SecretManagerServiceClient()
        answer = client.access_secret_version(name=name, timeout=RESOLVE_TIMEOUT_S)
    except (GoogleAPIError, GoogleAuthError) as exc:
        raise ConfigurationError(
            f"cannot read {reference}: {type(exc).__name__}; check the secret and its accessor role"
        ) from exc
    return answer.payload.data.decode().removesuffix("\n")
