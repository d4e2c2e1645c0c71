"""What Bybit's spot market and its linear perpetuals have in common. Source: bybit-exchange/docs, v5, Get Kline."""

from collections.abc import Mapping
from typing import Final

from shared.domain.rates import RateWindow
from shared.exchanges.spec import (
    CandlesRequest,
    ErrorForm,
    ErrorRule,
    ExchangeSpec,
    MarketsRequest,
    Outcome,
    Paging,
    RowForm,
    RowKind,
    Shift,
    SymbolForm,
    TimeForm,
)

# After "access too frequent" the documentation asks to send nothing at all for ten minutes.
BAN_MS: Final = 600_000

_ERRORS: Final = ErrorForm(
    code_path=("retCode",),
    message_path=("retMsg",),
    ok_codes=("0",),
    rules=(
        # A blocked country or cloud region is told by the same status, and by words of its own.
        ErrorRule(Outcome.REJECTED, statuses=(403,), text="country"),
        ErrorRule(Outcome.THROTTLED, statuses=(403,), wait_ms=BAN_MS),
        ErrorRule(Outcome.THROTTLED, codes=("10006", "10018"), wait_ms=5_000),
        ErrorRule(Outcome.REJECTED, codes=("10009", "10024")),
        ErrorRule(Outcome.REJECTED, codes=("10001",)),
        # Server time-out, internal error, restarting, overload.
        ErrorRule(Outcome.UNAVAILABLE, codes=("10000", "10002", "10016", "10429", "100028", "170001", "170007")),
    ),
)


def bybit_spec(
    name: str, category: str, symbol_form: SymbolForm, only: Mapping[str, object], settle_key: str, quirks: tuple[str, ...]
) -> ExchangeSpec:
    """One market of Bybit; `category` is its name for it (without it, linear perpetuals are meant)."""
    return ExchangeSpec(
        name=name,
        docs_url="https://bybit-exchange.github.io/docs/v5/market/kline",
        base_url="https://api.bybit.com",
        windows=(RateWindow(600, 5_000),),
        # Left out: W, since nothing says that it opens on a Monday.
        timeframes={
            "1m": "1",
            "3m": "3",
            "5m": "5",
            "15m": "15",
            "30m": "30",
            "1h": "60",
            "2h": "120",
            "4h": "240",
            "6h": "360",
            "12h": "720",
            "1d": "D",
            "1M": "M",
        },
        symbol_form=symbol_form,
        # Which end of a range is kept when it is too wide is not documented: no range is wider than a page.
        paging=Paging.WINDOW,
        candles=CandlesRequest(
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
            end_shift=Shift(ms=-1),  # both bounds are inclusive and compared with the open time
        ),
        rows=RowForm(
            RowKind.ARRAYS,
            time=0,
            open=1,
            high=2,
            low=3,
            close=4,
            volume=5,
            time_form=TimeForm.MILLISECONDS,
            path=("result", "list"),
        ),
        errors=_ERRORS,
        markets=MarketsRequest(
            path="/v5/market/instruments-info",
            params={"category": category, "limit": "1000"},
            path_in_body=("result", "list"),
            id_key="symbol",
            base_key="baseCoin",
            quote_key="quoteCoin",
            settle_key=settle_key,
            only=only,
            active={"status": "Trading"},
        ),
        ping_path="/v5/market/time",
        throttle_wait_ms=5_000,
        quirks=quirks,
    )
