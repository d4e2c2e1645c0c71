"""Bitfinex spot, as data. Source: docs.bitfinex.com/reference/rest-public-candles; names of currencies as ccxt 4.5.90."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.own_names import SymbolForm, timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, EmptyIntervals, ExchangeSpec, MarketsRequest, Paging, Shift

# Who is too fast is blocked for a minute.
BLOCK_MS: Final = 60_000

# Unified currency and Bitfinex's own, where they differ.
_ALIASES: Final = {
    "ALGO": "ALG", "AMPL": "AMP", "ATOM": "ATO", "BCH": "BCHN", "DASH": "DSH", "DATA": "DAT", "EURS": "EUS", "EURT": "EUT",
    "HT": "HTX", "ID": "IDX", "IOTA": "IOT", "IQ": "IQX", "LUNA": "LUNA2", "LUNC": "LUNA", "MANA": "MNA", "MDOGE": "DOG",
    "ORS Group": "ORS", "PASS": "PAS", "PNT": "EDO", "QASH": "QSH", "QTUM": "QTM", "RBTC": "RBT", "SNGLS": "SNG",
    "STORJ": "STJ", "TUSD": "TSD",
    "USDC": "UDC", "USDT": "UST", "USTC": "TERRAUST", "VSYS": "VSY", "WAXP": "WAX", "XCHF": "XCH", "XEC": "BCHABC",
    "YEED": "YGG", "YOYOW": "YYW", "ZB": "ZBT",
}  # fmt: skip

SPEC: Final = ExchangeSpec(
    name="bitfinex",
    docs_url="https://docs.bitfinex.com/reference/rest-public-candles",
    base_url="https://api-pub.bitfinex.com",
    # The page on candles has said 90 a minute too; who asked that often was blocked. Counted per path, here for all.
    windows=(RateWindow(30, 60_000),),
    # 4h is served, though the documentation does not list it. Left out: weeks, since 7D opens on Thursday and its rows hold
    # but one day, and nothing is recorded of the newer 1W; months and 14D, of which no recorded row shows what is in them.
    timeframes=timeframe_names("1m 5m 15m 30m 1h 3h 4h 6h 12h 1d=1D"),
    symbol_form=SymbolForm("t{base}{quote}", "t{base}:{quote}", aliases=_ALIASES),
    paging=Paging.FORWARD,
    candles=CandlesRequest(
        path="/v2/candles/trade:{timeframe}:{symbol}/hist",
        # Unsorted it gives the newest of a range that is too wide.
        params={"sort": 1, "start": "{start}", "end": "{end}", "limit": "{rows}"},
        page_limit=10_000,
        time_form=TimeForm.MILLISECONDS,
        end_shift=Shift(ms=-1),  # both bounds are inclusive, and an end that is no later than the start is refused
    ),
    rows=RowForm.arrays("time open close high low volume", TimeForm.MILLISECONDS),
    # ["error", number, text]. The state of the platform is [1], and [0] under maintenance.
    errors=ErrorForm(code_path=(0,), message_path=(1,), ok_codes=("1",)),
    error_rules=(
        ErrorRule(Outcome.THROTTLED, statuses=(429,), texts=("11010",), wait_ms=BLOCK_MS),
        # Unknown error, not ready, restart, maintenance.
        ErrorRule(Outcome.UNAVAILABLE, codes=("0",), texts=("10000", "11000", "20051", "20060")),
        ErrorRule(Outcome.REJECTED, texts=("10020",)),
    ),
    markets=MarketsRequest("/v2/conf/pub:list:pair:exchange"),
    # F0 marks a derivative.
    market_rows=MarketForm.pairs(
        "symbol", r"(?P<base>[^:]{3}(?=[^:]{3}$)|[^:]+(?=:)):?(?P<quote>[^:]+)", path=(0,), id_pattern=r"(?!.*F0).+"
    ),
    ping_path="/v2/platform/status",
    empty_intervals=EmptyIntervals.OMITTED,
    is_unknown_symbol_empty=True,
    quirks=(
        "Candles may be asked for 30 times a minute, and who asks more often is blocked for a minute; a page holds 10,000.",
        "Intervals without trades have no candle.",
        "Weeks and months are not offered: its weeks open on Thursday and hold one day, and of its months nothing is known.",
    ),
)
