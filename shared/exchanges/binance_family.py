"""What Binance's markets have in common. Source: github.com/binance/binance-spot-api-docs, rest-api.md (2026-07).

The futures' interface and Binance US' are of the same make: same rows, bounds, codes, headers and bans.
"""

from typing import Final

from shared.exchanges.spec import (
    CandlesRequest,
    ErrorForm,
    ErrorRule,
    MarketsRequest,
    Outcome,
    RowForm,
    RowKind,
    Shift,
    TimeForm,
    UsageHeader,
)

# Bans begin at two minutes and grow to three days for those who go on.
BAN_MS: Final = 120_000
# The web firewall names no time; it is a sign of many malformed requests.
FIREWALL_MS: Final = 300_000

USAGE_HEADERS: Final = (UsageHeader("X-MBX-USED-WEIGHT-1M", 60_000),)
# All but 3d, which counts from the epoch on the spot market; of the others nothing shows it.
TIMEFRAMES: Final = {
    **{name: name for name in ("1m", "3m", "5m", "15m", "30m")},
    **{name: name for name in ("1h", "2h", "4h", "6h", "8h", "12h")},
    **{name: name for name in ("1d", "1w", "1M")},
}
ROWS: Final = RowForm(RowKind.ARRAYS, time=0, open=1, high=2, low=3, close=4, volume=5, time_form=TimeForm.MILLISECONDS)
ERRORS: Final = ErrorForm(
    code_path=("code",),
    message_path=("msg",),
    rules=(
        ErrorRule(Outcome.REJECTED, statuses=(451,)),
        ErrorRule(Outcome.THROTTLED, statuses=(418,), wait_ms=BAN_MS),
        ErrorRule(Outcome.THROTTLED, statuses=(429,), wait_ms=60_000),
        ErrorRule(Outcome.THROTTLED, statuses=(403,), wait_ms=FIREWALL_MS),
        ErrorRule(Outcome.THROTTLED, codes=("-1003",), wait_ms=60_000),
        # Internal error, disconnected, unexpected answer, time-out, overload, shutting down.
        ErrorRule(Outcome.UNAVAILABLE, codes=("-1000", "-1001", "-1006", "-1007", "-1008", "-1016")),
    ),
)


def klines(prefix: str, page_limit: int) -> CandlesRequest:
    """The request for candles below a path like `/api/v3`."""
    return CandlesRequest(
        path=f"{prefix}/klines",
        params={
            "symbol": "{symbol}",
            "interval": "{timeframe}",
            "startTime": "{start}",
            "endTime": "{end}",
            "limit": "{rows}",
        },
        page_limit=page_limit,
        time_form=TimeForm.MILLISECONDS,
        end_shift=Shift(ms=-1),  # both bounds are inclusive and compared with the open time
    )


def exchange_info(prefix: str, *, is_perpetual: bool = False) -> MarketsRequest:
    """The request for symbols; of contracts those without a delivery."""
    return MarketsRequest(
        path=f"{prefix}/exchangeInfo",
        path_in_body=("symbols",),
        id_key="symbol",
        base_key="baseAsset",
        quote_key="quoteAsset",
        settle_key="marginAsset" if is_perpetual else "",
        only={"contractType": "PERPETUAL"} if is_perpetual else {},
        active={"status": "TRADING"},
    )
