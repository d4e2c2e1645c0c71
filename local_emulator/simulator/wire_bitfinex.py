"""Bitfinex spot, /v2. Answers and errors are plain arrays, an unknown pair has no candles. Source: docs.bitfinex.com."""

from collections.abc import Callable
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
    whole_number,
)
from shared.domain.timeframes import TIMEFRAMES

# Weeks, 14D and months are not served here: on which days they open, and what they hold, is not known.
TIME_FRAMES: Final = {
    **{name: name for name in ("1m", "5m", "15m", "30m", "1h", "3h", "4h", "6h", "12h")},
    "1D": "1d",
}
LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 10_000
NAMES: Final = {"USDT": "UST", "USDC": "UDC"}
BLOCK_MS: Final = 60_000
UNAVAILABLE: Final = {
    "code": 503,
    "error": "temporarily_unavailable",
    "error_description": "Sorry, the service is temporarily unavailable. See https://www.bitfinex.com/ for more info.",
}
STATUS_ERRORS: Final = {
    429: (["error", 11010, "ratelimit: error"],),
    503: (UNAVAILABLE,),
    None: (["error", 10000, "unknown"],),
}
# A pair that does not exist is no error: nothing has ever been traded there.
NOBODY: Final = Market("NOBODY/USD", 1.0, 2, 1.0, is_generated=False)


def _span(request: WireRequest) -> Span:
    kind, _, rest = request.path_params["candle"].partition(":")
    frame_name, _, symbol = rest.partition(":")
    if kind != "trade":
        raise _bad_parameter("key")
    if frame_name not in TIME_FRAMES:
        raise _bad_parameter("time_interval")
    if not symbol.startswith("t"):
        raise _bad_parameter("symbol")
    limit, sort, start_ms, end_ms = (
        whole_number(request.query, name, _bad_parameter) for name in ("limit", "sort", "start", "end")
    )
    limit = LIMIT_DEFAULT if limit is None else limit
    if not 1 <= limit <= LIMIT_MAX:
        raise _bad_parameter("limit")
    if start_ms is not None and end_ms is not None and start_ms >= end_ms:
        raise _bad_parameter("time_interval")
    return Span(
        find_market(request, _pair_id, symbol[1:]) or NOBODY,
        TIMEFRAMES[TIME_FRAMES[frame_name]],
        start_ms,
        None if end_ms is None else end_ms + 1,
        limit,
        keeps_oldest=sort == 1,
    )


def _page(_request: WireRequest, span: Span, rows: Rows) -> Reply:
    columns = (rows.open_ms, rows.open, rows.close, rows.high, rows.low, rows.volume)
    found = [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    return Reply.of_json(found if span.keeps_oldest else found[::-1])


def _configuration(request: WireRequest) -> Reply:
    """One list for each of the labels asked for."""
    traded = [market for market in listed_markets(request) if market.is_trading(request.now_ms)]
    labels = request.path_params["labels"].split(",")
    return Reply.of_json([LISTS[label](traded) if label in LISTS else [] for label in labels])


def _pairs(traded: list[Market]) -> list[object]:
    return [_pair_id(market) for market in traded]


def _pair_details(traded: list[Market]) -> list[object]:
    return [[_pair_id(market), [None, None, None, "0.02", "5000.0", *[None] * 7]] for market in traded]


LISTS: Final[dict[str, Callable[[list[Market]], list[object]]]] = {
    "pub:list:pair:exchange": _pairs,
    "pub:info:pair": _pair_details,
}


def _pair_id(market: Market) -> str:
    base, quote = (NAMES.get(currency, currency) for currency in (market.base, market.quote))
    return base + (":" if max(len(base), len(quote)) > 3 else "") + quote


def _bad_parameter(name: str) -> Refused:
    return Refused(Reply.of_json(["error", 10020, f"{name}: invalid"], 500))


BITFINEX: Final = Wire(
    name="bitfinex",
    limits=(Limit(30, 60_000),),
    markets=markets_quoted_in("USD", "USDT"),
    routes=(
        Route("/v2/candles/{candle}/hist", span=_span, page=_page),
        Route("/v2/conf/{labels}", answer=_configuration),
        Route("/v2/platform/status", answer=lambda _request: Reply.of_json([1])),
    ),
    errors=STATUS_ERRORS,
    write_error=Reply.of_json,
    punishment=Punishment(counts_refused=False, bans_at_once=True, ban_ms=BLOCK_MS, ban_ms_max=BLOCK_MS),
    omits_empty=True,
)
