"""What a new job, another end or another list of indicators comes to, judged without asking anybody."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.domain.indicator_lists import IndicatorList, extend_list
from shared.domain.indicators import DEFAULT_INDICATORS, resolve_indicators
from shared.domain.job_ranges import check_end_ms, decide_kind, decide_start_ms
from shared.domain.jobs import PRIORITIES, SYMBOL_PATTERN, JobKind, JobStatus, job_id_of, to_datetime, to_ms
from shared.domain.slots import open_ledger
from shared.domain.timeframes import TIMEFRAMES, Timeframe
from shared.errors import InvalidRequest
from shared.exchanges.spec import ExchangeSpec
from shared.stores.database import Document


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a caller asks for. Times are UTC ms; None stands for the default, for `end_ms` for no end.

    `indicators` are requests as `resolve_indicators` takes them: None for those that the series has.
    """

    connector_id: str
    symbol: str
    timeframe: str
    overlap: int
    kind: JobKind | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    indicators: tuple[Mapping[str, Any], ...] | None = None
    priority: int | None = None
    is_paused: bool = False

    def asked_list(self) -> IndicatorList | None:
        """The indicators with all their parameters, as they are stored. Raises InvalidRequest."""
        return None if self.indicators is None else [spec.to_document() for spec in resolve_indicators(self.indicators)]


def plan_job(new: NewJob, exchange: str, spec: ExchangeSpec, now_ms: int) -> Document:
    """The document of a new job, with all that can be judged without asking anybody.

    Raises:
        InvalidRequest: names all fields among timeframe, symbol and indicators that are wrong; else kind or range.
    """
    timeframe = _check_series(new, exchange, spec)
    kind = decide_kind(new.kind, new.end_ms)
    start_ms = decide_start_ms(
        timeframe,
        kind=kind,
        start_ms=new.start_ms,
        end_ms=new.end_ms,
        now_ms=now_ms,
        history_candles_max=spec.history_of(new.timeframe),
        exchange=exchange,
    )
    job_id = job_id_of(new.connector_id, new.symbol, new.timeframe)
    now = to_datetime(now_ms)
    ledger = open_ledger(timeframe, now_ms, start_ms, is_paused=new.is_paused).to_document()
    return {
        "_id": job_id if kind is JobKind.LIVE else f"{job_id}:{start_ms}-{new.end_ms}",
        "connector_id": new.connector_id,
        "exchange": exchange,
        "symbol": new.symbol,
        "timeframe": new.timeframe,
        "kind": kind.value,
        "status": (JobStatus.PAUSED if new.is_paused else JobStatus.ACTIVE).value,
        "priority": PRIORITIES[kind] if new.priority is None else new.priority,
        "start_at": to_datetime(start_ms),
        "end_at": None if new.end_ms is None else to_datetime(new.end_ms),
        "history_start_at": None,
        "next_run_at": now,
        "run_requested": False,
        "cursor": {"last_ts": None},
        "lock": {"fence": 0},
        "abandoned": [],
        "attempt": 0,
        "last_error": None,
        "overlap": new.overlap,
        "totals": {},
        **({"slot_ledger": ledger} if kind is JobKind.LIVE else {}),
        "revision": 1,
        "created_at": now,
        "updated_at": now,
    }


def _check_series(new: NewJob, exchange: str, spec: ExchangeSpec) -> Timeframe:
    """The timeframe. Raises InvalidRequest, with all that is wrong with it, the symbol and the indicators."""
    problems: list[tuple[str, str]] = []
    timeframe = TIMEFRAMES.get(new.timeframe)
    if timeframe is None or new.timeframe not in spec.timeframes:
        supported = ", ".join(spec.timeframe_names)
        problems.append(("timeframe", f"{exchange} has no {new.timeframe!r}; supported are {supported}"))
    if not SYMBOL_PATTERN.fullmatch(new.symbol) or spec.symbol_form.write(new.symbol) is None:
        form = spec.symbol_form.kinds
        problems.append(("symbol", f"{new.symbol!r} is not of the form {form} in unified names (as in BTC/USDT)"))
    try:
        new.asked_list()
    except InvalidRequest as exc:
        problems += exc.errors
    if problems or timeframe is None:
        raise InvalidRequest("; ".join(f"{field}: {message}" for field, message in problems), problems)
    return timeframe


def plan_list(known: IndicatorList | None, asked: IndicatorList | None) -> IndicatorList:
    """A series' list once a job is made that asks for these indicators (None: it names none).

    The first job of a series sets the list, by default the usual one; `known` is None then. Another one only adds to it.
    Raises InvalidRequest like `extend_list`.
    """
    if known is None:
        return [spec.to_document() for spec in DEFAULT_INDICATORS] if asked is None else asked
    return extend_list(known, asked or [])


def plan_end(job: Document, end_ms: int) -> Document:
    """The fields that another end of a backfill changes. Raises InvalidRequest for a live job, or an end before the start."""
    if job["kind"] == JobKind.LIVE:
        raise InvalidRequest.for_field("end_at", "a live job has no end")
    check_end_ms(to_ms(job["start_at"]), end_ms)
    is_reopened = job["status"] == JobStatus.DONE and end_ms > to_ms(job["end_at"])
    reopened = {"status": JobStatus.ACTIVE.value} if is_reopened else {}
    return {"end_at": to_datetime(end_ms), **reopened}
