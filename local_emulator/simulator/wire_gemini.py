"""Gemini spot. Newest first, no parameters: one window a timeframe. Errors name a reason. Source: docs.gemini.com."""

from typing import Final

from local_emulator.simulator.arrivals import Limit, Punishment, Verdict
from local_emulator.simulator.market import Market, markets_quoted_in
from local_emulator.simulator.rows import Rows
from local_emulator.simulator.wire import Refused, Reply, Route, Span, Wire, WireRequest, find_market
from shared.domain.timeframes import TIMEFRAMES

FRAMES: Final = {"1m": "1m", "5m": "5m", "15m": "15m", "30m": "30m", "1hr": "1h", "6hr": "6h", "1day": "1d"}
# With the running candle; of the other timeframes it is not documented, so as many are made up.
ROWS_MAX: Final = 1_441
STATUS_ERRORS: Final = {
    404: ("EndpointNotFound", "API entry point not found"),
    429: ("RateLimit", "Requests were made too frequently"),
    500: ("System", "We are experiencing technical issues"),
    503: ("Maintenance", "The system is down for maintenance"),
}


def _span(request: WireRequest) -> Span:
    market = find_market(request, _name, request.path_params["symbol"].lower())
    if market is None:
        raise _refused("Bad Request", f"Supplied value '{request.path_params['symbol']}' is not a valid symbol")
    if request.path_params["width"] not in FRAMES:
        raise _refused("Bad Request", f"Invalid timeframe '{request.path_params['width']}'")
    frame = TIMEFRAMES[FRAMES[request.path_params["width"]]]
    return Span(market, frame, frame.shift(frame.floor(request.now_ms), 1 - ROWS_MAX))


def _page(_request: WireRequest, _span: Span, rows: Rows) -> Reply:
    columns = (rows.open_ms, rows.open, rows.high, rows.low, rows.close, rows.volume)
    newest_first = [column[::-1].tolist() for column in columns]
    return Reply.of_json([list(row) for row in zip(*newest_first, strict=True)])


def _symbols(request: WireRequest) -> Reply:
    trading = [_name(market) for market in request.markets.values() if market.is_trading(request.now_ms)]
    return Reply.of_json([*trading, "btcgusdperp"])


def _name(market: Market) -> str:
    return (market.base + market.quote).lower()


def _refused(reason: str, message: str) -> Refused:
    return Refused(Reply.of_json({"result": "error", "reason": reason, "message": message}, 400))


def _refusal(_verdict: Verdict, _now_ms: int) -> Reply:
    return _error(429)


def _error(status: int) -> Reply:
    reason, message = STATUS_ERRORS.get(status, ("System", "We are experiencing technical issues"))
    return Reply.of_json({"result": "error", "reason": reason, "message": message}, status)


GEMINI: Final = Wire(
    name="gemini",
    limits=(Limit(120, 60_000),),
    markets=markets_quoted_in("USD", "USDT"),
    routes=(
        Route("/v2/candles/{symbol}/{width}", span=_span, page=_page),
        Route("/v1/symbols", answer=_symbols),
    ),
    refusal=_refusal,
    error=_error,
    punishment=Punishment(counts_refused=False),
)
