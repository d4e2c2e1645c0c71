"""Binance US spot, as data. Source: github.com/binance-us/binance-us-api-docs, rest-api.md."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.binance_family import ERROR_RULES, ERRORS, KLINES, MARKET_ROWS, MARKETS, ROWS, TIMEFRAMES, USAGE_HEADERS
from shared.exchanges.own_names import SymbolForm
from shared.exchanges.spec import ExchangeSpec, Paging

SPEC: Final = ExchangeSpec(
    name="binanceus",
    docs_url="https://docs.binance.us/#get-candlestick-data",
    base_url="https://api.binance.us",
    # The second is of requests, whatever their weight: counted as weight it holds all the more.
    windows=(RateWindow(1_200, 60_000), RateWindow(5_000, 300_000)),
    candles_weight=1,
    symbols_weight=10,
    ping_weight=1,
    usage_headers=USAGE_HEADERS,
    # Left out: 3d, since nothing says on which days it opens here.
    timeframes=TIMEFRAMES,
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
        "An exchange of its own: other pairs, prices and volumes than at Binance, and far less trade.",
        "Served to the United States; elsewhere it may answer 403 for the country, and the job goes to error.",
        "Its limit is per address: other programs behind the same address are counted, and charged here too.",
    ),
)
