"""Connectors: one public exchange as configured here."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from shared.domain.rates import (
    CAREFUL_REQUESTS,
    RECOVERY_MS,
    SHARE_PERMILLE_ALL,
    BookedWindow,
    OpenWeight,
    RateWindow,
)

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
            blocked_until_ms=max(blocked_until_ms(document), _ms_of(document.get("unblocked_at"))),
        )


def _ms_of(at: datetime | None) -> int:
    return 0 if at is None else round(at.timestamp() * 1000)


def blocked_until_ms(document: Mapping[str, Any]) -> int:
    """Until when the exchange is not asked, UTC ms; 0: it is."""
    return _ms_of(document.get("blocked_until"))


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
    unsettled = open_weights(limiter)
    return [
        BookedWindow(window, [(int(entry["t"]), int(entry["w"])) for entry in logs.get(window.period_ms, ())], unsettled)
        for window in windows_of(document)
    ]


@dataclass(frozen=True, slots=True)
class Caution:
    """What the exchange's refusals have led to, at one moment.

    `share_permille` of every limit is used. `is_careful`: only CAREFUL_REQUESTS may be under way at once. Of `refused_total`
    requests that were refused, `after_total` had left after the exchange had told us of the refusal before.
    """

    share_permille: int
    is_careful: bool
    refused_total: int
    after_total: int

    @classmethod
    def of(cls, document: Mapping[str, Any], now_ms: int) -> "Caution":
        """From a connector document with `blocked_until` and `limiter.refusal`, as the limiter sees it (block_pipeline)."""
        refusal = document.get("limiter", {}).get("refusal", {})
        regained = max(0, now_ms - blocked_until_ms(document)) * SHARE_PERMILLE_ALL // RECOVERY_MS
        return cls(
            share_permille=min(SHARE_PERMILLE_ALL, int(refusal.get("share", SHARE_PERMILLE_ALL)) + regained),
            is_careful=now_ms < int(refusal.get("careful_until_ms", 0)),
            refused_total=int(refusal.get("total", 0)),
            after_total=int(refusal.get("after_total", 0)),
        )

    def usable(self, windows: Sequence[BookedWindow], weight: int) -> list[BookedWindow]:
        """The windows with as much of their limits as is used now, which is enough for one request of that weight."""

        def usable_limit(limit: int) -> int:
            return max(limit * self.share_permille // SHARE_PERMILLE_ALL, min(weight, limit))

        return [replace(each, window=replace(each.window, limit=usable_limit(each.window.limit))) for each in windows]

    @property
    def requests_max(self) -> int | None:
        """How many requests may be under way; None: as many as the limits allow."""
        return CAREFUL_REQUESTS if self.is_careful else None

    def requests_left(self, unsettled: Sequence[OpenWeight], weight: int) -> int | None:
        """How many more requests of that weight may be under way beside what is; None: as many as the limits allow."""
        under_way = sum(grant.weight for grant in unsettled)
        return max(0, CAREFUL_REQUESTS - -(-under_way // max(1, weight))) if self.is_careful else None


def open_weights(limiter: Mapping[str, Any]) -> list[OpenWeight]:
    """What is not settled yet in a limiter's state. Grants of version 0.1.0 have their last moment only."""
    return [
        OpenWeight(int(grant.get("at", grant["t"])), int(grant["t"]), int(grant["w"])) for grant in limiter.get("unsettled", ())
    ]
