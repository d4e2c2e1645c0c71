"""Which stretch of time a job covers: the defaults, and what is refused. All times are UTC ms."""

from typing import Final

from shared.domain.jobs import JobKind, to_datetime
from shared.domain.timeframes import Timeframe
from shared.errors import InvalidRequest

# The first Bitcoin block is of this day (2009-01-03); nothing was traded before.
EARLIEST_MS: Final = 1_230_940_800_000
# As ms these are of 1970 to 1973, when nothing was traded; as seconds of 1973 to 5138.
LOOKS_LIKE_SECONDS: Final = range(10**8, 10**11)
# A job without a start begins this many intervals back: enough for the default indicators to settle.
DEFAULT_INTERVALS: Final = 500


def format_ms(at_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds: `2024-03-01T00:00:00.000Z`."""
    return to_datetime(at_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def decide_kind(kind: JobKind | None, end_ms: int | None) -> JobKind:
    """What the caller means: a given end makes it a backfill.

    Raises:
        InvalidRequest: a live job has no end; a repair is not made by hand.
    """
    if kind is None:
        return JobKind.LIVE if end_ms is None else JobKind.BACKFILL
    if kind is JobKind.REPAIR:
        raise InvalidRequest.for_field("kind", "repairs are not made by hand; take live or backfill")
    if kind is JobKind.LIVE and end_ms is not None:
        raise InvalidRequest.for_field("end_at", "a live job has no end; leave it away, or take the kind backfill")
    return kind


def decide_start_ms(
    timeframe: Timeframe,
    *,
    kind: JobKind,
    start_ms: int | None,
    end_ms: int | None,
    now_ms: int,
    history_candles_max: int | None,
    exchange: str,
) -> int:
    """The start of a new job; by default DEFAULT_INTERVALS before now, or as far back as the exchange goes.

    Raises:
        InvalidRequest: names `start_at` or `end_at`: missing, not in order, in the future, before there was a market, or
            before what the exchange still has.
    """
    back = DEFAULT_INTERVALS if history_candles_max is None else min(DEFAULT_INTERVALS, history_candles_max)
    running_ms = timeframe.floor(now_ms)
    if kind is JobKind.BACKFILL:
        missing = [(field, "a backfill needs it") for field, at in (("start_at", start_ms), ("end_at", end_ms)) if at is None]
        if missing:
            raise InvalidRequest("a backfill needs start_at and end_at", missing)
    if start_ms is None:
        return max(EARLIEST_MS, timeframe.shift(running_ms, -back))
    if start_ms < EARLIEST_MS:
        raise InvalidRequest.for_field("start_at", f"nothing was traded before {format_ms(EARLIEST_MS)}")
    if start_ms >= now_ms:
        raise InvalidRequest.for_field("start_at", f"{format_ms(start_ms)} is not in the past; now is {format_ms(now_ms)}")
    if end_ms is not None:
        check_end_ms(start_ms, end_ms)
    if history_candles_max is not None:
        wall_ms = timeframe.shift(running_ms, -history_candles_max)
        if start_ms < wall_ms:
            raise InvalidRequest.for_field(
                "start_at",
                f"{exchange} gives the newest {history_candles_max} candles only; "
                f"the earliest possible start for {timeframe.name} is {format_ms(wall_ms)}",
            )
    return start_ms


def check_end_ms(start_ms: int, end_ms: int) -> None:
    """Raises InvalidRequest, naming both fields, unless the end comes after the start."""
    if end_ms <= start_ms:
        message = f"the start {format_ms(start_ms)} is not before the end {format_ms(end_ms)}"
        raise InvalidRequest(message, [("start_at", message), ("end_at", message)])
