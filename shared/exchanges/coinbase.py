"""Coinbase Exchange, as data. Source: docs.cdp.coinbase.com/api-reference/exchange-api, Get product candles."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.own_names import SymbolForm
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, EmptyIntervals, ExchangeSpec, MarketsRequest, Paging, Shift

SPEC: Final = ExchangeSpec(
    name="coinbase",
    docs_url="https://docs.cdp.coinbase.com/api-reference/exchange-api/rest-api/products/get-product-candles",
    base_url="https://api.exchange.coinbase.com",
    windows=(RateWindow(10, 1_000),),
    timeframes={"1m": 60, "5m": 300, "15m": 900, "1h": 3_600, "6h": 21_600, "1d": 86_400},
    symbol_form=SymbolForm("{base}-{quote}", aliases={"CELO": "CGLD"}),
    paging=Paging.WINDOW,
    candles=CandlesRequest(
        path="/products/{symbol}/candles",
        # Without one of the bounds both are ignored.
        params={"granularity": "{timeframe}", "start": "{start}", "end": "{end}"},
        page_limit=300,
        time_form=TimeForm.ISO,
        end_shift=Shift(candles=-1),  # both bounds are inclusive, and 301 candles are refused
    ),
    rows=RowForm.arrays("time low high open close volume", TimeForm.SECONDS),
    # There are no codes: an object with a message instead of rows is an error.
    errors=ErrorForm(code_path=("message",), message_path=("message",)),
    error_rules=(ErrorRule(Outcome.THROTTLED, statuses=(429,), texts=("rate limit exceeded",), wait_ms=1_000),),
    markets=MarketsRequest("/products"),
    # The id and not base_currency: auction products share the base currency with the real one.
    market_rows=MarketForm.pairs(
        "id",
        r"(?P<base>[^-]+)-(?P<quote>.+)",
        active={"status": "online", "trading_disabled": False, "cancel_only": False},
    ),
    ping_path="/time",
    empty_intervals=EmptyIntervals.OMITTED,
    quirks=(
        "Six timeframes only: 1m, 5m, 15m, 1h, 6h and 1d.",
        "Intervals without trades have no candle.",
    ),
)
