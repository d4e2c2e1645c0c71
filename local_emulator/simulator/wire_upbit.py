"""Upbit Korea spot, /v1. The end is all that a page can be told. Source: docs.upbit.com/kr/reference."""

from datetime import UTC, datetime
from typing import Final

from local_emulator.simulator.arrivals import Limit, Punishment, Verdict
from local_emulator.simulator.market import Market, markets_quoted_in
from local_emulator.simulator.rows import Rows
from local_emulator.simulator.wire import (
    Errors,
    Refused,
    Reply,
    Route,
    Span,
    Wire,
    WireRequest,
    find_market,
    listed_markets,
    turnover,
    whole_number,
)
from shared.domain.timeframes import HOUR_MS, TIMEFRAMES, IntArray, Timeframe

# Seconds and years are not served here.
UNITS: Final = {
    **{str(minutes): f"{minutes}m" for minutes in (1, 3, 5, 10, 15, 30)},
    "60": "1h",
    "240": "4h",
}
PERIODS: Final = {"days": "1d", "weeks": "1w", "months": "1M"}
COUNT_DEFAULT: Final = 1
COUNT_MAX: Final = 200
# The clock of Korea is that much ahead.
KOREA_MS: Final = 9 * HOUR_MS
MALFORMED: Final = "Invalid parameter. Check the given value!"  # their own words
MISSING: Final = "Missing request parameter error. Check the required parameters!"
STATUS_ERRORS: Final[Errors] = {
    404: (404, "Code not found"),
    418: ("too_many_requests", "Too many requests. Blocked for a while."),
    429: ("too_many_requests", "Too many requests"),
    None: ("server_error", "Server error"),
}


def _minutes_span(request: WireRequest) -> Span:
    name = UNITS.get(request.path_params["unit"])
    if name is None:
        raise _refused(400, MALFORMED)
    return _span(request, TIMEFRAMES[name])


def _periods_span(request: WireRequest) -> Span:
    name = PERIODS.get(request.path_params["period"])
    if name is None:
        raise Refused(UPBIT.error(404))
    return _span(request, TIMEFRAMES[name])


def _span(request: WireRequest, frame: Timeframe) -> Span:
    query = request.query
    if not query.get("market"):
        raise _refused(400, MISSING)
    market = find_market(request, _code, query["market"])
    if market is None:
        raise Refused(UPBIT.error(404))
    count = whole_number(query, "count", lambda _name: _refused(400, MALFORMED))
    count = COUNT_DEFAULT if count is None else count
    if count < 1:
        raise _refused(400, MALFORMED)
    return Span(market, frame, None, _milliseconds(query["to"]) if query.get("to") else None, min(count, COUNT_MAX))


def _milliseconds(text: str) -> int:
    """ISO 8601; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _refused(400, MALFORMED) from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)


def _page(request: WireRequest, span: Span, rows: Rows) -> Reply:
    utc, korean = _clock(rows.open_ms), _clock(rows.open_ms + KOREA_MS)
    quote = turnover(rows).tolist()
    page: list[dict[str, object]] = []
    for at, open_ms in enumerate(rows.open_ms.tolist()):
        row: dict[str, object] = {
            "market": _code(span.market),
            "candle_date_time_utc": utc[at],
            "candle_date_time_kst": korean[at],
            "opening_price": float(rows.open[at]),
            "high_price": float(rows.high[at]),
            "low_price": float(rows.low[at]),
            "trade_price": float(rows.close[at]),
            "timestamp": min(span.timeframe.close(open_ms) - 1, request.now_ms),
            "candle_acc_trade_price": quote[at],
            "candle_acc_trade_volume": float(rows.volume[at]),
        }
        if "unit" in request.path_params:
            row["unit"] = int(request.path_params["unit"])
        elif span.timeframe.name != "1d":
            row["first_day_of_period"] = utc[at][:10]
        page.append(row)
    return Reply.of_json(page[::-1])


def _clock(times_ms: IntArray) -> list[str]:
    texts: list[str] = times_ms.astype("datetime64[ms]").astype("datetime64[s]").astype(str).tolist()
    return texts


def _codes(request: WireRequest) -> Reply:
    """What trades now."""
    traded = [market for market in listed_markets(request) if market.is_trading(request.now_ms)]
    return Reply.of_json(
        [{"market": _code(market), "korean_name": market.base, "english_name": market.base} for market in traded]
    )


def _ticker(request: WireRequest) -> Reply:
    markets = [find_market(request, _code, code) for code in request.query.get("markets", "").split(",")]
    if None in markets:
        raise Refused(UPBIT.error(404))
    return Reply.of_json(
        [
            {"market": _code(market), "trade_price": market.price_usual, "timestamp": request.now_ms}
            for market in markets
            if market
        ]
    )


def _code(market: Market) -> str:
    return f"{market.quote}-{market.base}"


def _refused(name: int | str, message: str) -> Refused:
    return Refused(_failure(name, message))


def _refusal(verdict: Verdict, _now_ms: int) -> Reply:
    if verdict.status != "banned":
        return UPBIT.error(429)
    return _failure("too_many_requests", f"Too many requests. Blocked for {-(-verdict.retry_after_ms // 1_000)} seconds.", 418)


def _failure(name: int | str, message: str, status: int = 400) -> Reply:
    return Reply.of_json({"error": {"name": name, "message": message}}, status)


UPBIT: Final = Wire(
    name="upbit",
    limits=(Limit(10, 1_000),),
    markets=markets_quoted_in("KRW", "USDT"),
    routes=(
        Route("/v1/candles/minutes/{unit}", span=_minutes_span, page=_page),
        Route("/v1/candles/{period}", span=_periods_span, page=_page),
        Route("/v1/market/all", answer=_codes),
        Route("/v1/ticker", answer=_ticker),
    ),
    refuse=_refusal,
    errors=STATUS_ERRORS,
    write_error=_failure,
    punishment=Punishment(counts_refused=False, ban_after=10, ban_ms=60_000),
    told_usage={"Remaining-Req": "group=candles; min=600; sec={remaining}"},  # the minute's part is dead
    omits_empty=True,
)
