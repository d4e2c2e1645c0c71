"""Binance spot, /api/v3. Source: github.com/binance/binance-spot-api-docs."""

from typing import Final

from local_emulator.simulator.arrivals import Limit
from local_emulator.simulator.binance_family import Dialect, spot_symbol
from local_emulator.simulator.market import markets_quoted_in
from local_emulator.simulator.wire import Wire

BINANCE: Final[Wire] = Dialect(
    name="binance",
    prefix="/api/v3",
    limits=(Limit(6_000, 60_000),),
    markets=markets_quoted_in("USDT"),
    symbol=spot_symbol,
    klines_weight=2,
    symbols_weight=20,
    takes_microseconds=True,
).wire()
