"""OKX spot, /api/v5. Errors come with a code inside HTTP 200 but for the limit. Source: okx.com/docs-v5."""

from collections.abc import Sequence
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
from shared.domain.timeframes import TIMEFRAMES

# Bars of six hours and more without `utc` open by Hong Kong's clock: they are not served here, so nobody can ask for them.
BARS: Final = {
    **{name: name for name in ("1m", "3m", "5m", "15m", "30m")},
    "1H": "1h",
    "2H": "2h",
    "4H": "4h",
    "6Hutc": "6h",
    "12Hutc": "12h",
    "1Dutc": "1d",
    "3Dutc": "3d",
    "1Wutc": "1w",
    "1Mutc": "1M",
}
LIMIT_DEFAULT: Final = 100
# So far back the plain endpoint reaches.
RECENT_BARS: Final = 1_440
STATUS_ERRORS: Final = {
    403: ("50030", "You don't have permission to use this API endpoint"),
    429: ("50011", "Too Many Requests"),
    503: ("50001", "Service temporarily unavailable. Try again later"),
    None: ("50026", "System error. Try again later"),
}


def _recent_span(request: WireRequest) -> Span:
    span = _span(request, 300)
    oldest_ms = span.timeframe.shift(span.timeframe.floor(request.now_ms), -RECENT_BARS)
    start_ms = oldest_ms if span.start_ms is None else max(oldest_ms, span.start_ms)
    return Span(span.market, span.timeframe, start_ms, span.end_ms, span.limit)


def _archive_span(request: WireRequest) -> Span:
    return _span(request, 100)


def _span(request: WireRequest, limit_max: int) -> Span:
    query = request.query
    if not query.get("instId"):
        raise _refused("50014", "Parameter instId can not be empty.")
    market = find_market(request, _instrument_id, query["instId"])
    if market is None:
        raise _refused("51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")
    if query.get("bar", "1m") not in BARS:
        raise _refused("51000", "Parameter bar error")
    frame = TIMEFRAMES[BARS[query.get("bar", "1m")]]
    after_ms, before_ms, limit = (whole_number(query, name, _bad_parameter) for name in ("after", "before", "limit"))
    limit = min(limit_max, LIMIT_DEFAULT if limit is None else limit)
    if limit < 1:
        raise _bad_parameter("limit")
    # Newer than `before`, older than `after`, both exclusive; of what lies between, the newest.
    return Span(market, frame, None if before_ms is None else before_ms + 1, after_ms, limit)


def _page(request: WireRequest, span: Span, rows: Rows) -> Reply:
    values = row_texts(rows, span.market)
    quote = texts(turnover(rows), 8)
    closed_end_ms = span.timeframe.closed_end(request.now_ms)
    confirmed = ["1" if open_ms < closed_end_ms else "0" for open_ms in rows.open_ms.tolist()]
    opens = map(str, rows.open_ms.tolist())
    prices = (values.open, values.high, values.low, values.close)
    columns = (opens, *prices, values.volume, quote, quote, confirmed)
    return _answer([list(row) for row in zip(*columns, strict=True)][::-1])


def _instruments(request: WireRequest) -> Reply:
    is_spot = request.query.get("instType") == "SPOT"
    return _answer([_instrument(market, request.now_ms) for market in listed_markets(request)] if is_spot else [])


def _instrument(market: Market, now_ms: int) -> dict[str, object]:
    return {
        "alias": "",
        "baseCcy": market.base,
        "category": "1",
        "ctMult": "",
        "ctType": "",
        "ctVal": "",
        "ctValCcy": "",
        "expTime": "",
        "instFamily": "",
        "instId": _instrument_id(market),
        "instType": "SPOT",
        "lever": "",
        "listTime": str(market.listed_ms),
        "lotSz": f"{10.0**-market.volume_decimals:.{market.volume_decimals}f}",
        "minSz": f"{10.0**-market.volume_decimals:.{market.volume_decimals}f}",
        "optType": "",
        "quoteCcy": market.quote,
        "settleCcy": "",
        "state": "live" if market.is_trading(now_ms) else "suspend",
        "stk": "",
        "tickSz": f"{10.0**-market.price_decimals:.{market.price_decimals}f}",
        "uly": "",
    }


def _instrument_id(market: Market) -> str:
    return f"{market.base}-{market.quote}"


def _answer(data: Sequence[object]) -> Reply:
    return Reply.of_json({"code": "0", "msg": "", "data": data})


def _bad_parameter(name: str) -> Refused:
    return _refused("51000", f"Parameter {name} error")


def _refused(code: str, message: str) -> Refused:
    return Refused(_failure(code, message))


def _failure(code: str, message: str, status: int = 200) -> Reply:
    return Reply.of_json({"code": code, "msg": message, "data": []}, status)


OKX: Final = Wire(
    name="okx",
    limits=(Limit(20, 2_000),),
    markets=markets_quoted_in("USDT", "USDC"),
    routes=(
        Route("/api/v5/market/candles", span=_recent_span, page=_page),
        Route("/api/v5/market/history-candles", span=_archive_span, page=_page),
        Route("/api/v5/public/instruments", answer=_instruments),
        Route("/api/v5/public/time", answer=lambda request: _answer([{"ts": str(request.now_ms)}])),
    ),
    errors=STATUS_ERRORS,
    write_error=_failure,
    punishment=Punishment(counts_refused=False),
)
