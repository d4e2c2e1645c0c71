"""Crypto.com Exchange, /exchange/v1. Source: exchange-docs.crypto.com; refusals as measured by others.

Undocumented: both bounds are taken as exclusive, which is how ccxt asks.
"""

from typing import Final

from local_emulator.simulator.arrivals import Limit, Punishment
from local_emulator.simulator.market import Market, markets_quoted_in
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
    whole_number,
)
from shared.domain.timeframes import TIMEFRAMES

# The older names are still taken. 14D is not served here.
INTERVALS: Final = {
    **{name: name for name in ("1m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1M")},
    **{f"M{minutes}": f"{minutes}m" for minutes in (1, 5, 15, 30)},
    **{f"H{hours}": f"{hours}h" for hours in (1, 2, 4, 6, 12)},
    **dict.fromkeys(("1D", "1d", "D1"), "1d"),
    "7D": "1w",
}
INTERVAL_DEFAULT: Final = "M1"
COUNT_DEFAULT: Final = 25
COUNT_MAX: Final = 300
STATUS_ERRORS: Final[Errors] = {
    403: (40103, "IP_ILLEGAL"),
    # From the server, not from the exchange.
    404: Reply.of_json({"status": 404, "error": "Not Found", "path": "/v1/public"}, 404),
    408: (40801, "REQUEST_TIMEOUT"),
    429: (42901, "TOO_MANY_REQUESTS"),
    503: (9010001, "SYSTEM_MAINTENANCE"),
    None: (50001, "ERR_INTERNAL"),
}


def _span(request: WireRequest) -> Span:
    query = request.query
    market = _market(request)
    interval = query.get("timeframe", INTERVAL_DEFAULT)
    if interval not in INTERVALS:
        raise _invalid("timeframe")
    after_ms, end_ms, count = (whole_number(query, name, _invalid) for name in ("start_ts", "end_ts", "count"))
    count = COUNT_DEFAULT if count is None else count
    if count < 1:
        raise _invalid("count")
    start_ms = None if after_ms is None else after_ms + 1
    return Span(market, TIMEFRAMES[INTERVALS[interval]], start_ms, end_ms, min(count, COUNT_MAX))


def _market(request: WireRequest) -> Market:
    if not request.query.get("instrument_name"):
        raise _refused("Missing instrument_name param")
    market = find_market(request, _instrument_name, request.query["instrument_name"])
    if market is None:
        raise _invalid("instrument_name")
    return market


def _page(request: WireRequest, span: Span, rows: Rows) -> Reply:
    values = row_texts(rows, span.market)
    columns = (values.open, values.high, values.low, values.close, values.volume, rows.open_ms.tolist())
    return _answer(
        "get-candlestick",
        interval=request.query.get("timeframe", INTERVAL_DEFAULT),
        data=[dict(zip("ohlcvt", row, strict=True)) for row in zip(*columns, strict=True)],
        instrument_name=_instrument_name(span.market),
    )


def _instruments(request: WireRequest) -> Reply:
    """What trades now. Contracts are in the same list."""
    spot = [_instrument(market) for market in listed_markets(request) if market.is_trading(request.now_ms)]
    perpetual = {
        **spot[0],
        "symbol": "BTCUSD-PERP",
        "inst_type": "PERPETUAL_SWAP",
        "display_name": "BTCUSD Perpetual",
        "base_ccy": "BTC",
        "quote_ccy": "USD",
        "underlying_symbol": "BTCUSD-INDEX",
        "contract_size": "1",
    }
    return _answer("get-instruments", data=[perpetual, *spot])


def _instrument(market: Market) -> dict[str, object]:
    return {
        "symbol": _instrument_name(market),
        "inst_type": "CCY_PAIR",
        "display_name": f"{market.base}/{market.quote}",
        "base_ccy": market.base,
        "quote_ccy": market.quote,
        "quote_decimals": market.price_decimals,
        "quantity_decimals": market.volume_decimals,
        "price_tick_size": f"{10.0**-market.price_decimals:.{market.price_decimals}f}",
        "qty_tick_size": f"{10.0**-market.volume_decimals:.{market.volume_decimals}f}",
        "max_leverage": "50",
        "tradable": True,
        "expiry_timestamp_ms": 0,
        "beta_product": False,
        "margin_buy_enabled": False,
        "margin_sell_enabled": False,
    }


def _book(request: WireRequest) -> Reply:
    """One level on each side, at the usual price."""
    market = _market(request)
    price = f"{market.price_usual:.{market.price_decimals}f}"
    book = {"bids": [[price, "1", "1"]], "asks": [[price, "1", "1"]], "t": request.now_ms}
    return _answer("get-book", depth=1, data=[book], instrument_name=_instrument_name(market))


def _instrument_name(market: Market) -> str:
    return f"{market.base}_{market.quote}"


def _answer(method: str, **result: object) -> Reply:
    return Reply.of_json({"id": -1, "method": f"public/{method}", "code": 0, "result": result})


def _invalid(name: str) -> Refused:
    return _refused(f"Invalid {name}")


def _refused(message: str) -> Refused:
    return Refused(_failure(40004, message))


def _failure(code: int, message: str, status: int = 400) -> Reply:
    return Reply.of_json({"code": code, "message": message}, status)


CRYPTOCOM: Final = Wire(
    name="cryptocom",
    limits=(Limit(100, 1_000),),
    markets=markets_quoted_in("USD", "USDT"),
    routes=(
        Route("/exchange/v1/public/get-candlestick", span=_span, page=_page),
        Route("/exchange/v1/public/get-instruments", answer=_instruments, weight=4),
        Route("/exchange/v1/public/get-book", answer=_book),
    ),
    errors=STATUS_ERRORS,
    write_error=_failure,
    punishment=Punishment(counts_refused=False),
)
