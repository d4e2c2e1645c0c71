"""Bitget spot, /api/v2. Source: bitget.com/api-doc/spot/market; reach and bounds as ccxt and its users measured them."""

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
    texts,
    turnover,
    whole_number,
)
from shared.domain.timeframes import DAY_MS, TIMEFRAMES

# Plain granularities of six hours and more do not open by UTC, and of weeks and three days nobody knows when they do: they
# are not served here, so nobody can ask for them.
GRANULARITIES: Final = {
    **{f"{count}min": f"{count}m" for count in (1, 3, 5, 15, 30)},
    "1h": "1h",
    "4h": "4h",
    "6Hutc": "6h",
    "12Hutc": "12h",
    "1Dutc": "1d",
    "1Mutc": "1M",
}
# So far back the recent endpoint reaches, in days; where none is told, thirty.
REACH_DAYS: Final = {"1h": 60, "4h": 240, "6h": 360, "12h": 720, "1d": 1_440, "1M": 43_200}
LIMIT_DEFAULT: Final = 100
RECENT_LIMIT_MAX: Final = 1_000
RECENT_LIMITS: Final = {"1d": 300, "1M": 100}
ARCHIVE_LIMIT_MAX: Final = 200
STATUS_ERRORS: Final = {
    404: ("40404", "Request URL NOT FOUND"),
    429: ("429", "Too Many Requests"),
    503: ("40200", "Server upgrade, please try again later"),
}


def _recent_span(request: WireRequest) -> Span:
    """Nothing and no error where it does not reach; a start changes nothing."""
    span = _span(request, RECENT_LIMIT_MAX)
    frame = span.timeframe
    reach_ms = request.now_ms - REACH_DAYS.get(frame.name, 30) * DAY_MS
    limit = min(span.limit or 0, RECENT_LIMITS.get(frame.name, RECENT_LIMIT_MAX))
    return Span(span.market, frame, reach_ms, span.end_ms, limit)


def _archive_span(request: WireRequest) -> Span:
    span = _span(request, ARCHIVE_LIMIT_MAX)
    if span.end_ms is None:
        raise _refused("40019", "Parameter endTime cannot be empty")
    return span


def _span(request: WireRequest, limit_max: int) -> Span:
    query = request.query
    market = find_market(request, _symbol, query.get("symbol", ""))
    if market is None:
        raise _refused("40034", f"Parameter {query.get('symbol', '')} does not exist")
    if query.get("granularity", "") not in GRANULARITIES:
        raise _bad_parameter("granularity")
    # Read, so that what is no number is refused.
    whole_number(query, "startTime", _bad_parameter)
    end_ms, limit = (whole_number(query, name, _bad_parameter) for name in ("endTime", "limit"))
    limit = LIMIT_DEFAULT if limit is None else limit
    if not 1 <= limit <= limit_max:
        raise _bad_parameter("limit")
    # The end is exclusive, and the newest before it come.
    return Span(market, TIMEFRAMES[GRANULARITIES[query["granularity"]]], None, end_ms, limit)


def _page(request: WireRequest, span: Span, rows: Rows) -> Reply:
    values = row_texts(rows, span.market)
    quote = texts(turnover(rows), 8)
    opens = map(str, rows.open_ms.tolist())
    columns = (opens, values.open, values.high, values.low, values.close, values.volume, quote, quote)
    return _answer(request, [list(row) for row in zip(*columns, strict=True)])


def _symbols(request: WireRequest) -> Reply:
    return _answer(request, [_listed(market, request.now_ms) for market in listed_markets(request)])


def _listed(market: Market, now_ms: int) -> dict[str, object]:
    return {
        "symbol": _symbol(market),
        "baseCoin": market.base,
        "quoteCoin": market.quote,
        "minTradeAmount": "0",
        "maxTradeAmount": "900000000000000000000",
        "takerFeeRate": "0.002",
        "makerFeeRate": "0.002",
        "pricePrecision": str(market.price_decimals),
        "quantityPrecision": str(market.volume_decimals),
        "quotePrecision": str(market.price_decimals + market.volume_decimals),
        "status": "online" if market.is_trading(now_ms) else "offline",
        "minTradeUSDT": "1",
        "buyLimitPriceRatio": "0.05",
        "sellLimitPriceRatio": "0.05",
        "areaSymbol": "no",
        "orderQuantity": "200",
        "openTime": str(market.listed_ms),
        "offTime": "",
    }


def _symbol(market: Market) -> str:
    return f"{market.base}{market.quote}"


def _answer(request: WireRequest, data: object) -> Reply:
    return Reply.of_json({"code": "00000", "msg": "success", "requestTime": request.now_ms, "data": data})


def _bad_parameter(name: str) -> Refused:
    return _refused("40017", f"Parameter verification failed {name}")


def _refused(code: str, message: str) -> Refused:
    return Refused(_failed(code, message, 400))


def _failed(code: str, message: str, status: int) -> Reply:
    return Reply.of_json({"code": code, "msg": message, "requestTime": 0, "data": None}, status)


def _refusal(_verdict: Verdict, _now_ms: int) -> Reply:
    return _error(429)


def _error(status: int) -> Reply:
    return _failed(*STATUS_ERRORS.get(status, ("40015", "System is abnormal, please try again later")), status)


BITGET: Final = Wire(
    name="bitget",
    limits=(Limit(20, 1_000), Limit(6_000, 60_000)),
    markets=markets_quoted_in("USDT", "USDC"),
    routes=(
        Route("/api/v2/spot/market/candles", span=_recent_span, page=_page),
        Route("/api/v2/spot/market/history-candles", span=_archive_span, page=_page),
        Route("/api/v2/spot/public/symbols", answer=_symbols),
        # Nothing can be borrowed.
        Route("/api/v2/margin/currencies", answer=lambda request: _answer(request, [])),
        Route("/api/v2/public/time", answer=lambda request: _answer(request, {"serverTime": str(request.now_ms)})),
    ),
    refusal=_refusal,
    error=_error,
    punishment=Punishment(counts_refused=False),
)
