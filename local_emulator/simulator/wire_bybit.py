"""Bybit spot, /v5 with category=spot. Source: bybit-exchange.github.io/docs/v5."""

from typing import Final

from local_emulator.simulator.bybit_family import Category, steps
from local_emulator.simulator.market import Market, markets_quoted_in
from local_emulator.simulator.wire import Wire


def _symbol(market: Market) -> str:
    return market.base + market.quote


def _instrument(market: Market) -> dict[str, object]:
    price, volume = steps(market)
    return {
        "symbol": _symbol(market),
        "baseCoin": market.base,
        "quoteCoin": market.quote,
        "innovation": "0",
        "status": "Trading",
        "marginTrading": "both",
        "stTag": "0",
        "lotSizeFilter": {"basePrecision": volume, "quotePrecision": "0.0000001", "minOrderQty": volume, "minOrderAmt": "5"},
        "priceFilter": {"tickSize": price},
        "riskParameters": {"priceLimitRatioX": "0.01", "priceLimitRatioY": "0.02"},
    }


BYBIT: Final[Wire] = Category(
    name="bybit",
    category="spot",
    markets=markets_quoted_in("USDT", "USDC"),
    own_name=_symbol,
    instrument=_instrument,
).wire()
