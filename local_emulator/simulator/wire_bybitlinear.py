"""Bybit linear contracts, /v5 with category=linear. Source: bybit-exchange.github.io/docs/v5."""

from typing import Final

from local_emulator.simulator.bybit_family import Category, steps
from local_emulator.simulator.market import Market, perpetuals
from local_emulator.simulator.wire import Wire


def _symbol(market: Market) -> str:
    return f"{market.base}PERP" if market.settle == "USDC" else market.base + market.quote


def _instrument(market: Market) -> dict[str, object]:
    price, volume = steps(market)
    return {
        "symbol": _symbol(market),
        "contractType": "LinearPerpetual",
        "status": "Trading",
        "baseCoin": market.base,
        "quoteCoin": market.quote,
        "launchTime": str(market.listed_ms),
        "deliveryTime": "0",
        "deliveryFeeRate": "",
        "priceScale": str(market.price_decimals),
        "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
        "priceFilter": {"minPrice": price, "maxPrice": "1999999.80", "tickSize": price},
        "lotSizeFilter": {"maxOrderQty": "1190.000", "minOrderQty": volume, "qtyStep": volume, "minNotionalValue": "5"},
        "unifiedMarginTrade": True,
        "fundingInterval": 480,
        "settleCoin": market.settle,
        "isPreListing": False,
        "preListingInfo": None,
    }


def _dated(symbol: str, coin: str) -> dict[str, object]:
    like = _instrument(Market(f"BTC/{coin}:{coin}", 43_000.0, 1, 18.0, 3))
    return {**like, "symbol": symbol, "contractType": "LinearFutures", "deliveryTime": "1798185600000"}


BYBITLINEAR: Final[Wire] = Category(
    name="bybitlinear",
    category="linear",
    markets=(*perpetuals("USDT", "USDT"), *perpetuals("USDC", "USDC")),
    own_name=_symbol,
    instrument=_instrument,
    # What the list also has: contracts with a date.
    others=(_dated("BTCUSDT-25DEC26", "USDT"), _dated("BTC-25DEC26", "USDC")),
    is_paged=True,
).wire()
