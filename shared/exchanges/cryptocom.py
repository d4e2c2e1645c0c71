"""Crypto.com Exchange spot, as data. Source: exchange-docs.crypto.com, v1, public/get-candlestick; bounds as ccxt 4.5.90."""

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
    name="cryptocom",
    docs_url="https://exchange-docs.crypto.com/exchange/v1/rest-ws/index.html#public-get-candlestick",
    base_url="https://api.crypto.com",
    windows=(RateWindow(100, 1_000),),
    # Left out: 7D, since nothing says on which day it opens; 14D.
    timeframes={
        **{name: name for name in ("1m", "5m", "15m", "30m", "1h", "4h", "6h", "12h")},
        "1d": "1D",
        "1M": "1M",
    },
    symbol_form=SymbolForm("{base}_{quote}"),
    paging=Paging.WINDOW,
    candles=CandlesRequest(
        path="/exchange/v1/public/get-candlestick",
        params={
            "instrument_name": "{symbol}",
            "timeframe": "{timeframe}",
            "start_ts": "{start}",
            "end_ts": "{end}",
            "count": "{rows}",
        },
        page_limit=300,
        time_form=TimeForm.MILLISECONDS,
        # The start is exclusive; whether the end is, is not said: a ms before the next candle is right in both cases.
        start_shift=Shift(ms=-1),
        end_shift=Shift(ms=-1),
    ),
    rows=RowForm(
        RowKind.OBJECTS,
        time="t",
        open="o",
        high="h",
        low="l",
        close="c",
        volume="v",
        time_form=TimeForm.MILLISECONDS,
        path=("result", "data"),
    ),
    errors=ErrorForm(
        code_path=("code",),
        message_path=("message",),
        ok_codes=("0",),
        rules=(
            ErrorRule(Outcome.THROTTLED, codes=("42901", "10006"), wait_ms=1_000),
            # Maintenance, system busy, internal, time-out.
            ErrorRule(Outcome.UNAVAILABLE, codes=("9010001", "10001", "50001", "40801", "43005")),
            ErrorRule(Outcome.REJECTED, codes=("30003", "40003", "40004", "40401", "10008")),
        ),
    ),
    markets=MarketsRequest(
        path="/exchange/v1/public/get-instruments",
        path_in_body=("result", "data"),
        id_key="symbol",
        base_key="base_ccy",
        quote_key="quote_ccy",
        only={"inst_type": "CCY_PAIR"},
        active={"tradable": True},
    ),
    ping_path="/exchange/v1/public/get-instruments",
    quirks=(
        "Spot pairs; its perpetuals and futures are in the same list and are left out.",
        "Weeks are left out: nothing says on which day they open.",
    ),
)
