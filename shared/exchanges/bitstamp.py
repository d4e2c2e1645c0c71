"""Bitstamp spot, as data. Source: bitstamp.net/api, Get OHLC data, Response codes and Request limits."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.own_names import SymbolForm
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, ExchangeSpec, MarketsRequest, Paging, Shift

SPEC: Final = ExchangeSpec(
    name="bitstamp",
    docs_url="https://www.bitstamp.net/api/#tag/Market-info/operation/GetOHLCData",
    base_url="https://www.bitstamp.net",
    # Now 10,000 in ten minutes; it was 8,000 and a ban for more, and other sources still have that.
    windows=(RateWindow(400, 1_000), RateWindow(8_000, 600_000)),
    # Left out: 259200 seconds, since nothing says from which day its three days are counted. There are no weeks or months.
    timeframes={
        **{f"{count}m": count * 60 for count in (1, 3, 5, 15, 30)},
        **{f"{count}h": count * 3_600 for count in (1, 2, 4, 6, 12)},
        "1d": 86_400,
    },
    symbol_form=SymbolForm("{base}{quote}", aliases={"USTC": "UST"}, is_lower_case=True),
    paging=Paging.WINDOW,
    candles=CandlesRequest(
        path="/api/v2/ohlc/{symbol}/",
        # The limit has to be there. Of a wider range than that it keeps the newest.
        params={"step": "{timeframe}", "start": "{start}", "end": "{end}", "limit": "{rows}"},
        page_limit=1_000,
        time_form=TimeForm.SECONDS,
        end_shift=Shift(ms=-1_000),  # both bounds are inclusive
    ),
    rows=RowForm.objects("timestamp open high low close volume", TimeForm.SECONDS, path=("data", "ohlc")),
    # Other codes: what it says of parameters, and what it said before it had codes.
    errors=ErrorForm(code_path=("response_code",), other_code_paths=(("code",), ("error",)), message_path=("reason",)),
    error_rules=(
        # The whole address, this client, this market.
        ErrorRule(Outcome.THROTTLED, codes=("400.002", "400.067", "400.068"), wait_ms=60_000),
        ErrorRule(Outcome.UNAVAILABLE, codes=("500.001", "500.002", "500.007", "500.009"), texts=("maintenance",)),
        ErrorRule(Outcome.REJECTED, codes=("validation-error", "400.003", "404.003", "404.007", "410.001")),
        # No such pair, in JSON or not.
        ErrorRule(Outcome.REJECTED, statuses=(404,)),
    ),
    markets=MarketsRequest("/api/v2/markets/"),
    # Perpetuals stand among them.
    market_rows=MarketForm.objects(
        "market_symbol base_currency counter_currency", only={"market_type": "SPOT"}, active={"trading": "Enabled"}
    ),
    # There is no endpoint for the time.
    ping_path="/api/v2/ticker/btcusd/",
    quirks=(
        "Intervals without trades have been seen as flat candles of volume 0, but nothing promises them.",
        "One day was recorded with two candles that disagree (BTC/USD, 2019-01-09): such a candle is not stored.",
        "Candles of three days are left out: nothing says on which days they open.",
        "Ten thousand requests in ten minutes for one address; eight thousand of them are used.",
    ),
)
