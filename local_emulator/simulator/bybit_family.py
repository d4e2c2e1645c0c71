"""Bybit v5, public market data. Errors come with a code inside HTTP 200 but for the limit. Source: bybit-exchange.github.io."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from local_emulator.simulator.arrivals import Limit, Punishment
from local_emulator.simulator.market import Market
from local_emulator.simulator.rows import Rows
from local_emulator.simulator.wire import (
    Errors,
    Refused,
    Reply,
    Route,
    Span,
    Wire,
    WireRequest,
    find_market,
    listed_markets,
    row_texts,
    texts,
    turnover,
    whole_number,
)
from shared.domain.timeframes import TIMEFRAMES

# W is not served here: nobody knows on which day its weeks open, so nobody can ask for it.
INTERVALS: Final = {
    "1": "1m",
    "3": "3m",
    "5": "5m",
    "15": "15m",
    "30": "30m",
    "60": "1h",
    "120": "2h",
    "240": "4h",
    "360": "6h",
    "720": "12h",
    "D": "1d",
    "M": "1M",
}
LIMIT_DEFAULT: Final = 200
LIMIT_MAX: Final = 1_000
INSTRUMENTS_DEFAULT: Final = 500
BAN_MS: Final = 600_000
STATUS_ERRORS: Final[Errors] = {
    # The address is shut out; nothing says for how long.
    403: Reply(403, b"access too frequent", media_type="text/plain"),
    404: (10404, "Not found"),
    429: (10429, "System level frequency protection"),
    503: (10016, "Service is restarting"),
    None: (10016, "System error. Please try again later."),
}


@dataclass(frozen=True, slots=True)
class Category:
    """One kind of market. `own_name` is Bybit's name of a market, `instrument` and `others` are rows of its list."""

    name: str
    category: str
    markets: tuple[Market, ...]
    own_name: Callable[[Market], str]
    instrument: Callable[[Market], dict[str, object]]
    others: tuple[dict[str, object], ...] = ()
    is_paged: bool = False

    def span(self, request: WireRequest) -> Span:
        """Reads a question for klines."""
        query = request.query
        self._check_category(request)
        market = find_market(request, self.own_name, query.get("symbol", ""))
        if market is None:
            raise _refused(request, "Not supported symbols")
        if query.get("interval", "") not in INTERVALS:
            raise _refused(request, "Invalid period!")
        start_ms, end_ms, limit = (
            whole_number(query, name, lambda _name: _refused(request, "params error")) for name in ("start", "end", "limit")
        )
        limit = LIMIT_DEFAULT if limit is None else min(LIMIT_MAX, limit)
        if limit < 1:
            raise _refused(request, "params error")
        frame = TIMEFRAMES[INTERVALS[query["interval"]]]
        return Span(
            market,
            frame,
            # The candle that holds the start is the first; the end is inclusive.
            None if start_ms is None else frame.floor(start_ms),
            None if end_ms is None else end_ms + 1,
            limit,
            # Of a wider range that has an end the newest come: unsure, and the worse for those who rely on the other.
            keeps_oldest=start_ms is not None and end_ms is None,
        )

    def page(self, request: WireRequest, span: Span, rows: Rows) -> Reply:
        """Writes the klines, newest first."""
        values = row_texts(rows, span.market)
        opens, quote = map(str, rows.open_ms.tolist()), texts(turnover(rows), 8)
        columns = (opens, values.open, values.high, values.low, values.close, values.volume, quote)
        found = [list(row) for row in zip(*columns, strict=True)][::-1]
        return _answer(request, {"category": self.category, "symbol": self.own_name(span.market), "list": found})

    def instruments(self, request: WireRequest) -> Reply:
        """What trades now, page by page where there are pages; of another status there is nothing here."""
        self._check_category(request)
        trading = [self.instrument(market) for market in listed_markets(request) if market.is_trading(request.now_ms)]
        found = [*trading, *self.others] if request.query.get("status", "Trading") == "Trading" else []
        if not self.is_paged:
            return _answer(request, {"category": self.category, "list": found})
        first, limit = (
            whole_number(request.query, name, lambda _name: _refused(request, "params error")) for name in ("cursor", "limit")
        )
        start = first or 0
        end = start + (INSTRUMENTS_DEFAULT if limit is None else min(LIMIT_MAX, limit))
        cursor = str(end) if end < len(found) else ""
        return _answer(request, {"category": self.category, "list": found[start:end], "nextPageCursor": cursor})

    def wire(self) -> Wire:
        """The whole exchange."""
        return Wire(
            name=self.name,
            limits=(Limit(600, 5_000),),
            markets=self.markets,
            routes=(
                Route("/v5/market/kline", span=self.span, page=self.page),
                Route("/v5/market/instruments-info", answer=self.instruments),
                Route("/v5/market/time", answer=_time),
            ),
            errors=STATUS_ERRORS,
            write_error=_failure,
            throttle_status=403,
            punishment=Punishment(bans_at_once=True, ban_ms=BAN_MS, ban_ms_max=BAN_MS),
        )

    def _check_category(self, request: WireRequest) -> None:
        if request.query.get("category", "linear") != self.category:
            raise _refused(request, "Illegal category")


def steps(market: Market) -> tuple[str, str]:
    """The steps of price and volume."""
    price, volume = (f"{10.0**-digits:.{digits}f}" for digits in (market.price_decimals, market.volume_decimals))
    return price, volume


def _time(request: WireRequest) -> Reply:
    return _answer(request, {"timeSecond": str(request.now_ms // 1_000), "timeNano": f"{request.now_ms}000000"})


def _answer(request: WireRequest, result: object) -> Reply:
    return Reply.of_json({"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": request.now_ms})


def _refused(request: WireRequest, message: str) -> Refused:
    return Refused(_failure(10001, message, time=request.now_ms))


def _failure(code: int, message: str, status: int = 200, **more: object) -> Reply:
    return Reply.of_json({"retCode": code, "retMsg": message, "result": {}, "retExtInfo": {}, **more}, status)
