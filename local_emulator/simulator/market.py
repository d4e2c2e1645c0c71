"""What is traded on the simulated exchanges: symbols, usual prices, how quiet they are, since when."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np


def _day_ms(day: str) -> int:
    return int(np.datetime64(day, "ms").astype(np.int64))


LISTED_MS: Final = _day_ms("2017-08-17")  # the day Binance opened
LISTED_LATE_MS: Final = _day_ms("2026-10-05")
DELISTED_MS: Final = _day_ms("2025-03-01")
# Chance that a minute has a trade. The quietest symbol has whole hours without one.
QUIET: Final = 0.7
VERY_QUIET: Final = 0.008


@dataclass(frozen=True, slots=True)
class Market:
    """One symbol. Prices are in the quote currency, volumes in the base currency, decimals as the exchange quotes them.

    `trade_share` is the chance that a minute has a trade; `delisted_ms` ends the series for good. Both times lie on 00:00 UTC.
    """

    symbol: str
    price_usual: float
    price_decimals: int
    volume_usual: float
    volume_decimals: int = 5
    trade_share: float = 1.0
    listed_ms: int = LISTED_MS
    delisted_ms: int | None = None
    is_generated: bool = True

    @property
    def base(self) -> str:
        """Unified code of what is traded."""
        return self.symbol.split("/")[0]

    @property
    def quote(self) -> str:
        """Unified code of what prices are in."""
        return self.symbol.split("/")[1].split(":")[0]

    @property
    def settle(self) -> str:
        """Unified code of what a contract is settled in; "" for spot."""
        return self.symbol.partition(":")[2]

    def is_trading(self, now_ms: int) -> bool:
        """Whether it trades at that moment."""
        return self.listed_ms <= now_ms and (self.delisted_ms is None or now_ms < self.delisted_ms)


# NOVA is made up: it stands for a symbol listed a few weeks ago.
DOLLAR_MARKETS: Final = (
    Market("BTC/USDT", 43_000.0, 2, 18.0),
    Market("ETH/USDT", 2_900.0, 2, 160.0, 4),
    Market("SOL/USDT", 140.0, 2, 2_400.0, 3),
    Market("XRP/USDT", 0.62, 4, 250_000.0, 1),
    Market("DOGE/USDT", 0.12, 5, 900_000.0, 0),
    Market("ADA/USDT", 0.48, 4, 300_000.0, 1),
    Market("LTC/USDT", 82.0, 2, 900.0, 3),
    Market("LINK/USDT", 15.5, 3, 5_000.0, 2),
    Market("ZEC/USDT", 31.0, 2, 40.0, 3, trade_share=QUIET),
    Market("KSM/USDT", 24.0, 2, 3.0, 3, trade_share=VERY_QUIET),
    Market("NOVA/USDT", 1.7, 4, 60_000.0, 1, listed_ms=LISTED_LATE_MS),
    Market("OMG/USDT", 0.55, 4, 12_000.0, 2, delisted_ms=DELISTED_MS),
)
CROSS_MARKETS: Final = (
    Market("ETH/BTC", 0.067, 5, 30.0, 4),
    Market("SOL/BTC", 0.0033, 7, 120.0, 2),
    Market("LTC/BTC", 0.0019, 6, 25.0, 3, trade_share=QUIET),
)


def markets_quoted_in(*quotes: str) -> tuple[Market, ...]:
    """The symbols of an exchange whose dollar pairs are in these currencies; the crosses in BTC are everywhere."""
    return (
        tuple(replace(market, symbol=f"{market.base}/{quote}") for quote in quotes for market in DOLLAR_MARKETS) + CROSS_MARKETS
    )


def perpetuals(quote: str, settle: str) -> tuple[Market, ...]:
    """The same dollar markets as perpetual contracts; `settle` "" is the base of each."""
    return tuple(replace(market, symbol=f"{market.base}/{quote}:{settle or market.base}") for market in DOLLAR_MARKETS)
