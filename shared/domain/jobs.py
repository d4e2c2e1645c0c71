"""Jobs: one series to keep, its life, and the decisions about when it runs next."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from shared.domain.timeframes import TIMEFRAMES, Timeframe

SYMBOL_PATTERN: Final = re.compile(r"[A-Z0-9.]{1,20}/[A-Z0-9.]{1,20}(:[A-Z0-9.]{1,20})?")
BACKOFF_BASE_MS: Final = 2_000
BACKOFF_CAP_MS: Final = 15 * 60_000
# Beyond this 2 ** attempt is over the cap anyway.
BACKOFF_EXPONENT_MAX: Final = 20


class JobKind(StrEnum):
    """`live` follows the market for ever, `backfill` a closed range. The others a series makes for itself: `repair` asks again

    for what is missing, `enrich` computes indicators again from what is stored; both are done when nothing is left.
    """

    LIVE = "live"
    REPAIR = "repair"
    BACKFILL = "backfill"
    ENRICH = "enrich"


class JobStatus(StrEnum):
    """See docs/state_machine.md for who may move a job between these."""

    ACTIVE = "active"
    PAUSED = "paused"
    ERROR = "error"
    DONE = "done"


class RunOutcome(StrEnum):
    """Why a run ended. All but the last four are ordinary."""

    CAUGHT_UP = "caught_up"
    MORE = "more"  # pages_max or the deadline came first
    WAITING = "waiting"  # the limit has no room soon: given back until it has
    THROTTLED = "throttled"  # the exchange said: too fast
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"  # will be tried again
    ERROR = "error"  # will not be tried again
    LOST = "lost"  # the lease ran out, another run took over
    NOT_STARTED = "not_started"


# Those that users make, and that keep candles of their range; the others a series makes for itself.
KEEPING_KINDS: Final = (JobKind.LIVE, JobKind.BACKFILL)
# Smaller goes first.
PRIORITIES: Final[Mapping[JobKind, int]] = {JobKind.LIVE: 0, JobKind.REPAIR: 1, JobKind.ENRICH: 1, JobKind.BACKFILL: 2}


def to_ms(at: datetime) -> int:
    """UTC ms since the epoch; a naive datetime is taken as UTC (MongoDB's)."""
    aware = at if at.tzinfo else at.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


def to_datetime(at_ms: int) -> datetime:
    """An aware UTC datetime, exact to the millisecond."""
    seconds, rest_ms = divmod(at_ms, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_ms * 1000)


def symbol_slug(symbol: str) -> str:
    """A symbol as it stands in ids and collection names: `BTC/USDT` -> `BTC-USDT`."""
    return symbol.replace("/", "-")


def job_id_of(connector_id: str, symbol: str, timeframe: str) -> str:
    """Id of the live job of a series: natural, so that a repeated creation meets the job that is there."""
    return f"{connector_id}:{symbol_slug(symbol)}:{timeframe}"


def run_id_of(job_id: str, fence: int) -> str:
    """Id of the run under one fence; there is at most one."""
    return f"{job_id}#{fence}"


@dataclass(frozen=True, slots=True)
class Job:
    """A job as a run needs it. `cursor_ms` None: nothing asked yet. `end_ms` None: no end.

    `attempt` is how many runs in a row have failed. `begins_ms`: the first interval that the exchange still had when the job
    first asked, None if that was its start. `follows_ms`: from there on a live job asks itself, as the series' history job has
    what is before it; None: from its start.
    """

    job_id: str
    connector_id: str
    exchange: str
    symbol: str
    timeframe: Timeframe
    kind: JobKind
    status: JobStatus
    start_ms: int
    end_ms: int | None
    cursor_ms: int | None
    attempt: int
    overlap: int
    begins_ms: int | None
    follows_ms: int | None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Job":
        """From what the collection `jobs` holds."""
        cursor_at = document["cursor"]["last_ts"]
        begins_at, follows_at = document.get("begins_at"), document.get("follows_at")
        return cls(
            job_id=document["_id"],
            connector_id=document["connector_id"],
            exchange=document["exchange"],
            symbol=document["symbol"],
            timeframe=TIMEFRAMES[document["timeframe"]],
            kind=JobKind(document["kind"]),
            status=JobStatus(document["status"]),
            start_ms=to_ms(document["start_at"]),
            end_ms=None if document["end_at"] is None else to_ms(document["end_at"]),
            cursor_ms=None if cursor_at is None else to_ms(cursor_at),
            attempt=document["attempt"],
            overlap=document["overlap"],
            begins_ms=None if begins_at is None else to_ms(begins_at),
            follows_ms=None if follows_at is None else to_ms(follows_at),
        )

    @property
    def asked_span(self) -> tuple[int, int] | None:
        """[first, end) in numbers of intervals that this job has asked for, all of it; None: nothing yet, or no such span."""
        if self.cursor_ms is None or self.kind not in KEEPING_KINDS:
            return None
        grid = self.timeframe
        first = grid.number(grid.ceil(max(self.start_ms, self.begins_ms or 0, self.follows_ms or 0)))
        end = grid.number(self.cursor_ms) + 1
        return (first, end) if first < end else None


def lag_ms(timeframe: str, cursor_at: datetime | None, start_at: datetime, now_ms: int) -> int:
    """How long ago the oldest interval that is still missing has closed; 0 while it is open. Never negative.

    That is the interval after the cursor, or without a cursor the first one from `start_at` on.
    """
    grid = TIMEFRAMES[timeframe]
    missing_ms = grid.ceil(to_ms(start_at)) if cursor_at is None else grid.close(to_ms(cursor_at))
    return max(0, now_ms - grid.close(missing_ms))


def plan_backoff_ms(attempt: int, rng: random.Random) -> int:
    """Exponential backoff with full jitter: uniform in [0, min(cap, base * 2 ** attempt)] after the attempt-th failure.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (the variant called full jitter).
    """
    ceiling_ms = min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** min(attempt, BACKOFF_EXPONENT_MAX))
    return rng.randint(0, ceiling_ms)
