"""The one HTTP client of all exchanges: one call, one answer, every foreign error mapped once.

Nothing is retried here. A retry spends weight, so only who holds the reservation may decide on it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import requests
import urllib3
from pydantic_core import from_json

from shared.domain.candles import CandleBatch
from shared.domain.rates import RateWindow
from shared.domain.timeframes import TIMEFRAMES, Timeframe
from shared.errors import (
    ExchangeError,
    ExchangeRejected,
    ExchangeThrottled,
    ExchangeUnavailable,
    InvalidRequest,
    MalformedPage,
)
from shared.exchanges.gate import gate
from shared.exchanges.headers import read_clock_ms, read_usage, read_wait_ms
from shared.exchanges.http_session import proxies_for
from shared.exchanges.rows import Market as Market
from shared.exchanges.rows import decode, decode_markets, decode_open_times, find_in, find_rows
from shared.exchanges.spec import (
    CandlesRequest,
    EmptyIntervals,
    ErrorRule,
    ExchangeSpec,
    Outcome,
    Paging,
    Template,
)

# The largest answer is a list of all symbols (Binance's exchangeInfo is about 10 MB, unpacked); a page is below 1 MB.
BODY_BYTES_MAX: Final = 32 * 1024 * 1024
CHUNK_BYTES: Final = 64 * 1024
# A peer that sends a byte now and then keeps every single read below its time-out; the whole answer may take this long.
READ_TIMEOUTS_TOTAL: Final = 2.0
EXCERPT_BYTES: Final = 200

BeforeSend = Callable[[], None] | None

# What a status means where the exchange's own rules say nothing. 451: not served to this country. 403: a firewall has had
# enough of this address.
REJECTED_STATUSES: Final = frozenset({400, 404, 405, 410, 422})
STATUS_RULES: Final = (
    ErrorRule(Outcome.REJECTED, statuses=(451,)),
    ErrorRule(Outcome.THROTTLED, statuses=(403, 418, 429)),
)


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """The answer to one request for candles.

    `candles` are closed and lie in [start_ms, end_ms) as asked. Everything that the exchange has in [start_ms,
    covered_end_ms) is among them; `covered_end_ms` is never beyond what has closed, nor before start_ms (then: nothing is
    covered). `exchange_now_ms` is an upper bound of the exchange's clock, None if it did not tell. `usage` are (period_ms,
    used weight) pairs. `history_start_ms`: the exchange has nothing older, and that is later than start_ms. `rows_count` are
    the rows received, before any was dropped.
    """

    candles: CandleBatch
    covered_end_ms: int
    exchange_now_ms: int | None
    usage: tuple[tuple[int, int], ...]
    history_start_ms: int | None
    rows_count: int


@dataclass(frozen=True, slots=True)
class RateLimitInfo:
    """The documented limits, and what each request costs in their unit."""

    windows: tuple[RateWindow, ...]
    candles_weight: int
    symbols_weight: int
    ping_weight: int
    usage_headers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    payload: Any
    status: int
    headers: Mapping[str, str]
    latency_ms: int


class ExchangeClient:
    """One exchange, as its spec says. Safe to share between threads as far as the session is.

    `now_ms` is the database's clock. `timeout_s` is (connect, read). The calls' `before_send` runs when the connection is up
    and before anything is sent: there the weight is reserved, and what it raises ends the call.

    Every call raises:
        ExchangeUnavailable: no connection, time-out, broken answer, 5xx, maintenance.
        ExchangeThrottled: too fast, or banned; `wait_ms` says for how long to stay away.
        ExchangeRejected: the request can never succeed: symbol, timeframe, country.
        MalformedPage: the answer is not what was asked for.
    """

    def __init__(
        self,
        spec: ExchangeSpec,
        *,
        session: requests.Session,
        now_ms: Callable[[], int],
        base_url: str | None = None,
        timeout_s: tuple[float, float] = (3.05, 10.0),
    ) -> None:
        self.spec = spec
        self._session = session
        self._now_ms = now_ms
        self._base_url = (base_url or spec.base_url).rstrip("/")
        self._timeout_s = timeout_s
        self._proxies = proxies_for(self._base_url)

    def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: str,
        start_ms: int,
        end_ms: int,
        limit: int | None = None,
        *,
        before_send: BeforeSend = None,
    ) -> FetchedPage:
        """Closed candles from start_ms on, in one request; `limit` shortens the range to that many intervals.

        Nothing is sent if the range holds no closed interval.
        """
        grid, exchange_symbol = self._grid(timeframe), self._exchange_symbol(symbol)
        if limit is not None and limit < 1:
            raise InvalidRequest.for_field("limit", "has to be at least 1")
        first_ms = grid.ceil(start_ms)
        now_ms = self._now_ms()
        closed_end_ms = grid.closed_end(now_ms)
        span_end_ms = min(end_ms, closed_end_ms)
        if limit is not None:
            span_end_ms = min(span_end_ms, grid.shift(first_ms, limit))
        request = self._request_for(grid, first_ms, now_ms)
        if self.spec.paging is Paging.WINDOW:
            span_end_ms = min(span_end_ms, grid.shift(first_ms, request.page_limit))
        if span_end_ms <= first_ms:
            return FetchedPage(CandleBatch.empty(), max(start_ms, min(end_ms, closed_end_ms)), None, (), None, 0)
        last_end_ms = grid.ceil(span_end_ms)
        names = {
            "symbol": exchange_symbol,
            "timeframe": self.spec.timeframes[timeframe],
            "start": request.time_form.write(grid.shift(first_ms, request.start_shift.candles) + request.start_shift.ms),
            "end": request.time_form.write(grid.shift(last_end_ms, request.end_shift.candles) + request.end_shift.ms),
            "rows": min(request.page_limit, grid.count(first_ms, span_end_ms)),
        }
        answer = self._call(
            request.method, request.path, request.params, names, subject=f"{symbol} {timeframe}", before_send=before_send
        )
        return self._page(answer, grid, start_ms, span_end_ms, is_end_sent="{end}" in str(request.params))

    def weight(self) -> int:
        """What one `fetch_ohlcv` costs."""
        return self.spec.candles_weight

    def ping(self, *, before_send: BeforeSend = None) -> int:
        """Whether the exchange answers; the round trip in ms."""
        return self._call("GET", self.spec.ping_path, {}, {}, subject="ping", before_send=before_send).latency_ms

    def list_symbols(self, *, before_send: BeforeSend = None) -> list[Market]:
        """All pairs, ordered by unified symbol."""
        request = self.spec.markets
        answer = self._call(request.method, request.path, request.params, {}, subject="symbols", before_send=before_send)
        return decode_markets(answer.payload, self.spec)

    def rate_limit_info(self) -> RateLimitInfo:
        """The documented limits; no request."""
        spec = self.spec
        headers = tuple(header.name for header in spec.usage_headers)
        return RateLimitInfo(spec.windows, spec.candles_weight, spec.symbols_weight, spec.ping_weight, headers)

    def _grid(self, timeframe: str) -> Timeframe:
        grid = TIMEFRAMES.get(timeframe)
        if grid is None or timeframe not in self.spec.timeframes:
            supported = ", ".join(self.spec.timeframes)
            raise ExchangeRejected(
                f"{self.spec.name} has no timeframe {timeframe!r}; supported are {supported}", exchange=self.spec.name
            )
        return grid

    def _exchange_symbol(self, symbol: str) -> str:
        exchange_symbol = self.spec.symbol_form.write(symbol)
        if exchange_symbol is None:
            kinds = "BASE/QUOTE" if self.spec.symbol_form.swap is None else "BASE/QUOTE or BASE/QUOTE:SETTLE"
            raise ExchangeRejected(
                f"{self.spec.name}: symbol {symbol!r} is not of the form {kinds}", exchange=self.spec.name, symbol=symbol
            )
        return exchange_symbol

    def _request_for(self, grid: Timeframe, first_ms: int, now_ms: int) -> CandlesRequest:
        spec = self.spec
        if spec.archive is None:
            return spec.candles
        recent_ms = grid.shift(grid.floor(now_ms), -spec.archive_after_candles)
        return spec.archive if first_ms < recent_ms else spec.candles

    def _page(self, answer: _Answer, grid: Timeframe, start_ms: int, span_end_ms: int, *, is_end_sent: bool) -> FetchedPage:
        spec = self.spec
        rows = find_rows(answer.payload, spec)
        opens_ms = decode_open_times(rows, spec, grid)
        exchange_now_ms = read_clock_ms(answer.headers)
        # The range ends before what has not closed by the database's clock; here the exchange's own clock has its say.
        end_ms = span_end_ms if exchange_now_ms is None else min(span_end_ms, grid.closed_end(exchange_now_ms))
        if spec.rows.is_newest_row_open and len(opens_ms):
            # The clock may be past the end of an interval whose candle the exchange still is writing.
            end_ms = min(end_ms, int(opens_ms.max()))
        candles = decode(rows, spec, grid, start_ms, end_ms, opens_ms=opens_ms)
        if not len(candles) and len(opens_ms):
            # A row next to the range is a bound taken otherwise; rows elsewhere are an answer to another question (a cache).
            slack = spec.candles.page_limit if spec.paging is Paging.WINDOW else 1
            is_before = int(opens_ms.max()) < grid.shift(grid.ceil(start_ms), -slack)
            if is_before or (is_end_sent and int(opens_ms.min()) >= grid.close(grid.ceil(span_end_ms))):
                raise MalformedPage(
                    f"{spec.name}: all {len(rows)} rows lie outside of the range asked for ({start_ms} to {span_end_ms}), "
                    f"at {opens_ms.min()} to {opens_ms.max()}: the bounds were not honoured",
                    exchange=spec.name,
                )
        covered_end_ms = end_ms
        if spec.paging is not Paging.WINDOW and len(candles):
            covered_end_ms = min(end_ms, grid.close(int(candles.open_ms[-1])))
        return FetchedPage(
            candles=candles,
            covered_end_ms=max(start_ms, covered_end_ms),
            exchange_now_ms=exchange_now_ms,
            usage=read_usage(answer.headers, spec),
            history_start_ms=_history_start_ms(opens_ms.tolist(), spec, grid.ceil(start_ms)),
            rows_count=len(rows),
        )

    def _call(
        self,
        method: str,
        path: str,
        params: Mapping[str, Template],
        names: Mapping[str, int | str],
        *,
        subject: str,
        before_send: BeforeSend,
    ) -> _Answer:
        """Send one request and judge the answer; `subject` is what it is about, for messages."""
        in_path = {name: quote(str(value), safe=":") if name == "symbol" else value for name, value in names.items()}
        url = self._base_url + path.format(**in_path)
        filled = {key: _fill(template, names) for key, template in params.items()}
        body_form: dict[str, Any] = {"params": filled} if method == "GET" else {"json": filled}
        started = time.monotonic()
        try:
            with (
                gate(before_send),
                self._session.request(
                    method,
                    url,
                    timeout=self._timeout_s,
                    stream=True,
                    allow_redirects=False,
                    proxies=self._proxies,
                    **body_form,
                ) as response,
            ):
                body = self._read(response, started, subject)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as exc:
            raise ExchangeUnavailable(
                f"{self.spec.name} {subject}: no answer: {_reason(exc)}", exchange=self.spec.name
            ) from exc
        latency_ms = round((time.monotonic() - started) * 1000)
        return self._judge(response.status_code, response.headers, body, latency_ms, subject)

    def _read(self, response: requests.Response, started: float, subject: str) -> bytes:
        """The whole body, bounded in size and time."""
        until = started + self._timeout_s[0] + READ_TIMEOUTS_TOTAL * self._timeout_s[1]
        chunks: list[bytes] = []
        size = 0
        # read1 gives what has arrived; iter_content would wait for a full chunk, byte by byte if need be.
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
            chunks.append(chunk)
            size += len(chunk)
            if size > BODY_BYTES_MAX:
                raise MalformedPage(
                    f"{self.spec.name} {subject}: the answer is larger than {BODY_BYTES_MAX} bytes", exchange=self.spec.name
                )
            if time.monotonic() > until:
                raise ExchangeUnavailable(
                    f"{self.spec.name} {subject}: the answer was not complete after {until - started:.1f} s ({size} bytes)",
                    exchange=self.spec.name,
                )
        return b"".join(chunks)

    def _judge(self, status: int, headers: Mapping[str, str], body: bytes, latency_ms: int, subject: str) -> _Answer:
        """The parsed answer, or the error that it carries, whatever its status says."""
        form = self.spec.errors
        is_success = 200 <= status < 300
        try:
            payload = from_json(body)
        except ValueError as exc:
            if is_success:
                raise MalformedPage(
                    f"{self.spec.name} {subject}: HTTP {status} without JSON ({exc}): {_excerpt(body)}", exchange=self.spec.name
                ) from exc
            payload = None
        code = find_in(payload, form.code_path) if form.code_path else None
        if not isinstance(code, str | int) or str(code) in form.ok_codes:
            code = None
        if is_success and code is None:
            return _Answer(payload, status, headers, latency_ms)
        message = find_in(payload, form.message_path) if form.message_path else None
        rule = _first_rule(self.spec, status, "" if code is None else str(code), "" if message is None else str(message))
        outcome = rule.outcome if rule is not None else _outcome_of(status, is_json=payload is not None)
        raise self._fault(outcome, rule, status, headers, f"{self.spec.name} {subject}: HTTP {status}: {_excerpt(body)}")

    def _fault(
        self, outcome: Outcome, rule: ErrorRule | None, status: int, headers: Mapping[str, str], text: str
    ) -> ExchangeError:
        if outcome is Outcome.REJECTED:
            return ExchangeRejected(text, exchange=self.spec.name, status=status)
        if outcome is Outcome.UNAVAILABLE:
            return ExchangeUnavailable(text, exchange=self.spec.name, status=status)
        wait_ms = read_wait_ms(headers, self.spec, self._now_ms())
        if wait_ms is None:
            wait_ms = rule.wait_ms if rule is not None and rule.wait_ms is not None else self.spec.throttle_wait_ms
        return ExchangeThrottled(text, wait_ms, exchange=self.spec.name, status=status)


def _fill(template: Template, names: Mapping[str, int | str]) -> Any:
    """A parameter with its placeholders filled; one that is nothing but a placeholder keeps the value's type."""
    if isinstance(template, Mapping):
        return {key: _fill(inner, names) for key, inner in template.items()}
    if not isinstance(template, str):
        return template
    if template[:1] == "{" and template[1:-1] in names:
        return names[template[1:-1]]
    return template.format(**names)


def _first_rule(spec: ExchangeSpec, status: int, code: str, message: str) -> ErrorRule | None:
    text = f"{code} {message}".lower()
    for rule in (*spec.errors.rules, *STATUS_RULES):
        if rule.statuses and status not in rule.statuses:
            continue
        if rule.codes and code not in rule.codes:
            continue
        if rule.text.lower() in text:
            return rule
    return None


def _outcome_of(status: int, *, is_json: bool) -> Outcome:
    """What an error means that no rule knows. An answer that is no JSON comes from something in between, and may pass."""
    return Outcome.REJECTED if is_json and status in REJECTED_STATUSES else Outcome.UNAVAILABLE


def _history_start_ms(opens_ms: list[int], spec: ExchangeSpec, first_ms: int) -> int | None:
    """Where the exchange's history begins, if the rows show it: a full history, or one without holes, that begins late."""
    if spec.history_candles_max is None or not opens_ms or min(opens_ms) <= first_ms:
        return None
    is_whole = len(opens_ms) >= spec.history_candles_max or spec.empty_intervals is EmptyIntervals.FILLED
    return min(opens_ms) if is_whole else None


def _excerpt(body: bytes) -> str:
    return " ".join(body[:EXCERPT_BYTES].decode("utf-8", "replace").split()) or "empty body"


def _reason(exc: Exception) -> str:
    return f"{type(exc).__name__}: {str(exc)[:EXCERPT_BYTES]}"
