"""Bybit spot, as data. Source: bybit-exchange.github.io/docs/v5, Get Kline."""

from typing import Final

from shared.exchanges.bybit_family import ERROR_RULES, ERRORS, MARKET_ROWS, ROWS, TIMEFRAMES, WINDOWS, instruments, klines
from shared.exchanges.own_names import SymbolForm
from shared.exchanges.spec import ExchangeSpec, Paging

SPEC: Final = ExchangeSpec(
    name="bybit",
    docs_url="https://bybit-exchange.github.io/docs/v5/market/kline",
    base_url="https://api.bybit.com",
    windows=WINDOWS,
    timeframes=TIMEFRAMES,
    symbol_form=SymbolForm("{base}{quote}"),
    # Which side of a range that is too wide comes, the documents do not say.
    paging=Paging.WINDOW,
    candles=klines("spot"),
    rows=ROWS,
    errors=ERRORS,
    error_rules=ERROR_RULES,
    markets=instruments("spot"),
    market_rows=MARKET_ROWS,
    ping_path="/v5/market/time",
    quirks=(
        "Shares the limit of its address with bybitlinear, half each; who is too fast is shut out of both for 10 minutes.",
        "Not served to the United States, nor from cloud regions there: it answers 403, and the job goes to error.",
        "Weeks are not offered, since it is not documented on which day Bybit's open.",
    ),
)
