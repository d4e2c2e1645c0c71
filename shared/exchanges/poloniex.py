"""Poloniex spot, as data. Source: api-docs.poloniex.com/spot, Candles and Error Codes; limits and names as ccxt 4.5.90."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.own_names import SymbolForm
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, ExchangeSpec, MarketsRequest, Paging, Shift

# Unified currency and Poloniex's own, where they differ. Left out: XLM and REP, which have been traded under two names here.
_ALIASES: Final = {
    "API Coin": "XAP", "AirCoin": "AIR", "AphroditeCoin": "APH", "BTCtalkcoin": "BCC", "Badgercoin": "BDG", "Bitmark": "BTM",
    "Coino": "CON", "Degenerator Meme": "MEME", "GPU": "GPUC", "GoldEagles": "GOLD", "Hotcoin": "HOT",
    "Information Coin": "ITC", "KEYCoin": "KEY", "NFTX Hashmasks Index": "MASK", "ParallaxCoin": "PLX", "SOCC": "SOC",
    "USTC": "UST", "Unitrade": "TRADE",
}  # fmt: skip

SPEC: Final = ExchangeSpec(
    name="poloniex",
    docs_url="https://api-docs.poloniex.com/spot/api/public/market-data#candles",
    base_url="https://api.poloniex.com",
    windows=(RateWindow(200, 1_000),),
    symbols_weight=20,  # ten times a second
    # Left out: DAY_3, WEEK_1 and MONTH_1, since nothing says on which days they open.
    timeframes={
        **{f"{minutes}m": f"MINUTE_{minutes}" for minutes in (1, 5, 10, 15, 30)},
        **{f"{hours}h": f"HOUR_{hours}" for hours in (1, 2, 4, 6, 12)},
        "1d": "DAY_1",
    },
    symbol_form=SymbolForm("{base}_{quote}", aliases=_ALIASES),
    # Of a range that is too wide the newest come.
    paging=Paging.WINDOW,
    candles=CandlesRequest(
        path="/markets/{symbol}/candles",
        # The bounds limit the rows. ccxt notes that less than 100 are not to be asked for.
        params={"interval": "{timeframe}", "startTime": "{start}", "endTime": "{end}", "limit": 500},
        page_limit=500,
        time_form=TimeForm.MILLISECONDS,
        end_shift=Shift(ms=-1),  # the start is inclusive; nothing says whether the end is
    ),
    rows=RowForm.arrays("low high open close quote_volume volume _ _ _ _ _ _ time", TimeForm.MILLISECONDS),
    errors=ErrorForm(code_path=("code",), message_path=("message",), ok_codes=("200",)),
    error_rules=(
        ErrorRule(Outcome.THROTTLED, statuses=(429,), codes=("429",), wait_ms=1_000),
        # System errors, busy, time-out, maintenance.
        ErrorRule(Outcome.UNAVAILABLE, codes=("415", "500", "503", "603", "1001", "1002", "10060", "21340", "24201")),
        # Currency, symbol, parameters; symbol, interval, end, limit and start of candles.
        ErrorRule(Outcome.REJECTED, codes=("400", "404", "601", "602", "10001", "10020", "10040", "10041", "21110")),
        ErrorRule(Outcome.REJECTED, codes=("24101", "24102", "24103", "24104", "24105")),
    ),
    markets=MarketsRequest("/markets"),
    market_rows=MarketForm.objects("symbol baseCurrencyName quoteCurrencyName", active={"state": "NORMAL"}),
    ping_path="/timestamp",
    quirks=(
        "Quiet, and dead markets have been seen to go on with their last price.",
        "Candles of three days, weeks and months are not offered, since nothing says when Poloniex's open.",
    ),
)
