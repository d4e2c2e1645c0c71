"""All wire formats by the name that is also their path prefix. A new exchange is one more file and one more line here."""

from typing import Final

from local_emulator.simulator.wire import Wire
from local_emulator.simulator.wire_binance import BINANCE
from local_emulator.simulator.wire_binanceus import BINANCEUS
from local_emulator.simulator.wire_binanceusdm import BINANCEUSDM
from local_emulator.simulator.wire_bitfinex import BITFINEX
from local_emulator.simulator.wire_bitget import BITGET
from local_emulator.simulator.wire_bitstamp import BITSTAMP
from local_emulator.simulator.wire_bybit import BYBIT
from local_emulator.simulator.wire_bybitlinear import BYBITLINEAR
from local_emulator.simulator.wire_coinbase import COINBASE
from local_emulator.simulator.wire_cryptocom import CRYPTOCOM
from local_emulator.simulator.wire_deribit import DERIBIT
from local_emulator.simulator.wire_gate import GATE
from local_emulator.simulator.wire_gemini import GEMINI
from local_emulator.simulator.wire_htx import HTX
from local_emulator.simulator.wire_hyperliquid import HYPERLIQUID
from local_emulator.simulator.wire_kraken import KRAKEN
from local_emulator.simulator.wire_kucoin import KUCOIN
from local_emulator.simulator.wire_mexc import MEXC
from local_emulator.simulator.wire_okx import OKX
from local_emulator.simulator.wire_poloniex import POLONIEX
from local_emulator.simulator.wire_upbit import UPBIT

WIRES: Final[dict[str, Wire]] = {
    wire.name: wire
    for wire in (
        BINANCE,
        BINANCEUS,
        BINANCEUSDM,
        BITFINEX,
        BITGET,
        BITSTAMP,
        BYBIT,
        BYBITLINEAR,
        COINBASE,
        CRYPTOCOM,
        DERIBIT,
        GATE,
        GEMINI,
        HTX,
        HYPERLIQUID,
        KRAKEN,
        KUCOIN,
        MEXC,
        OKX,
        POLONIEX,
        UPBIT,
    )
}
