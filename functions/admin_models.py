"""What requests to the admin function may carry. Each model checks itself once, here at the edge, and names what is wrong."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar

from bson import ObjectId
from bson.errors import InvalidId
from flask import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from functions.gateway import read_object
from shared.domain.backfills import WORKERS_MAX
from shared.domain.connectors import CONNECTOR_ID_PATTERN, EXTRA_WINDOWS_MAX
from shared.domain.coverage import IntervalState
from shared.domain.indicators import INDICATORS_MAX
from shared.domain.job_ranges import LOOKS_LIKE_SECONDS
from shared.domain.jobs import PRIORITIES, JobKind, JobStatus, to_datetime, to_ms
from shared.errors import InvalidRequest
from shared.stores.jobs import NO_TASK
from shared.usecases.manage_jobs import JobChanges
from shared.usecases.plan_backfills import BackfillOrder
from shared.usecases.plan_jobs import NewJob
from shared.usecases.read_candles import CandleRequest

PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 500
CANDLES_DEFAULT: Final = 1_000
CANDLES_MAX: Final = 5_000
# More than a job has: fifty indicators of up to three values, and the prices.
FIELDS_MAX: Final = 200
OVERLAP_DEFAULT: Final = 2
# Of several errors so many stand in the summary; all of them are in the list.
SHOWN_MAX: Final = 3
OVERLAP_MAX: Final = 10
# The limiter's grants live at least 100 ms, and arrive within another 150; below this a window would mostly be margin.
PERIOD_MS_MIN: Final = 100
PERIOD_MS_MAX: Final = 24 * 3_600_000
RATE_LIMIT_MAX: Final = 1_000_000_000
SETTLE_DELAY_MS_MAX: Final = 600_000
PUBLISH_GRACE_MS_MAX: Final = 24 * 3_600_000
# Dates go to the end of the year 9999.
MOMENT_MS_MAX: Final = 253_402_300_799_999
# Whole numbers beyond this are not the same in JSON everywhere (RFC 8259 section 6).
INTEGER_MAX: Final = 2**53
TEXT_CHARS_MAX: Final = 200
FIELD_CHARS_MAX: Final = 200
REVISION_PATTERN: Final = re.compile(r'(?:W/)?"?(\d{1,15})"?')
CONNECTOR_ID: Final = f"^{CONNECTOR_ID_PATTERN.pattern}$"

M = TypeVar("M", bound=BaseModel)


def _moment_ms(value: object) -> int:
    """UTC ms from ISO 8601 (without a zone it is UTC), or from a whole number of ms (in a query as digits)."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,15}", value):
        value = int(value)
    if isinstance(value, str):
        # A plus sign in a query means a space, and a time in ISO 8601 has no other use for one before its zone.
        value = re.sub(r" (\d\d:\d\d)$", r"+\1", value)
        try:
            at = datetime.fromisoformat(value)
        except ValueError as exc:
            raise ValueError("is neither a time in ISO 8601 nor a whole number of ms") from exc
        value = to_ms(at if at.tzinfo else at.replace(tzinfo=UTC))
    elif isinstance(value, int) and value in LOOKS_LIKE_SECONDS:
        raise ValueError(f"{value} is in {to_datetime(value).year} as ms, as which it is taken; it looks like seconds")
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("is neither a time in ISO 8601 nor a whole number of ms")
    if not 0 <= value <= MOMENT_MS_MAX:
        raise ValueError("lies before 1970 or after 9999")
    return value


def _split_names(value: object) -> object:
    """Names separated by commas."""
    names = tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value
    if not names:
        raise ValueError("names nothing; leave it away for all")
    return names


def _bounded_numbers(value: object) -> object:
    """Refuse whole numbers that no float can hold, wherever they are; what an indicator makes of the others it says itself."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for item in inner:
        _bounded_numbers(item)
    if isinstance(value, int) and abs(value) > INTEGER_MAX:
        raise ValueError("holds a number that is too large")
    return value


Moment = Annotated[int, BeforeValidator(_moment_ms)]
Text = Annotated[str, Field(min_length=1, max_length=TEXT_CHARS_MAX)]
Indicator = Annotated[dict[str, Any], BeforeValidator(_bounded_numbers)]
Indicators = Annotated[list[Indicator], Field(max_length=INDICATORS_MAX)]
FieldNames = Annotated[tuple[str, ...], BeforeValidator(_split_names), Field(max_length=FIELDS_MAX)]
CandleFormat = Literal["json", "csv", "ndjson", "arrow", "parquet"]
Overlap = Annotated[int, Field(ge=0, le=OVERLAP_MAX)]
# Claims look for these priorities and no others.
Priority = Annotated[int, Field(ge=min(PRIORITIES.values()), le=max(PRIORITIES.values()))]
PageLimit = Annotated[int, Field(ge=1, le=PAGE_MAX)]


class _Body(BaseModel):
    """A JSON body: types as they are, nothing unknown."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Query(BaseModel):
    """A query string: everything is text, nothing unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WindowBody(_Body):
    """At most `rate_limit` weight in every `rate_limit_period_ms`."""

    rate_limit: int = Field(ge=1, le=RATE_LIMIT_MAX)
    rate_limit_period_ms: int = Field(ge=PERIOD_MS_MIN, le=PERIOD_MS_MAX)


class ConnectorPatch(_Body):
    """What may be set of a connector; `base_url` null means the exchange's own."""

    base_url: Text | None = None
    rate_limit: int = Field(default=1, ge=1, le=RATE_LIMIT_MAX)
    rate_limit_period_ms: int = Field(default=PERIOD_MS_MIN, ge=PERIOD_MS_MIN, le=PERIOD_MS_MAX)
    extra_rate_limits: list[WindowBody] = Field(default=[], max_length=EXTRA_WINDOWS_MAX)
    settle_delay_ms: int = Field(default=0, ge=0, le=SETTLE_DELAY_MS_MAX)
    publish_grace_ms: int = Field(default=0, ge=0, le=PUBLISH_GRACE_MS_MAX)

    def given(self) -> dict[str, Any]:
        """The fields that were sent; the defaults above stand for nothing."""
        return self.model_dump(exclude_unset=True, exclude={"id", "exchange"})


class ConnectorCreate(ConnectorPatch):
    """A new connector; what is left away is as the exchange documents it."""

    id: str | None = Field(default=None, pattern=CONNECTOR_ID)
    exchange: Text


class JobCreate(_Body):
    """A new job."""

    connector_id: str = Field(pattern=CONNECTOR_ID)
    symbol: Text
    timeframe: Text
    kind: Literal["live", "backfill"] | None = None
    start_at: Moment | None = None
    end_at: Moment | None = None
    indicators: Indicators | None = None
    overlap: Overlap = OVERLAP_DEFAULT
    priority: Priority | None = None
    status: Literal["active", "paused"] = "active"

    def to_new_job(self) -> NewJob:
        """As the use case takes it."""
        return NewJob(
            connector_id=self.connector_id,
            symbol=self.symbol,
            timeframe=self.timeframe,
            overlap=self.overlap,
            kind=None if self.kind is None else JobKind(self.kind),
            start_ms=self.start_at,
            end_ms=self.end_at,
            indicators=None if self.indicators is None else tuple(self.indicators),
            priority=self.priority,
            is_paused=self.status == "paused",
        )


class JobPatch(_Body):
    """What may be changed of a job; null is as good as absent. Pausing and resuming have their own paths."""

    indicators: Indicators | None = None
    overlap: Overlap | None = None
    priority: Priority | None = None
    end_at: Moment | None = None

    def to_changes(self) -> JobChanges:
        """As the use case takes it."""
        indicators = None if self.indicators is None else tuple(self.indicators)
        return JobChanges(indicators=indicators, overlap=self.overlap, priority=self.priority, end_ms=self.end_at)


class BackfillCreate(_Body):
    """What to ask for of a job's series, how many workers share it, and whether it is only to be told what that comes to."""

    start: Moment = Field(alias="from")
    end: Moment | None = Field(default=None, alias="to")
    workers: int | None = Field(default=None, ge=1, le=WORKERS_MAX)
    dry_run: bool = False

    def to_order(self) -> BackfillOrder:
        """As the use case takes it."""
        return BackfillOrder(self.start, self.end, self.workers)


class NoQuery(_Query):
    """No parameters."""


class PageQuery(_Query):
    """A page of a list."""

    limit: PageLimit = PAGE_DEFAULT
    cursor: Text | None = None


class JobsQuery(PageQuery):
    """A page of the jobs that match all filters given: those that people have made, and with `include=tasks` all."""

    include: Literal["tasks"] | None = None
    connector_id: Text | None = None
    status: JobStatus | None = None
    kind: JobKind | None = None
    symbol: Text | None = None
    timeframe: Text | None = None

    def condition(self) -> dict[str, Any]:
        """As a query of documents. Who asks for a kind that a series makes for itself wants its tasks."""
        filters = self.model_dump(mode="json", exclude_none=True, exclude={"limit", "cursor", "include"})
        has_tasks = self.include is not None or self.kind in (JobKind.REPAIR, JobKind.ENRICH)
        return filters if has_tasks else {**filters, **NO_TASK}


class DeleteJobQuery(_Query):
    """Whether the candles go too."""

    candles: Literal["keep", "delete"] = "keep"


class RangeQuery(_Query):
    """start <= open time < end."""

    start: Moment | None = None
    end: Moment | None = None


class ExportQuery(RangeQuery):
    """Candles of which time, which values, of which timeframe, in which form."""

    fields: FieldNames | None = None
    timeframe: Text | None = None
    format: CandleFormat | None = None
    times: Literal["iso", "ms"] = "iso"

    def to_request(self) -> CandleRequest:
        """As the use case takes it."""
        return CandleRequest(self.start, self.end, self.fields, self.timeframe)


class CandlesQuery(ExportQuery):
    """A page of it."""

    limit: int = Field(default=CANDLES_DEFAULT, ge=1, le=CANDLES_MAX)


class CoverageQuery(RangeQuery):
    """Of which intervals; `state`: only runs of these states, separated by commas."""

    state: Annotated[frozenset[IntervalState], BeforeValidator(_split_names)] = frozenset()
    limit: int = Field(default=CANDLES_DEFAULT, ge=1, le=CANDLES_MAX)


class AuditQuery(PageQuery):
    """Entries of one target, like `jobs/binance:BTC-USDT:1m`."""

    target: Annotated[str, Field(min_length=1, max_length=300)] | None = None


class AlertsQuery(_Query):
    """Alerts in a state."""

    state: Literal["open", "resolved"] | None = None
    limit: PageLimit = PAGE_DEFAULT


def parse_body(request: Request, model: type[M]) -> M:
    """The body as the model.

    Raises:
        InvalidRequest: no JSON object, or fields that are unknown, missing or wrong; names each.
        PayloadTooLarge: more than the gateway reads.
    """
    value = read_object(request)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as exc:
        # Half a surrogate pair can neither be stored nor be sent back.
        raise InvalidRequest("the body holds text that is not Unicode, or is nested too deeply") from exc
    return _validated(model, value, "the body is not valid")


def parse_query(request: Request, model: type[M]) -> M:
    """The query's parameters as the model. Raises InvalidRequest, naming each that is unknown or wrong."""
    return _validated(model, request.args.to_dict(), "the query is not valid")


def parse_revision(request: Request) -> int | None:
    """The revision that `If-Match` names, quoted or not; None without the header or with `*`. Raises InvalidRequest."""
    header = request.headers.get("If-Match", "").strip()
    if header in ("", "*"):
        return None
    match = REVISION_PATTERN.fullmatch(header)
    if match is None:
        raise InvalidRequest.for_field("If-Match", 'has to be a revision, like "3"')
    return int(match.group(1))


def write_cursor(position: str) -> str:
    """An opaque text for where the next page begins."""
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def read_cursor(cursor: str | None) -> str | None:
    """The position in a cursor. Raises InvalidRequest."""
    if cursor is None:
        return None
    try:
        return base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, UnicodeError, ValueError) as exc:
        raise bad_cursor() from exc


def read_id_cursor(cursor: str | None) -> ObjectId | None:
    """The document's id in a cursor. Raises InvalidRequest."""
    position = read_cursor(cursor)
    try:
        return None if position is None else ObjectId(position)
    except InvalidId as exc:
        raise bad_cursor() from exc


def bad_cursor() -> InvalidRequest:
    """The error of a cursor that is not one of ours."""
    return InvalidRequest.for_field("cursor", "is not a cursor of this list; take next_cursor as it came")


def _validated(model: type[M], value: object, summary: str) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        errors = [
            (".".join(str(part) for part in error["loc"])[:FIELD_CHARS_MAX], _message(model, error))
            for error in exc.errors(include_url=False, include_input=False)
        ]
        more = f"; and {len(errors) - SHOWN_MAX} more" if len(errors) > SHOWN_MAX else ""
        details = "; ".join(f"{field}: {message}" for field, message in errors[:SHOWN_MAX]) + more
        raise InvalidRequest(f"{summary}: {details}", errors) from exc


def _message(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    """What pydantic says, in words for people; for an unknown field those that there are."""
    if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
        known = ", ".join(field.alias or name for name, field in model.model_fields.items())
        return f"is no field here; there are {known}" if known else "is not taken here"
    return str(error["msg"]).removeprefix("Value error, ")
