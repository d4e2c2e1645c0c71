"""What Binance's own exchanges have in common on the wire. Source: github.com/binance/binance-spot-api-docs."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from local_emulator.simulator.arrivals import Limit, Punishment, Verdict
from local_emulator.simulator.market import Market
from local_emulator.simulator.rows import Rows
from local_emulator.simulator.wire import (
    Refused,
    Reply,
    Route,
    Span,
    Wire,
    WireRequest,
    listed_markets,
    period_in_words,
    texts,
    turnover,
)
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
    503: (-1008, "Server is currently overloaded with other requests. Please try again in a few minutes."),
    None: (-1000, "An unknown error occurred while processing the request."),
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What sets one of them apart. `symbol` and `others` are rows of its exchangeInfo; `kline` is how it writes a row.

    `is_padded`: prices and volumes have eight decimals, whatever the market's own are.
    """

    name: str
    prefix: str
    limits: tuple[Limit, ...]
    markets: tuple[Market, ...]
    symbol: Callable[[Market, int], dict[str, object]]
    others: tuple[dict[str, object], ...] = ()
    limit_max: int = 1_000
    klines_weight: int = 1
    klines_query_weight: Callable[[Mapping[str, str]], int] | None = None
    symbols_weight: int = 1
    takes_microseconds: bool = False
    kline: str = KLINE
    is_padded: bool = True

    def span(self, request: WireRequest) -> Span:
        """Reads a question for klines: the oldest from a start, else the newest."""
        query = request.query
        market = _market(request)
        if not query.get("interval"):
            raise _refused(-1102, "Mandatory parameter 'interval' was not sent, was empty/null, or malformed.")
        if query["interval"] not in INTERVALS:
            raise _refused(-1120, "Invalid interval.")
        limit = _integer(query, "limit")
        if limit is not None and limit < 1:
            raise _refused(-1130, "Data sent for parameter 'limit' is not valid.")
        start_ms, end_ms = (self._milliseconds(_integer(query, name)) for name in ("startTime", "endTime"))
        return Span(
            market,
            TIMEFRAMES[query["interval"]],
            start_ms,
            None if end_ms is None else end_ms + 1,
            min(self.limit_max, LIMIT_DEFAULT if limit is None else limit),
            keeps_oldest=start_ms is not None,
        )

    def page(self, _request: WireRequest, span: Span, rows: Rows) -> Reply:
        """Writes the klines."""
        values = [
            self._texts(getattr(rows, name), span.market.price_decimals, rows) for name in ("open", "high", "low", "close")
        ]
        values.append(self._texts(rows.volume, span.market.volume_decimals, rows))
        quote = turnover(rows)
        trades = (rows.volume > 0) + (rows.volume * 1e4) % 977
        opens = rows.open_ms.tolist()
        if span.timeframe.is_calendar_month:
            closes = [span.timeframe.close(open_ms) - 1 for open_ms in opens]
        else:
            closes = (rows.open_ms + span.timeframe.step_ms - 1).tolist()
        others = (closes, quote.tolist(), trades.tolist(), (rows.volume * TAKER_SHARE).tolist(), (quote * TAKER_SHARE).tolist())
        klines = ",".join([self.kline % row for row in zip(opens, *values, *others, strict=True)])
        return Reply(200, f"[{klines}]".encode())

    def exchange_info(self, request: WireRequest) -> Reply:
        """The limits in force, and the symbols."""
        limits = []
        for limit in request.limits:
            number, _letter, word = period_in_words(limit.period_ms)
            limits.append({"rateLimitType": "REQUEST_WEIGHT", "interval": word, "intervalNum": number, "limit": limit.limit})
        symbols = [self.symbol(market, request.now_ms) for market in listed_markets(request)] + list(self.others)
        if "symbolStatus" in request.query:
            symbols = [symbol for symbol in symbols if symbol["status"] == request.query["symbolStatus"]]
        return Reply.of_json(
            {"timezone": "UTC", "serverTime": request.now_ms, "rateLimits": limits, "exchangeFilters": [], "symbols": symbols}
        )

    def wire(self) -> Wire:
        """The whole exchange."""
        return Wire(
            name=self.name,
            limits=self.limits,
            markets=self.markets,
            routes=(
                Route(
                    f"{self.prefix}/klines",
                    weight=self.klines_weight,
                    query_weight=self.klines_query_weight,
                    span=self.span,
                    page=self.page,
                ),
                Route(f"{self.prefix}/exchangeInfo", weight=self.symbols_weight, answer=self.exchange_info),
                Route(f"{self.prefix}/ping", answer=lambda _request: Reply.of_json({})),
                Route(f"{self.prefix}/time", answer=lambda request: Reply.of_json({"serverTime": request.now_ms})),
            ),
            refuse=_refusal,
            errors=STATUS_ERRORS,
            write_error=_failure,
            told_wait={"Retry-After": "{s}"},
            # Ten: a burst that was under way when the limit broke is no ban yet, going on is.
            punishment=Punishment(counts_refused=True, ban_after=10),
            told_usage={"x-mbx-used-weight": "{used}", "x-mbx-used-weight-{number}{letter}": "{used}"},
        )

    def _texts(self, values: FloatArray, decimals: int, rows: Rows) -> list[str]:
        if not rows.has_ticks:
            return texts(values, None)
        return texts(values, decimals, DECIMALS - decimals if self.is_padded else 0)

    def _milliseconds(self, at: int | None) -> int | None:
        is_micro = self.takes_microseconds and at is not None and at >= MICROSECONDS_FROM
        return at // 1_000 if at is not None and is_micro else at


def symbol_id(market: Market) -> str:
    """Binance's name of a market."""
    return market.base + market.quote


def filters(market: Market, decimals: int = DECIMALS) -> list[dict[str, object]]:
    """The steps of price and volume, as exchangeInfo tells them."""
    tick, step = (f"{10.0**-digits:.{decimals}f}" for digits in (market.price_decimals, market.volume_decimals))
    return [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": f"{1e6:.{decimals}f}", "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": step, "maxQty": f"{9e6:.{decimals}f}", "stepSize": step},
    ]


def spot_symbol(market: Market, now_ms: int) -> dict[str, object]:
    """A row of the exchangeInfo of spot."""
    return {
        "symbol": symbol_id(market),
        "status": "TRADING" if market.is_trading(now_ms) else "BREAK",
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
            *filters(market),
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True, "avgPriceMins": 5},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
    }


def _market(request: WireRequest) -> Market:
    symbol = request.query.get("symbol", "")
    if not symbol:
        raise _refused(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    if not re.fullmatch(r"[A-Z0-9-_.]{1,20}", symbol):
        raise _refused(-1100, "Illegal characters found in parameter 'symbol'; legal range is '^[A-Z0-9-_.]{1,20}$'.")
    market = next((market for market in request.markets.values() if symbol_id(market) == symbol), None)
    if market is None:
        raise _refused(-1121, "Invalid symbol.")
    return market


def _integer(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,20}", text):
        raise _refused(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)


def _refused(code: int, message: str) -> Refused:
    return Refused(_failure(code, message))


def _refusal(verdict: Verdict, now_ms: int) -> Reply:
    if verdict.status == "banned":
        until = now_ms + verdict.retry_after_ms
        message = f"Way too much request weight used; IP banned until {until}. Please use WebSocket Streams to avoid bans."
        return _failure(-1003, message, 418)
    limit = verdict.broken or Limit(6_000, 60_000)
    number, _letter, word = period_in_words(limit.period_ms)
    message = f"Too much request weight used; current limit is {limit.limit} request weight per {number} {word}."
    return _failure(-1003, message, 429)


def _failure(code: int, message: str, status: int = 400) -> Reply:
    return Reply.of_json({"code": code, "msg": message}, status)
