"""Bitstamp, /api/v2. Source: bitstamp.net/api; what a range that is too wide keeps and how starts snap, as others measured."""

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
    whole_number,
)
from shared.domain.timeframes import TIMEFRAMES

# 259200 is not served here: on which days its candles open is not known.
STEPS: Final = {
    **{str(count * 60): f"{count}m" for count in (1, 3, 5, 15, 30)},
    **{str(count * 3_600): f"{count}h" for count in (1, 2, 4, 6, 12)},
    "86400": "1d",
}
LIMIT_MAX: Final = 1_000
COLUMNS: Final = ("timestamp", "open", "high", "low", "close", "volume")
STATUS_ERRORS: Final = {
    400: ("400.001", "Unknown validation error."),
    404: ("404.001", "Unknown not found error."),
    429: ("400.067", "Request rejected due to exceeded client rate limit."),
    None: ("500.001", "Unknown server error."),
}


def _span(request: WireRequest) -> Span:
    query = request.query
    market = find_market(request, _market_symbol, request.path_params["pair"])
    if market is None:
        raise Refused(_failure("404.003", "Currency pair not found for corresponding request.", 404))
    if query.get("step", "") not in STEPS:
        raise _invalid("step")
    frame = TIMEFRAMES[STEPS[query["step"]]]
    start_s, end_s, limit = (whole_number(query, name, _invalid) for name in ("start", "end", "limit"))
    if limit is None or not 1 <= limit <= LIMIT_MAX:
        raise _invalid("limit")
    end_ms = None if end_s is None else end_s * 1_000 + 1
    if query.get("exclude_current_candle", "").lower() == "true":
        end_ms = min(frame.closed_end(request.now_ms), request.now_ms if end_ms is None else end_ms)
    # A start inside of a candle means that candle. Without an end it goes forward, otherwise it keeps the newest.
    start_ms = None if start_s is None else frame.floor(start_s * 1_000)
    return Span(market, frame, start_ms, end_ms, limit, keeps_oldest=start_s is not None and end_s is None)


def _page(_request: WireRequest, span: Span, rows: Rows) -> Reply:
    values = row_texts(rows, span.market)
    opens = map(str, (rows.open_ms // 1_000).tolist())
    columns = (opens, values.open, values.high, values.low, values.close, values.volume)
    ohlc = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]
    return Reply.of_json({"data": {"pair": f"{span.market.base}/{span.market.quote}", "ohlc": ohlc}})


def _markets(request: WireRequest) -> Reply:
    listed = [_market(market, request.now_ms) for market in listed_markets(request)]
    perpetuals = [
        {**market, "name": f"{market['name']}-PERP", "market_symbol": f"{market['market_symbol']}-perp"}
        | {"market_type": "PERPETUAL", "payoff_type": "Linear", "contract_size": "1.00000000"}
        for market in listed
        if market["name"] in ("BTC/USD", "ETH/USD")
    ]
    return Reply.of_json(listed + perpetuals)


def _market(market: Market, now_ms: int) -> dict[str, object]:
    return {
        "name": f"{market.base}/{market.quote}",
        "market_symbol": _market_symbol(market),
        "base_currency": market.base,
        "base_decimals": market.volume_decimals,
        "counter_currency": market.quote,
        "counter_decimals": market.price_decimals,
        "minimum_order_value": "10",
        "trading": "Enabled" if market.is_trading(now_ms) else "Disabled",
        "instant_order_counter_decimals": market.price_decimals,
        "instant_and_market_orders": "Enabled",
        "description": f"{market.base} / {market.quote}",
        "market_type": "SPOT",
    }


def _market_symbol(market: Market) -> str:
    return f"{market.base}{market.quote}".lower()


def _failure(code: str, explanation: str, status: int) -> Reply:
    answer = {"status": "error", "reason": explanation, "response_code": code, "response_explanation": explanation}
    return Reply.of_json(answer, status)


def _invalid(field: str) -> Refused:
    error = {"field": field, "message": f"Invalid value for {field}.", "code": "invalid"}
    return Refused(Reply.of_json({"code": "validation-error", "errors": [error]}, 400))


BITSTAMP: Final = Wire(
    name="bitstamp",
    limits=(Limit(400, 1_000), Limit(10_000, 600_000)),
    markets=markets_quoted_in("USD", "EUR"),
    routes=(
        Route("/api/v2/ohlc/{pair}/", span=_span, page=_page),
        Route("/api/v2/markets/", answer=_markets),
        Route("/api/v2/ticker/btcusd/", answer=lambda request: Reply.of_json({"timestamp": str(request.now_ms // 1_000)})),
    ),
    errors=STATUS_ERRORS,
    write_error=_failure,
    punishment=Punishment(),
)
