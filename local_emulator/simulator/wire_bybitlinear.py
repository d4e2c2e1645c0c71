"""Bybit's perpetuals that are settled in USDT or USDC; see bybit_family.py."""

from collections.abc import Mapping
from typing import Final

from local_emulator.simulator.bybit_family import bybit_wire
from local_emulator.simulator.market import Market, perpetuals
from local_emulator.simulator.wire import Wire


def _own_name(market: Market) -> str:
    return f"{market.base}PERP" if market.settle == "USDC" else market.base + market.quote


def _contract(market: Market) -> Mapping[str, object]:
    return {"contractType": "LinearPerpetual", "settleCoin": market.settle, "deliveryTime": "0", "launchTime": "0"}


BYBIT_LINEAR: Final[Wire] = bybit_wire(
    "bybitlinear", "linear", (*perpetuals("USDT", "USDT"), *perpetuals("USDC", "USDC")), _own_name, _contract
)
