"""Binance spot, /api/v3; see binance_family.py."""

from typing import Final

from local_emulator.simulator.arrivals import Limit
from local_emulator.simulator.binance_family import binance_wire
from local_emulator.simulator.market import markets_quoted_in
from local_emulator.simulator.wire import Wire

BINANCE: Final[Wire] = binance_wire(
    "binance", "/api/v3", markets_quoted_in("USDT"), (Limit(6_000, 60_000),), klines_weight=2, info_weight=20
)
