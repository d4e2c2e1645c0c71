"""Bitget spot, as data. Source: bitget.com/api-doc/spot/market, Get Candlestick Data and Get History Candlestick Data."""

from dataclasses import replace
from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.header_forms import UsageHeader
from shared.exchanges.own_names import SymbolForm, timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, EmptyIntervals, ExchangeSpec, MarketsRequest, Paging

REQUESTS_A_SECOND: Final = 20
# Those over 6,000 a minute lock the address out for five minutes, those over 20 a second for one second, and no answer says
# which it was.
THROTTLED_MS: Final = 60_000

# Unified currency and Bitget's own, where they differ, as ccxt 4.5.90 has them.
_ALIASES: Final = {
    "AstroPepeX": "APX", "DegenReborn": "DEGEN", "Evadore": "EVA", "Jade Protocol": "JADE", "TON": "TONCOIN", "omni": "OMNI",
}  # fmt: skip

_CANDLES: Final = CandlesRequest(
    path="/api/v2/spot/market/candles",
    # Rows are counted back from the end. A start is known here, but has been seen to change nothing; the archive has none.
    params={"symbol": "{symbol}", "granularity": "{timeframe}", "endTime": "{end}", "limit": "{rows}"},
    # The end is exclusive, as far as anyone has seen; that of v3 is not.
    spare_rows=1,
    page_limit=999,
    # It says a thousand, and gives 300 days, 100 weeks, 100 months without a word; what it gives of 6h and 12h nobody tells.
    page_limits={"6h": 299, "12h": 299, "1d": 299, "1w": 99, "1M": 99},
    time_form=TimeForm.MILLISECONDS,
)

SPEC: Final = ExchangeSpec(
    name="bitget",
    docs_url="https://www.bitget.com/api-doc/spot/market/Get-Candle-Data",
    base_url="https://api.bitget.com",
    # For each path, and for all of them; here for all together.
    windows=(RateWindow(REQUESTS_A_SECOND, 1_000), RateWindow(6_000, 60_000)),
    usage_headers=(UsageHeader("x-mbx-used-remain-limit", 1_000, remaining_of=REQUESTS_A_SECOND),),
    throttle_wait_ms=THROTTLED_MS,
    # From 6 hours on plain granularities open by Hong Kong's clock; weeks on its Mondays, and 1Wutc on those of UTC. Left out:
    # 3Dutc, since nothing says on which days it opens; two hours, which spot does not have.
    timeframes=timeframe_names(
        "1m=1min 3m=3min 5m=5min 15m=15min 30m=30min 1h 4h 6h=6Hutc 12h=12Hutc 1d=1Dutc 1w=1Wutc 1M=1Mutc"
    ),
    # Symbols are in capitals, while tokens of shares are listed as rAAPL.
    symbol_form=SymbolForm("{base}{quote}", aliases=_ALIASES, is_upper_case=True),
    paging=Paging.BACKWARD,
    candles=_CANDLES,
    # Of the longer timeframes the recent endpoint has 1,440 candles, not what the docs say. Where the limit counts back beyond
    # them, it gives nothing and no error, not even those that it has. The archive is not asked for the newest: nothing says how
    # soon they are in it.
    archive=replace(_CANDLES, path="/api/v2/spot/market/history-candles", page_limit=199, page_limits={"1w": 99, "1M": 99}),
    archive_after_candles=1_390,
    # New pairs have nothing in the place of rows.
    rows=RowForm.arrays("time open high low close volume", TimeForm.MILLISECONDS, path=("data",), is_nothing_empty=True),
    errors=ErrorForm(code_path=("code",), other_code_paths=(("err_code",),), message_path=("msg",), ok_codes=("00000",)),
    error_rules=(
        ErrorRule(Outcome.THROTTLED, codes=("429", "30014", "50009")),
        # Busy, timed out, abnormal, upgrading, failed, pair in maintenance; during releases 40808 and 45001 too.
        ErrorRule(Outcome.UNAVAILABLE, codes=("500", "40010", "40015", "40200", "40725", "40808", "41114", "45001", "50008")),
        # The older forms of "abnormal".
        ErrorRule(Outcome.UNAVAILABLE, codes=("01001", "system exception")),
        # Symbols, and an address that is not served; parameters and paths.
        ErrorRule(Outcome.REJECTED, codes=("40034", "40102", "40309", "50004", "40018")),
        ErrorRule(Outcome.REJECTED, codes=("40017", "400171", "400172", "40019", "40020", "40404", "48001")),
    ),
    markets=MarketsRequest("/api/v2/spot/public/symbols"),
    market_rows=MarketForm.objects("symbol baseCoin quoteCoin", path=("data",), active={"status": "online"}),
    ping_path="/api/v2/public/time",
    empty_intervals=EmptyIntervals.OMITTED,
    quirks=(
        "Candles of six hours and more are asked for in UTC; Bitget's own default is Hong Kong's day.",
        "Candles older than 1,390 intervals come from an archive in pages of 199.",
    ),
)
