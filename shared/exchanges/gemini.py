"""Gemini spot, as data. Source: docs.gemini.com, REST, candles and symbols; quote currencies as ccxt 4.5.90 knows them."""

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
    SymbolForm,
    TimeForm,
)

# What stands at the end of an id (`btcusd`), the longer ones first: nothing separates the two sides.
QUOTES: Final = ("usdt", "usdc", "gusd", "usd", "dai", "eur", "gbp", "sgd", "btc", "eth", "ltc", "bch", "sol", "fil")

SPEC: Final = ExchangeSpec(
    name="gemini",
    docs_url="https://docs.gemini.com/rest/market-data#list-candles",
    base_url="https://api.gemini.com",
    # 120 a minute are allowed; more than one a second is advised against, and queued.
    windows=(RateWindow(1, 1_000), RateWindow(120, 60_000)),
    timeframes={"1m": "1m", "5m": "5m", "15m": "15m", "30m": "30m", "1h": "1hr", "6h": "6hr", "1d": "1day"},
    symbol_form=SymbolForm("{base}{quote}", is_lower_case=True),
    # There are no bounds to be told: each answer is all that there is.
    paging=Paging.LAST_N,
    candles=CandlesRequest(
        path="/v2/candles/{symbol}/{timeframe}", params={}, page_limit=1_440, time_form=TimeForm.MILLISECONDS
    ),
    rows=RowForm(RowKind.ARRAYS, time=0, open=1, high=2, low=3, close=4, volume=5, time_form=TimeForm.MILLISECONDS),
    errors=ErrorForm(
        code_path=("reason",),
        message_path=("message",),
        rules=(
            ErrorRule(Outcome.THROTTLED, codes=("RateLimit", "RateLimited"), wait_ms=60_000),
            ErrorRule(Outcome.THROTTLED, statuses=(429,), wait_ms=60_000),
            ErrorRule(Outcome.UNAVAILABLE, codes=("Maintenance", "System")),
        ),
    ),
    markets=MarketsRequest(
        path="/v1/symbols",
        id_key="symbol",
        pair_key="symbol",
        # Ids with `perp` in them are contracts.
        pair_pattern=rf"(?P<base>(?!.*perp)\w+?)(?P<quote>{'|'.join(QUOTES)})",
    ),
    ping_path="/v1/symbols",
    empty_intervals=EmptyIntervals.UNKNOWN,
    # Of minutes a day. How far the others go back is not documented; what an answer holds is all that there is, and is told.
    history_candles_max=1_440,
    quirks=(
        "One fixed window of newest candles a timeframe, about a day of minutes; older ones cannot be had.",
        "Whether a pair still trades is not in its list of symbols.",
        "Perpetuals are left out.",
    ),
)
