"""Manners that no request of ours brings out: what an exchange does with bounds, limits and names that we never send."""

from typing import Any

import pytest
import requests

from shared.domain.timeframes import DAY_MS, HOUR_MS, MINUTE_MS, TIMEFRAMES
from tests.contract.bench import Bench
from tests.contract.frozen_market import NOW_MS

MINUTE_S = TIMEFRAMES["1m"].floor(NOW_MS) // 1_000
HOUR_S = TIMEFRAMES["1h"].floor(NOW_MS) // 1_000


def ask(exchange: str, path: str, **query: Any) -> tuple[int, Any]:
    session = requests.Session()
    session.trust_env = False
    session.mount("https://", Bench(exchange))
    answer = session.get(f"https://exchange.example{path}", params={name.rstrip("_"): value for name, value in query.items()})
    return answer.status_code, answer.json()


def bitfinex(candle: str = "1h:tBTCUSD", **query: Any) -> tuple[int, Any]:
    return ask("bitfinex", f"/v2/candles/trade:{candle}/hist", **query)


def test_bitfinex_keeps_the_side_that_it_sorts_by() -> None:
    start_ms = HOUR_S * 1_000 - 500 * HOUR_MS
    _, newest = bitfinex(start=start_ms)
    assert [row[0] for row in newest] == [HOUR_S * 1_000 - back * HOUR_MS for back in range(100)]
    _, oldest = bitfinex(start=start_ms - 1, sort=1, limit=3)
    assert [row[0] for row in oldest] == [start_ms + at * HOUR_MS for at in range(3)]
    _, first_ever = bitfinex("1D:tBTCUSD", sort=1, limit=1)
    assert first_ever[0][0] < NOW_MS - 3_000 * DAY_MS


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


def test_bitfinex_has_no_candles_of_what_does_not_exist_and_lists_only_what_trades() -> None:
    assert bitfinex("1h:tNOPE:USD") == (200, [])
    _, (pairs,) = ask("bitfinex", "/v2/conf/pub:list:pair:exchange")
    assert {"BTCUSD", "BTCUST", "DOGE:USD", "ETHBTC"} <= set(pairs)
    assert "OMGUSD" not in pairs


def gate(**query: Any) -> tuple[int, Any]:
    return ask("gate", "/api/v4/spot/candlesticks", **{"currency_pair": "BTC_USDT", "interval": "1m", **query})


def test_gate_gives_a_hundred_or_all_between_its_bounds_and_says_what_is_closed() -> None:
    _, rows = gate()
    assert [int(row[0]) for row in rows] == [MINUTE_S - 60 * back for back in range(100)][::-1]
    assert [row[7] for row in rows[-2:]] == ["true", "false"]
    _, rows = gate(from_=MINUTE_S - 999 * 60, to=MINUTE_S)
    assert len(rows) == 1_000


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


def kucoin(**query: Any) -> tuple[int, Any]:
    return ask("kucoin", "/api/v1/market/candles", **{"symbol": "BTC-USDT", "type": "1min", **query})


def test_kucoin_gives_the_newest_hundred_or_the_newest_1500_before_its_end() -> None:
    _, answer = kucoin()
    assert [int(row[0]) for row in answer["data"]] == [MINUTE_S - 60 * back for back in range(100)]
    _, answer = kucoin(startAt=MINUTE_S - 2_000 * 60, endAt=MINUTE_S)
    assert len(answer["data"]) == 1_500
    assert int(answer["data"][0][0]) == MINUTE_S - 60


@pytest.mark.parametrize("query", [{"symbol": "NOPE-USDT"}, {"type": "1m"}, {"startAt": -1}])
def test_kucoin_refuses_inside_http_200(query: dict[str, Any]) -> None:
    status, answer = kucoin(**query)
    assert (status, answer["code"]) == (200, "400100")


def test_prices_and_volumes_stand_in_each_ones_own_columns() -> None:
    end_ms = HOUR_S * 1_000
    _, rows = bitfinex(start=end_ms - HOUR_MS, end=end_ms - 1, sort=1)
    assert rows[0][3] == max(rows[0][1:5])
    assert rows[0][4] == min(rows[0][1:5])
    _, rows = gate(from_=MINUTE_S - 60, to=MINUTE_S - 60)
    assert float(rows[0][3]) == max(map(float, rows[0][2:6]))
    assert float(rows[0][1]) == pytest.approx(float(rows[0][6]) * float(rows[0][2]), rel=0.05)
    _, answer = kucoin(startAt=MINUTE_S - MINUTE_MS // 1_000, endAt=MINUTE_S)
    assert float(answer["data"][0][4]) == min(map(float, answer["data"][0][1:5]))
