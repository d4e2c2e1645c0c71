"""Kraken spot, as data. Source: docs.kraken.com/api-reference/market-data/get-ohlc-data."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.own_names import SymbolForm
from shared.exchanges.row_forms import MarketForm, OtherThan, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, EmptyIntervals, ExchangeSpec, MarketsRequest, Paging, Shift

SPEC: Final = ExchangeSpec(
    name="kraken",
    docs_url="https://docs.kraken.com/api-reference/market-data/get-ohlc-data",
    base_url="https://api.kraken.com",
    # One a second is the documented pace; at that pace OHLC still answers with errors.
    windows=(RateWindow(1, 1_200),),
    # Left out: 10080 minutes, since nothing says that its weeks open on Monday; 21600 minutes, which are fifteen days.
    timeframes={"1m": 1, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "1d": 1_440},
    # Coins that were renamed or split kept their name here, as ccxt 4.5.90 has it: LUNA is what others call LUNC.
    symbol_form=SymbolForm(
        "{base}{quote}",
        aliases={
            "BTC": "XBT",
            "DOGE": "XDG",
            "LUNA": "LUNA2",
            "LUNC": "LUNA",
            "REP": "REPV2",
            "REPV1": "REP",
            "USTC": "UST",
        },
    ),
    paging=Paging.LAST_N,
    candles=CandlesRequest(
        path="/0/public/OHLC",
        params={"pair": "{symbol}", "interval": "{timeframe}", "since": "{start}"},
        page_limit=720,
        time_form=TimeForm.SECONDS,
        start_shift=Shift(candles=-1),  # `since` is exclusive
    ),
    rows=RowForm.arrays(
        "time open high low close vwap volume",
        TimeForm.SECONDS,
        path=("result", OtherThan(("last",))),
        is_newest_row_open=True,
    ),
    errors=ErrorForm(code_path=("error", 0)),
    error_rules=(
        ErrorRule(Outcome.THROTTLED, texts=("EGeneral:Too many requests", "EAPI:Rate limit exceeded"), wait_ms=5_000),
        ErrorRule(Outcome.THROTTLED, texts=("EGeneral:Temporary lockout",), wait_ms=900_000),
        ErrorRule(Outcome.UNAVAILABLE, texts=("EService:", "EGeneral:Internal error")),
        ErrorRule(Outcome.REJECTED, texts=("EQuery:", "EGeneral:Invalid arguments")),
    ),
    markets=MarketsRequest("/0/public/AssetPairs"),
    market_rows=MarketForm.pairs(
        "altname wsname", r"(?P<base>[^/]+)/(?P<quote>.+)", path=("result",), active={"status": "online"}
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
