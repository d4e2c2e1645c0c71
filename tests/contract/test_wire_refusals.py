"""How an exchange refuses what we never ask for, in its own form."""

from typing import Any

import pytest

from tests.contract.frozen_market import NOW_MS
from tests.contract.wire_questions import (
    MINUTE_S,
    ask,
    bitfinex,
    bitget,
    bitstamp,
    bybit,
    cryptocom,
    gate,
    kucoin,
    mexc,
    poloniex,
    upbit,
    usdm,
)


@pytest.mark.parametrize(
    ("query", "code"),
    [({"symbol": "NOPEUSDT"}, -1121), ({"interval": "7m"}, -1120), ({"limit": 0}, -1130), ({"startTime": "soon"}, -1100)],
)
def test_binance_usdm_refuses_with_a_code(query: dict[str, Any], code: int) -> None:
    status, answer = usdm(**query)
    assert (status, answer["code"]) == (400, code)


@pytest.mark.parametrize(
    ("candle", "query", "parameter"),
    [
        ("1h:tBTCUSD", {"limit": 10_001}, "limit"),
        ("1h:tBTCUSD", {"start": NOW_MS, "end": NOW_MS}, "time_interval"),
        ("2h:tBTCUSD", {}, "time_interval"),
        ("1h:BTCUSD", {}, "symbol"),
    ],
)
def test_bitfinex_refuses_with_an_array(candle: str, query: dict[str, int], parameter: str) -> None:
    assert bitfinex(candle, **query) == (500, ["error", 10020, f"{parameter}: invalid"])


@pytest.mark.parametrize("query", [{"symbol": "NOPEUSDT"}, {"interval": "1m"}, {"interval": "W"}, {"category": "inverse"}])
def test_bybit_refuses_inside_http_200(query: dict[str, Any]) -> None:
    status, answer = bybit(**query)
    assert (status, answer["retCode"]) == (200, 10001)


@pytest.mark.parametrize(
    ("query", "label", "words"),
    [
        ({"from_": MINUTE_S - 1_000 * 60, "to": MINUTE_S}, "INVALID_PARAM_VALUE", "too broad"),
        ({"from_": MINUTE_S - 10_000 * 60, "to": MINUTE_S - 9_900 * 60}, "INVALID_PARAM_VALUE", "too long ago"),
        ({"from_": MINUTE_S - 600, "limit": 10}, "INVALID_PARAM_VALUE", "`limit` value: 10"),
        ({"interval": "3m"}, "INVALID_PARAM_VALUE", "`interval` value: 3m"),
        ({"currency_pair": "NOPE_USDT"}, "INVALID_CURRENCY", "NOPE"),
        ({"currency_pair": "BTCUSDT"}, "INVALID_CURRENCY_PAIR", "BTCUSDT"),
    ],
)
def test_gate_refuses_with_a_label(query: dict[str, Any], label: str, words: str) -> None:
    status, answer = gate(**query)
    assert (status, answer["label"]) == (400, label)
    assert words in answer["message"]


@pytest.mark.parametrize("query", [{"symbol": "NOPE-USDT"}, {"type": "1m"}, {"startAt": -1}])
def test_kucoin_refuses_inside_http_200(query: dict[str, Any]) -> None:
    status, answer = kucoin(**query)
    assert (status, answer["code"]) == (200, "400100")


@pytest.mark.parametrize(("query", "field"), [({"limit": ""}, "limit"), ({"limit": 1_001}, "limit"), ({"step": 61}, "step")])
def test_bitstamp_names_the_field_that_it_refuses(query: dict[str, Any], field: str) -> None:
    status, answer = bitstamp(**query)
    assert (status, answer["code"], answer["errors"][0]["field"]) == (400, "validation-error", field)
    assert bitstamp("nopeusd")[0] == 404


@pytest.mark.parametrize(("query", "code"), [({"symbol": "NOPE"}, -1121), ({"interval": "1w"}, -1121), ({"limit": 0}, 700013)])
def test_mexc_refuses_with_a_number(query: dict[str, Any], code: int) -> None:
    status, answer = mexc(**query)
    assert (status, answer["code"]) == (400, code)


@pytest.mark.parametrize("query", [{"symbol": "nopeusdt"}, {"period": "1day"}, {"size": "x"}, {"size": 2_001}])
def test_htx_refuses_inside_http_200(query: dict[str, Any]) -> None:
    status, answer = ask("htx", "/market/history/kline", **{"symbol": "btcusdt", "period": "1min", **query})
    assert (status, answer["status"], answer["err-code"]) == (200, "error", "invalid-parameter")


@pytest.mark.parametrize(
    ("kind", "query", "code"),
    [
        ("candles", {"symbol": "NOPEUSDT"}, "40034"),
        ("candles", {"symbol": ""}, "40019"),
        ("candles", {"granularity": "1m"}, "400171"),
        ("candles", {"limit": 1_001}, "40020"),
        ("history-candles", {"endTime": NOW_MS, "limit": 201}, "40020"),
        ("history-candles", {}, "400172"),
    ],
)
def test_bitget_refuses_with_a_code(kind: str, query: dict[str, Any], code: str) -> None:
    status, answer = bitget(kind, **query)
    assert (status, answer["code"], answer["data"]) == (400, code, None)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"instrument_name": "NOPE_USD"}, "Invalid instrument_name"),
        ({"instrument_name": ""}, "Missing instrument_name param"),
        ({"timeframe": "8h"}, "Invalid timeframe"),
        ({"count": 0}, "Invalid count"),
    ],
)
def test_cryptocom_refuses_with_a_code(query: dict[str, Any], message: str) -> None:
    assert cryptocom(**query) == (400, {"code": 40004, "message": message})


@pytest.mark.parametrize(
    ("symbol", "query", "code"),
    [
        ("NOPE_USDT", {}, 24101),
        ("BTC_USDT", {"interval": "MINUTE_3"}, 24102),
        ("BTC_USDT", {"endTime": "now"}, 24103),
        ("BTC_USDT", {"limit": 501}, 24104),
        ("BTC_USDT", {"startTime": "then"}, 24105),
    ],
)
def test_poloniex_refuses_with_a_number_for_each_parameter(symbol: str, query: dict[str, Any], code: int) -> None:
    status, answer = poloniex(symbol, **query)
    assert (status, answer["code"]) == (400, code)


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("minutes/1", {"market": "BTC-KRW"}, 404),
        ("minutes/2", {}, 400),
        ("fortnights", {}, 404),
        ("days", {"to": "yesterday"}, 400),
        ("days", {"market": ""}, 400),
        ("days", {"count": 0}, 400),
    ],
)
def test_upbit_refuses_with_a_name(path: str, query: dict[str, Any], status: int) -> None:
    told, answer = upbit(path, **query)
    assert told == status
    assert answer["error"]["name"] == status
