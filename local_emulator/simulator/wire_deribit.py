"""Deribit, /api/v2/public over HTTP: columns instead of rows, and days that open at 08:00 UTC. Source: docs.deribit.com."""

from typing import Final

from local_emulator.simulator.arrivals import Limit, Punishment
from local_emulator.simulator.market import Market, markets_quoted_in, perpetuals
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
    turnover,
    whole_number,
)
from shared.domain.timeframes import TIMEFRAMES

# 1D opens at 08:00 UTC: it is not served here, so nobody can ask for it.
RESOLUTIONS: Final = {
    "1": "1m",
    "3": "3m",
    "5": "5m",
    "10": "10m",
    "15": "15m",
    "30": "30m",
    "60": "1h",
    "120": "2h",
    "180": "3h",
    "360": "6h",
    "720": "12h",
}
# Of a wider range the newest come, and nothing says that the others are missing.
ROWS_MAX: Final = 5_001
INVERSE_BASES: Final = ("BTC", "ETH")
NEVER_MS: Final = 32_503_708_800_000
STATUS_ERRORS: Final = {
    403: (13021, "forbidden"),
    404: (-32601, "Method not found"),
    429: (10028, "too_many_requests"),
    503: (11051, "system_maintenance"),
    None: (11094, "internal_server_error"),
}


def _span(request: WireRequest) -> Span:
    query = request.query
    market = find_market(request, _instrument_name, query.get("instrument_name", ""))
    if market is None:
        raise _bad_parameter("instrument_name")
    if query.get("resolution", "") not in RESOLUTIONS:
        raise _bad_parameter("resolution")
    start_ms, end_ms = (whole_number(query, name, _bad_parameter) for name in ("start_timestamp", "end_timestamp"))
    if start_ms is None:
        raise _bad_parameter("start_timestamp")
    if end_ms is None or end_ms < start_ms:
        raise _bad_parameter("end_timestamp")
    frame = TIMEFRAMES[RESOLUTIONS[query["resolution"]]]
    # The candle that holds the start is the first; the end is inclusive.
    return Span(market, frame, frame.floor(start_ms), end_ms + 1, ROWS_MAX)


def _page(request: WireRequest, _span: Span, rows: Rows) -> Reply:
    columns = {
        "volume": rows.volume,
        "ticks": rows.open_ms,
        "open": rows.open,
        "low": rows.low,
        "high": rows.high,
        "cost": turnover(rows),
        "close": rows.close,
    }
    status = {"status": "ok" if len(rows) else "no_data"}
    return _answer(request, {name: column.tolist() for name, column in columns.items()} | status)


def _instruments(request: WireRequest) -> Reply:
    listed = [_instrument(market, request.now_ms) for market in listed_markets(request)]
    kind = request.query.get("kind")
    return _answer(request, [row for row in listed + _others() if kind in (None, row["kind"])])


def _instrument(market: Market, now_ms: int) -> dict[str, object]:
    contract = {
        "settlement_currency": market.settle,
        "settlement_period": "perpetual",
        "instrument_type": "reversed" if market.settle == market.base else "linear",
        "max_leverage": 50,
        "expiration_timestamp": NEVER_MS,
    }
    return {
        "kind": "future" if market.settle else "spot",
        "instrument_name": _instrument_name(market),
        "base_currency": market.base,
        "counter_currency": market.quote,
        "quote_currency": market.quote,
        "is_active": market.is_trading(now_ms),
        "creation_timestamp": market.listed_ms,
        "tick_size": 10.0**-market.price_decimals,
        "min_trade_amount": 10.0**-market.volume_decimals,
        "contract_size": 1.0,
        "taker_commission": 0.0005,
        "maker_commission": 0.0,
        **(contract if market.settle else {}),
    }


def _others() -> list[dict[str, object]]:
    """What a list also has: a future and an option with a date, a combination, and spot that is traded elsewhere."""
    dated = {"base_currency": "BTC", "counter_currency": "USD", "settlement_currency": "BTC", "settlement_period": "month"}
    common = {"is_active": True, "creation_timestamp": 1_719_561_600_000, "tick_size": 0.5, "min_trade_amount": 10.0}
    option = {"option_type": "call", "strike": 100_000.0, "quote_currency": "BTC"}
    return [
        {**common, **dated, "kind": "future", "instrument_name": "BTC-25DEC26", "expiration_timestamp": 1_798_185_600_000},
        {
            **common,
            **dated,
            **option,
            "kind": "option",
            "instrument_name": "BTC-25DEC26-100000-C",
            "expiration_timestamp": 1_798_185_600_000,
        },
        {**common, **dated, "kind": "future_combo", "instrument_name": "BTC-FS-25DEC26_PERP"},
        {
            **common,
            "kind": "spot",
            "instrument_name": "PAXG_USDC",
            "base_currency": "PAXG",
            "counter_currency": "USDC",
            "is_cbe_routed": True,
            "is_csr": True,
        },
    ]


def _instrument_name(market: Market) -> str:
    if not market.settle:
        return f"{market.base}_{market.quote}"
    return f"{market.base}-PERPETUAL" if market.settle == market.base else f"{market.base}_{market.quote}-PERPETUAL"


def _answer(request: WireRequest, result: object) -> Reply:
    return Reply.of_json({"jsonrpc": "2.0", "result": result, **_stamps(request.now_ms)})


def _stamps(now_ms: int) -> dict[str, object]:
    return {"usIn": now_ms * 1_000, "usOut": now_ms * 1_000 + 500, "usDiff": 500, "testnet": False}


def _bad_parameter(name: str) -> Refused:
    data = {"reason": "invalid value", "param": name}
    return Refused(_failure(-32602, "Invalid params", data=data))


def _failure(code: int, message: str, status: int = 400, **more: object) -> Reply:
    return Reply.of_json({"jsonrpc": "2.0", "error": {"message": message, "code": code, **more}, "testnet": False}, status)


DERIBIT: Final = Wire(
    name="deribit",
    # A pool of a hundred calls that is filled up by twenty a second.
    limits=(Limit(100, 5_000),),
    markets=(
        *markets_quoted_in("USDC"),
        *(market for market in perpetuals("USD", "") if market.base in INVERSE_BASES),
        *perpetuals("USDC", "USDC"),
    ),
    routes=(
        Route("/api/v2/public/get_tradingview_chart_data", span=_span, page=_page),
        Route("/api/v2/public/get_instruments", answer=_instruments, weight=20),
        Route("/api/v2/public/get_time", answer=lambda request: _answer(request, request.now_ms)),
    ),
    errors=STATUS_ERRORS,
    write_error=_failure,
    punishment=Punishment(counts_refused=False),
)
