"""Bitget spot, as data. Source: bitget.com/api-doc/spot/market, Get Candlestick Data; caps, reach and codes as ccxt 4.5.90."""

from dataclasses import replace
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
    SymbolForm,
    TimeForm,
)

_CANDLES: Final = CandlesRequest(
    path="/api/v2/spot/market/candles",
    # Rows are counted back from the end. A start is known here, but has been seen to change nothing; the archive has none.
    params={"symbol": "{symbol}", "granularity": "{timeframe}", "endTime": "{end}", "limit": "{rows}"},
    # One row less than 1,000, 300 and 100: the end has been seen to be exclusive, but is not told to be.
    spare_rows=1,
    page_limit=999,
    page_limits={"1d": 299, "1M": 99},
    time_form=TimeForm.MILLISECONDS,
)

SPEC: Final = ExchangeSpec(
    name="bitget",
    docs_url="https://www.bitget.com/api-doc/spot/market/Get-Candle-Data",
    base_url="https://api.bitget.com",
    # Of each of the two paths, and of all.
    windows=(RateWindow(20, 1_000), RateWindow(6_000, 60_000)),
    # Plain granularities of six hours and more do not open by UTC. Left out: 1Wutc and 3Dutc, since nothing says that these
    # weeks open on Monday and from which day the three are counted; two hours, which spot does not have.
    timeframes={
        **{f"{count}m": f"{count}min" for count in (1, 3, 5, 15, 30)},
        **{name: name for name in ("1h", "4h")},
        "6h": "6Hutc",
        "12h": "12Hutc",
        "1d": "1Dutc",
        "1M": "1Mutc",
    },
    symbol_form=SymbolForm(
        "{base}{quote}",
        aliases={
            "AstroPepeX": "APX",
            "DegenReborn": "DEGEN",
            "Evadore": "EVA",
            "Jade Protocol": "JADE",
            "TON": "TONCOIN",
            "omni": "OMNI",
        },
    ),
    paging=Paging.BACKWARD,
    candles=_CANDLES,
    # Where the recent endpoint no longer reaches, it gives nothing and no error: a month of minutes, two of hours. The docs
    # have more than has been measured. The shortest reach counted in candles is that of half hours.
    archive=replace(_CANDLES, path="/api/v2/spot/market/history-candles", page_limit=199, page_limits={"1M": 99}),
    archive_after_candles=1_390,
    rows=RowForm(
        RowKind.ARRAYS,
        time=0,
        open=1,
        high=2,
        low=3,
        close=4,
        volume=5,
        time_form=TimeForm.MILLISECONDS,
        path=("data",),
        is_nothing_empty=True,  # new pairs
    ),
    errors=ErrorForm(
        code_path=("code",),
        other_code_paths=(("err_code",),),
        message_path=("msg",),
        ok_codes=("00000",),
        rules=(
            ErrorRule(Outcome.THROTTLED, statuses=(429,), wait_ms=10_000),
            ErrorRule(Outcome.THROTTLED, codes=("429", "30014"), wait_ms=10_000),
            # Abnormal, server upgrade, service, unknown, pair in maintenance, and the older forms of the first.
            ErrorRule(Outcome.UNAVAILABLE, codes=("40015", "40200", "40725", "45001", "41114", "01001", "system exception")),
            # Parameters and symbols.
            ErrorRule(Outcome.REJECTED, codes=("40017", "400171", "400172", "40019", "40034", "40102", "40309", "50004")),
            # The address is not served.
            ErrorRule(Outcome.REJECTED, codes=("40018",)),
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
    quirks=(
        "Candles of six hours and more are asked for in UTC; Bitget's own default is another day.",
        "Candles older than 1,390 intervals come from an archive in pages of 199.",
        "Weeks are left out: nothing says that they open on a Monday.",
    ),
)
