"""Bybit linear perpetuals, as data. Source: bybit-exchange.github.io/docs/v5, Get Kline; names as ccxt 4.5.90."""

from dataclasses import replace
from typing import Final

from shared.exchanges.bybit_family import ERROR_RULES, ERRORS, MARKET_ROWS, ROWS, TIMEFRAMES, WINDOWS, instruments, klines
from shared.exchanges.own_names import SymbolForm
from shared.exchanges.spec import ExchangeSpec, Paging

SPEC: Final = ExchangeSpec(
    name="bybitlinear",
    docs_url="https://bybit-exchange.github.io/docs/v5/market/kline",
    base_url="https://api.bybit.com",
    windows=WINDOWS,
    timeframes=TIMEFRAMES,
    symbol_form=SymbolForm(None, swap_by_settle={"USDT": "{base}{quote}", "USDC": "{base}PERP"}),
    # Which side of a range that is too wide comes, the documents do not say.
    paging=Paging.WINDOW,
    candles=klines("linear"),
    rows=ROWS,
    errors=ERRORS,
    error_rules=ERROR_RULES,
    markets=instruments("linear"),
    market_rows=replace(MARKET_ROWS, settle_key="settleCoin", only={"contractType": "LinearPerpetual"}),
    ping_path="/v5/market/time",
    quirks=(
        "Perpetuals settled in USDT and USDC; contracts with a delivery date, and inverse ones, are left out.",
        "Weeks are not offered, since it is not documented on which day Bybit's open.",
        "Shares the limit of its address with bybit, half each; who is too fast is shut out of both for 10 minutes.",
        "Not served to the United States, nor from cloud regions there: it answers 403, and the job goes to error.",
    ),
)
