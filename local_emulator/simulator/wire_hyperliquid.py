"""Hyperliquid perpetuals: all questions are a POST to /info. Source: hyperliquid.gitbook.io/hyperliquid-docs."""

from collections.abc import Mapping
from typing import Any, Final

from local_emulator.simulator.arrivals import Limit, Punishment
from local_emulator.simulator.market import Market, perpetuals
from local_emulator.simulator.rows import Rows
from local_emulator.simulator.wire import (
    Refused,
    Reply,
    Route,
    Span,
    Wire,
    WireRequest,
    find_market,
    json_object,
    listed_markets,
    texts,
    trade_counts,
    whole_number,
)
from shared.domain.timeframes import TIMEFRAMES

# 1w opens on Thursdays: it is not served here, so nobody can ask for it.
INTERVALS: Final = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "8h", "12h", "1d")
# The newest, with the running one. Older ones do not exist.
CANDLES_MAX: Final = 5_000
WEIGHT: Final = 20
ROWS_PER_WEIGHT: Final = 60
# A contract holds a thousand of the coin.
THOUSANDS: Final = Market("KPEPE/USDC:USDC", 0.0105, 6, 4_000_000.0, 0)


def _span(request: WireRequest) -> Span:
    asked = _range(json_object(request.body))
    market = find_market(request, _coin, asked["coin"])
    if market is None:
        raise Refused(_failure(500))
    frame = TIMEFRAMES[asked["interval"]]
    oldest_ms = frame.shift(frame.floor(request.now_ms), 1 - CANDLES_MAX)
    # Every candle that shares a moment with the range.
    return Span(market, frame, max(oldest_ms, frame.floor(asked["startTime"])), asked["endTime"] + 1)


def _weight(body: Mapping[str, Any]) -> int:
    """By the rows that a candle in every interval would make."""
    try:
        asked = _range(body)
    except Refused:
        return WEIGHT
    frame = TIMEFRAMES[asked["interval"]]
    rows = min(CANDLES_MAX, frame.count(frame.floor(asked["startTime"]), asked["endTime"] + 1))
    return WEIGHT + -(-rows // ROWS_PER_WEIGHT)


def _range(body: Mapping[str, Any]) -> dict[str, Any]:
    """The question's own part, complete and of the right types."""
    asked = body.get("req")
    if not isinstance(asked, dict) or not isinstance(asked.get("coin"), str) or asked.get("interval") not in INTERVALS:
        raise _unreadable()
    start_ms, end_ms = (whole_number(asked, name, lambda _name: _unreadable()) for name in ("startTime", "endTime"))
    if start_ms is None or end_ms is None:
        raise _unreadable()
    return {**asked, "startTime": start_ms, "endTime": end_ms}


def _page(_request: WireRequest, span: Span, rows: Rows) -> Reply:
    frame, coin = span.timeframe, _coin(span.market)
    values = zip(*(texts(column, None) for column in (rows.open, rows.close, rows.high, rows.low, rows.volume)), strict=True)
    return Reply.of_json(
        [
            {"t": at, "T": frame.close(at) - 1, "s": coin, "i": frame.name, "o": o, "c": c, "h": h, "l": low, "v": v, "n": n}
            for at, (o, c, h, low, v), n in zip(rows.open_ms.tolist(), values, trade_counts(rows), strict=True)
        ]
    )


def _meta(request: WireRequest) -> Reply:
    return Reply.of_json(_universe(request))


def _meta_and_contexts(request: WireRequest) -> Reply:
    contexts = [
        {
            "dayNtlVlm": "9450588.2273",
            "funding": "0.0000125",
            "markPx": str(market.price_usual),
            "midPx": str(market.price_usual),
            "openInterest": "10764.48",
            "oraclePx": str(market.price_usual),
            "premium": "0.0",
            "prevDayPx": str(market.price_usual),
        }
        for market in listed_markets(request)
    ]
    return Reply.of_json([_universe(request), contexts])


def _universe(request: WireRequest) -> dict[str, object]:
    return {"universe": [_asset(market, request.now_ms) for market in listed_markets(request)]}


def _asset(market: Market, now_ms: int) -> dict[str, object]:
    delisted = {} if market.is_trading(now_ms) else {"isDelisted": True}
    return {"szDecimals": market.volume_decimals, "name": _coin(market), "maxLeverage": 50, "marginTableId": 56, **delisted}


def _coin(market: Market) -> str:
    return f"k{market.base[1:]}" if market.symbol == THOUSANDS.symbol else market.base


def _unreadable() -> Refused:
    return Refused(Reply(422, b"Failed to deserialize the JSON body into the target type", media_type="text/plain"))


def _failure(status: int) -> Reply:
    """Whatever went wrong, that is all it says."""
    return Reply(status, b"null")


HYPERLIQUID: Final = Wire(
    name="hyperliquid",
    limits=(Limit(1_200, 60_000),),
    markets=(*perpetuals("USDC", "USDC"), THOUSANDS),
    routes=(
        Route("/info", method="POST", body_type="candleSnapshot", span=_span, page=_page, query_weight=_weight),
        Route("/info", method="POST", body_type="meta", answer=_meta, weight=WEIGHT),
        Route("/info", method="POST", body_type="metaAndAssetCtxs", answer=_meta_and_contexts, weight=WEIGHT),
        Route(
            "/info",
            method="POST",
            body_type="exchangeStatus",
            answer=lambda request: Reply.of_json({"specialStatuses": None, "time": request.now_ms}),
            weight=2,
        ),
        Route("/info", method="POST", answer=lambda _request: _unreadable().reply, weight=WEIGHT),
    ),
    errors={None: ()},
    write_error=_failure,
    punishment=Punishment(counts_refused=False),
    omits_empty=True,
)
