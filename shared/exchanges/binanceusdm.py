"""Binance's perpetuals margined in dollars (USD-M), as data. Source: developers.binance.com, USDS-margined futures, REST."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.binance_family import ERRORS, ROWS, TIMEFRAMES, USAGE_HEADERS, exchange_info, klines
from shared.exchanges.spec import ExchangeSpec, Paging, SymbolForm

SPEC: Final = ExchangeSpec(
    name="binanceusdm",
    docs_url="https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Kline-Candlestick-Data",
    base_url="https://fapi.binance.com",
    windows=(RateWindow(2_400, 60_000),),
    # Up to 1,500 rows may be asked for, at 10; 499 at 2 give the most rows for the weight.
    candles_weight=2,
    weight_steps=((99, 1), (499, 2)),
    symbols_weight=1,
    ping_weight=1,
    usage_headers=USAGE_HEADERS,
    timeframes=TIMEFRAMES,
    symbol_form=SymbolForm(None, swap="{base}{quote}"),
    paging=Paging.FORWARD,
    candles=klines("/fapi/v1", 499),
    rows=ROWS,
    errors=ERRORS,
    markets=exchange_info("/fapi/v1", is_perpetual=True),
    ping_path="/fapi/v1/ping",
    quirks=(
        "Not served to the United States, nor from cloud regions there: it answers 451, and the job goes to error.",
        "Contracts with a delivery date are left out.",
        "A request for up to 99 candles costs half of one for 499.",
    ),
)
