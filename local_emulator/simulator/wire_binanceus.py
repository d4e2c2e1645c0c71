"""Binance US spot, /api/v3: Binance's format, its own weights. Source: github.com/binance-us/binance-us-api-docs."""

from typing import Final

from local_emulator.simulator.arrivals import Limit
from local_emulator.simulator.binance_family import Dialect, spot_symbol
from local_emulator.simulator.market import markets_quoted_in
from local_emulator.simulator.wire import Wire

BINANCEUS: Final[Wire] = Dialect(
    name="binanceus",
    prefix="/api/v3",
    limits=(Limit(1_200, 60_000),),
    markets=markets_quoted_in("USDT", "USD"),
    symbol=spot_symbol,
    klines_weight=1,
    symbols_weight=10,
).wire()
