"""Poloniex spot. Ascending rows of fourteen with the open time near the end. Source: poloniex/polo-sdk-python."""

from typing import Final

from local_emulator.simulator.arrivals import Limit, Punishment, Verdict
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

INTERVALS: Final = {
    **{f"MINUTE_{minutes}": f"{minutes}m" for minutes in (1, 5, 10, 15, 30)},
    **{f"HOUR_{hours}": f"{hours}h" for hours in (1, 2, 4, 6, 12)},
    "DAY_1": "1d",
    "MONTH_1": "1M",
}
LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 500
TAKER_SHARE: Final = 0.48
STATUS_ERRORS: Final = {
    404: (404, "Not found"),
    429: (429, "Too many requests"),
    500: (500, "Internal System Error"),
    503: (1002, "System under maintenance"),
}


def _span(request: WireRequest) -> Span:
    query = request.query
    market = find_market(request, _name, request.path_params["symbol"])
    if market is None:
        raise _refused(10040, "Invalid symbol")
    if query.get("interval") not in INTERVALS:
        raise _refused(10001, "Invalid parameter: interval")
    start_ms, end_ms, limit = (whole_number(query, name, _bad_parameter) for name in ("startTime", "endTime", "limit"))
    rows = LIMIT_DEFAULT if limit is None else limit
    if not 0 < rows <= LIMIT_MAX:
        raise _bad_parameter("limit")
    frame = TIMEFRAMES[INTERVALS[query["interval"]]]
    end_ms = None if end_ms is None else end_ms + 1
    return Span(market, frame, start_ms, end_ms, rows, keeps_oldest=start_ms is not None)


def _page(request: WireRequest, span: Span, rows: Rows) -> Reply:
    values, money = row_texts(rows, span.market), turnover(rows)
    count = len(rows)
    opens = rows.open_ms.tolist()
    columns = (
        values.low,
        values.high,
        values.open,
        values.close,
        texts(money, 8),
        values.volume,
        texts(money * TAKER_SHARE, 8),
        texts(rows.volume * TAKER_SHARE, 8),
        trade_counts(rows),
        [min(request.now_ms, span.timeframe.close(open_ms) - 1) for open_ms in opens],
        values.close,
        [request.query["interval"]] * count,
        opens,
        [span.timeframe.close(open_ms) - 1 for open_ms in opens],
    )
    return Reply.of_json([list(row) for row in zip(*columns, strict=True)])


def _markets(request: WireRequest) -> Reply:
    return Reply.of_json([_market(market, request.now_ms) for market in listed_markets(request)])


def _market(market: Market, now_ms: int) -> dict[str, object]:
    return {
        "symbol": _name(market),
        "baseCurrencyName": market.base,
        "quoteCurrencyName": market.quote,
        "displayName": f"{market.base}/{market.quote}",
        "state": "NORMAL" if market.is_trading(now_ms) else "PAUSE",
        "visibleStartTime": market.listed_ms,
        "tradableStartTime": market.listed_ms,
        "symbolTradeLimit": {
            "symbol": _name(market),
            "priceScale": market.price_decimals,
            "quantityScale": market.volume_decimals,
            "amountScale": 4,
            "minQuantity": "0.000001",
            "minAmount": "1",
            "highestBid": "0",
            "lowestAsk": "0",
        },
        "crossMargin": {"supportCrossMargin": False, "maxLeverage": 1},
    }


def _name(market: Market) -> str:
    return f"{market.base}_{market.quote}"


def _bad_parameter(name: str) -> Refused:
    return _refused(10001, f"Invalid parameter: {name}")


def _refused(code: int, message: str) -> Refused:
    return Refused(Reply.of_json({"code": code, "message": message}, 400))


def _refusal(_verdict: Verdict, _now_ms: int) -> Reply:
    return _error(429)


def _error(status: int) -> Reply:
    code, message = STATUS_ERRORS.get(status, (500, "Internal System Error"))
    return Reply.of_json({"code": code, "message": message}, status)


POLONIEX: Final = Wire(
    name="poloniex",
    limits=(Limit(200, 1_000),),
    markets=markets_quoted_in("USDT"),
    routes=(
        Route("/markets/{symbol}/candles", span=_span, page=_page),
        Route("/markets", answer=_markets),
        # Its contracts, of which there are none here.
        Route("/v3/market/allInstruments", answer=lambda _request: Reply.of_json({"code": 200, "msg": "", "data": []})),
        Route("/timestamp", answer=lambda request: Reply.of_json({"serverTime": request.now_ms})),
    ),
    refusal=_refusal,
    error=_error,
    punishment=Punishment(counts_refused=False),
)
