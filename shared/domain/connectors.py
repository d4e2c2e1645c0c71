"""Connectors: one public exchange as configured here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
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
    """A connector as a run needs it."""

    connector_id: str
    exchange: str
    status: ConnectorStatus
    windows: tuple[RateWindow, ...]
    base_url: str | None
    settle_delay_ms: int
    publish_grace_ms: int

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
        )


def windows_of(document: Mapping[str, Any]) -> tuple[RateWindow, ...]:
    """All windows of a connector document: the main one first. All must hold at once."""
    return (
        RateWindow(document["rate_limit"], document["rate_limit_period_ms"]),
        *(RateWindow(extra["rate_limit"], extra["rate_limit_period_ms"]) for extra in document.get("extra_rate_limits", ())),
    )


def booked_windows(document: Mapping[str, Any]) -> list[BookedWindow]:
    """All windows of a connector document with the limiter's log of each."""
    logs = {log["period_ms"]: log["entries"] for log in document.get("limiter", {}).get("logs", ())}
    return [
        BookedWindow(window, [(int(entry["t"]), int(entry["w"])) for entry in logs.get(window.period_ms, ())])
        for window in windows_of(document)
    ]
