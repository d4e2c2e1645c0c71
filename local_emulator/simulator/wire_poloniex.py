"""Poloniex spot. Source: api-docs.poloniex.com/spot; which end of a range is kept, as ccxt 23236 met it.

Undocumented: the end is taken as inclusive, and rows as ascending.
"""

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
    trade_counts,
    turnover,
    whole_number,
)
from shared.domain.timeframes import TIMEFRAMES

# DAY_3, WEEK_1 and MONTH_1 are not served here: nobody knows on which days they open.
INTERVALS: Final = {
    **{f"MINUTE_{minutes}": f"{minutes}m" for minutes in (1, 5, 10, 15, 30)},
    **{f"HOUR_{hours}": f"{hours}h" for hours in (1, 2, 4, 6, 12)},
    "DAY_1": "1d",
}
LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 500
# The number of the error for each parameter.
PARAMETER_ERRORS: Final = {
    "symbol": (24101, "Invalid symbol"),
    "interval": (24102, "Invalid K-line type"),
    "endTime": (24103, "Invalid endTime"),
    "limit": (24104, "Invalid limit"),
    "startTime": (24105, "Invalid startTime"),
}
STATUS_ERRORS: Final = {
    404: (404, "Not Found"),
    429: (429, "Too many requests"),
    503: (24201, "Service busy. Try again later"),
    None: (500, "Internal System Error"),
}


def _span(request: WireRequest) -> Span:
    query = request.query
    market = find_market(request, _symbol, request.path_params["symbol"])
    if market is None:
        raise _invalid("symbol")
    interval = query.get("interval", "")
    if interval not in INTERVALS:
        raise _invalid("interval")
    start_ms, last_ms, limit = (whole_number(query, name, _invalid) for name in ("startTime", "endTime", "limit"))
    limit = LIMIT_DEFAULT if limit is None else limit
    if not 1 <= limit <= LIMIT_MAX:
        raise _invalid("limit")
    return Span(market, TIMEFRAMES[INTERVALS[interval]], start_ms, None if last_ms is None else last_ms + 1, limit)


def _page(request: WireRequest, span: Span, rows: Rows) -> Reply:
    values = row_texts(rows, span.market)
    count = len(rows)
    opens = rows.open_ms.tolist()
    closes = [span.timeframe.close(open_ms) - 1 for open_ms in opens]
    columns = (
        values.low,
        values.high,
        values.open,
        values.close,
        texts(turnover(rows), 8),
        values.volume,
        texts(turnover(rows) / 2, 8),
        texts(rows.volume / 2, 8),
        trade_counts(rows),
        [min(close_ms, request.now_ms) for close_ms in closes],
        texts((rows.open + rows.high + rows.low + rows.close) / 4, 8),
        [request.query["interval"]] * count,
        opens,
        closes,
    )
    return Reply.of_json([list(row) for row in zip(*columns, strict=True)])


def _markets(request: WireRequest) -> Reply:
    return Reply.of_json([_market(market, request.now_ms) for market in listed_markets(request)])


def _market(market: Market, now_ms: int) -> dict[str, object]:
    return {
        "symbol": _symbol(market),
        "baseCurrencyName": market.base,
        "quoteCurrencyName": market.quote,
        "displayName": f"{market.base}/{market.quote}",
        "state": "NORMAL" if market.is_trading(now_ms) else "PAUSE",
        "visibleStartTime": market.listed_ms,
        "tradableStartTime": market.listed_ms,
        "symbolTradeLimit": {
            "symbol": _symbol(market),
            "priceScale": market.price_decimals,
            "quantityScale": market.volume_decimals,
            "amountScale": 8,
            "minQuantity": f"{10.0**-market.volume_decimals:.{market.volume_decimals}f}",
            "minAmount": "1",
            "highestBid": "0",
            "lowestAsk": "0",
        },
    }


def _symbol(market: Market) -> str:
    return f"{market.base}_{market.quote}"


def _invalid(name: str) -> Refused:
    return Refused(_failure(*PARAMETER_ERRORS[name], 400))


def _failure(code: int, message: str, status: int) -> Reply:
    return Reply.of_json({"code": code, "message": message}, status)


POLONIEX: Final = Wire(
    name="poloniex",
    limits=(Limit(200, 1_000),),
    markets=markets_quoted_in("USDT", "USDC"),
    routes=(
        Route("/markets/{symbol}/candles", span=_span, page=_page),
        Route("/markets", answer=_markets, weight=20),
        Route("/timestamp", answer=lambda request: Reply.of_json({"serverTime": request.now_ms})),
        # Perpetuals, which ccxt asks for besides.
        Route(
            "/v3/market/allInstruments", answer=lambda _request: Reply.of_json({"code": "200", "msg": "Success", "data": []})
        ),
    ),
    errors=STATUS_ERRORS,
    write_error=_failure,
    punishment=Punishment(counts_refused=False),
)
