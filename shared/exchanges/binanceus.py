"""Binance US, as data. Source: github.com/binance-us/binance-us-api-docs, rest-api.md (2024-06)."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.binance_family import ERRORS, ROWS, TIMEFRAMES, USAGE_HEADERS, exchange_info, klines
from shared.exchanges.spec import ExchangeSpec, Paging, SymbolForm

SPEC: Final = ExchangeSpec(
    name="binanceus",
    docs_url="https://docs.binance.us/#get-candlestick-data",
    base_url="https://api.binance.us",
    # Besides weight, bare requests are counted: 5,000 in five minutes, which this can come near to.
    windows=(RateWindow(1_200, 60_000), RateWindow(5_000, 300_000)),
    candles_weight=1,
    symbols_weight=10,
    ping_weight=1,
    usage_headers=USAGE_HEADERS,
    timeframes=TIMEFRAMES,
    symbol_form=SymbolForm("{base}{quote}"),
    paging=Paging.FORWARD,
    candles=klines("/api/v3", 1_000),
    rows=ROWS,
    errors=ERRORS,
    markets=exchange_info("/api/v3"),
    ping_path="/api/v3/ping",
    quirks=(
        "A market of its own: other symbols, prices and volumes than Binance's.",
        "Quiet: many pairs have minutes without trades.",
    ),
)
