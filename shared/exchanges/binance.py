"""Binance spot, as data. Source: github.com/binance/binance-spot-api-docs, rest-api.md (2026-07)."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.binance_family import ERROR_RULES, ERRORS, KLINES, MARKET_ROWS, MARKETS, ROWS, TIMEFRAMES, USAGE_HEADERS
from shared.exchanges.own_names import SymbolForm
from shared.exchanges.spec import ExchangeSpec, Paging

SPEC: Final = ExchangeSpec(
    name="binance",
    docs_url="https://developers.binance.com/docs/binance-spot-api-docs/rest-api",
    base_url="https://api.binance.com",
    windows=(RateWindow(6_000, 60_000),),
    candles_weight=2,
    symbols_weight=20,
    ping_weight=1,
    usage_headers=USAGE_HEADERS,
    timeframes={**TIMEFRAMES, "3d": "3d"},
    symbol_form=SymbolForm("{base}{quote}"),
    paging=Paging.FORWARD,
    candles=KLINES,
    rows=ROWS,
    errors=ERRORS,
    error_rules=ERROR_RULES,
    markets=MARKETS,
    market_rows=MARKET_ROWS,
    ping_path="/api/v3/ping",
    quirks=(
        "Not served to the United States, nor from cloud regions there: it answers 451, and the job goes to error.",
        "Its limit is per address: other programs behind the same address are counted, and charged here too.",
    ),
)
