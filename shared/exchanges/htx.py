"""HTX spot, as data. Source: huobiapi.github.io/docs/spot/v1/en; the candles by range as ccxt 4.5.90 asks for them."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.own_names import SymbolForm, timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, ExchangeSpec, MarketsRequest, Paging

# Unified currency and HTX's own, where they differ.
_ALIASES: Final = {
    "BITCOINFILE": "BIFI", "FTX Users Debt": "FUD", "GAMECOM": "GTC", "GFNGL": "NGL", "HITCHAIN": "HIT", "PENTA": "PNT",
    "SOULSAVER": "SOUL", "SUPERBITCOIN": "SBTC", "THEMIS": "GET",
}  # fmt: skip

SPEC: Final = ExchangeSpec(
    name="htx",
    docs_url="https://huobiapi.github.io/docs/spot/v1/en/#get-klines-candles",
    base_url="https://api.huobi.pro",
    windows=(RateWindow(10, 1_000),),
    throttle_wait_ms=10_000,
    # Left out: 1day, 1week and 1mon, which open at midnight in Singapore, 16:00 UTC. Four hours divide that eighth hour.
    timeframes=timeframe_names("1m=1min 5m=5min 15m=15min 30m=30min 1h=60min 4h=4hour"),
    symbol_form=SymbolForm("{base}{quote}", aliases=_ALIASES, is_lower_case=True),
    paging=Paging.WINDOW,
    candles=CandlesRequest(
        # Not kline, which is the documented one: that takes no bounds, has the newest 2,000 rows only, and gives them from now
        # back, so that a page from the middle of history cannot be had. This one has been measured: pages of 1,000 going
        # forward from `from`, which is inclusive, gave ninety days of minutes without a hole or a doubled row.
        path="/market/history/candles",
        params={"symbol": "{symbol}", "period": "{timeframe}", "from": "{start}", "to": "{end}", "size": "{rows}"},
        # Nothing says whether `to` is inclusive, or which side is kept where more lies between: with a row more than the range
        # has, a whole page is right each way. More than 1,000 gives nothing at all.
        spare_rows=1,
        page_limit=999,
        time_form=TimeForm.SECONDS,
    ),
    rows=RowForm.objects("id open high low close amount", TimeForm.SECONDS, path=("data",)),  # vol is in the quote currency
    errors=ErrorForm(
        code_path=("err-code",),
        # Of contracts, and of the newer paths.
        other_code_paths=(("err_code",), ("code",)),
        message_path=("err-msg",),
        ok_codes=("200",),
    ),
    error_rules=(
        ErrorRule(Outcome.THROTTLED, statuses=(429,), codes=("too-many-requests", "rate-too-many-requests", "1006")),
        # The words stand under bad-request and invalid-parameter.
        ErrorRule(
            Outcome.THROTTLED, codes=("base-request-exceed-frequency-limit",), texts=("too many request", "request limit")
        ),
        ErrorRule(
            Outcome.UNAVAILABLE, codes=("system-maintenance", "gateway-internal-error", "timeout"), texts=("maintenance",)
        ),
        ErrorRule(Outcome.REJECTED, codes=("bad-request", "invalid-parameter", "base-symbol-error", "require-symbol")),
        ErrorRule(Outcome.REJECTED, codes=("base-symbol-trade-disabled",)),
    ),
    markets=MarketsRequest("/v1/common/symbols"),
    market_rows=MarketForm.objects("symbol base-currency quote-currency", path=("data",), active={"state": "online"}),
    ping_path="/v1/common/timestamp",
    quirks=(
        "Days, weeks and months are not offered, since HTX's open at midnight in Singapore.",
        "Candles by range are served, but not documented; a start long before a pair was listed may be refused.",
        "Intervals without trades have been seen as flat candles of volume 0, but nothing promises them.",
    ),
)
