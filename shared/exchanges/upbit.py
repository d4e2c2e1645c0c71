"""Upbit Korea spot, as data. Source: docs.upbit.com/kr/reference, candles and Rate Limits."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.header_forms import UsageHeader
from shared.exchanges.own_names import SymbolForm, timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, EmptyIntervals, ExchangeSpec, MarketsRequest, Paging

PERIOD_MS: Final = 1_000
REQUESTS_MAX: Final = 10
# How long a ban lasts stands in the words of its message only. Bans grow for those who go on.
BAN_MS: Final = 600_000

SPEC: Final = ExchangeSpec(
    name="upbit",
    docs_url="https://docs.upbit.com/kr/reference/list-candles-minutes",
    base_url="https://api.upbit.com",
    # For all candles together, and as many again for symbols and for tickers; here for all.
    windows=(RateWindow(REQUESTS_MAX, PERIOD_MS),),
    usage_headers=(UsageHeader("Remaining-Req", PERIOD_MS, REQUESTS_MAX, pattern=r"group=candles?;.*\bsec=(\d+)"),),
    # Days open at 00:00 UTC, which is nine in Korea; weeks on Monday.
    timeframes=timeframe_names(
        "1m=minutes/1 3m=minutes/3 5m=minutes/5 10m=minutes/10 15m=minutes/15 30m=minutes/30 1h=minutes/60 4h=minutes/240 "
        "1d=days 1w=weeks 1M=months"
    ),
    # TON was Tokamak Network's name before it became TOKAMAK, and ccxt still reads it so: nobody gets it as Toncoin.
    symbol_form=SymbolForm("{quote}-{base}", aliases={"Tokamak Network": "TON"}),
    paging=Paging.BACKWARD,
    candles=CandlesRequest(
        path="/v1/candles/{timeframe}",
        # There is no start, and the end is exclusive.
        params={"market": "{symbol}", "to": "{end}", "count": "{rows}"},
        page_limit=200,
        time_form=TimeForm.ISO,
    ),
    # The time is not `timestamp`, which is that of the last trade.
    rows=RowForm.objects(
        "candle_date_time_utc opening_price high_price low_price trade_price candle_acc_trade_volume", TimeForm.ISO
    ),
    errors=ErrorForm(code_path=("error", "name"), message_path=("error", "message")),
    error_rules=(
        ErrorRule(Outcome.THROTTLED, statuses=(418,), codes=("418",), wait_ms=BAN_MS),
        ErrorRule(Outcome.THROTTLED, statuses=(429,), codes=("429", "too_many_requests"), wait_ms=PERIOD_MS),
        ErrorRule(Outcome.REJECTED, codes=("400", "404", "invalid_parameter", "validation_error")),
    ),
    markets=MarketsRequest("/v1/market/all"),
    market_rows=MarketForm.pairs("market", r"(?P<quote>[^-]+)-(?P<base>.+)"),
    # It has no clock to ask for.
    ping_path="/v1/ticker",
    ping_params={"markets": "KRW-BTC"},
    empty_intervals=EmptyIntervals.OMITTED,
    quirks=(
        "Intervals without trades have no candle, and delisted symbols vanish from its list.",
        "Ten requests a second for all candles; who goes on after a refusal is banned, each time for longer.",
        "This is Upbit Korea: prices in KRW, BTC and USDT. Its houses in Singapore, Indonesia and Thailand are others.",
    ),
)
