"""Bitget spot, /api/v2. Source: bitget.com/api-doc; what it does not tell as ccxt's issues 24900, 24933, 25797 measured it."""

from dataclasses import replace
from typing import Final

from local_emulator.simulator.arrivals import Limit, Punishment
from local_emulator.simulator.market import DOLLAR_MARKETS, QUIET, Market, markets_quoted_in
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
from shared.domain.timeframes import DAY_MS, TIMEFRAMES

# Those of six hours and more without `utc` open by Hong Kong's clock: they are not served here, so nobody can ask for them.
GRANULARITIES: Final = {
    **{f"{count}min": f"{count}m" for count in (1, 3, 5, 15, 30)},
    "1h": "1h",
    "4h": "4h",
    "6Hutc": "6h",
    "12Hutc": "12h",
    "1Dutc": "1d",
    "3Dutc": "3d",
    "1Wutc": "1w",
    "1Mutc": "1M",
}
LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000
# Clamped without a word.
LIMITS: Final = {"1d": 300, "3d": 100, "1w": 100, "1M": 100}
ARCHIVE_LIMIT_MAX: Final = 200
# So far back the plain endpoint reaches: a month, or so many bars where that is more.
RECENT_MS: Final = 30 * DAY_MS
RECENT_BARS: Final = 1_440
PERIOD_MS: Final = 1_000
# A token of a share: its coin is written with a small letter, its symbol is not.
SHARE: Final = Market("RAAPL/USDT", 230.0, 2, 4.0, 4, trade_share=QUIET, listed_ms=DOLLAR_MARKETS[0].listed_ms)
STATUS_ERRORS: Final = {
    403: ("40018", "Invalid IP"),
    404: ("40404", "Request URL NOT FOUND"),
    429: ("429", "Too Many Requests"),
    500: ("40725", "service return an error"),
    503: ("40200", "Server upgrade, please try again later"),
    None: ("40015", "System is abnormal, please try again later"),
}


def _recent_span(request: WireRequest) -> Span:
    span = _span(request, LIMIT_MAX)
    frame = span.timeframe
    limit = min(LIMITS.get(frame.name, LIMIT_MAX), span.limit or LIMIT_DEFAULT)
    end_ms = request.now_ms + 1 if span.end_ms is None else span.end_ms
    oldest_ms = min(request.now_ms - RECENT_MS, frame.shift(frame.floor(request.now_ms), -RECENT_BARS))
    if frame.shift(frame.ceil(end_ms), -limit) < oldest_ms:
        # Nothing, not even those that it has.
        return replace(span, start_ms=end_ms, end_ms=end_ms)
    return replace(span, end_ms=end_ms, limit=limit)


def _archive_span(request: WireRequest) -> Span:
    if not request.query.get("endTime"):
        raise _refused(request, "400172", "Parameter verification failed")
    span = _span(request, ARCHIVE_LIMIT_MAX)
    # Only what has closed, both now and at the end.
    closed_end_ms = span.timeframe.floor(min(span.end_ms or 0, request.now_ms))
    return replace(span, end_ms=closed_end_ms)


def _span(request: WireRequest, limit_max: int) -> Span:
    """The newest before the end, which is exclusive; the start changes nothing."""
    query = request.query
    if not query.get("symbol"):
        raise _refused(request, "40019", "Parameter symbol cannot be empty")
    market = find_market(request, _symbol_id, query["symbol"])
    if market is None:
        raise _refused(request, "40034", f"Parameter {query['symbol']} does not exist")
    if query.get("granularity", "") not in GRANULARITIES:
        raise _refused(request, "400171", "Parameter verification failed")
    end_ms, limit = (whole_number(query, name, lambda name: _bad_parameter(request, name)) for name in ("endTime", "limit"))
    limit = LIMIT_DEFAULT if limit is None else limit
    if not 1 <= limit <= limit_max:
        raise _bad_parameter(request, "limit")
    return Span(market, TIMEFRAMES[GRANULARITIES[query["granularity"]]], None, end_ms, limit)


def _page(request: WireRequest, span: Span, rows: Rows) -> Reply:
    values = row_texts(rows, span.market)
    quote = texts(turnover(rows), 8)
    prices = (values.open, values.high, values.low, values.close)
    columns = (map(str, rows.open_ms.tolist()), *prices, values.volume, quote, quote)
    return _answer(request, [list(row) for row in zip(*columns, strict=True)])


def _symbols(request: WireRequest) -> Reply:
    return _answer(request, [_symbol(market, request.now_ms) for market in listed_markets(request)])


def _symbol(market: Market, now_ms: int) -> dict[str, object]:
    return {
        "symbol": _symbol_id(market),
        "baseCoin": "r" + market.base[1:] if market.base == SHARE.base else market.base,
        "quoteCoin": market.quote,
        "minTradeAmount": "0",
        "maxTradeAmount": "10000000000",
        "takerFeeRate": "0.002",
        "makerFeeRate": "0.002",
        "pricePrecision": str(market.price_decimals),
        "quantityPrecision": str(market.volume_decimals),
        "quotePrecision": "6",
        "status": "online" if market.is_trading(now_ms) else "offline",
        "minTradeUSDT": "1",
        "buyLimitPriceRatio": "0.05",
        "sellLimitPriceRatio": "0.05",
        "areaSymbol": "no",
        "orderQuantity": "200",
        "openTime": str(market.listed_ms),
        "offTime": "",
    }


def _symbol_id(market: Market) -> str:
    return market.base + market.quote


def _answer(request: WireRequest, data: object) -> Reply:
    return Reply.of_json({"code": "00000", "msg": "success", "requestTime": request.now_ms, "data": data})


def _bad_parameter(request: WireRequest, name: str) -> Refused:
    return _refused(request, "40020", f"Parameter {name} error")


def _refused(request: WireRequest, code: str, message: str) -> Refused:
    return Refused(Reply.of_json({"code": code, "msg": message, "requestTime": request.now_ms, "data": None}, 400))


def _failure(code: str, message: str, status: int) -> Reply:
    return Reply.of_json({"code": code, "msg": message, "data": None}, status)


BITGET: Final = Wire(
    name="bitget",
    limits=(Limit(20, PERIOD_MS), Limit(6_000, 60_000)),
    markets=(*markets_quoted_in("USDT", "USDC"), SHARE),
    routes=(
        Route("/api/v2/spot/market/candles", span=_recent_span, page=_page),
        Route("/api/v2/spot/market/history-candles", span=_archive_span, page=_page),
        Route("/api/v2/spot/public/symbols", answer=_symbols),
        # ccxt asks for what can be borrowed along with the list of symbols.
        Route("/api/v2/margin/currencies", answer=lambda request: _answer(request, [])),
        Route("/api/v2/public/time", answer=lambda request: _answer(request, {"serverTime": str(request.now_ms)})),
    ),
    errors=STATUS_ERRORS,
    write_error=_failure,
    punishment=Punishment(counts_refused=False),
    omits_empty=True,
    told_usage={"x-mbx-used-remain-limit": "{remaining}"},
    told_period_ms=PERIOD_MS,  # of the second, not of the minute
)
