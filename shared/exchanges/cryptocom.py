"""Crypto.com Exchange spot, as data. Source: exchange-docs.crypto.com/exchange/v1/rest-ws, public/get-candlestick."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.own_names import SymbolForm, timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, ExchangeSpec, MarketsRequest, Paging, Shift

SPEC: Final = ExchangeSpec(
    name="cryptocom",
    docs_url="https://exchange-docs.crypto.com/exchange/v1/rest-ws/index.html#public-get-candlestick",
    base_url="https://api.crypto.com",
    # For each method; here for all together.
    windows=(RateWindow(100, 1_000),),
    symbols_weight=4,  # what has no limit of its own is held to 30 a second
    # Weeks open on Monday, months follow the calendar, both at 00:00 UTC. 6h has left the documentation, but not ccxt's list.
    # Left out: 14D, which no timeframe of ours is.
    timeframes=timeframe_names("1m 5m 15m 30m 1h 2h 4h 6h 12h 1d=1D 1w=7D 1M"),
    symbol_form=SymbolForm("{base}_{quote}"),
    # Of a range that is too wide the newest come.
    paging=Paging.WINDOW,
    candles=CandlesRequest(
        path="/exchange/v1/public/get-candlestick",
        # Nothing says whether the bounds are among the rows. From one candle before to the one behind everything comes either
        # way, and 300 rows have room for both.
        params={
            "instrument_name": "{symbol}",
            "timeframe": "{timeframe}",
            "count": 300,
            "start_ts": "{start}",
            "end_ts": "{end}",
        },
        page_limit=298,
        time_form=TimeForm.MILLISECONDS,
        start_shift=Shift(candles=-1),
    ),
    rows=RowForm.objects("t o h l c v", TimeForm.MILLISECONDS, path=("result", "data")),
    errors=ErrorForm(code_path=("code",), message_path=("message",), ok_codes=("0",)),
    error_rules=(
        ErrorRule(Outcome.THROTTLED, statuses=(429,), codes=("42901", "10006"), wait_ms=1_000),
        # System error, time-out, internal error (told by HTTP 400), maintenance.
        ErrorRule(Outcome.UNAVAILABLE, codes=("10001", "40801", "50001", "9010001")),
        # Bad request, no such method, bad request, bad argument, bad date, not found (told by HTTP 200).
        ErrorRule(Outcome.REJECTED, codes=("30003", "40001", "40002", "40003", "40004", "40005", "40401")),
    ),
    markets=MarketsRequest("/exchange/v1/public/get-instruments"),
    market_rows=MarketForm.objects(
        "symbol base_ccy quote_ccy", path=("result", "data"), only={"inst_type": "CCY_PAIR"}, active={"tradable": True}
    ),
    # It has no clock to ask for.
    ping_path="/exchange/v1/public/get-book",
    ping_params={"instrument_name": "BTC_USD", "depth": 1},
    quirks=(
        "Markets without trades have been seen to go on with flat candles of volume 0.",
        "Contracts are in the same list and are left out.",
        "History is short: BTC/USD begins in November 2020, ETH/USD in June 2021.",
    ),
)
