"""Calls to the worker function: one POST a job, which lasts as long as the run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import requests

from shared.deadline import Deadline
from shared.domain.identity import IdentityToken
from shared.errors import ConfigurationError

CONNECT_TIMEOUT_S: Final = 3.05
# The connection is held open for the run's answer, at most until the tick itself has to end.
READ_TIMEOUT_S_MIN: Final = 1.0
TOKEN_TIMEOUT_S: Final = 5.0
# Google's tokens live an hour; a new one is fetched some minutes before.
TOKEN_SPARE_S: Final = 300
# Answers by which the platform says that no instance took the call: too many, no instance, gateway.
NOT_STARTED_STATUSES: Final = frozenset({401, 403, 404, 429, 500, 502, 503})


@dataclass(frozen=True, slots=True)
class CallResult:
    """`is_started` False: the worker certainly or probably did not begin; the claim may be given back if it has not."""

    is_started: bool
    detail: str


class WorkerCalls:
    """Starts workers. `fetch_token` gives an identity token for an audience (see MetadataTokens)."""

    def __init__(self, worker_url: str, fetch_token: Callable[[], str], session: requests.Session) -> None:
        self._worker_url = worker_url
        self._fetch_token = fetch_token
        self._session = session

    def start(self, job_id: str, fence: int, trigger: str, deadline: Deadline) -> CallResult:
        """POST {job_id, fence, trigger} and wait for the run's end, or until the deadline; the run goes on without us."""
        if not self._worker_url:
            raise ConfigurationError("CHANDLER_WORKER_URL is not set; tick needs it to start workers")
        read_timeout_s = max(READ_TIMEOUT_S_MIN, deadline.remaining_ms() / 1000)
        try:
            response = self._session.post(
                self._worker_url,
                json={"job_id": job_id, "fence": fence, "trigger": trigger},
                headers={"Authorization": f"Bearer {self._fetch_token()}"},
                timeout=(CONNECT_TIMEOUT_S, read_timeout_s),
                allow_redirects=False,
            )
        except requests.exceptions.ReadTimeout:
            return CallResult(True, "still running when the tick ended")
        except requests.exceptions.RequestException as exc:
            return CallResult(False, f"{type(exc).__name__}")
        return CallResult(response.status_code not in NOT_STARTED_STATUSES, f"HTTP {response.status_code}")


class MetadataTokens:
    """Identity tokens of this function's own service account, from the platform's metadata server.

    Source: https://cloud.google.com/functions/docs/securing/authenticating#generate_tokens_programmatically
    """

    def __init__(self, metadata_host: str, audience: str, session: requests.Session) -> None:
        self._url = f"http://{metadata_host}/computeMetadata/v1/instance/service-accounts/default/identity"
        self._audience = audience
        self._session = session
        self._token: IdentityToken | None = None

    def __call__(self) -> str:
        """A token that is good for at least some minutes.

        Raises:
            ConfigurationError: the metadata server does not answer or refuses.
        """
        if self._token is None or self._token.expires_at_s - time.time() < TOKEN_SPARE_S:
            self._token = IdentityToken.parse(self._fetch())
        return self._token.text

    def _fetch(self) -> str:
        try:
            response = self._session.get(
                self._url,
                params={"audience": self._audience},
                headers={"Metadata-Flavor": "Google"},
                timeout=TOKEN_TIMEOUT_S,
            )
            response.raise_for_status()
        except requests.exceptions.RequestException as exc:
            raise ConfigurationError(
                f"no identity token from the metadata server for {self._audience}: {type(exc).__name__}; "
                "outside Google Cloud set GCE_METADATA_HOST"
            ) from exc
        return response.text.strip()
