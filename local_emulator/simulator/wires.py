"""All wire formats by the name that is also their path prefix. A new exchange is one more file and one more line here."""

from typing import Final

from local_emulator.simulator.wire import Wire
from local_emulator.simulator.wire_binance import BINANCE
from local_emulator.simulator.wire_binanceus import BINANCE_US
from local_emulator.simulator.wire_binanceusdm import BINANCE_USDM
from local_emulator.simulator.wire_bitfinex import BITFINEX
from local_emulator.simulator.wire_bybit import BYBIT
from local_emulator.simulator.wire_bybitlinear import BYBIT_LINEAR
from local_emulator.simulator.wire_coinbase import COINBASE
from local_emulator.simulator.wire_deribit import DERIBIT
from local_emulator.simulator.wire_gate import GATE
from local_emulator.simulator.wire_hyperliquid import HYPERLIQUID
from local_emulator.simulator.wire_kraken import KRAKEN
from local_emulator.simulator.wire_kucoin import KUCOIN
from local_emulator.simulator.wire_okx import OKX

WIRES: Final[dict[str, Wire]] = {
    wire.name: wire
    for wire in (
        BINANCE,
        BINANCE_US,
        BINANCE_USDM,
        BITFINEX,
        BYBIT,
        BYBIT_LINEAR,
        COINBASE,
        DERIBIT,
        GATE,
        HYPERLIQUID,
        KRAKEN,
        KUCOIN,
        OKX,
    )
}
