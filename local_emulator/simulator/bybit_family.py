"""Bybit, /v5: one host for the spot market and the linear perpetuals. Errors come inside HTTP 200, bans as 403.

Source: bybit-exchange/docs, v5.
"""

from collections.abc import Callable, Mapping
from typing import Final

from local_emulator.simulator.arrivals import Limit, Punishment, Verdict
from local_emulator.simulator.market import Market
from local_emulator.simulator.rows import Rows
from local_emulator.simulator.wire import (
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
BAN_MS: Final = 600_000
STATUS_ERRORS: Final = {
    429: (10006, "Too many visits. Exceeded the API Rate Limit."),
    500: (10016, "Server error."),
    503: (10016, "Service is restarting."),
}

OwnName = Callable[[Market], str]


def _span(category: str, own_name: OwnName) -> Callable[[WireRequest], Span]:
    def read(request: WireRequest) -> Span:
        query = request.query
        # What is not said means the perpetuals.
        market = find_market(request, own_name, query.get("symbol", ""))
        if query.get("category", "linear") != category or market is None:
            raise _refused(10001, "Not supported symbols" if category == "spot" else "params error: symbol invalid")
        if query.get("interval") not in INTERVALS:
            raise _refused(10001, "Invalid period!")
        start_ms, end_ms, limit = (whole_number(query, name, _bad_parameter) for name in ("start", "end", "limit"))
        frame = TIMEFRAMES[INTERVALS[query["interval"]]]
        # The candle that contains the start comes too.
        first_ms = None if start_ms is None else frame.floor(start_ms)
        rows = min(LIMIT_MAX, LIMIT_DEFAULT if limit is None else max(1, limit))
        return Span(market, frame, first_ms, None if end_ms is None else end_ms + 1, rows, keeps_oldest=end_ms is None)

    return read


def _page(category: str, own_name: OwnName) -> Callable[[WireRequest, Span, Rows], Reply]:
    def write(request: WireRequest, span: Span, rows: Rows) -> Reply:
        values = row_texts(rows, span.market)
        prices = (values.open, values.high, values.low, values.close)
        columns = (map(str, rows.open_ms.tolist()), *prices, values.volume, texts(turnover(rows), 8))
        newest_first = [list(row) for row in zip(*columns, strict=True)][::-1]
        return _answer({"symbol": own_name(span.market), "category": category, "list": newest_first}, request.now_ms)

    return write


def _instruments(
    category: str, own_name: OwnName, more: Callable[[Market], Mapping[str, object]]
) -> Callable[[WireRequest], Reply]:
    def answer(request: WireRequest) -> Reply:
        if request.query.get("category") != category:
            raise _refused(10001, "Illegal category")
        # "Trading" is the default, and what was delisted is not told.
        wanted = request.query.get("status", "Trading")
        found = [market for market in listed_markets(request) if _status(market, request.now_ms) == wanted]
        rows = [{**_instrument(market, own_name(market), wanted), **more(market)} for market in found]
        return _answer({"category": category, "list": rows, "nextPageCursor": ""}, request.now_ms)

    return answer


def _status(market: Market, now_ms: int) -> str:
    return "Trading" if market.is_trading(now_ms) else "Closed"


def _instrument(market: Market, name: str, status: str) -> dict[str, object]:
    tick, step = (f"{10.0**-decimals:.{decimals}f}" for decimals in (market.price_decimals, market.volume_decimals))
    return {
        "symbol": name,
        "baseCoin": market.base,
        "quoteCoin": market.quote,
        "status": status,
        "priceFilter": {"tickSize": tick, "minPrice": tick, "maxPrice": "1999999.8"},
        "lotSizeFilter": {"basePrecision": step, "qtyStep": step, "minOrderQty": step, "maxOrderQty": "1000000"},
    }


def _time(request: WireRequest) -> Reply:
    second, nano = str(request.now_ms // 1_000), str(request.now_ms * 1_000_000)
    return _answer({"timeSecond": second, "timeNano": nano}, request.now_ms)


def _answer(result: Mapping[str, object], now_ms: int) -> Reply:
    return Reply.of_json({"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": now_ms})


def _bad_parameter(name: str) -> Refused:
    return _refused(10001, f"params error: {name}")


def _refused(code: int, message: str) -> Refused:
    return Refused(Reply.of_json({"retCode": code, "retMsg": message, "result": {}, "retExtInfo": {}}))


def _refusal(_verdict: Verdict, _now_ms: int) -> Reply:
    return Reply(403, b"403, access too frequent", media_type="text/plain")


def _error(status: int) -> Reply:
    code, message = STATUS_ERRORS.get(status, (10016, "Server error."))
    return Reply.of_json({"retCode": code, "retMsg": message, "result": {}, "retExtInfo": {}}, status)


def bybit_wire(
    name: str,
    category: str,
    markets: tuple[Market, ...],
    own_name: OwnName,
    more: Callable[[Market], Mapping[str, object]] = lambda _market: {},
) -> Wire:
    """One market of Bybit; `more` is what its instruments tell besides."""
    return Wire(
        name=name,
        limits=(Limit(600, 5_000),),
        markets=markets,
        routes=(
            Route("/v5/market/kline", span=_span(category, own_name), page=_page(category, own_name)),
            Route("/v5/market/instruments-info", answer=_instruments(category, own_name, more)),
            Route("/v5/market/time", answer=_time),
        ),
        refusal=_refusal,
        error=_error,
        # Going on brings ten minutes more.
        punishment=Punishment(counts_refused=True, ban_after=1, ban_ms=BAN_MS, ban_ms_max=BAN_MS),
    )
