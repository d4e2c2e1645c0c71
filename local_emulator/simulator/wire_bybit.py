"""Bybit's spot market; see bybit_family.py."""

from typing import Final

from local_emulator.simulator.bybit_family import bybit_wire
from local_emulator.simulator.market import markets_quoted_in
from local_emulator.simulator.wire import Wire

BYBIT: Final[Wire] = bybit_wire("bybit", "spot", markets_quoted_in("USDT", "USDC"), lambda market: market.base + market.quote)
