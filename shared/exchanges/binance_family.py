"""What Binance's exchanges have in common, as data. Source: github.com/binance/binance-spot-api-docs, rest-api.md (2026-07)."""

from typing import Final

from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.header_forms import UsageHeader
from shared.exchanges.own_names import timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, MarketsRequest, Shift

# Bans begin at two minutes and grow to three days for those who go on.
BAN_MS: Final = 120_000
# The web firewall names no time; it is a sign of many malformed requests.
FIREWALL_MS: Final = 300_000

# All their documents show a week that opens on Monday.
TIMEFRAMES: Final = timeframe_names("1m 3m 5m 15m 30m 1h 2h 4h 6h 8h 12h 1d 1w 1M")
USAGE_HEADERS: Final = (UsageHeader("X-MBX-USED-WEIGHT-1M", 60_000),)
KLINES: Final = CandlesRequest(
    path="/api/v3/klines",
    params={"symbol": "{symbol}", "interval": "{timeframe}", "startTime": "{start}", "endTime": "{end}", "limit": "{rows}"},
    page_limit=1_000,
    time_form=TimeForm.MILLISECONDS,
    end_shift=Shift(ms=-1),  # both bounds are inclusive and compared with the open time
)
ROWS: Final = RowForm.arrays("time open high low close volume", TimeForm.MILLISECONDS)
ERRORS: Final = ErrorForm(code_path=("code",), message_path=("msg",))
ERROR_RULES: Final = (
    ErrorRule(Outcome.REJECTED, statuses=(451,)),
    ErrorRule(Outcome.REJECTED, statuses=(403,), page_text="block access from your country"),
    ErrorRule(Outcome.THROTTLED, statuses=(418,), wait_ms=BAN_MS),
    ErrorRule(Outcome.THROTTLED, statuses=(403,), wait_ms=FIREWALL_MS),
    ErrorRule(Outcome.THROTTLED, statuses=(429,), codes=("-1003",), wait_ms=60_000),
    # Internal error, disconnected, busy, unexpected answer, time-out, overload, shutting down.
    ErrorRule(Outcome.UNAVAILABLE, codes=("-1000", "-1001", "-1004", "-1006", "-1007", "-1008", "-1016")),
)
MARKETS: Final = MarketsRequest("/api/v3/exchangeInfo")
MARKET_ROWS: Final = MarketForm.objects("symbol baseAsset quoteAsset", path=("symbols",), active={"status": "TRADING"})
