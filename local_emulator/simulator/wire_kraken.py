"""Kraken spot, /0/public. Errors come inside HTTP 200. Source: docs.kraken.com."""

import re
from email.utils import formatdate
from typing import Final

import numpy as np

from local_emulator.simulator.arrivals import Limit, Punishment
from local_emulator.simulator.market import Market, markets_quoted_in
from local_emulator.simulator.rows import Rows
from local_emulator.simulator.wire import Refused, Reply, Route, Span, Wire, WireRequest, texts
from shared.domain.timeframes import TIMEFRAMES

INTERVALS: Final = {
    "1": "1m",
    "5": "5m",
    "15": "15m",
    "30": "30m",
    "60": "1h",
    "240": "4h",
    "1440": "1d",
    "10080": "1w",
}
# Committed rows; the running one comes on top.
COMMITTED_MAX: Final = 720
# Old assets carry a letter for coin (X) or fiat (Z), and their pairs are named by these ids.
LEGACY_IDS: Final = {"BTC": "XXBT", "ETH": "XETH", "LTC": "XLTC", "XRP": "XXRP", "ZEC": "XZEC", "USD": "ZUSD"}
ALT_NAMES: Final = {"BTC": "XBT", "DOGE": "XDG"}
VOLUME_DECIMALS: Final = 8
TOO_FAST: Final = ("EGeneral:Too many requests",)
STATUS_ERRORS: Final = {200: TOO_FAST, 429: TOO_FAST, 503: ("EService:Unavailable",), None: ("EGeneral:Internal error",)}


def _span(request: WireRequest) -> Span:
    query = request.query
    if not query.get("pair"):
        raise _refused("EGeneral:Invalid arguments")
    market = next((m for m in request.markets.values() if query["pair"] in (_key(m), _alt_name(m), _web_name(m))), None)
    if market is None:
        raise _refused("EQuery:Unknown asset pair")
    if query.get("interval", "1") not in INTERVALS or not re.fullmatch(r"-?\d{0,20}", query.get("since", "")):
        raise _refused("EGeneral:Invalid arguments")
    frame = TIMEFRAMES[INTERVALS[query.get("interval", "1")]]
    newest_ms = frame.shift(frame.floor(request.now_ms), -COMMITTED_MAX)
    # `since` is exclusive.
    after_ms = (int(query.get("since") or 0) + 1) * 1_000
    return Span(market, frame, max(newest_ms, after_ms))


def _page(request: WireRequest, span: Span, rows: Rows) -> Reply:
    decimals = (span.market.price_decimals, VOLUME_DECIMALS) if rows.has_ticks else (None, None)
    has_trades = rows.volume > 0
    average = np.where(has_trades, (rows.open + rows.high + rows.low + rows.close) / 4, 0.0)
    averages = [text if traded else "0.0" for text, traded in zip(texts(average, 8), has_trades.tolist(), strict=True)]
    columns = (
        (rows.open_ms // 1_000).tolist(),
        *(texts(getattr(rows, name), decimals[0]) for name in ("open", "high", "low", "close")),
        averages,
        texts(rows.volume, decimals[1]),
        (has_trades + (rows.volume * 1e4) % 977 * has_trades).astype(np.int64).tolist(),
    )
    committed_ms = span.timeframe.shift(span.timeframe.floor(request.now_ms), -1)
    return _answer({_key(span.market): [list(row) for row in zip(*columns, strict=True)], "last": committed_ms // 1_000})


def _pairs(request: WireRequest) -> Reply:
    listed = [market for market in request.markets.values() if market.listed_ms <= request.now_ms]
    return _answer({_key(market): _pair(market, request.now_ms) for market in listed})


def _pair(market: Market, now_ms: int) -> dict[str, object]:
    return {
        "altname": _alt_name(market),
        "wsname": _web_name(market),
        "aclass_base": "currency",
        "base": _asset_id(market.base),
        "aclass_quote": "currency",
        "quote": _asset_id(market.quote),
        "lot": "unit",
        "cost_decimals": 5,
        "pair_decimals": market.price_decimals,
        "lot_decimals": VOLUME_DECIMALS,
        "lot_multiplier": 1,
        "leverage_buy": [],
        "leverage_sell": [],
        "fees": [[0, 0.4], [10_000, 0.35]],
        "fees_maker": [[0, 0.25], [10_000, 0.2]],
        "fee_volume_currency": "ZUSD",
        "margin_call": 80,
        "margin_stop": 40,
        "ordermin": "0.0001",
        "costmin": "0.5",
        "tick_size": f"{10.0**-market.price_decimals:.{market.price_decimals}f}",
        "status": "online" if market.is_trading(now_ms) else "delisted",
    }


def _assets(request: WireRequest) -> Reply:
    codes = sorted({code for market in request.markets.values() for code in (market.base, market.quote)})
    return _answer(
        {
            _asset_id(code): {
                "aclass": "currency",
                "altname": ALT_NAMES.get(code, code),
                "decimals": 10,
                "display_decimals": 5,
                "status": "enabled",
            }
            for code in codes
        }
    )


def _asset_id(code: str) -> str:
    return LEGACY_IDS.get(code, "XXDG" if code == "DOGE" else code)


def _key(market: Market) -> str:
    """The name of a pair: from the old ids only if both sides have one."""
    if market.base in LEGACY_IDS and market.quote in LEGACY_IDS:
        return LEGACY_IDS[market.base] + LEGACY_IDS[market.quote]
    return _alt_name(market)


def _alt_name(market: Market) -> str:
    return _web_name(market).replace("/", "")


def _web_name(market: Market) -> str:
    return f"{ALT_NAMES.get(market.base, market.base)}/{ALT_NAMES.get(market.quote, market.quote)}"


def _time(request: WireRequest) -> Reply:
    return _answer({"unixtime": request.now_ms // 1_000, "rfc1123": formatdate(request.now_ms / 1_000, usegmt=True)})


def _answer(result: object) -> Reply:
    return Reply.of_json({"error": [], "result": result})


def _refused(error: str) -> Refused:
    return Refused(_failure(error))


def _failure(error: str, status: int = 200) -> Reply:
    return Reply.of_json({"error": [error]}, status)


KRAKEN: Final = Wire(
    name="kraken",
    limits=(Limit(1, 1_000),),
    markets=markets_quoted_in("USD", "USDT"),
    routes=(
        Route("/0/public/OHLC", span=_span, page=_page),
        Route("/0/public/AssetPairs", answer=_pairs),
        Route("/0/public/Assets", answer=_assets),
        Route("/0/public/Time", answer=_time),
        Route("/0/public/SystemStatus", answer=lambda _request: _answer({"status": "online"})),
    ),
    errors=STATUS_ERRORS,
    write_error=_failure,
    throttle_status=200,
    punishment=Punishment(counts_refused=False),
)
