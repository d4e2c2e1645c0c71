"""KuCoin spot, as data. Source: kucoin.com/docs-new, Get Klines and Rate Limit; error codes as ccxt 4.5.90."""

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
    WaitForm,
    WaitHeader,
)

PERIOD_MS: Final = 30_000
WEIGHT_MAX: Final = 2_000

SPEC: Final = ExchangeSpec(
    name="kucoin",
    docs_url="https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-klines",
    base_url="https://api.kucoin.com",
    # The pool of public questions, for each address.
    windows=(RateWindow(WEIGHT_MAX, PERIOD_MS),),
    candles_weight=3,
    symbols_weight=4,
    ping_weight=3,
    usage_headers=(UsageHeader("gw-ratelimit-remaining", PERIOD_MS, remaining_of=WEIGHT_MAX),),
    wait_headers=(
        WaitHeader("gw-ratelimit-reset", WaitForm.MILLISECONDS),
        WaitHeader("Retry-After", WaitForm.RETRY_AFTER),
    ),
    throttle_wait_ms=PERIOD_MS,
    # Left out: 1week, which is counted from the epoch and so opens on Thursday.
    timeframes={
        **{f"{count}m": f"{count}min" for count in (1, 3, 5, 15, 30)},
        **{f"{count}h": f"{count}hour" for count in (1, 2, 4, 6, 8, 12)},
        "1d": "1day",
        "1M": "1month",
    },
    # BSV kept the name it had when it was listed.
    symbol_form=SymbolForm(
        "{base}-{quote}",
        aliases={
            "ALT": "KALT",
            "APTOSLAUNCHTOKEN": "ALT",
            "BIFIF": "BIFI",
            "BSV": "BCHSV",
            "FTX Users' Debt": "FUD",
            "VAIOT": "VAI",
            "WAXP": "WAX",
        },
    ),
    paging=Paging.WINDOW,
    candles=CandlesRequest(
        path="/api/v1/market/candles",
        # Without a start it gives a hundred rows; there is no limit to ask for.
        params={"symbol": "{symbol}", "type": "{timeframe}", "startAt": "{start}", "endAt": "{end}"},
        page_limit=1_500,
        time_form=TimeForm.SECONDS,
        # Nothing says whether the end is inclusive: a second before it is right either way. Of more than 1,500 rows the
        # oldest would be missing.
        end_shift=Shift(ms=-1_000),
    ),
    # Close stands before high and low.
    rows=RowForm(
        RowKind.ARRAYS,
        time=0,
        open=1,
        close=2,
        high=3,
        low=4,
        volume=5,
        time_form=TimeForm.SECONDS,
        path=("data",),
    ),
    errors=ErrorForm(
        code_path=("code",),
        message_path=("msg",),
        ok_codes=("200000",),
        rules=(
            ErrorRule(Outcome.THROTTLED, codes=("429000",), wait_ms=PERIOD_MS),
            ErrorRule(Outcome.THROTTLED, codes=("200002",), wait_ms=10_000),
            # Cloudflare's 1015 blocks for half a minute.
            ErrorRule(Outcome.THROTTLED, statuses=(429,), wait_ms=PERIOD_MS),
            # Internal error, time-out.
            ErrorRule(Outcome.UNAVAILABLE, codes=("500000", "408000")),
            # Parameter, symbol, path, country.
            ErrorRule(Outcome.REJECTED, codes=("400100", "400000", "400600", "900001", "404000")),
            ErrorRule(Outcome.REJECTED, codes=("400302", "400500")),
        ),
    ),
    markets=MarketsRequest(
        path="/api/v2/symbols",
        path_in_body=("data",),
        id_key="symbol",
        # The id and not baseCurrency: a coin that was renamed is listed under its old name.
        pair_key="symbol",
        pair_pattern=r"(?P<base>[^-]+)-(?P<quote>.+)",
        active={"enableTrading": True},
    ),
    ping_path="/api/v1/timestamp",
    empty_intervals=EmptyIntervals.OMITTED,
    quirks=(
        "Intervals without trades have no candle.",
        "Weeks are not offered, since KuCoin's open on Thursday.",
    ),
)
