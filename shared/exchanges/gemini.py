"""Gemini spot, as data. Source: developer.gemini.com, List Candles and Rate Limits; what it does not tell as dp-exchange-gemini
and others measured it in 2026.
"""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.own_names import SymbolForm, timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, ExchangeSpec, MarketsRequest, Paging

# So many rows each answer has, twice measured and alike: a day, one week, two, thirty days, 61 days.
ROWS: Final = {"1m": 1_440, "5m": 2_015, "15m": 1_343, "30m": 1_439, "1h": 1_463}
# An id is base and quote without anything between. The shortest base that leaves a quote is the right one, but for coins that
# end in G, beside which GUSD stands.
BASES: Final = "paxg|usdg"
QUOTES: Final = "rlusd|gusd|usdc|usdt|usd|eur|gbp|sgd|dai|btc|eth|sol|fil|ltc|bch"

SPEC: Final = ExchangeSpec(
    name="gemini",
    docs_url="https://developer.gemini.com/rest-api/trading/market-data/list-candles",
    base_url="https://api.gemini.com",
    # The second is what is recommended.
    windows=(RateWindow(120, 60_000), RateWindow(1, 1_000)),
    # Left out: 1day, which opened at 04:00 UTC wherever it was seen; 6hr, 1w and 1mo, since nothing says when they open, and
    # the day makes one doubt it.
    timeframes=timeframe_names("1m 5m 15m 30m 1h=1hr"),
    symbol_form=SymbolForm("{base}{quote}", is_lower_case=True),
    # Parameters are ignored.
    paging=Paging.LAST_N,
    candles=CandlesRequest(
        path="/v2/candles/{symbol}/{timeframe}",
        params={},
        page_limit=max(ROWS.values()),
        page_limits=ROWS,
        time_form=TimeForm.MILLISECONDS,
    ),
    rows=RowForm.arrays("time open high low close volume", TimeForm.MILLISECONDS),
    errors=ErrorForm(code_path=("reason",), message_path=("message",)),
    error_rules=(
        # Until the pace is below the limit again, which is counted by the minute.
        ErrorRule(Outcome.THROTTLED, statuses=(429,), codes=("RateLimit",), wait_ms=60_000),
        ErrorRule(Outcome.UNAVAILABLE, codes=("Maintenance", "System")),
        ErrorRule(Outcome.REJECTED, codes=("EndpointNotFound", "InvalidParameterValue", "InvalidSymbol")),
        # An unknown symbol is told in plain text.
        ErrorRule(Outcome.REJECTED, statuses=(400, 404)),
    ),
    # Whether a pair trades is only told pair by pair. Perpetuals end otherwise.
    markets=MarketsRequest("/v1/symbols"),
    market_rows=MarketForm.pairs("symbol", rf"(?P<base>{BASES}|.+?)(?P<quote>{QUOTES})"),
    ping_path="/v1/symbols",
    # One of the rows may be the running candle. Intervals without trades come with volume 0 where it was seen; nothing here
    # relies on it.
    history_candles_max={timeframe: rows - 1 for timeframe, rows in ROWS.items()},
    quirks=(
        "Only the newest candles can be had: a day of minutes, a week of five minutes, 61 days of hours.",
        "Days and six hours are not offered, since Gemini's day opens at 04:00 UTC.",
        "One request a second is what Gemini recommends: sixty series at one minute, not more.",
        "The list of symbols does not tell which of them trade.",
    ),
)
