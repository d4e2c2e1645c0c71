"""Which exchanges there are, and where their data is. A spec is imported when it is first asked for: cold starts stay short."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType
from typing import Final

from shared.errors import InvalidRequest
from shared.exchanges.spec import ExchangeSpec

EXCHANGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "binance": "shared.exchanges.binance",
        "binanceus": "shared.exchanges.binanceus",
        "binanceusdm": "shared.exchanges.binanceusdm",
        "bitfinex": "shared.exchanges.bitfinex",
        "bitget": "shared.exchanges.bitget",
        "bitstamp": "shared.exchanges.bitstamp",
        "bybit": "shared.exchanges.bybit",
        "bybitlinear": "shared.exchanges.bybitlinear",
        "coinbase": "shared.exchanges.coinbase",
        "cryptocom": "shared.exchanges.cryptocom",
        "deribit": "shared.exchanges.deribit",
        "gate": "shared.exchanges.gate",
        "gemini": "shared.exchanges.gemini",
        "htx": "shared.exchanges.htx",
        "hyperliquid": "shared.exchanges.hyperliquid",
        "kraken": "shared.exchanges.kraken",
        "kucoin": "shared.exchanges.kucoin",
        "mexc": "shared.exchanges.mexc",
        "okx": "shared.exchanges.okx",
        "poloniex": "shared.exchanges.poloniex",
        "upbit": "shared.exchanges.upbit",
    }
)


BRIDGE_PREFIX: Final = "ccxt:"


def load_spec(name: str) -> ExchangeSpec:
    """The data of one exchange.

    Raises:
        InvalidRequest: there is no such exchange; names the field `exchange` and lists the known ones.

    `ccxt:<id>` is what ccxt says of that exchange.
    """
    if name.startswith(BRIDGE_PREFIX):
        bridge: Callable[[str], ExchangeSpec] = import_module("shared.exchanges.ccxt_bridge").bridge_spec
        return bridge(name)
    module = EXCHANGES.get(name)
    if module is None:
        close = get_close_matches(name, EXCHANGES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        known = f"known are {', '.join(sorted(EXCHANGES))}, and {BRIDGE_PREFIX}<id>"
        raise InvalidRequest.for_field("exchange", f"unknown exchange {name!r}; {hint}{known}")
    spec: ExchangeSpec = import_module(module).SPEC
    return spec
