"""Binance USD-M perpetuals, /fapi/v1: klines weigh by their limit. Source: developers.binance.com, USDS-Margined Futures."""

from collections.abc import Mapping
from typing import Final

from local_emulator.simulator.arrivals import Limit
from local_emulator.simulator.binance_family import LIMIT_DEFAULT, Dialect, filters, symbol_id
from local_emulator.simulator.market import Market, perpetuals
from local_emulator.simulator.wire import Wire

# Numbers as long as they are, not with eight decimals as in spot.
KLINE: Final = '[%d,"%s","%s","%s","%s","%s",%d,"%.5f",%d,"%.3f","%.5f","0"]'
LIMIT_MAX: Final = 1_500
# Below how many rows a page has which weight.
WEIGHTS: Final = ((100, 1), (500, 2), (1_001, 5))
WEIGHT_MAX: Final = 10
NEVER_MS: Final = 4_133_404_800_000
DELIVERY_MS: Final = 1_798_185_600_000


def _klines_weight(query: Mapping[str, str]) -> int:
    text = query.get("limit", "")
    limit = int(text) if text.isascii() and text.isdigit() else LIMIT_DEFAULT
    return next((weight for below, weight in WEIGHTS if limit < below), WEIGHT_MAX)


def _symbol(market: Market, now_ms: int) -> dict[str, object]:
    return {
        "symbol": symbol_id(market),
        "pair": symbol_id(market),
        "contractType": "PERPETUAL",
        "deliveryDate": NEVER_MS if market.delisted_ms is None else market.delisted_ms,
        "onboardDate": market.listed_ms,
        "status": "TRADING" if market.is_trading(now_ms) else "SETTLING",
        "baseAsset": market.base,
        "quoteAsset": market.quote,
        "marginAsset": market.settle,
        "pricePrecision": market.price_decimals,
        "quantityPrecision": market.volume_decimals,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "filters": [*filters(market, 6), {"filterType": "MIN_NOTIONAL", "notional": "5"}],
        "orderTypes": ["LIMIT", "MARKET", "STOP"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
    }


# What the list also has: a contract with a date.
_DATED: Final = {
    **_symbol(Market("BTC/USDT:USDT", 43_000.0, 1, 18.0, 3), DELIVERY_MS),
    "symbol": "BTCUSDT_261225",
    "contractType": "CURRENT_QUARTER",
    "deliveryDate": DELIVERY_MS,
}

BINANCEUSDM: Final[Wire] = Dialect(
    name="binanceusdm",
    prefix="/fapi/v1",
    limits=(Limit(2_400, 60_000),),
    markets=(*perpetuals("USDT", "USDT"), *perpetuals("USDC", "USDC")),
    symbol=_symbol,
    others=(_DATED,),
    limit_max=LIMIT_MAX,
    klines_query_weight=_klines_weight,
    kline=KLINE,
    is_padded=False,
).wire()
