"""Binance spot, Binance US and the perpetuals in dollars answer alike. Source: binance/binance-spot-api-docs."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from local_emulator.simulator.arrivals import Limit, Punishment, Verdict, Window
from local_emulator.simulator.market import Market
from local_emulator.simulator.rows import Rows
from local_emulator.simulator.wire import Refused, Reply, Route, Span, Wire, WireRequest, period_in_words, texts
from shared.domain.candles import FloatArray
from shared.domain.timeframes import TIMEFRAMES

INTERVALS: Final = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
LIMIT_DEFAULT: Final = 500
# Times of 15 digits and more are microseconds.
MICROSECONDS_FROM: Final = 10**14
DECIMALS: Final = 8
# The part of the volume that buyers took: made up, like the number of trades.
TAKER_SHARE: Final = 0.48
KLINE: Final = '[%d,"%s","%s","%s","%s","%s",%d,"%.4f0000",%d,"%.4f0000","%.4f0000","0"]'
STATUS_ERRORS: Final = {
    403: (0, "Forbidden"),
    418: (-1003, "Way too much request weight used; IP banned."),
    429: (-1003, "Too much request weight used; please use WebSocket Streams for live updates to avoid polling the API."),
    451: (0, "Service unavailable from a restricted location according to 'b. Eligibility' in our terms of use."),
    500: (-1000, "An unknown error occurred while processing the request."),
    503: (-1008, "Server is currently overloaded with other requests. Please try again in a few minutes."),
}


def _span(limit_max: int) -> Callable[[WireRequest], Span]:
    return lambda request: _read_span(request, limit_max)


def _read_span(request: WireRequest, limit_max: int) -> Span:
    query = request.query
    symbol = query.get("symbol", "")
    if not symbol:
        raise _refused(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    if not re.fullmatch(r"[A-Z0-9-_.]{1,20}", symbol):
        raise _refused(-1100, "Illegal characters found in parameter 'symbol'; legal range is '^[A-Z0-9-_.]{1,20}$'.")
    market = next((market for market in request.markets.values() if _symbol_id(market) == symbol), None)
    if market is None:
        raise _refused(-1121, "Invalid symbol.")
    if not query.get("interval"):
        raise _refused(-1102, "Mandatory parameter 'interval' was not sent, was empty/null, or malformed.")
    if query["interval"] not in INTERVALS:
        raise _refused(-1120, "Invalid interval.")
    limit = _integer(query, "limit")
    if limit is not None and limit < 1:
        raise _refused(-1130, "Data sent for parameter 'limit' is not valid.")
    start_ms, end_ms = (_milliseconds(_integer(query, name)) for name in ("startTime", "endTime"))
    return Span(
        market,
        TIMEFRAMES[query["interval"]],
        start_ms,
        None if end_ms is None else end_ms + 1,
        min(limit_max, LIMIT_DEFAULT if limit is None else limit),
        keeps_oldest=start_ms is not None,
    )


def _page(_request: WireRequest, span: Span, rows: Rows) -> Reply:
    values = [_texts(getattr(rows, name), span.market.price_decimals, rows) for name in ("open", "high", "low", "close")]
    values.append(_texts(rows.volume, span.market.volume_decimals, rows))
    quote = rows.volume * (rows.open + rows.high + rows.low + rows.close) / 4
    trades = (rows.volume > 0) + (rows.volume * 1e4) % 977
    opens = rows.open_ms.tolist()
    if span.timeframe.is_calendar_month:
        closes = [span.timeframe.close(open_ms) - 1 for open_ms in opens]
    else:
        closes = (rows.open_ms + span.timeframe.step_ms - 1).tolist()
    others = (closes, quote.tolist(), trades.tolist(), (rows.volume * TAKER_SHARE).tolist(), (quote * TAKER_SHARE).tolist())
    klines = ",".join([KLINE % row for row in zip(opens, *values, *others, strict=True)])
    return Reply(200, f"[{klines}]".encode())


def _texts(values: FloatArray, decimals: int, rows: Rows) -> list[str]:
    return texts(values, decimals, DECIMALS - decimals) if rows.has_ticks else texts(values, None)


def _exchange_info(request: WireRequest) -> Reply:
    limits = []
    for limit in request.limits:
        number, _letter, word = period_in_words(limit.period_ms)
        limits.append({"rateLimitType": "REQUEST_WEIGHT", "interval": word, "intervalNum": number, "limit": limit.limit})
    markets = [market for market in request.markets.values() if market.listed_ms <= request.now_ms]
    if "symbolStatus" in request.query:
        markets = [market for market in markets if _status(market, request) == request.query["symbolStatus"]]
    symbols = [_symbol(market, _status(market, request)) for market in markets]
    return Reply.of_json(
        {"timezone": "UTC", "serverTime": request.now_ms, "rateLimits": limits, "exchangeFilters": [], "symbols": symbols}
    )


def _status(market: Market, request: WireRequest) -> str:
    return "TRADING" if market.is_trading(request.now_ms) else "BREAK"


def _symbol(market: Market, status: str) -> dict[str, object]:
    tick, step = (f"{10.0**-decimals:.8f}" for decimals in (market.price_decimals, market.volume_decimals))
    contract = {}
    if market.settle:
        contract = {
            "pair": _symbol_id(market),
            "contractType": "PERPETUAL",
            "marginAsset": market.settle,
            "deliveryDate": 4_133_404_800_000,
            "onboardDate": market.listed_ms,
            "pricePrecision": market.price_decimals,
            "quantityPrecision": market.volume_decimals,
        }
    return {
        **contract,
        "symbol": _symbol_id(market),
        "status": status,
        "baseAsset": market.base,
        "baseAssetPrecision": DECIMALS,
        "quoteAsset": market.quote,
        "quotePrecision": DECIMALS,
        "quoteAssetPrecision": DECIMALS,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "9000000.00000000", "stepSize": step},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True, "avgPriceMins": 5},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
    }


def _symbol_id(market: Market) -> str:
    return market.base + market.quote


def _integer(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,20}", text):
        raise _refused(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)


def _milliseconds(at: int | None) -> int | None:
    return at // 1_000 if at is not None and at >= MICROSECONDS_FROM else at


def _refused(code: int, message: str) -> Refused:
    return Refused(Reply.of_json({"code": code, "msg": message}, 400))


def _refusal(verdict: Verdict, now_ms: int) -> Reply:
    retry_after = str(-(-verdict.retry_after_ms // 1_000))
    if verdict.status == "banned":
        until = now_ms + verdict.retry_after_ms
        message = f"Way too much request weight used; IP banned until {until}. Please use WebSocket Streams to avoid bans."
        return Reply.of_json({"code": -1003, "msg": message}, 418, Retry_After=retry_after)
    limit = verdict.broken or Limit(6_000, 60_000)
    number, _letter, word = period_in_words(limit.period_ms)
    message = f"Too much request weight used; current limit is {limit.limit} request weight per {number} {word}."
    return Reply.of_json({"code": -1003, "msg": message}, 429, Retry_After=retry_after)


def _error(status: int) -> Reply:
    code, message = STATUS_ERRORS.get(status, (-1000, "An unknown error occurred while processing the request."))
    return Reply.of_json({"code": code, "msg": message}, status)


def _usage_headers(window: Window) -> dict[str, str]:
    number, letter, _word = period_in_words(window.rule.period_ms)
    return {"x-mbx-used-weight": str(window.grid_usage), f"x-mbx-used-weight-{number}{letter.lower()}": str(window.grid_usage)}


def binance_wire(
    name: str,
    prefix: str,
    markets: tuple[Market, ...],
    limits: tuple[Limit, ...],
    *,
    klines_weight: int = 1,
    info_weight: int = 1,
    limit_max: int = 1_000,
    weigh: Callable[[Mapping[str, Any]], int] | None = None,
) -> Wire:
    """One market, its paths below `prefix`; `weigh` is for klines that cost by their limit."""
    return Wire(
        name=name,
        limits=limits,
        markets=markets,
        routes=(
            Route(f"{prefix}/klines", weight=klines_weight, span=_span(limit_max), page=_page, query_weight=weigh),
            Route(f"{prefix}/exchangeInfo", weight=info_weight, answer=_exchange_info),
            Route(f"{prefix}/ping", answer=lambda _request: Reply.of_json({})),
            Route(f"{prefix}/time", answer=lambda request: Reply.of_json({"serverTime": request.now_ms})),
        ),
        refusal=_refusal,
        error=_error,
        # Ten: a burst that was under way when the limit broke is no ban yet, going on is.
        punishment=Punishment(counts_refused=True, ban_after=10),
        usage_headers=_usage_headers,
    )
