"""What Bybit's kinds of market have in common, as data. Source: bybit-exchange.github.io/docs/v5, Get Kline and Error Codes."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.own_names import timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, MarketsRequest, Shift

# Who was too fast for one address has to be silent for ten minutes.
SILENCE_MS: Final = 600_000
# An address may send 600 in five seconds to all kinds of market together: half of it each.
WINDOWS: Final = (RateWindow(300, 5_000),)
# Left out: W, since nothing says on which day its weeks open.
TIMEFRAMES: Final = timeframe_names("1m=1 3m=3 5m=5 15m=15 30m=30 1h=60 2h=120 4h=240 6h=360 12h=720 1d=D 1M=M")
ROWS: Final = RowForm.arrays("time open high low close volume", TimeForm.MILLISECONDS, path=("result", "list"))
ERRORS: Final = ErrorForm(code_path=("retCode",), message_path=("retMsg",), ok_codes=("0",))
ERROR_RULES: Final = (
    ErrorRule(Outcome.REJECTED, statuses=(403,), page_text="block access from your country"),
    # The address is too fast, or banned.
    ErrorRule(Outcome.THROTTLED, statuses=(403,), codes=("10009", "10018"), wait_ms=SILENCE_MS),
    # Too many visits: a limit of one second. The header that names its end says "now" to those who have not reached it.
    ErrorRule(Outcome.THROTTLED, codes=("10006",), wait_ms=5_000),
    ErrorRule(Outcome.THROTTLED, statuses=(429,), codes=("429", "10429"), wait_ms=10_000),
    # Time-out, internal or restarting, restarting.
    ErrorRule(Outcome.UNAVAILABLE, codes=("10000", "10016", "10019")),
    # Arguments (symbols too), path, country, category.
    ErrorRule(Outcome.REJECTED, codes=("10001", "10017", "10024", "10404")),
)
# It names only what trades; contracts have a settlement besides.
MARKET_ROWS: Final = MarketForm.objects("symbol baseCoin quoteCoin", path=("result", "list"), active={"status": "Trading"})


def klines(category: str) -> CandlesRequest:
    """The request for a page of that kind of market; linear is what it takes when none is named."""
    return CandlesRequest(
        path="/v5/market/kline",
        params={
            "category": category,
            "symbol": "{symbol}",
            "interval": "{timeframe}",
            "start": "{start}",
            "end": "{end}",
            "limit": "{rows}",
        },
        page_limit=1_000,
        time_form=TimeForm.MILLISECONDS,
        end_shift=Shift(ms=-1),  # both bounds are inclusive
    )


def instruments(category: str) -> MarketsRequest:
    """The request for the list of that kind of market."""
    return MarketsRequest("/v5/market/instruments-info", params={"category": category, "limit": 1_000})
