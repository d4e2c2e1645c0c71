"""MEXC spot, /api/v3. Source: mexc.com/api-docs/spot-v3; what it does with bounds and limits, as its users measured."""

from typing import Final

from local_emulator.simulator.arrivals import Limit, Punishment
from local_emulator.simulator.market import Market, markets_quoted_in
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

# 1W is not served here: on which day its weeks open is not known.
INTERVALS: Final = {
    **{name: name for name in ("1m", "5m", "15m", "30m", "4h", "1d", "1M")},
    "60m": "1h",
}
ROWS_MAX: Final = 500
STATUS_ERRORS: Final = {
    403: (403, "Access Denied"),
    404: (404, "Not Found"),
    418: (418, "IP banned"),
    429: (429, "Too Many Requests"),
    501: (501, "System busy"),
    503: (503, "Service not available, please try again"),
    504: (504, "Gateway Time-out"),
    None: (500, "Internal error"),
}


def _span(request: WireRequest) -> Span:
    query = request.query
    market = find_market(request, _symbol, query.get("symbol", ""))
    if market is None:
        raise _refused(-1121, "Invalid symbol.")
    if query.get("interval", "") not in INTERVALS:
        raise _refused(-1121, "Invalid interval.")
    frame = TIMEFRAMES[INTERVALS[query["interval"]]]
    start_ms, end_ms, limit = (whole_number(query, name, _bad_parameter) for name in ("startTime", "endTime", "limit"))
    limit = ROWS_MAX if limit is None else min(limit, ROWS_MAX)
    if limit < 1:
        raise _bad_parameter("limit")
    if start_ms is None or end_ms is None:
        # One bound alone is no bound: the newest come.
        return Span(market, frame, None, None, limit)
    return Span(market, frame, start_ms, end_ms, limit, keeps_oldest=True)


def _page(_request: WireRequest, span: Span, rows: Rows) -> Reply:
    values = row_texts(rows, span.market)
    opens = rows.open_ms.tolist()
    # The open time of the next one, without the usual ms less.
    closes = [span.timeframe.close(open_ms) for open_ms in opens]
    prices = (values.open, values.high, values.low, values.close)
    columns = (opens, *prices, values.volume, closes, texts(turnover(rows), 4))
    return Reply.of_json([list(row) for row in zip(*columns, strict=True)])


def _exchange_info(request: WireRequest) -> Reply:
    return Reply.of_json(
        {
            "timezone": "CST",
            "serverTime": request.now_ms,
            "rateLimits": [],
            "exchangeFilters": [],
            "symbols": [_listed(market, request.now_ms) for market in listed_markets(request)],
        }
    )


def _listed(market: Market, now_ms: int) -> dict[str, object]:
    return {
        "symbol": _symbol(market),
        "status": "1" if market.is_trading(now_ms) else "2",
        "baseAsset": market.base,
        "baseAssetPrecision": market.volume_decimals,
        "quoteAsset": market.quote,
        "quotePrecision": market.price_decimals,
        "quoteAssetPrecision": market.price_decimals,
        "baseCommissionPrecision": market.volume_decimals,
        "quoteCommissionPrecision": market.price_decimals,
        "orderTypes": ["LIMIT", "MARKET", "LIMIT_MAKER"],
        "isSpotTradingAllowed": market.is_trading(now_ms),
        "isMarginTradingAllowed": False,
        "quoteAmountPrecision": "1",
        "baseSizePrecision": f"{10.0**-market.volume_decimals:.{market.volume_decimals}f}",
        "permissions": ["SPOT"],
        "filters": [],
        "maxQuoteAmount": "2000000",
        "makerCommission": "0",
        "takerCommission": "0.0005",
        "fullName": market.base,
        "tradeSideType": "1",
    }


def _symbol(market: Market) -> str:
    return f"{market.base}{market.quote}"


def _bad_parameter(name: str) -> Refused:
    return _refused(700013, f"Invalid content Type or parameter {name}.")


def _refused(code: int, message: str) -> Refused:
    return Refused(_failure(code, message))


def _failure(code: int, message: str, status: int = 400) -> Reply:
    return Reply.of_json({"code": code, "msg": message}, status)


MEXC: Final = Wire(
    name="mexc",
    limits=(Limit(500, 10_000),),
    markets=markets_quoted_in("USDT", "USDC"),
    routes=(
        Route("/api/v3/klines", span=_span, page=_page),
        Route("/api/v3/exchangeInfo", weight=10, answer=_exchange_info),
        Route("/api/v3/ping", answer=lambda _request: Reply.of_json({})),
        Route("/api/v3/time", answer=lambda request: Reply.of_json({"serverTime": request.now_ms})),
        # No contracts: for who asks for all markets at once.
        Route("/api/v1/contract/detail", answer=lambda _request: Reply.of_json({"success": True, "code": 0, "data": []})),
    ),
    errors=STATUS_ERRORS,
    write_error=_failure,
    ban_status=418,
    told_wait={"Retry-After": "{s}"},
    punishment=Punishment(counts_refused=True, ban_after=10),
)
