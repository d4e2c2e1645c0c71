"""The one client of all exchanges: what its methods promise, and how a range of time becomes a request.

Sending and judging is transport.py, reading the rows tables.py, cells.py and rows.py, judging what a page covers pages.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import requests

from shared.domain.rates import RateWindow
from shared.domain.timeframes import TIMEFRAMES, Timeframe
from shared.errors import ExchangeRejected, ExchangeUnavailable, InvalidRequest
from shared.exchanges.gated_http import BeforeSend
from shared.exchanges.pages import AskedRange, FetchedPage, empty_page, read_page
from shared.exchanges.rows import Market, decode_markets
from shared.exchanges.spec import CandlesRequest, ExchangeSpec, Paging
from shared.exchanges.transport import Transport


@dataclass(frozen=True, slots=True)
class RateLimitInfo:
    """The documented limits, and what each request costs in their unit."""

    windows: tuple[RateWindow, ...]
    candles_weight: int
    symbols_weight: int
    ping_weight: int
    usage_headers: tuple[str, ...]


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
        self._now_ms = now_ms
        self._transport = Transport(spec, session=session, now_ms=now_ms, base_url=base_url, timeout_s=timeout_s)

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

        Nothing is sent if the range holds no closed interval, or none that the exchange still has.
        """
        grid, exchange_symbol = self._grid(timeframe), self._exchange_symbol(symbol)
        if limit is not None and limit < 1:
            raise InvalidRequest.for_field("limit", "has to be at least 1")
        now_ms = self._now_ms()
        first_ms, is_cut = self._reachable_ms(grid, grid.ceil(start_ms), now_ms)
        closed_end_ms = grid.closed_end(now_ms)
        span_end_ms = min(end_ms, closed_end_ms)
        if limit is not None:
            span_end_ms = min(span_end_ms, grid.shift(first_ms, limit))
        request = self._request_for(grid, first_ms, now_ms)
        if self.spec.paging.is_by_window:
            span_end_ms = min(span_end_ms, grid.shift(first_ms, request.limit_of(timeframe)))
        if span_end_ms <= first_ms:
            return empty_page(start_ms, min(end_ms, closed_end_ms), min(first_ms, closed_end_ms) if is_cut else None)
        last_end_ms = grid.ceil(span_end_ms)
        names = {
            "symbol": exchange_symbol,
            "timeframe": self.spec.timeframes[timeframe],
            "start": request.time_form.write(grid.shift(first_ms, request.start_shift.candles) + request.start_shift.ms),
            "end": request.time_form.write(grid.shift(last_end_ms, request.end_shift.candles) + request.end_shift.ms),
            "rows": min(request.limit_of(timeframe), grid.count(first_ms, span_end_ms)) + request.spare_rows,
        }
        try:
            answer = self._transport.call(
                request.method, request.path, request.params, names, subject=f"{symbol} {timeframe}", before_send=before_send
            )
        except ExchangeUnavailable as exc:
            if exc.context.get("is_symbol_in_doubt"):
                self._check_symbol(symbol, before_send)
            raise
        page = read_page(answer, self.spec, request, AskedRange(grid, start_ms, first_ms, span_end_ms, is_cut))
        if not page.rows_count and self.spec.is_unknown_symbol_empty:
            self._check_symbol(symbol, before_send)
        return page

    def page_max(self, timeframe: str, start_ms: int) -> int:
        """How many intervals from there on one `fetch_ohlcv` covers at most."""
        grid = self._grid(timeframe)
        return self._request_for(grid, grid.ceil(start_ms), self._now_ms()).limit_of(timeframe)

    def weight(self, timeframe: str, intervals_count: int) -> int:
        """What one `fetch_ohlcv` of so many intervals costs."""
        return self.spec.weight_of(min(intervals_count, self.spec.candles.limit_of(timeframe)))

    def weight_of_next(self, weight: int) -> int:
        """What the request about to be sent costs, where that is known only then; else `weight`."""
        return weight

    def ping(self, *, before_send: BeforeSend = None) -> int:
        """Whether the exchange answers; the round trip in ms."""
        spec = self.spec
        answer = self._transport.call(
            spec.ping_method, spec.ping_path, spec.ping_params, {}, subject="ping", before_send=before_send
        )
        return answer.latency_ms

    def list_symbols(self, *, before_send: BeforeSend = None) -> list[Market]:
        """All pairs, ordered by unified symbol."""
        request = self.spec.markets
        answer = self._transport.call(
            request.method, request.path, request.params, {}, subject="symbols", before_send=before_send
        )
        return decode_markets(answer.payload, self.spec)

    def rate_limit_info(self) -> RateLimitInfo:
        """The documented limits; no request."""
        spec = self.spec
        headers = tuple(header.name for header in spec.usage_headers)
        return RateLimitInfo(spec.windows, spec.candles_weight, spec.symbols_weight, spec.ping_weight, headers)

    def _grid(self, timeframe: str) -> Timeframe:
        grid = TIMEFRAMES.get(timeframe)
        if grid is None or timeframe not in self.spec.timeframes:
            supported = ", ".join(self.spec.timeframe_names)
            raise ExchangeRejected(
                f"{self.spec.name} has no timeframe {timeframe!r}; supported are {supported}", exchange=self.spec.name
            )
        return grid

    def _exchange_symbol(self, symbol: str) -> str:
        exchange_symbol = self.spec.symbol_form.write(symbol)
        if exchange_symbol is None:
            raise ExchangeRejected(
                f"{self.spec.name}: symbol {symbol!r} is not of the form {self.spec.symbol_form.kinds} in unified names",
                exchange=self.spec.name,
                symbol=symbol,
            )
        return exchange_symbol

    def _reachable_ms(self, grid: Timeframe, first_ms: int, now_ms: int) -> tuple[int, bool]:
        """The first interval that the exchange can still have, and whether that is later than `first_ms`.

        Some refuse a request that begins before their history, so it is not sent: a job that was away for long goes on from
        where history begins. Those that give their newest whatever the start show in their rows where it begins.
        """
        kept = self.spec.history_of(grid.name)
        if kept is None or self.spec.paging is Paging.LAST_N:
            return first_ms, False
        wall_ms = grid.shift(grid.floor(now_ms), -kept)
        return max(first_ms, wall_ms), first_ms < wall_ms

    def _request_for(self, grid: Timeframe, first_ms: int, now_ms: int) -> CandlesRequest:
        spec = self.spec
        if spec.archive is None:
            return spec.candles
        recent_ms = grid.shift(grid.floor(now_ms), -spec.archive_after_candles)
        return spec.archive if first_ms < recent_ms else spec.candles

    def _check_symbol(self, symbol: str, before_send: BeforeSend) -> None:
        """An answer may mean that there is no such symbol: the list of symbols tells, under a reservation of its own."""
        if symbol not in {market.symbol for market in self.list_symbols(before_send=before_send)}:
            raise ExchangeRejected(f"{self.spec.name} has no symbol {symbol!r}", exchange=self.spec.name, symbol=symbol)
