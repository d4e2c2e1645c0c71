"""Connectors: one public exchange as configured here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from shared.domain.rates import BookedWindow, RateWindow

# A slug that can stand in URLs, ids and collection names as it is.
CONNECTOR_ID_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
EXTRA_WINDOWS_MAX: Final = 4


class ConnectorStatus(StrEnum):
    """Whether jobs of the connector run."""

    ACTIVE = "active"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Connector:
    """A connector as a run needs it. `paused_until_ms` and `blocked_until_ms`: when its last pause and block end; 0: none.

    `version` is another one after each edit, and for a connector that was made again under the id.
    """

    connector_id: str
    exchange: str
    status: ConnectorStatus
    windows: tuple[RateWindow, ...]
    base_url: str | None
    settle_delay_ms: int
    publish_grace_ms: int
    version: str
    paused_until_ms: int = 0
    blocked_until_ms: int = 0

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Connector":
        """From what the collection `connectors` holds."""
        return cls(
            connector_id=document["_id"],
            exchange=document["exchange"],
            status=ConnectorStatus(document["status"]),
            windows=windows_of(document),
            base_url=document.get("base_url"),
            settle_delay_ms=document["settle_delay_ms"],
            publish_grace_ms=document["publish_grace_ms"],
            version=f"{document['created_at']}/{document['revision']}",
            paused_until_ms=_ms_of(document.get("paused_until")),
            blocked_until_ms=max(_ms_of(document.get("blocked_until")), _ms_of(document.get("unblocked_at"))),
        )


def _ms_of(at: datetime | None) -> int:
    return 0 if at is None else round(at.timestamp() * 1000)


def windows_of(document: Mapping[str, Any]) -> tuple[RateWindow, ...]:
    """All windows of a connector document: the main one first. All must hold at once."""
    return (
        RateWindow(document["rate_limit"], document["rate_limit_period_ms"]),
        *(RateWindow(extra["rate_limit"], extra["rate_limit_period_ms"]) for extra in document.get("extra_rate_limits", ())),
    )


def booked_windows(document: Mapping[str, Any]) -> list[BookedWindow]:
    """All windows of a connector document with the limiter's log of each, and what is not settled yet in all of them."""
    limiter = document.get("limiter", {})
    logs = {log["period_ms"]: log["entries"] for log in limiter.get("logs", ())}
    unsettled = limiter.get("unsettled", ())
    return [
        BookedWindow(window, [(int(entry["t"]), int(entry["w"])) for entry in (*logs.get(window.period_ms, ()), *unsettled)])
        for window in windows_of(document)
    ]
