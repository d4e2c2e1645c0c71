"""Binance spot, as data. Source: github.com/binance/binance-spot-api-docs, rest-api.md (2026-07)."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.spec import (
    CandlesRequest,
    ErrorForm,
    ErrorRule,
    ExchangeSpec,
    MarketsRequest,
    Outcome,
    Paging,
    RowForm,
    RowKind,
    Shift,
    SymbolForm,
    TimeForm,
    UsageHeader,
)

# Bans begin at two minutes and grow to three days for those who go on.
BAN_MS: Final = 120_000
# The web firewall names no time; it is a sign of many malformed requests.
FIREWALL_MS: Final = 300_000

SPEC: Final = ExchangeSpec(
    name="binance",
    docs_url="https://developers.binance.com/docs/binance-spot-api-docs/rest-api",
    base_url="https://api.binance.com",
    windows=(RateWindow(6_000, 60_000),),
    candles_weight=2,
    symbols_weight=20,
    ping_weight=1,
    usage_headers=(UsageHeader("X-MBX-USED-WEIGHT-1M", 60_000),),
    timeframes={
        **{name: name for name in ("1m", "3m", "5m", "15m", "30m")},
        **{name: name for name in ("1h", "2h", "4h", "6h", "8h", "12h")},
        **{name: name for name in ("1d", "3d", "1w", "1M")},
    },
    symbol_form=SymbolForm("{base}{quote}"),
    paging=Paging.FORWARD,
    candles=CandlesRequest(
        path="/api/v3/klines",
        params={
            "symbol": "{symbol}",
            "interval": "{timeframe}",
            "startTime": "{start}",
            "endTime": "{end}",
            "limit": "{rows}",
        },
        page_limit=1_000,
        time_form=TimeForm.MILLISECONDS,
        end_shift=Shift(ms=-1),  # both bounds are inclusive and compared with the open time
    ),
    rows=RowForm(RowKind.ARRAYS, time=0, open=1, high=2, low=3, close=4, volume=5, time_form=TimeForm.MILLISECONDS),
    errors=ErrorForm(
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
    ),
    markets=MarketsRequest(
        path="/api/v3/exchangeInfo",
        path_in_body=("symbols",),
        id_key="symbol",
        base_key="baseAsset",
        quote_key="quoteAsset",
        active={"status": "TRADING"},
    ),
    ping_path="/api/v3/ping",
    quirks=(
        "Not served to the United States, nor from cloud regions there: it answers 451, and the job goes to error.",
        "Its limit is per address: other programs behind the same address are counted, and charged here too.",
    ),
)
