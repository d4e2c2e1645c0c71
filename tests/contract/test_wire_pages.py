"""Which rows and markets an exchange gives where no request of ours brings it out: bounds and limits that we never send."""

from typing import Any

import pytest

from local_emulator.simulator.wires import WIRES
from shared.domain.timeframes import DAY_MS, HOUR_MS, MINUTE_MS
from shared.exchanges.catalog import load_spec
from tests.contract.bench import Bench
from tests.contract.frozen_market import NOW_MS
from tests.contract.wire_questions import (
    HOUR_S,
    MINUTE_S,
    ask,
    bitfinex,
    bitget,
    bitstamp_opens,
    bybit,
    cryptocom,
    gate,
    htx,
    kucoin,
    mexc,
    poloniex,
    upbit,
    usdm,
)


def test_binance_usdm_gives_up_to_1500_klines_and_weighs_them_by_the_limit() -> None:
    assert len(usdm()[1]) == 500
    assert len(usdm(limit=1_500)[1]) == 1_500
    start_ms = MINUTE_S * 1_000 - 2_000 * MINUTE_MS
    _, rows = usdm(startTime=start_ms, limit=99)
    assert [row[0] for row in rows] == [start_ms + at * MINUTE_MS for at in range(99)]
    route = next(route for route in WIRES["binanceusdm"].routes if route.query_weight is not None)
    assert route.query_weight is not None
    weights = {limit: route.query_weight({"limit": str(limit)}) for limit in (1, 99, 100, 499, 500, 1_000, 1_001)}
    assert weights == {1: 1, 99: 1, 100: 2, 499: 2, 500: 5, 1_000: 5, 1_001: 10}
    assert route.query_weight({}) == 5
    spec = load_spec("binanceusdm")
    assert all(spec.weight_of(rows) == route.query_weight({"limit": str(rows)}) for rows in range(1, spec.page_limit + 1))


def test_binance_usdm_lists_contracts_with_a_date_and_those_that_are_settled() -> None:
    _, info = ask("binanceusdm", "/fapi/v1/exchangeInfo")
    assert {row["contractType"] for row in info["symbols"]} == {"PERPETUAL", "CURRENT_QUARTER"}
    assert {row["status"] for row in info["symbols"] if row["baseAsset"] == "OMG"} == {"SETTLING"}


def test_binance_us_reads_milliseconds_only() -> None:
    path, asked = "/api/v3/klines", {"symbol": "BTCUSD", "interval": "1m", "limit": 2}
    assert len(ask("binanceus", path, **asked, startTime=MINUTE_S * 1_000 - MINUTE_MS)[1]) == 2
    assert ask("binanceus", path, **asked, startTime=(MINUTE_S * 1_000 - MINUTE_MS) * 1_000) == (200, [])
    assert len(ask("binance", path, **{**asked, "symbol": "BTCUSDT"}, startTime=(MINUTE_S - 60) * 1_000_000)[1]) == 2


def test_bitfinex_keeps_the_side_that_it_sorts_by() -> None:
    start_ms = HOUR_S * 1_000 - 500 * HOUR_MS
    _, newest = bitfinex(start=start_ms)
    assert [row[0] for row in newest] == [HOUR_S * 1_000 - back * HOUR_MS for back in range(100)]
    _, oldest = bitfinex(start=start_ms - 1, sort=1, limit=3)
    assert [row[0] for row in oldest] == [start_ms + at * HOUR_MS for at in range(3)]
    _, first_ever = bitfinex("1D:tBTCUSD", sort=1, limit=1)
    assert first_ever[0][0] < NOW_MS - 3_000 * DAY_MS


def test_bitfinex_has_no_candles_of_what_does_not_exist_and_lists_only_what_trades() -> None:
    assert bitfinex("1h:tNOPE:USD") == (200, [])
    _, (pairs,) = ask("bitfinex", "/v2/conf/pub:list:pair:exchange")
    assert {"BTCUSD", "BTCUST", "DOGE:USD", "ETHBTC"} <= set(pairs)
    assert "OMGUSD" not in pairs


@pytest.mark.parametrize("exchange", ["bybit", "bybitlinear"])
def test_bybit_begins_with_the_candle_that_holds_the_start_and_keeps_the_newest_before_an_end(exchange: str) -> None:
    now_ms = MINUTE_S * 1_000

    def opens(**query: Any) -> list[int]:
        return [int(row[0]) for row in bybit(exchange, **query)[1]["result"]["list"]]

    assert opens() == [now_ms - back * MINUTE_MS for back in range(200)]
    start_ms = now_ms - 3_000 * MINUTE_MS
    assert opens(start=start_ms + 1, limit=2) == [start_ms + MINUTE_MS, start_ms]
    assert opens(start=start_ms + 1, end=start_ms + 2 * MINUTE_MS) == [start_ms + at * MINUTE_MS for at in (2, 1, 0)]
    newest = opens(start=start_ms, end=now_ms, limit=1_001)
    assert (len(newest), newest[0]) == (1_000, now_ms)


def test_bybit_takes_linear_when_no_category_is_named_and_names_contracts_by_what_settles_them() -> None:
    assert ask("bybit", "/v5/market/kline", symbol="BTCUSDT", interval="1")[1]["retCode"] == 10001
    _, answer = ask("bybitlinear", "/v5/market/kline", symbol="BTCPERP", interval="1", limit=1)
    assert answer["result"]["symbol"] == "BTCPERP"


def test_bybit_lists_what_trades_in_pages() -> None:
    listed: list[dict[str, Any]] = []
    cursor = "0"
    while cursor:
        result = bybit("bybitlinear", "instruments-info", limit=10, cursor=cursor)[1]["result"]
        listed, cursor = listed + result["list"], result["nextPageCursor"]
    assert {row["status"] for row in listed} == {"Trading"}
    assert {"BTCUSDT", "BTCPERP", "BTC-25DEC26"} <= {row["symbol"] for row in listed}
    assert "OMGUSDT" not in {row["symbol"] for row in listed}
    assert bybit("bybitlinear", "instruments-info", status="PreLaunch")[1]["result"]["list"] == []


def test_gate_gives_a_hundred_or_all_between_its_bounds_and_says_what_is_closed() -> None:
    _, rows = gate()
    assert [int(row[0]) for row in rows] == [MINUTE_S - 60 * back for back in range(100)][::-1]
    assert [row[7] for row in rows[-2:]] == ["true", "false"]
    _, rows = gate(from_=MINUTE_S - 999 * 60, to=MINUTE_S)
    assert len(rows) == 1_000


def test_kucoin_gives_the_newest_hundred_or_the_newest_1500_before_its_end() -> None:
    _, answer = kucoin()
    assert [int(row[0]) for row in answer["data"]] == [MINUTE_S - 60 * back for back in range(100)]
    _, answer = kucoin(startAt=MINUTE_S - 2_000 * 60, endAt=MINUTE_S)
    assert len(answer["data"]) == 1_500
    assert int(answer["data"][0][0]) == MINUTE_S - 60


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


def test_bitstamp_keeps_the_newest_between_its_bounds_and_goes_forward_from_a_start() -> None:
    start_s = MINUTE_S - 100 * 60
    assert bitstamp_opens(start=start_s, end=start_s + 600) == [start_s + at * 60 for at in range(1, 11)]
    assert bitstamp_opens(start=start_s + 59, limit=2) == [start_s, start_s + 60]
    assert bitstamp_opens(end=start_s, limit=2) == [start_s - 60, start_s]
    assert bitstamp_opens(limit=1) == [MINUTE_S]
    assert bitstamp_opens(limit=1, exclude_current_candle="true") == [MINUTE_S - 60]


def test_mexc_gives_500_at_most_and_takes_one_bound_for_none() -> None:
    hour_ms = HOUR_S * 1_000
    start_ms = hour_ms - 900 * HOUR_MS
    assert [row[0] for row in mexc(startTime=start_ms, limit=1)[1]] == [hour_ms]
    _, rows = mexc(startTime=start_ms, endTime=hour_ms, limit=1_000)
    assert [row[0] for row in rows] == [start_ms + at * HOUR_MS for at in range(500)]
    assert len(mexc()[1]) == 500
    _, rows = mexc(startTime=start_ms, endTime=start_ms + HOUR_MS)
    assert [(row[0], row[6]) for row in rows] == [(start_ms, start_ms + HOUR_MS)]


def test_htx_goes_forward_from_a_start_and_gives_the_newest_first() -> None:
    start_s = MINUTE_S - 5_000 * 60
    assert [row["id"] for row in htx(from_=start_s, size=3)] == [start_s + 120, start_s + 60, start_s]
    assert [row["id"] for row in htx(from_=start_s, to=start_s + 60, size=9)] == [start_s + 60, start_s]
    assert len(htx()) == 150
    assert htx(from_=start_s, size=1_001) == []


def test_htx_looks_at_no_bound_for_kline() -> None:
    rows = htx("kline", from_=MINUTE_S - 5_000 * 60, size=2_000)
    assert [rows[0]["id"], rows[-1]["id"]] == [MINUTE_S, MINUTE_S - 1_999 * 60]
    assert rows[5]["vol"] == pytest.approx(rows[5]["amount"] * rows[5]["close"], rel=0.05)


def test_bitget_takes_the_newest_before_its_end_whatever_the_start() -> None:
    end_ms = MINUTE_S * 1_000
    _, answer = bitget()
    assert [int(row[0]) for row in answer["data"]] == [end_ms - back * MINUTE_MS for back in range(100)][::-1]
    for start_ms in (end_ms - 500 * MINUTE_MS, end_ms):
        _, answer = bitget(startTime=start_ms, endTime=end_ms, limit=2)
        assert [int(row[0]) for row in answer["data"]] == [end_ms - 2 * MINUTE_MS, end_ms - MINUTE_MS]
    _, answer = bitget(granularity="1Dutc", limit=1_000)
    assert len(answer["data"]) == 300


def test_bitgets_plain_candles_reach_1440_bars_back_with_their_limit_and_the_archive_has_what_has_closed() -> None:
    old_ms = HOUR_S * 1_000 - 1_000 * HOUR_MS
    for limit, rows in ((440, 440), (441, 0)):
        assert len(bitget(granularity="1h", endTime=old_ms, limit=limit)[1]["data"]) == rows
    _, answer = bitget("history-candles", granularity="1h", endTime=old_ms + 2_000, limit=2)
    assert [int(row[0]) for row in answer["data"]] == [old_ms - back * HOUR_MS for back in (2, 1)]
    _, answer = bitget("history-candles", endTime=NOW_MS)
    assert int(answer["data"][-1][0]) == MINUTE_S * 1_000 - MINUTE_MS


def test_gemini_has_one_window_for_each_width_and_refuses_other_symbols_in_plain_text() -> None:
    for width, rows in {"1m": 1_440, "5m": 2_015, "15m": 1_343, "30m": 1_439, "1hr": 1_463}.items():
        _, page = ask("gemini", f"/v2/candles/BTCUSD/{width}", start=1, limit=3)
        assert len(page) == rows
        assert page[0][0] > page[-1][0]
    status, answer = ask("gemini", "/v2/candles/btcusd/1h")
    assert (status, answer["reason"]) == (400, "InvalidParameterValue")
    assert (Bench("gemini").session().get("https://exchange.example/v2/candles/nopeusd/1m").text) == (
        "Supplied value 'nopeusd' is not a valid symbol"
    )


def test_cryptocom_gives_the_newest_between_its_bounds() -> None:
    hours_ms = [HOUR_S * 1_000 - back * HOUR_MS for back in range(300)][::-1]
    assert [row["t"] for row in cryptocom()[1]["result"]["data"]] == hours_ms[-25:]
    assert [row["t"] for row in cryptocom(count=1_000)[1]["result"]["data"]] == hours_ms
    answer = cryptocom(start_ts=hours_ms[0], end_ts=hours_ms[-1], count=3)[1]
    assert [row["t"] for row in answer["result"]["data"]] == hours_ms[-4:-1]
    assert cryptocom(timeframe="H1")[1]["result"]["interval"] == "H1"


def test_cryptocom_lists_contracts_among_what_trades() -> None:
    _, answer = ask("cryptocom", "/exchange/v1/public/get-instruments")
    kinds = {row["symbol"]: row["inst_type"] for row in answer["result"]["data"]}
    assert kinds["BTCUSD-PERP"] == "PERPETUAL_SWAP"
    assert kinds["BTC_USDT"] == "CCY_PAIR"
    assert "OMG_USD" not in kinds


def test_poloniex_gives_the_newest_after_its_start() -> None:
    minutes_ms = [(MINUTE_S - 60 * back) * 1_000 for back in range(100)][::-1]
    assert [row[12] for row in poloniex()[1]] == minutes_ms
    assert [row[12] for row in poloniex(startTime=minutes_ms[0], limit=2)[1]] == minutes_ms[-2:]
    (row,) = poloniex(startTime=minutes_ms[0], endTime=minutes_ms[0] + 1)[1]
    assert row[11:] == ["MINUTE_1", minutes_ms[0], minutes_ms[1] - 1]
    assert (float(row[0]), float(row[1])) == (min(map(float, row[:4])), max(map(float, row[:4])))
    assert float(row[4]) == pytest.approx(float(row[5]) * float(row[3]), rel=0.05)


def test_upbit_gives_the_newest_before_its_end_and_opens_weeks_on_monday() -> None:
    assert [row["candle_date_time_utc"] for row in upbit()[1]] == ["2026-11-11T11:11:00"]
    # A minute's name in Korea's time, the end not among the rows.
    rows = upbit(to="2026-11-11T20:11:00+09:00", count=2)[1]
    assert [row["candle_date_time_utc"] for row in rows] == ["2026-11-11T11:10:00", "2026-11-11T11:09:00"]
    assert len(upbit(count=500)[1]) == 200
    (week,) = upbit("weeks")[1]
    assert (week["candle_date_time_kst"], week["first_day_of_period"]) == ("2026-11-09T09:00:00", "2026-11-09")
