"""Binance's perpetuals margined in dollars, /fapi/v1: klines weigh by how many are asked for; see binance_family.py."""

from collections.abc import Mapping
from typing import Any, Final

from local_emulator.simulator.arrivals import Limit
from local_emulator.simulator.binance_family import LIMIT_DEFAULT, binance_wire
from local_emulator.simulator.market import perpetuals
from local_emulator.simulator.wire import Wire

# (rows up to, weight)
WEIGHTS: Final = ((99, 1), (499, 2), (1_000, 5))
WEIGHT_MAX: Final = 10


def _weight(query: Mapping[str, Any]) -> int:
    text = str(query.get("limit", ""))
    rows = int(text) if text.isdigit() else LIMIT_DEFAULT
    return next((weight for rows_max, weight in WEIGHTS if rows <= rows_max), WEIGHT_MAX)


BINANCE_USDM: Final[Wire] = binance_wire(
    "binanceusdm",
    "/fapi/v1",
    (*perpetuals("USDT", "USDT"), *perpetuals("USDC", "USDC")),
    (Limit(2_400, 60_000),),
    limit_max=1_500,
    weigh=_weight,
)
