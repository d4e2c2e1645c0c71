"""MEXC spot, as data. Source: mexc.com/api-docs/spot-v3, Kline/Candlestick Data; caps, bounds and codes as ccxt 4.5.90."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.own_names import SymbolForm, timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, ExchangeSpec, MarketsRequest, Paging, Shift

PERIOD_MS: Final = 10_000

# Unified currency and MEXC's own, where they differ.
_ALIASES: Final = {
    "BEYOND": "BEYONDPROTOCOL", "BEYONDFI": "BYN", "BIFIF": "BIFI", "COFIX": "COFI", "DFISTARTER": "DFI", "DFUTURE": "DFT",
    "EGORASCREDIT": "EGC", "FLUX": "FLUX1", "FLUX1": "FLUX", "FREEROSSDAO": "FREE", "GAS": "GASNEO", "GASDAO": "GAS",
    "GMT": "STEPN", "GMTTOKEN": "GMT", "MIMOSA": "MIMO", "PROSFINANCE": "PROS", "SINCITYTOKEN": "SIN", "SOULSWAP": "SOUL",
    "STEPHERO": "HERO",
}  # fmt: skip

SPEC: Final = ExchangeSpec(
    name="mexc",
    docs_url="https://www.mexc.com/api-docs/spot-v3/market-data-endpoints/klinecandlestick-data",
    base_url="https://api.mexc.com",
    # Told are 500 for each path, and elsewhere 300 for an address; here for all paths together.
    windows=(RateWindow(300, PERIOD_MS),),
    symbols_weight=10,
    throttle_wait_ms=PERIOD_MS,
    # Left out: 1W, since nothing says that its weeks open on Monday. A month that were none of the calendar would be refused.
    timeframes=timeframe_names("1m 5m 15m 30m 1h=60m 4h 1d 1M"),
    symbol_form=SymbolForm("{base}{quote}", aliases=_ALIASES),
    paging=Paging.WINDOW,
    candles=CandlesRequest(
        path="/api/v3/klines",
        # A start without an end counts for nothing.
        params={"symbol": "{symbol}", "interval": "{timeframe}", "startTime": "{start}", "endTime": "{end}", "limit": "{rows}"},
        page_limit=500,  # told are 1,000
        time_form=TimeForm.MILLISECONDS,
        # The end is not told to be exclusive, only measured: a ms before it is right either way.
        end_shift=Shift(ms=-1),
    ),
    rows=RowForm.arrays("time open high low close volume", TimeForm.MILLISECONDS),
    errors=ErrorForm(code_path=("code",), message_path=("msg",), ok_codes=("0", "200")),
    error_rules=(
        # The first ban lasts two minutes, the longest three days.
        ErrorRule(Outcome.THROTTLED, statuses=(418,), wait_ms=120_000),
        ErrorRule(Outcome.THROTTLED, statuses=(429,), codes=("429", "510"), wait_ms=PERIOD_MS),
        # Internal error or maintenance, busy, not available, time-out, maintenance of a part, and of all.
        ErrorRule(Outcome.UNAVAILABLE, codes=("500", "501", "503", "504", "604", "801")),
        # Symbol, its older code, parameters.
        ErrorRule(Outcome.REJECTED, codes=("-1121", "10007", "-1128", "400", "600", "700013")),
    ),
    markets=MarketsRequest("/api/v3/exchangeInfo"),
    market_rows=MarketForm.objects(
        "symbol baseAsset quoteAsset", path=("symbols",), active={"status": "1", "isSpotTradingAllowed": True}
    ),
    ping_path="/api/v3/ping",
    quirks=(
        "How far back minutes reach is not told: where nothing comes, nothing was kept.",
        "Weeks are left out: nothing says that they open on a Monday.",
    ),
)
