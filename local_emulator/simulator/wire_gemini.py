"""Gemini spot, /v1 and /v2: one fixed window for each width, whatever is asked. Source: developer.gemini.com; see gemini.py."""

from typing import Final

import numpy as np

from local_emulator.simulator.arrivals import Limit, Punishment
from local_emulator.simulator.market import Market, markets_quoted_in
from local_emulator.simulator.rows import Rows
from local_emulator.simulator.wire import Refused, Reply, Route, Span, Wire, WireRequest, find_market, listed_markets
from shared.domain.timeframes import TIMEFRAMES

# Width: timeframe, and how many rows there are with the running one. 6hr, 1day, 1w and 1mo are not served here: they open at
# other times than ours.
WIDTHS: Final = {
    "1m": ("1m", 1_440),
    "5m": ("5m", 2_015),
    "15m": ("15m", 1_343),
    "30m": ("30m", 1_439),
    "1hr": ("1h", 1_463),
}
WIDTHS_SAID: Final = "1m, 5m, 15m, 30m, 1hr, 6hr, 1day, 1w, 1mo"
STATUS_ERRORS: Final = {
    403: ("MissingRole", "You do not have the role that is needed to access this endpoint"),
    404: ("EndpointNotFound", "API entry point not found"),
    429: ("RateLimit", "Requests were made too frequently"),
    502: ("System", "We are investigating technical issues with the Gemini Exchange."),
    503: ("Maintenance", "The Gemini Exchange is currently undergoing maintenance."),
    None: ("System", "We are experiencing technical issues"),
}


def _span(request: WireRequest) -> Span:
    name = request.path_params["symbol"]
    market = find_market(request, _symbol_id, name.lower())
    if market is None:
        raise Refused(Reply(400, f"Supplied value '{name}' is not a valid symbol".encode(), media_type="text/plain"))
    if request.path_params["width"] not in WIDTHS:
        message = f"time_frame expects one of the following: [{WIDTHS_SAID}]"
        raise Refused(_failure("InvalidParameterValue", message, 400))
    timeframe, rows = WIDTHS[request.path_params["width"]]
    frame = TIMEFRAMES[timeframe]
    return Span(market, frame, frame.shift(frame.floor(request.now_ms), 1 - rows))


def _page(request: WireRequest, span: Span, rows: Rows) -> Reply:
    running_ms = span.timeframe.floor(request.now_ms)
    # The running candle comes with its first trade.
    shown = rows.at(np.flatnonzero((rows.open_ms < running_ms) | (rows.volume > 0)))
    columns = (shown.open_ms, shown.open, shown.high, shown.low, shown.close, shown.volume)
    return Reply.of_json([list(row) for row in zip(*(column[::-1].tolist() for column in columns), strict=True)])


def _symbols(request: WireRequest) -> Reply:
    """Perpetuals stand among them; what is closed too."""
    spot = [_symbol_id(market) for market in listed_markets(request)]
    return Reply.of_json(sorted([*spot, "btcgusdperp", "ethusdcperp"]))


def _symbol_id(market: Market) -> str:
    return (market.base + market.quote).lower()


def _failure(reason: str, message: str, status: int) -> Reply:
    return Reply.of_json({"result": "error", "reason": reason, "message": message}, status)


GEMINI: Final = Wire(
    name="gemini",
    limits=(Limit(120, 60_000),),
    # Without OMG: nobody can tell OMG/USD from OM/GUSD by its id.
    markets=tuple(market for market in markets_quoted_in("USD", "GUSD", "USDC") if market.base != "OMG"),
    routes=(
        Route("/v2/candles/{symbol}/{width}", span=_span, page=_page),
        Route("/v1/symbols", answer=_symbols),
    ),
    errors=STATUS_ERRORS,
    write_error=_failure,
    punishment=Punishment(counts_refused=False),
)
