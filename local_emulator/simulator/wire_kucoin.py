"""KuCoin spot, /api/v1 and /api/v2. Errors come with a code inside HTTP 200 but for the limit. Source: kucoin.com/docs-new."""

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

# 1week is not served here: its weeks open on Thursday.
TYPES: Final = {
    **{f"{count}min": f"{count}m" for count in (1, 3, 5, 15, 30)},
    **{f"{count}hour": f"{count}h" for count in (1, 2, 4, 6, 8, 12)},
    "1day": "1d",
    "1month": "1M",
}
ROWS_MAX: Final = 1_500
ROWS_WITHOUT_START: Final = 100
STATUS_ERRORS: Final = {
    403: ("400302", "Our services are currently unavailable in the U.S."),
    404: ("404000", "URL Not Found"),
    429: ("429000", "Too many requests. User-level rate limit exceeded."),
    None: ("500000", "Internal Server Error"),
}


def _span(request: WireRequest) -> Span:
    query = request.query
    market = find_market(request, _symbol_id, query.get("symbol", ""))
    if market is None:
        raise _refused("400100", "This pair is not provided at present.")
    if query.get("type", "") not in TYPES:
        raise _refused("400100", "Incorrect candlestick type.")
    start_s, end_s = (whole_number(query, name, _bad_parameter) or 0 for name in ("startAt", "endAt"))
    if min(start_s, end_s) < 0:
        raise _bad_parameter("startAt")
    return Span(
        market,
        TIMEFRAMES[TYPES[query["type"]]],
        start_s * 1_000 or None,
        # Exclusive, as far as anyone has seen.
        end_s * 1_000 or None,
        ROWS_MAX if start_s else ROWS_WITHOUT_START,
    )


def _page(_request: WireRequest, span: Span, rows: Rows) -> Reply:
    values = row_texts(rows, span.market)
    opens = map(str, (rows.open_ms // 1_000).tolist())
    columns = (opens, values.open, values.close, values.high, values.low, values.volume, texts(turnover(rows), 8))
    return _answer([list(row) for row in zip(*columns, strict=True)][::-1])


def _symbols(request: WireRequest) -> Reply:
    return _answer([_symbol(market, request.now_ms) for market in listed_markets(request)])


def _symbol(market: Market, now_ms: int) -> dict[str, object]:
    step = f"{10.0**-market.volume_decimals:.{market.volume_decimals}f}"
    tick = f"{10.0**-market.price_decimals:.{market.price_decimals}f}"
    return {
        "symbol": _symbol_id(market),
        "name": _symbol_id(market),
        "baseCurrency": market.base,
        "quoteCurrency": market.quote,
        "feeCurrency": market.quote,
        "market": "USDS" if market.quote.startswith("USD") else market.quote,
        "baseMinSize": step,
        "quoteMinSize": "0.1",
        "baseMaxSize": "10000000000",
        "quoteMaxSize": "99999999",
        "baseIncrement": step,
        "quoteIncrement": tick,
        "priceIncrement": tick,
        "priceLimitRate": "0.1",
        "minFunds": "0.1",
        "isMarginEnabled": False,
        "enableTrading": market.is_trading(now_ms),
    }


def _symbol_id(market: Market) -> str:
    return f"{market.base}-{market.quote}"


def _answer(data: object) -> Reply:
    return Reply.of_json({"code": "200000", "data": data})


def _bad_parameter(name: str) -> Refused:
    return _refused("400100", f"{name} is invalid")


def _refused(code: str, message: str) -> Refused:
    return Refused(_failure(code, message))


def _failure(code: str, message: str, status: int = 200) -> Reply:
    return Reply.of_json({"code": code, "msg": message}, status)


KUCOIN: Final = Wire(
    name="kucoin",
    limits=(Limit(2_000, 30_000),),
    markets=markets_quoted_in("USDT", "USDC"),
    routes=(
        Route("/api/v1/market/candles", weight=3, span=_span, page=_page),
        Route("/api/v2/symbols", weight=4, answer=_symbols),
        Route("/api/v1/timestamp", weight=3, answer=lambda request: _answer(request.now_ms)),
    ),
    errors=STATUS_ERRORS,
    write_error=_failure,
    punishment=Punishment(counts_refused=False),
    omits_empty=True,
    told_usage={"gw-ratelimit-limit": "{limit}", "gw-ratelimit-remaining": "{remaining}"},
    told_wait={"gw-ratelimit-reset": "{ms}"},
)
