"""Questions to the simulated exchanges as nobody of ours asks them, each with what has to be there filled in."""

from typing import Any

from shared.domain.timeframes import TIMEFRAMES
from tests.contract.bench import Bench
from tests.contract.frozen_market import NOW_MS

MINUTE_S = TIMEFRAMES["1m"].floor(NOW_MS) // 1_000
HOUR_S = TIMEFRAMES["1h"].floor(NOW_MS) // 1_000


def ask(exchange: str, path: str, **query: Any) -> tuple[int, Any]:
    session = Bench(exchange).session()
    answer = session.get(f"https://exchange.example{path}", params={name.rstrip("_"): value for name, value in query.items()})
    return answer.status_code, answer.json()


def usdm(**query: Any) -> tuple[int, Any]:
    return ask("binanceusdm", "/fapi/v1/klines", **{"symbol": "BTCUSDT", "interval": "1m", **query})


def bitfinex(candle: str = "1h:tBTCUSD", **query: Any) -> tuple[int, Any]:
    return ask("bitfinex", f"/v2/candles/trade:{candle}/hist", **query)


def bybit(exchange: str = "bybit", path: str = "kline", **query: Any) -> tuple[int, Any]:
    category = "spot" if exchange == "bybit" else "linear"
    asked = {"category": category, "symbol": "BTCUSDT", "interval": "1"} if path == "kline" else {"category": category}
    return ask(exchange, f"/v5/market/{path}", **{**asked, **query})


def gate(**query: Any) -> tuple[int, Any]:
    return ask("gate", "/api/v4/spot/candlesticks", **{"currency_pair": "BTC_USDT", "interval": "1m", **query})


def kucoin(**query: Any) -> tuple[int, Any]:
    return ask("kucoin", "/api/v1/market/candles", **{"symbol": "BTC-USDT", "type": "1min", **query})


def bitstamp(pair: str = "btcusd", **query: Any) -> tuple[int, Any]:
    return ask("bitstamp", f"/api/v2/ohlc/{pair}/", **{"step": 60, "limit": 10, **query})


def bitstamp_opens(**query: Any) -> list[int]:
    return [int(row["timestamp"]) for row in bitstamp(**query)[1]["data"]["ohlc"]]


def mexc(**query: Any) -> tuple[int, Any]:
    return ask("mexc", "/api/v3/klines", **{"symbol": "BTCUSDT", "interval": "60m", **query})


def htx(path: str = "candles", **query: Any) -> list[dict[str, Any]]:
    status, answer = ask("htx", f"/market/history/{path}", **{"symbol": "btcusdt", "period": "1min", **query})
    assert (status, answer["status"]) == (200, "ok")
    rows: list[dict[str, Any]] = answer["data"]
    return rows


def bitget(kind: str = "candles", **query: Any) -> tuple[int, Any]:
    return ask("bitget", f"/api/v2/spot/market/{kind}", **{"symbol": "BTCUSDT", "granularity": "1min", **query})


def cryptocom(**query: Any) -> tuple[int, Any]:
    return ask("cryptocom", "/exchange/v1/public/get-candlestick", **{"instrument_name": "BTC_USD", "timeframe": "1h", **query})


def poloniex(symbol: str = "BTC_USDT", **query: Any) -> tuple[int, Any]:
    return ask("poloniex", f"/markets/{symbol}/candles", **{"interval": "MINUTE_1", **query})


def upbit(path: str = "minutes/1", **query: Any) -> tuple[int, Any]:
    return ask("upbit", f"/v1/candles/{path}", **{"market": "KRW-BTC", **query})
