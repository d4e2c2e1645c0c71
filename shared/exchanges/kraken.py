"""Kraken spot, as data. Source: docs.kraken.com/api-reference/market-data/get-ohlc-data."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.spec import (
    CandlesRequest,
    EmptyIntervals,
    ErrorForm,
    ErrorRule,
    ExchangeSpec,
    MarketsRequest,
    OtherThan,
    Outcome,
    Paging,
    RowForm,
    RowKind,
    Shift,
    SymbolForm,
    TimeForm,
)

SPEC: Final = ExchangeSpec(
    name="kraken",
    docs_url="https://docs.kraken.com/api-reference/market-data/get-ohlc-data",
    base_url="https://api.kraken.com",
    # One a second is the documented pace; at that pace OHLC still answers with errors.
    windows=(RateWindow(1, 1_200),),
    # Left out: 10080 minutes, since nothing says that its weeks open on Monday; 21600 minutes, which are fifteen days.
    timeframes={"1m": 1, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "1d": 1_440},
    symbol_form=SymbolForm("{base}{quote}", aliases={"BTC": "XBT", "DOGE": "XDG"}),
    paging=Paging.LAST_N,
    candles=CandlesRequest(
        path="/0/public/OHLC",
        params={"pair": "{symbol}", "interval": "{timeframe}", "since": "{start}"},
        page_limit=720,
        time_form=TimeForm.SECONDS,
        start_shift=Shift(candles=-1),  # `since` is exclusive
    ),
    rows=RowForm(
        RowKind.ARRAYS,
        time=0,
        open=1,
        high=2,
        low=3,
        close=4,
        volume=6,  # 5 is the volume-weighted average price
        time_form=TimeForm.SECONDS,
        path=("result", OtherThan(("last",))),
        is_newest_row_open=True,
    ),
    errors=ErrorForm(
        code_path=("error", 0),
        rules=(
            ErrorRule(Outcome.THROTTLED, text="EGeneral:Too many requests", wait_ms=5_000),
            ErrorRule(Outcome.THROTTLED, text="EAPI:Rate limit exceeded", wait_ms=5_000),
            ErrorRule(Outcome.THROTTLED, text="EGeneral:Temporary lockout", wait_ms=900_000),
            ErrorRule(Outcome.UNAVAILABLE, text="EService:"),
            ErrorRule(Outcome.UNAVAILABLE, text="EGeneral:Internal error"),
            ErrorRule(Outcome.REJECTED, text="EQuery:"),
            ErrorRule(Outcome.REJECTED, text="EGeneral:Invalid arguments"),
        ),
    ),
    markets=MarketsRequest(
        path="/0/public/AssetPairs",
        path_in_body=("result",),
        id_key="altname",
        pair_key="wsname",
        pair_pattern=r"(?P<base>[^/]+)/(?P<quote>.+)",
        active={"status": "online"},
    ),
    ping_path="/0/public/Time",
    empty_intervals=EmptyIntervals.FILLED,
    # 720 closed ones. Two intervals may end before a new job's first request is served.
    history_candles_max=718,
    quirks=(
        "The newest 720 candles of a timeframe only, whatever is asked for: older ones cannot be had here.",
        "Intervals without trades come as flat candles of volume 0.",
        "Weeks are left out: nothing says that they open on a Monday.",
    ),
)
