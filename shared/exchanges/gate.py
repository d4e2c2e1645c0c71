"""Gate spot, as data. Source: gate.com/docs/developers/apiv4, Market K-line chart; limits that it does not tell as measured."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.header_forms import UsageHeader
from shared.exchanges.own_names import SymbolForm, timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, ExchangeSpec, MarketsRequest, Paging, Shift

PERIOD_MS: Final = 10_000
REQUESTS_MAX: Final = 200

# Unified currency and Gate's own, where they differ, as ccxt 4.5.90 has them.
_ALIASES: Final = {
    "ASSF": "ASS", "AXISDEFI": "AXIS", "BEYONDFI": "BYN", "BITCOINFILE": "BIFI", "DEFIBOX": "BOX", "GAMECOM": "GTC",
    "GATEPOINT": "POINT", "GOOSEFINANCE": "EGG", "HITCHAIN": "HIT", "MILLION": "MM", "MORPHER": "MPH", "MPH": "88MPH",
    "RAIREFLEXINDEX": "RAI", "SUPERBITCOIN": "SBTC", "TRACO": "TRAC", "TRINITYNETWORKCREDIT": "TNC", "VAIOT": "VAI",
    "XREATORS": "ORT",
}  # fmt: skip

SPEC: Final = ExchangeSpec(
    name="gate",
    docs_url="https://www.gate.com/docs/developers/apiv4/en/#market-k-line-chart",
    base_url="https://api.gateio.ws",
    # For each path; here for all together.
    windows=(RateWindow(REQUESTS_MAX, PERIOD_MS),),
    usage_headers=(UsageHeader("X-Gate-RateLimit-Requests-Remain", PERIOD_MS, remaining_of=REQUESTS_MAX),),
    # 30d is a calendar month. Left out: 7d, which is counted from the epoch and so opens on Thursday; two hours, which ccxt
    # knows, but Gate's own list for spot does not.
    timeframes=timeframe_names("1m 5m 15m 30m 1h 4h 8h 1d 1M=30d"),
    symbol_form=SymbolForm("{base}_{quote}", aliases=_ALIASES),
    paging=Paging.WINDOW,
    candles=CandlesRequest(
        path="/api/v4/spot/candlesticks",
        # With a limit beside them the bounds are refused.
        params={"currency_pair": "{symbol}", "interval": "{timeframe}", "from": "{start}", "to": "{end}"},
        page_limit=1_000,
        time_form=TimeForm.SECONDS,
        end_shift=Shift(candles=-1),  # both bounds are inclusive, and 1,001 candles are refused
    ),
    rows=RowForm.arrays("time quote_volume close high low open volume closed", TimeForm.SECONDS, closed="true"),
    errors=ErrorForm(code_path=("label",), message_path=("message",)),
    error_rules=(
        # X-Gate-RateLimit-Reset-Timestamp tells when the limit resets, but often names the present moment. It is not read:
        # what a header says takes the place of this wait, which would come down to a second.
        ErrorRule(Outcome.THROTTLED, statuses=(429,), codes=("TOO_MANY_REQUESTS", "TOO_FAST"), wait_ms=PERIOD_MS),
        ErrorRule(Outcome.UNAVAILABLE, codes=("INTERNAL", "SERVER_ERROR", "TOO_BUSY")),
        ErrorRule(Outcome.REJECTED, codes=("INVALID_CURRENCY", "INVALID_CURRENCY_PAIR", "INVALID_PARAM_VALUE")),
        # The address is not served, whatever its pace.
        ErrorRule(Outcome.REJECTED, codes=("FORBIDDEN", "IP_FORBIDDEN")),
    ),
    markets=MarketsRequest("/api/v4/spot/currency_pairs"),
    market_rows=MarketForm.pairs("id", r"(?P<base>[^_]+)_(?P<quote>[^_]+)", active={"trade_status": "tradable"}),
    ping_path="/api/v4/spot/time",
    # It refuses what is more than 10,000 points old. Measured are 9,998, and a request may be some time on its way.
    history_candles_max=9_990,
    quirks=(
        "Only the newest 10,000 intervals can be had: a week of minutes, fourteen months of hours.",
        "Weeks are not offered, since Gate's open on Thursday.",
    ),
)
