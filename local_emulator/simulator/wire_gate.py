"""Gate spot, /api/v4. Errors carry a label and a status. Source: gate.com/docs/developers/apiv4, else as measured."""

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
from shared.domain.timeframes import TIMEFRAMES, Timeframe

# 7d is not served here: its weeks open on Thursday.
INTERVALS: Final = {
    **{name: name for name in ("1m", "5m", "15m", "30m", "1h", "4h", "8h", "1d")},
    "30d": "1M",
}
INTERVAL_DEFAULT: Final = "30m"
LIMIT_DEFAULT: Final = 100
POINTS_MAX: Final = 1_000
# It says 10,000; this is what it serves.
POINTS_BACK_MAX: Final = 9_998
TOO_BROAD: Final = "Candlestick range too broad. Maximum 1000 data points are allowed per request"  # their own words
TOO_LONG_AGO: Final = "Candlestick too long ago. Maximum 10000 points ago are allowed"
STATUS_ERRORS: Final = {
    403: ("IP_FORBIDDEN", "Request forbidden from this location"),
    404: ("NOT_FOUND", "Not found"),
    429: ("TOO_MANY_REQUESTS", "Request Rate limit Exceeded"),
    500: ("INTERNAL", "Internal server error"),
    503: ("TOO_BUSY", "System is busy"),
    None: ("SERVER_ERROR", "Server error"),
}


def _span(request: WireRequest) -> Span:
    query = request.query
    market = _market(request)
    frame_name = query.get("interval", INTERVAL_DEFAULT)
    if frame_name not in INTERVALS:
        raise _bad_value("interval", frame_name)
    frame = TIMEFRAMES[INTERVALS[frame_name]]
    from_s, to_s, limit = (
        whole_number(query, name, lambda wrong: _bad_value(wrong, query[wrong])) for name in ("from", "to", "limit")
    )
    if limit is not None and (from_s is not None or not 1 <= limit <= POINTS_MAX):
        raise _bad_value("limit", limit)
    end_ms = request.now_ms if to_s is None else to_s * 1_000
    if from_s is None:
        return Span(market, frame, None, end_ms + 1, LIMIT_DEFAULT if limit is None else limit)
    return _bounded(market, frame, from_s * 1_000, end_ms, request.now_ms)


def _bounded(market: Market, frame: Timeframe, start_ms: int, end_ms: int, now_ms: int) -> Span:
    """Both bounds are inclusive, and every interval that they touch counts."""
    first_ms = frame.floor(start_ms)
    if frame.count(first_ms, now_ms) > POINTS_BACK_MAX:
        raise _refused("INVALID_PARAM_VALUE", TOO_LONG_AGO)
    if frame.count(first_ms, end_ms + 1) > POINTS_MAX:
        raise _refused("INVALID_PARAM_VALUE", TOO_BROAD)
    return Span(market, frame, start_ms, end_ms + 1)


def _market(request: WireRequest) -> Market:
    name = request.query.get("currency_pair", "")
    if not name:
        raise _refused("MISSING_REQUIRED_PARAM", "Missing required parameter: currency_pair")
    market = find_market(request, _pair_id, name)
    if market is not None:
        return market
    known = {currency for each in request.markets.values() for currency in (each.base, each.quote)}
    for currency in name.split("_"):
        if "_" in name and currency not in known:
            raise _refused("INVALID_CURRENCY", f"Invalid currency {currency}")
    raise _refused("INVALID_CURRENCY_PAIR", f"Invalid currency pair {name}")


def _page(request: WireRequest, span: Span, rows: Rows) -> Reply:
    values = row_texts(rows, span.market)
    closed_end_ms = span.timeframe.closed_end(request.now_ms)
    columns = (
        map(str, (rows.open_ms // 1_000).tolist()),
        texts(turnover(rows), 8),
        values.close,
        values.high,
        values.low,
        values.open,
        values.volume,
        ["true" if open_ms < closed_end_ms else "false" for open_ms in rows.open_ms.tolist()],
    )
    return Reply.of_json([list(row) for row in zip(*columns, strict=True)])


def _pairs(request: WireRequest) -> Reply:
    return Reply.of_json([_pair(market, request.now_ms) for market in listed_markets(request)])


def _pair(market: Market, now_ms: int) -> dict[str, object]:
    return {
        "id": _pair_id(market),
        "base": market.base,
        "base_name": market.base,
        "quote": market.quote,
        "quote_name": market.quote,
        "fee": "0.2",
        "min_base_amount": f"{10.0**-market.volume_decimals:.{market.volume_decimals}f}",
        "min_quote_amount": "3",
        "max_quote_amount": "5000000",
        "amount_precision": market.volume_decimals,
        "precision": market.price_decimals,
        "trade_status": "tradable" if market.is_trading(now_ms) else "untradable",
        "sell_start": 0,
        "buy_start": market.listed_ms // 1_000,
        "delisting_time": (market.delisted_ms or 0) // 1_000,
        "type": "normal",
        "trade_url": f"https://www.gate.com/trade/{_pair_id(market)}",
    }


def _pair_id(market: Market) -> str:
    return f"{market.base}_{market.quote}"


def _bad_value(name: str, value: object) -> Refused:
    return _refused("INVALID_PARAM_VALUE", f"Invalid request parameter `{name}` value: {value}")


def _refused(label: str, message: str) -> Refused:
    return Refused(_failure(label, message))


def _failure(label: str, message: str, status: int = 400) -> Reply:
    return Reply.of_json({"label": label, "message": message}, status)


GATE: Final = Wire(
    name="gate",
    limits=(Limit(200, 10_000),),
    markets=markets_quoted_in("USDT", "USDC"),
    routes=(
        Route("/api/v4/spot/candlesticks", span=_span, page=_page),
        Route("/api/v4/spot/currency_pairs", answer=_pairs),
        Route("/api/v4/margin/currency_pairs", answer=lambda _request: Reply.of_json([])),
        Route("/api/v4/spot/time", answer=lambda request: Reply.of_json({"server_time": request.now_ms})),
    ),
    errors=STATUS_ERRORS,
    write_error=_failure,
    punishment=Punishment(counts_refused=False),
    told_usage={"X-Gate-RateLimit-Limit": "{limit}", "X-Gate-RateLimit-Requests-Remain": "{remaining}"},
    told_wait={"X-Gate-RateLimit-Reset-Timestamp": "{at_s}"},
)
