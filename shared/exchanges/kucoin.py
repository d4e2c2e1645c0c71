"""KuCoin spot, as data. Source: kucoin.com/docs-new, Get Klines and Rate Limit; error codes as ccxt 4.5.90."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.header_forms import RETRY_AFTER, UsageHeader, WaitForm, WaitHeader
from shared.exchanges.own_names import SymbolForm, timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, EmptyIntervals, ExchangeSpec, MarketsRequest, Paging, Shift

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
    wait_headers=(WaitHeader("gw-ratelimit-reset", WaitForm.MILLISECONDS), RETRY_AFTER),
    throttle_wait_ms=PERIOD_MS,
    # Left out: 1week, which is counted from the epoch and so opens on Thursday.
    timeframes=timeframe_names(
        "1m=1min 3m=3min 5m=5min 15m=15min 30m=30min 1h=1hour 2h=2hour 4h=4hour 6h=6hour 8h=8hour 12h=12hour 1d=1day 1M=1month"
    ),
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
    rows=RowForm.arrays("time open close high low volume", TimeForm.SECONDS, path=("data",)),
    errors=ErrorForm(code_path=("code",), message_path=("msg",), ok_codes=("200000",)),
    error_rules=(
        ErrorRule(Outcome.THROTTLED, codes=("200002",), wait_ms=10_000),
        # Cloudflare's 1015 blocks for half a minute.
        ErrorRule(Outcome.THROTTLED, statuses=(429,), codes=("429000",), wait_ms=PERIOD_MS),
        # Internal error, time-out.
        ErrorRule(Outcome.UNAVAILABLE, codes=("500000", "408000")),
        # Parameter, symbol, path, country.
        ErrorRule(Outcome.REJECTED, codes=("400100", "400000", "400600", "900001", "404000", "400302", "400500")),
    ),
    markets=MarketsRequest("/api/v2/symbols"),
    # The id and not baseCurrency: a coin that was renamed is listed under its old name.
    market_rows=MarketForm.pairs("symbol", r"(?P<base>[^-]+)-(?P<quote>.+)", path=("data",), active={"enableTrading": True}),
    ping_path="/api/v1/timestamp",
    empty_intervals=EmptyIntervals.OMITTED,
    quirks=(
        "Intervals without trades have no candle.",
        "Weeks are not offered, since KuCoin's open on Thursday.",
    ),
)
