"""Binance US, /api/v3; see binance_family.py."""

from typing import Final

from local_emulator.simulator.arrivals import Limit
from local_emulator.simulator.binance_family import binance_wire
from local_emulator.simulator.market import markets_quoted_in
from local_emulator.simulator.wire import Wire

BINANCE_US: Final[Wire] = binance_wire(
    "binanceus", "/api/v3", markets_quoted_in("USDT", "USD"), (Limit(1_200, 60_000),), info_weight=10
)
