"""OKX spot, as data. Source: okx.com/docs-v5, Get candlesticks and Get candlesticks history; bars and codes as ccxt 4.5.90."""

from dataclasses import replace
from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.own_names import SymbolForm, timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, ExchangeSpec, MarketsRequest, Paging, Shift

_CANDLES: Final = CandlesRequest(
    path="/api/v5/market/candles",
    # `before` is what is newer than, `after` what is older than; without `after`, `before` gives the newest page.
    params={"instId": "{symbol}", "bar": "{timeframe}", "before": "{start}", "after": "{end}", "limit": "{rows}"},
    page_limit=300,
    time_form=TimeForm.MILLISECONDS,
    start_shift=Shift(ms=-1),  # both bounds are exclusive
)

SPEC: Final = ExchangeSpec(
    name="okx",
    docs_url="https://www.okx.com/docs-v5/en/#order-book-trading-market-data-get-candlesticks",
    base_url="https://www.okx.com",
    # Of the archive, which has the tighter limit; the newest candles may be asked for twice as often.
    windows=(RateWindow(20, 2_000),),
    # From 6 hours on plain bars open by Hong Kong's clock. Left out: 3Dutc, since nothing says on which days it opens.
    timeframes=timeframe_names("1m 3m 5m 15m 30m 1h=1H 2h=2H 4h=4H 6h=6Hutc 12h=12Hutc 1d=1Dutc 1w=1Wutc 1M=1Mutc"),
    symbol_form=SymbolForm("{base}-{quote}", aliases={"AET": "AE"}),
    paging=Paging.WINDOW,
    candles=_CANDLES,
    # The plain endpoint reaches about 1,440 bars back.
    archive=replace(_CANDLES, path="/api/v5/market/history-candles", page_limit=100),
    archive_after_candles=1_400,
    rows=RowForm.arrays("time open high low close volume _ _ closed", TimeForm.MILLISECONDS, path=("data",), closed="1"),
    errors=ErrorForm(code_path=("code",), message_path=("msg",), ok_codes=("0",)),
    error_rules=(
        ErrorRule(Outcome.THROTTLED, codes=("50011", "50061"), wait_ms=2_000),
        ErrorRule(Outcome.UNAVAILABLE, codes=("50001", "50004", "50005", "50013", "50026")),
        ErrorRule(Outcome.REJECTED, codes=("51000", "51001", "51015")),
    ),
    markets=MarketsRequest("/api/v5/public/instruments", params={"instType": "SPOT"}),
    market_rows=MarketForm.objects("instId baseCcy quoteCcy", path=("data",), active={"state": "live"}),
    ping_path="/api/v5/public/time",
    quirks=(
        "Candles of six hours and more are asked for in UTC; OKX's own default is Hong Kong's day.",
        "Candles older than 1,400 intervals come from an archive in pages of 100.",
    ),
)
