"""Crypto.com Exchange, /exchange/v1/public. Ascending, start exclusive, a code in every body. See exchange-docs.crypto.com."""

from collections.abc import Mapping
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
    whole_number,
)
from shared.domain.timeframes import TIMEFRAMES

FRAMES: Final = {
    **{name: name for name in ("1m", "5m", "15m", "30m", "1h", "4h", "6h", "12h", "1M")},
    "1D": "1d",
}
COUNT_DEFAULT: Final = 25
COUNT_MAX: Final = 300
STATUS_ERRORS: Final = {
    403: (40101, "Unauthorized"),
    429: (42901, "TOO_MANY_REQUESTS"),
    500: (50001, "INTERNAL_ERROR"),
    503: (9010001, "SERVICE_UNAVAILABLE"),
}


def _span(request: WireRequest) -> Span:
    query = request.query
    market = find_market(request, _name, query.get("instrument_name", ""))
    if market is None:
        raise _refused(40004, "Invalid instrument_name")
    if query.get("timeframe", "1m") not in FRAMES:
        raise _refused(40003, "Invalid request")
    start_ms, end_ms, count = (whole_number(query, name, _bad_parameter) for name in ("start_ts", "end_ts", "count"))
    frame = TIMEFRAMES[FRAMES[query.get("timeframe", "1m")]]
    rows = min(COUNT_MAX, COUNT_DEFAULT if count is None else max(1, count))
    return Span(market, frame, None if start_ms is None else start_ms + 1, end_ms, rows)


def _page(_request: WireRequest, span: Span, rows: Rows) -> Reply:
    values = row_texts(rows, span.market)
    columns = (values.open, values.high, values.low, values.close, values.volume, rows.open_ms.tolist())
    data = [dict(zip("ohlcvt", row, strict=True)) for row in zip(*columns, strict=True)]
    result = {"interval": span.timeframe.name, "data": data, "instrument_name": _name(span.market)}
    return _answer("public/get-candlestick", result)


def _instruments(request: WireRequest) -> Reply:
    pairs = [_instrument(market, request.now_ms) for market in listed_markets(request)]
    perpetual = {**pairs[0], "symbol": "BTCUSD-PERP", "inst_type": "PERPETUAL_SWAP", "quote_ccy": "USD"}
    return _answer("public/get-instruments", {"data": [perpetual, *pairs]})


def _instrument(market: Market, now_ms: int) -> dict[str, object]:
    return {
        "symbol": _name(market),
        "inst_type": "CCY_PAIR",
        "display_name": f"{market.base}/{market.quote}",
        "base_ccy": market.base,
        "quote_ccy": market.quote,
        "quote_decimals": market.price_decimals,
        "quantity_decimals": market.volume_decimals,
        "price_tick_size": f"{10.0**-market.price_decimals:.{market.price_decimals}f}",
        "qty_tick_size": f"{10.0**-market.volume_decimals:.{market.volume_decimals}f}",
        "max_leverage": "50",
        "tradable": market.is_trading(now_ms),
        "expiry_timestamp_ms": 0,
        "underlying_symbol": "",
    }


def _name(market: Market) -> str:
    return f"{market.base}_{market.quote}"


def _answer(method: str, result: Mapping[str, object]) -> Reply:
    return Reply.of_json({"id": -1, "method": method, "code": 0, "result": result})


def _bad_parameter(_name: str) -> Refused:
    return _refused(40003, "Invalid request")


def _refused(code: int, message: str) -> Refused:
    return Refused(Reply.of_json({"id": -1, "method": "public/get-candlestick", "code": code, "message": message}, 400))


def _refusal(_verdict: Verdict, _now_ms: int) -> Reply:
    return _error(429)


def _error(status: int) -> Reply:
    code, message = STATUS_ERRORS.get(status, (50001, "INTERNAL_ERROR"))
    return Reply.of_json({"id": -1, "code": code, "message": message}, status)


CRYPTOCOM: Final = Wire(
    name="cryptocom",
    limits=(Limit(100, 1_000),),
    markets=markets_quoted_in("USD", "USDT"),
    routes=(
        Route("/exchange/v1/public/get-candlestick", span=_span, page=_page),
        Route("/exchange/v1/public/get-instruments", answer=_instruments),
    ),
    refusal=_refusal,
    error=_error,
    punishment=Punishment(counts_refused=False),
)
