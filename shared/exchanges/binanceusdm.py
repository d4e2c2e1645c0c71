"""Binance USD-M perpetuals, as data. Source: developers.binance.com, USDS-Margined Futures, Kline/Candlestick Data."""

from dataclasses import replace
from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.binance_family import ERROR_RULES, ERRORS, KLINES, MARKET_ROWS, ROWS, TIMEFRAMES, USAGE_HEADERS
from shared.exchanges.own_names import SymbolForm
from shared.exchanges.spec import ExchangeSpec, MarketsRequest, Paging

SPEC: Final = ExchangeSpec(
    name="binanceusdm",
    docs_url=(
        "https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Kline-Candlestick-Data"
    ),
    base_url="https://fapi.binance.com",
    windows=(RateWindow(2_400, 60_000),),
    # By the limit asked for. Up to 1,500 rows can be had, but up to 499 each unit buys the most.
    candles_weight=2,
    weight_steps=((99, 1),),
    symbols_weight=1,
    ping_weight=1,
    usage_headers=USAGE_HEADERS,
    # Left out: 3d, since nothing says on which days it opens here.
    timeframes=TIMEFRAMES,
    symbol_form=SymbolForm(None, swap="{base}{quote}"),
    # The oldest from the start, it seems; but of coin-margined contracts the same question brings the newest before the end.
    paging=Paging.WINDOW,
    candles=replace(KLINES, path="/fapi/v1/klines", page_limit=499),
    rows=ROWS,
    errors=ERRORS,
    error_rules=ERROR_RULES,
    markets=MarketsRequest("/fapi/v1/exchangeInfo"),
    # Contracts with a date end in _ and the date.
    market_rows=replace(MARKET_ROWS, settle_key="marginAsset", id_pattern=r"[^_]+"),
    ping_path="/fapi/v1/ping",
    quirks=(
        "Perpetuals settled in USDT, USDC and the like only; contracts with a delivery date are left out.",
        "Volumes are in the base currency, prices those of trades (not index or mark).",
        "Not served to the United States, nor from cloud regions there: it answers 451, and the job goes to error.",
    ),
)
