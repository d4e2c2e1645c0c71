"""Alerts to a webhook: one JSON POST, in a form that chat systems and incident tools can read."""

from typing import Any, Final
from urllib.parse import urlsplit

import requests

TIMEOUT_S: Final = (3.05, 5.0)


class AlertPosts:
    """Posts alerts to one URL, which is a secret. Without a URL nothing is posted, and that counts as sent."""

    def __init__(self, url: str, session: requests.Session) -> None:
        self._url = url
        self._session = session

    @property
    def host(self) -> tuple[str, int] | None:
        """Host and port of the webhook, None without one. Raises ValueError for what is no URL."""
        if not self._url:
            return None
        parts = urlsplit(self._url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    def post(self, title: str, facts: dict[str, Any]) -> str | None:
        """None when it has arrived (or nobody wants it), else what went wrong, without the URL."""
        if not self._url:
            return None
        try:
            response = self._session.post(
                self._url, json={"text": title, "facts": facts}, timeout=TIMEOUT_S, allow_redirects=False
            )
        except requests.exceptions.RequestException as exc:
            return type(exc).__name__
        return None if response.ok else f"HTTP {response.status_code}"
