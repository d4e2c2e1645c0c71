"""HTX spot. Errors come inside HTTP 200. Source: huobiapi.github.io/docs/spot/v1/en; candles by range as measured by others."""

from collections.abc import Mapping
from typing import Any, Final

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
    trade_counts,
    turnover,
    whole_number,
)
from shared.domain.timeframes import TIMEFRAMES

# 1day, 1week and 1mon open by Singapore's clock: they are not served here, so nobody can ask for them.
PERIODS: Final = {"1min": "1m", "5min": "5m", "15min": "15m", "30min": "30m", "60min": "1h", "4hour": "4h"}
SIZE_DEFAULT: Final = 150
KLINE_SIZE_MAX: Final = 2_000
RANGE_SIZE_MAX: Final = 1_000
STATUS_ERRORS: Final = {
    200: ("bad-request", "429 too many request"),
    404: ("not-found", "Not Found"),
    429: ("too-many-requests", "exceeded rate limit"),
    504: ("timeout", "Request Timeout"),
    None: ("gateway-internal-error", "Failed to load data. Try again later."),
}


def _kline_span(request: WireRequest) -> Span:
    """The newest; bounds are not looked at."""
    span, size = _asked(request)
    if not 1 <= size <= KLINE_SIZE_MAX:
        raise _refused("invalid-parameter", f"invalid size, valid range: [1,{KLINE_SIZE_MAX}]")
    return Span(span.market, span.timeframe, None, None, size)


def _range_span(request: WireRequest) -> Span:
    """The oldest from a start, or the newest; of more than 1,000 none."""
    span, size = _asked(request)
    from_s, to_s = (whole_number(request.query, name, _bad_parameter) for name in ("from", "to"))
    return Span(
        span.market,
        span.timeframe,
        None if from_s is None else from_s * 1_000,
        None if to_s is None else to_s * 1_000 + 1,
        size if 1 <= size <= RANGE_SIZE_MAX else 0,
        keeps_oldest=from_s is not None,
    )


def _asked(request: WireRequest) -> tuple[Span, int]:
    query = request.query
    market = find_market(request, _symbol, query.get("symbol", ""))
    if market is None:
        raise _refused("invalid-parameter", "invalid symbol")
    if query.get("period", "") not in PERIODS:
        raise _refused("invalid-parameter", "invalid period")
    size = whole_number(query, "size", _bad_parameter)
    return Span(market, TIMEFRAMES[PERIODS[query["period"]]]), SIZE_DEFAULT if size is None else size


def _page(request: WireRequest, span: Span, rows: Rows) -> Reply:
    columns: Mapping[str, list[Any]] = {
        "id": (rows.open_ms // 1_000).tolist(),
        "open": rows.open.tolist(),
        "close": rows.close.tolist(),
        "low": rows.low.tolist(),
        "high": rows.high.tolist(),
        "amount": rows.volume.tolist(),
        "vol": turnover(rows).tolist(),
        "count": trade_counts(rows),
    }
    newest_first = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)][::-1]
    channel = f"market.{_symbol(span.market)}.kline.{request.query['period']}"
    return Reply.of_json({"ch": channel, "status": "ok", "ts": request.now_ms, "data": newest_first})


def _symbols(request: WireRequest) -> Reply:
    return Reply.of_json({"status": "ok", "data": [_listed(market, request.now_ms) for market in listed_markets(request)]})


def _listed(market: Market, now_ms: int) -> dict[str, object]:
    return {
        "base-currency": market.base.lower(),
        "quote-currency": market.quote.lower(),
        "price-precision": market.price_decimals,
        "amount-precision": market.volume_decimals,
        "symbol-partition": "main",
        "symbol": _symbol(market),
        "state": "online" if market.is_trading(now_ms) else "offline",
        "value-precision": 8,
        "min-order-amt": 10.0**-market.volume_decimals,
        "max-order-amt": 1_000_000,
        "min-order-value": 10,
        "api-trading": "enabled",
        "tags": "",
    }


def _symbol(market: Market) -> str:
    return f"{market.base}{market.quote}".lower()


def _bad_parameter(name: str) -> Refused:
    return _refused("invalid-parameter", f"invalid {name}")


def _refused(code: str, message: str) -> Refused:
    return Refused(_failure(code, message))


def _failure(code: str, message: str, status: int = 200) -> Reply:
    return Reply.of_json({"status": "error", "err-code": code, "err-msg": message, "data": None}, status)


HTX: Final = Wire(
    name="htx",
    limits=(Limit(10, 1_000),),
    markets=markets_quoted_in("USDT", "USDC"),
    routes=(
        Route("/market/history/candles", span=_range_span, page=_page),
        Route("/market/history/kline", span=_kline_span, page=_page),
        Route("/v1/common/symbols", answer=_symbols),
        Route("/v1/common/timestamp", answer=lambda request: Reply.of_json({"status": "ok", "data": request.now_ms})),
    ),
    errors=STATUS_ERRORS,
    write_error=_failure,
    throttle_status=200,  # the refusal too
    punishment=Punishment(counts_refused=False),
)
