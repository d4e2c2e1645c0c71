"""Bitget spot, as data. Source: bitget.com/api-doc/spot/market, Get Candlestick Data and Get History Candlestick Data."""

from dataclasses import replace
from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.spec import (
    CandlesRequest,
    EmptyIntervals,
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
    UsageHeader,
)

REQUESTS_A_SECOND: Final = 20
# Those over 6,000 a minute lock the address out for five minutes, those over 20 a second for one second, and no answer says
# which it was.
THROTTLED_MS: Final = 60_000

_CANDLES: Final = CandlesRequest(
    path="/api/v2/spot/market/candles",
    params={
        "symbol": "{symbol}",
        "granularity": "{timeframe}",
        "startTime": "{start}",
        "endTime": "{end}",
        "limit": "{rows}",
    },
    page_limit=999,
    # It says a thousand, and gives 300 days, 100 weeks, 100 months.
    page_limits={"6h": 299, "12h": 299, "1d": 299, "1w": 99, "1M": 99},
    time_form=TimeForm.MILLISECONDS,
    # It takes the newest before the end, whatever the start. Both v1 and v3 leave out the candle that opens at the start, and
    # v3 has the one that opens at the end: so one candle more on either side is room enough whichever v2 does.
    start_shift=Shift(candles=-1),
    spare_rows=1,
)

SPEC: Final = ExchangeSpec(
    name="bitget",
    docs_url="https://www.bitget.com/api-doc/spot/market/Get-Candle-Data",
    base_url="https://api.bitget.com",
    # For each path, and for all of them; here for all together.
    windows=(RateWindow(REQUESTS_A_SECOND, 1_000), RateWindow(6_000, 60_000)),
    usage_headers=(UsageHeader("x-mbx-used-remain-limit", 1_000, remaining_of=REQUESTS_A_SECOND),),
    throttle_wait_ms=THROTTLED_MS,
    # From 6 hours on plain granularities open by Hong Kong's clock. Left out: 3Dutc, since nothing says on which days it opens.
    timeframes={
        **{f"{count}m": f"{count}min" for count in (1, 3, 5, 15, 30)},
        "1h": "1h",
        "4h": "4h",
        "6h": "6Hutc",
        "12h": "12Hutc",
        "1d": "1Dutc",
        "1w": "1Wutc",
        "1M": "1Mutc",
    },
    # The aliases are as ccxt 4.5.90 has them, but for JADE, whose unified name has a blank. Symbols are in capitals, while
    # tokens of shares are listed as rAAPL.
    symbol_form=SymbolForm(
        "{base}{quote}",
        aliases={"AstroPepeX": "APX", "DegenReborn": "DEGEN", "Evadore": "EVA", "omni": "OMNI", "TON": "TONCOIN"},
        is_upper_case=True,
    ),
    paging=Paging.WINDOW,
    candles=_CANDLES,
    # The plain endpoint reaches about 1,440 bars back, and gives nothing at all where the limit reaches further than that.
    archive=replace(
        _CANDLES,
        path="/api/v2/spot/market/history-candles",
        params={"symbol": "{symbol}", "granularity": "{timeframe}", "endTime": "{end}", "limit": "{rows}"},
        page_limit=199,
        page_limits={"1w": 99, "1M": 99},
    ),
    archive_after_candles=1_000,
    rows=RowForm(
        RowKind.ARRAYS, time=0, open=1, high=2, low=3, close=4, volume=5, time_form=TimeForm.MILLISECONDS, path=("data",)
    ),
    errors=ErrorForm(
        code_path=("code",),
        message_path=("msg",),
        ok_codes=("00000",),
        rules=(
            ErrorRule(Outcome.THROTTLED, codes=("429", "50009")),
            # Busy, timed out, abnormal, upgrading, failed, pair in maintenance; during releases 40808 and 45001 too.
            ErrorRule(
                Outcome.UNAVAILABLE, codes=("500", "40010", "40015", "40200", "40725", "40808", "41114", "45001", "50008")
            ),
            # Unknown, missing or wrong parameters, removed pairs, unknown paths; the first four are what symbols get.
            ErrorRule(
                Outcome.REJECTED, codes=("40034", "40102", "40309", "50004", "40017", "40019", "40020", "40404", "48001")
            ),
            ErrorRule(Outcome.REJECTED, codes=("00001", "400171", "400172")),
        ),
    ),
    markets=MarketsRequest(
        path="/api/v2/spot/public/symbols",
        path_in_body=("data",),
        base_key="baseCoin",
        quote_key="quoteCoin",
        active={"status": "online"},
    ),
    ping_path="/api/v2/public/time",
    empty_intervals=EmptyIntervals.OMITTED,
    quirks=(
        "Candles of six hours and more are asked for in UTC; Bitget's own default is Hong Kong's day.",
        "Candles older than 1,000 intervals come from an archive in pages of 199.",
    ),
)
