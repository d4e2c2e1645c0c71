"""Upbit, /v1. Newest first, before an end that is exclusive; going on after a 429 brings blocks. Source: docs.upbit.com."""

from datetime import UTC, datetime
from typing import Final

from local_emulator.simulator.arrivals import Limit, Punishment, Verdict, Window
from local_emulator.simulator.market import Market, markets_quoted_in
from local_emulator.simulator.rows import Rows
from local_emulator.simulator.wire import Refused, Reply, Route, Span, Wire, WireRequest, find_market, turnover, whole_number
from shared.domain.timeframes import TIMEFRAMES, Timeframe

MINUTES: Final = {"1": "1m", "3": "3m", "5": "5m", "10": "10m", "15": "15m", "30": "30m", "60": "1h", "240": "4h"}
WHOLE: Final = {"days": "1d", "weeks": "1w", "months": "1M"}
COUNT_MAX: Final = 200
STATUS_ERRORS: Final = {
    404: ("404", "Code not found"),
    429: ("too_many_requests", "Too many API requests."),
    418: ("too_many_requests", "Too many API requests. You are blocked."),
    500: ("server_error", "An internal error occurred."),
    503: ("maintenance", "The service is under maintenance."),
}


def _span(request: WireRequest) -> Span:
    query = request.query
    market = find_market(request, _code, query.get("market", ""))
    if market is None or not market.is_trading(request.now_ms):
        raise _refused(404)
    count = whole_number(query, "count", _bad_parameter)
    count = 1 if count is None else count
    if not 0 < count <= COUNT_MAX:
        raise _bad_parameter("count")
    return Span(market, _frame(request), None, _milliseconds(query.get("to", "")), count)


def _frame(request: WireRequest) -> Timeframe:
    name = WHOLE.get(request.path_params["unit"]) or MINUTES.get(request.path_params.get("minutes", ""))
    if name is None:
        raise _bad_parameter("unit")
    return TIMEFRAMES[name]


def _milliseconds(text: str) -> int | None:
    """ISO 8601, UTC where no zone is given; None for now."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _bad_parameter("to") from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1_000)


def _page(_request: WireRequest, span: Span, rows: Rows) -> Reply:
    code, money = _code(span.market), turnover(rows).tolist()
    candles = [
        {
            "market": code,
            "candle_date_time_utc": _iso(open_ms),
            "candle_date_time_kst": _iso(open_ms + 9 * 3_600_000),
            "opening_price": open_,
            "high_price": high,
            "low_price": low,
            "trade_price": close,
            "timestamp": open_ms + 59_123,
            "candle_acc_trade_price": money[index],
            "candle_acc_trade_volume": volume,
            "unit": 1,
        }
        for index, (open_ms, open_, high, low, close, volume) in enumerate(
            zip(
                *(column.tolist() for column in (rows.open_ms, rows.open, rows.high, rows.low, rows.close, rows.volume)),
                strict=True,
            )
        )
    ]
    return Reply.of_json(candles[::-1])


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _markets(request: WireRequest) -> Reply:
    """What was delisted is not told."""
    trading = [market for market in request.markets.values() if market.is_trading(request.now_ms)]
    return Reply.of_json(
        [{"market": _code(market), "korean_name": market.base, "english_name": market.base} for market in trading]
    )


def _code(market: Market) -> str:
    return f"{market.quote}-{market.base}"


def _bad_parameter(name: str) -> Refused:
    body = {"error": {"name": "invalid_parameter", "message": f"Invalid parameter. Check the given value: {name}"}}
    return Refused(Reply.of_json(body, 400))


def _refused(status: int) -> Refused:
    return Refused(_error(status))


def _refusal(verdict: Verdict, _now_ms: int) -> Reply:
    return _error(418 if verdict.status == "banned" else 429)


def _error(status: int) -> Reply:
    name, message = STATUS_ERRORS.get(status, ("server_error", "An internal error occurred."))
    return Reply.of_json({"error": {"name": name, "message": message}}, status)


def _usage_headers(window: Window) -> dict[str, str]:
    left = max(0, window.rule.limit - window.usage)
    return {"Remaining-Req": f"group=candles; min=600; sec={left}"}


UPBIT: Final = Wire(
    name="upbit",
    limits=(Limit(10, 1_000),),
    markets=markets_quoted_in("KRW", "USDT"),
    routes=(
        Route("/v1/candles/{unit}/{minutes}", span=_span, page=_page),
        Route("/v1/candles/{unit}", span=_span, page=_page),
        Route("/v1/market/all", answer=_markets),
    ),
    refusal=_refusal,
    error=_error,
    punishment=Punishment(counts_refused=True, ban_after=5, ban_ms=60_000),
    omits_empty=True,
    usage_headers=_usage_headers,
)
