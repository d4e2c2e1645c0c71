"""Deribit spot and perpetuals, as data. Source: docs.deribit.com, public/get_tradingview_chart_data and Rate Limits."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.own_names import SymbolForm
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, EmptyIntervals, ExchangeSpec, MarketsRequest, Paging, Shift

SPEC: Final = ExchangeSpec(
    name="deribit",
    docs_url="https://docs.deribit.com/api-reference/market-data/public-get_tradingview_chart_data",
    base_url="https://www.deribit.com",
    # In calls of 500 credits, of which 10,000 a second are filled up. The pool of 50,000 is promised to accounts only.
    windows=(RateWindow(20, 1_000),),
    symbols_weight=20,  # once a second
    # Left out: 1D, which opens at 08:00 UTC, and 180, 360 and 720, since nothing says that they do not count from there too.
    timeframes={"1m": "1", "3m": "3", "5m": "5", "10m": "10", "15m": "15", "30m": "30", "1h": "60", "2h": "120"},
    symbol_form=SymbolForm(
        "{base}_{quote}", swap="{base}_{quote}-PERPETUAL", swap_by_settle={SymbolForm.INVERSE: "{base}-PERPETUAL"}
    ),
    paging=Paging.WINDOW,
    candles=CandlesRequest(
        path="/api/v2/public/get_tradingview_chart_data",
        params={
            "instrument_name": "{symbol}",
            "resolution": "{timeframe}",
            "start_timestamp": "{start}",
            "end_timestamp": "{end}",
        },
        # The newest 5,001 of a range come, the rest is dropped unsaid. What is below leaves room for the bounds.
        page_limit=4_000,
        time_form=TimeForm.MILLISECONDS,
        # The first row is the candle that holds the start, but a start on the grid has lost it now and then (ccxt 21061). The
        # end is inclusive.
        start_shift=Shift(candles=-1),
    ),
    # The volume is in the base currency for inverse contracts too; `cost` is in the other.
    rows=RowForm.columns("ticks open high low close volume", TimeForm.MILLISECONDS, path=("result",)),
    errors=ErrorForm(code_path=("error", "code"), message_path=("error", "message")),
    error_rules=(
        # The pool is full again after five seconds.
        ErrorRule(Outcome.THROTTLED, statuses=(429,), codes=("10028", "10047", "10066"), wait_ms=5_000),
        # General failure, retry, settlement, wrong server, other error, maintenance, internal, switched off, time-outs.
        ErrorRule(Outcome.UNAVAILABLE, codes=("10001", "10040", "10041", "10048", "11031", "11051", "11094", "-32603")),
        ErrorRule(Outcome.UNAVAILABLE, codes=("13025", "13028", "13503", "13888")),
        # Instrument, arguments, country, not found, forbidden.
        ErrorRule(Outcome.REJECTED, codes=("10020", "11029", "11043", "11049", "11050", "12005", "13016", "13020", "13021")),
        ErrorRule(Outcome.REJECTED, codes=("-32000", "-32600", "-32601", "-32602", "-32700")),
    ),
    markets=MarketsRequest("/api/v2/public/get_instruments", params={"currency": "any"}),
    market_rows=MarketForm.objects(
        "instrument_name base_currency counter_currency settlement_currency",
        path=("result",),
        id_pattern=r"\w+(-PERPETUAL)?",
        spot_pattern=r"\w+",  # spot has no settlement
        only={"is_cbe_routed": None},  # said of spot that is traded at Coinbase, and nowhere else
        active={"is_active": True},
    ),
    ping_path="/api/v2/public/get_time",
    empty_intervals=EmptyIntervals.FILLED,
    quirks=(
        "Days open at 08:00 UTC, so there are no candles of a day here, nor of 3, 6 and 12 hours.",
        "Dated futures, options and combinations are left out, and so is spot that is traded at Coinbase: it has no candles.",
        "Volumes of inverse perpetuals are in the base currency.",
    ),
)
