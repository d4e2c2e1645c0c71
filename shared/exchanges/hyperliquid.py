"""Hyperliquid perpetuals, as data. Source: hyperliquid.gitbook.io/hyperliquid-docs, Info endpoint and Rate limits."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.error_form import ErrorForm, ErrorRule, Outcome
from shared.exchanges.own_names import SymbolForm, timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.spec import CandlesRequest, EmptyIntervals, ExchangeSpec, MarketsRequest, Paging, Shift

# Coins of which a contract holds a thousand; names keep their case on the wire.
THOUSANDS: Final = ("BONK", "DOGS", "FLOKI", "LUNC", "NEIRO", "PEPE", "SHIB")

SPEC: Final = ExchangeSpec(
    name="hyperliquid",
    docs_url="https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api/info-endpoint#candle-snapshot",
    base_url="https://api.hyperliquid.xyz",
    windows=(RateWindow(1_200, 60_000),),
    # 20, and one for every 60 rows that come.
    candles_weight=104,
    weight_steps=tuple((60 * sixties, 20 + sixties) for sixties in range(1, 84)),
    symbols_weight=20,
    ping_weight=2,
    # Left out: 1w, which opens on Thursdays; 3d and 1M, since nothing says on which days they open.
    timeframes=timeframe_names("1m 3m 5m 15m 30m 1h 2h 4h 8h 12h 1d"),
    symbol_form=SymbolForm(None, swap_by_settle={"USDC": "{base}"}, aliases={f"K{coin}": f"k{coin}" for coin in THOUSANDS}),
    paging=Paging.WINDOW,
    candles=CandlesRequest(
        method="POST",
        path="/info",
        params={
            "type": "candleSnapshot",
            "req": {"coin": "{symbol}", "interval": "{timeframe}", "startTime": "{start}", "endTime": "{end}"},
        },
        page_limit=5_000,
        time_form=TimeForm.MILLISECONDS,
        end_shift=Shift(ms=-1),  # all candles that share a moment with the range, both bounds inclusive
    ),
    rows=RowForm.objects("t o h l c v", TimeForm.MILLISECONDS),
    errors=ErrorForm(code_path=("status",), message_path=("response",), ok_codes=("ok",)),
    error_rules=(
        # A coin that does not exist, a fault that passes, and perhaps too many requests: all with this and nothing else.
        ErrorRule(Outcome.IN_DOUBT, statuses=(200, 500), body="null"),
        ErrorRule(Outcome.REJECTED, statuses=(422,)),  # in plain text
    ),
    markets=MarketsRequest("/info", {"type": "meta"}, method="POST"),
    market_rows=MarketForm(
        path=("universe",), id_key="name", base_key="name", quote="USDC", settle="USDC", active={"isDelisted": False}
    ),
    ping_path="/info",
    ping_method="POST",
    ping_params={"type": "exchangeStatus"},
    empty_intervals=EmptyIntervals.OMITTED,
    # 5,000 with the running one. The rest is for the time between asking the clock and being served.
    history_candles_max=4_990,
    is_unknown_symbol_empty=True,
    quirks=(
        "Only the newest 5,000 candles of a timeframe can be had; what a job misses for longer is lost.",
        "Perpetuals of the first exchange on Hyperliquid only: the ids of spot pairs do not follow from their names.",
        "Weeks open on Thursdays at Hyperliquid, so there are no candles of a week here.",
        "Candles from before May 2023 are prices of an index, with volume 0.",
    ),
)
