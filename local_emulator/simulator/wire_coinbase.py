"""Coinbase Exchange. Source: docs.cdp.coinbase.com; the range error as marianogappa/crypto-candles met it."""

import re
from datetime import UTC, datetime
from typing import Final

from local_emulator.simulator.arrivals import Limit, Punishment
from local_emulator.simulator.market import Market, markets_quoted_in
from local_emulator.simulator.rows import Rows
from local_emulator.simulator.wire import Refused, Reply, Route, Span, Wire, WireRequest
from shared.domain.timeframes import TIMEFRAMES

GRANULARITIES: Final = {"60": "1m", "300": "5m", "900": "15m", "3600": "1h", "21600": "6h", "86400": "1d"}
ROWS_MAX: Final = 300
TOO_WIDE: Final = (
    "granularity too small for the requested time range. Count of aggregations requested exceeds 300"  # their own words
)
STATUS_ERRORS: Final = {
    403: ("Forbidden",),
    429: ("Public rate limit exceeded",),
    451: ("Unavailable For Legal Reasons",),
    503: ("Service Unavailable",),
    None: ("Internal server error",),
}


def _span(request: WireRequest) -> Span:
    market = _market(request)
    query = request.query
    if query.get("granularity", "60") not in GRANULARITIES:
        raise _refused("Unsupported granularity")
    frame = TIMEFRAMES[GRANULARITIES[query.get("granularity", "60")]]
    if not query.get("start") or not query.get("end"):
        running_ms = frame.floor(request.now_ms)
        return Span(market, frame, frame.shift(running_ms, 1 - ROWS_MAX))
    start_ms, end_ms = _milliseconds("start", query["start"]), _milliseconds("end", query["end"])
    if start_ms > end_ms:
        raise _refused("start must be before end")
    if frame.count(start_ms, end_ms + 1) > ROWS_MAX:
        raise _refused(TOO_WIDE)
    return Span(market, frame, start_ms, end_ms + 1)


def _page(_request: WireRequest, _span: Span, rows: Rows) -> Reply:
    columns = (rows.open_ms // 1_000, rows.low, rows.high, rows.open, rows.close, rows.volume)
    newest_first = [column[::-1].tolist() for column in columns]
    return Reply.of_json([list(row) for row in zip(*newest_first, strict=True)])


def _milliseconds(name: str, text: str) -> int:
    """ISO 8601 or Unix seconds."""
    if re.fullmatch(r"\d{1,11}(\.\d+)?", text):
        return int(float(text) * 1_000)
    try:
        # A plus sign that nobody escaped arrives as a blank.
        moment = datetime.fromisoformat(text.replace(" 00:00", "+00:00"))
    except ValueError:
        raise _refused(f"{name}: invalid time {text}") from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1_000)


def _market(request: WireRequest) -> Market:
    for market in request.markets.values():
        if _product_id(market) == request.path_params["product_id"].upper() and market.listed_ms <= request.now_ms:
            return market
    raise _refused("NotFound", 404)


def _products(request: WireRequest) -> Reply:
    return Reply.of_json(
        [_product(market, request.now_ms) for market in request.markets.values() if market.listed_ms <= request.now_ms]
    )


def _product(market: Market, now_ms: int) -> dict[str, object]:
    return {
        "id": _product_id(market),
        "base_currency": market.base,
        "quote_currency": market.quote,
        "quote_increment": f"{10.0**-market.price_decimals:.{market.price_decimals}f}",
        "base_increment": f"{10.0**-market.volume_decimals:.{market.volume_decimals}f}",
        "display_name": f"{market.base}-{market.quote}",
        "min_market_funds": "1",
        "margin_enabled": False,
        "fx_stablecoin": False,
        "max_slippage_percentage": "0.02000000",
        "post_only": False,
        "limit_only": False,
        "cancel_only": False,
        "trading_disabled": not market.is_trading(now_ms),
        "status": "online" if market.is_trading(now_ms) else "delisted",
        "status_message": "",
        "auction_mode": False,
    }


def _product_id(market: Market) -> str:
    return f"{market.base}-{market.quote}"


def _currencies(request: WireRequest) -> Reply:
    codes = sorted({code for market in request.markets.values() for code in (market.base, market.quote)})
    return Reply.of_json(
        [
            {
                "id": code,
                "name": code,
                "min_size": "0.00000001",
                "status": "online",
                "message": "",
                "max_precision": "0.00000001",
                "convertible_to": [],
                "details": {"type": "fiat" if code == "USD" else "crypto", "min_withdrawal_amount": 0.001},
                "default_network": "",
                "supported_networks": [],
            }
            for code in codes
        ]
    )


def _time(request: WireRequest) -> Reply:
    iso = datetime.fromtimestamp(request.now_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Reply.of_json({"iso": iso, "epoch": request.now_ms / 1_000})


def _refused(message: str, status: int = 400) -> Refused:
    return Refused(_failure(message, status))


def _failure(message: str, status: int = 400) -> Reply:
    return Reply.of_json({"message": message}, status)


COINBASE: Final = Wire(
    name="coinbase",
    limits=(Limit(10, 1_000),),
    markets=markets_quoted_in("USD", "USDT"),
    routes=(
        Route("/products/{product_id}/candles", span=_span, page=_page),
        Route("/products", answer=_products),
        Route("/products/{product_id}", answer=lambda request: Reply.of_json(_product(_market(request), request.now_ms))),
        Route("/currencies", answer=_currencies),
        Route("/time", answer=_time),
    ),
    errors=STATUS_ERRORS,
    write_error=_failure,
    punishment=Punishment(counts_refused=False),
    omits_empty=True,
)
