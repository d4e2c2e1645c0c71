"""Poloniex spot, as data. Source: poloniex/polo-sdk-python and api-docs.poloniex.com, spot, market data."""

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
)

SPEC: Final = ExchangeSpec(
    name="poloniex",
    docs_url="https://api-docs.poloniex.com/spot/api/public/market-data#candles",
    base_url="https://api.poloniex.com",
    windows=(RateWindow(200, 1_000),),
    # Left out: DAY_3 and WEEK_1, since nothing says on which days they open.
    timeframes={
        **{f"{minutes}m": f"MINUTE_{minutes}" for minutes in (1, 5, 10, 15, 30)},
        **{f"{hours}h": f"HOUR_{hours}" for hours in (1, 2, 4, 6, 12)},
        "1d": "DAY_1",
        "1M": "MONTH_1",
    },
    symbol_form=SymbolForm("{base}_{quote}"),
    # Which side is kept when a range is too wide is not documented: no range is wider than a page.
    paging=Paging.WINDOW,
    candles=CandlesRequest(
        path="/markets/{symbol}/candles",
        params={"interval": "{timeframe}", "startTime": "{start}", "endTime": "{end}", "limit": "{rows}"},
        page_limit=500,
        time_form=TimeForm.MILLISECONDS,
        end_shift=Shift(ms=-1),
    ),
    # Low stands first; 4 is the amount in the quote currency.
    rows=RowForm(RowKind.ARRAYS, time=12, low=0, high=1, open=2, close=3, volume=5, time_form=TimeForm.MILLISECONDS),
    errors=ErrorForm(
        code_path=("code",),
        message_path=("message",),
        ok_codes=("200",),
        rules=(
            ErrorRule(Outcome.THROTTLED, codes=("429",), wait_ms=1_000),
            # Internal, maintenance, time-out, unavailable.
            ErrorRule(Outcome.UNAVAILABLE, codes=("500", "503", "603", "1002")),
            ErrorRule(Outcome.REJECTED, codes=("400", "404", "10001", "10040", "24101")),
        ),
    ),
    markets=MarketsRequest(
        path="/markets",
        id_key="symbol",
        base_key="baseCurrencyName",
        quote_key="quoteCurrencyName",
        active={"state": "NORMAL"},
    ),
    ping_path="/timestamp",
    quirks=(
        "Quiet: most pairs have minutes without trades.",
        "Three days and weeks are left out: nothing says on which days they open.",
    ),
)
