"""Upbit, as data. Source: docs.upbit.com, quotation API, candles; errors and bans from its pages on request limits."""

from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.spec import (
    CandlesRequest,
    EmptyIntervals,
    ErrorForm,
    ErrorRule,
    ExchangeSpec,
    MarketsRequest,
    Outcome,
    Paging,
    RowForm,
    RowKind,
    SymbolForm,
    TimeForm,
)

SPEC: Final = ExchangeSpec(
    name="upbit",
    docs_url="https://docs.upbit.com/kr/reference/list-candles-minutes",
    base_url="https://api.upbit.com",
    windows=(RateWindow(10, 1_000),),
    # A part of the path. Weeks open on Mondays: the documentation's own example is of one.
    timeframes={
        **{f"{unit}m": f"minutes/{unit}" for unit in (1, 3, 5, 10, 15, 30)},
        "1h": "minutes/60",
        "4h": "minutes/240",
        "1d": "days",
        "1w": "weeks",
        "1M": "months",
    },
    symbol_form=SymbolForm("{quote}-{base}"),
    # There is no start: `count` candles that opened before `to`, however far back they reach.
    paging=Paging.BACKWARD,
    candles=CandlesRequest(
        path="/v1/candles/{timeframe}",
        params={"market": "{symbol}", "to": "{end}", "count": "{rows}"},
        page_limit=200,
        time_form=TimeForm.ISO,
    ),
    rows=RowForm(
        RowKind.OBJECTS,
        time="candle_date_time_utc",  # `timestamp` is that of the last trade
        open="opening_price",
        high="high_price",
        low="low_price",
        close="trade_price",
        volume="candle_acc_trade_volume",
        time_form=TimeForm.ISO,
    ),
    errors=ErrorForm(
        code_path=("error", "name"),
        message_path=("error", "message"),
        rules=(
            ErrorRule(Outcome.THROTTLED, statuses=(429,), wait_ms=1_000),
            # Who goes on is blocked; the body says for how long, and each time it is longer.
            ErrorRule(Outcome.THROTTLED, statuses=(418,), wait_ms=600_000),
            ErrorRule(Outcome.THROTTLED, codes=("too_many_requests",), wait_ms=1_000),
            ErrorRule(Outcome.UNAVAILABLE, codes=("server_error", "maintenance")),
        ),
    ),
    markets=MarketsRequest(
        path="/v1/market/all",
        id_key="market",
        pair_key="market",
        pair_pattern=r"(?P<quote>[^-]+)-(?P<base>.+)",
    ),
    ping_path="/v1/market/all",
    empty_intervals=EmptyIntervals.OMITTED,
    quirks=(
        "Most pairs are quoted in won (BTC/KRW); the list names only what is traded now.",
        "Intervals without trades have no candle.",
        "All candle requests of an address share ten a second; going on after a refusal brings growing blocks.",
    ),
)
