"""The simulator over the wire, read by hand. By ccxt: test_simulator_and_ccxt.py."""

import csv
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.domain.timeframes import DAY_MS, HOUR_MS, MINUTE_MS, TIMEFRAMES
from tests.contract.frozen_market import NOW_MS, SEED, truth
from tests.waiting import HANG_S

MINUTE_OPEN_MS = TIMEFRAMES["1m"].floor(NOW_MS)


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as opened:
        opened.trust_env = False
        yield opened


def iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat()


# --- Binance by hand


def klines(simulator: SimulatorProcess, session: requests.Session, **query: object) -> requests.Response:
    query = {"symbol": "BTCUSDT", "interval": "1m", **query}
    return session.get(simulator.base_url("binance") + "/api/v3/klines", params=query, timeout=HANG_S)  # type: ignore[arg-type]


def test_binance_bounds_order_and_limits(simulator: SimulatorProcess, session: requests.Session) -> None:
    def opens(**query: object) -> list[int]:
        return [(row[0] - MINUTE_OPEN_MS) // MINUTE_MS for row in klines(simulator, session, **query).json()]

    def at(minute: int) -> int:
        return MINUTE_OPEN_MS + minute * MINUTE_MS

    assert opens() == list(range(-499, 1))
    assert opens(limit=1500) == list(range(-999, 1))
    assert opens(limit=3) == [-2, -1, 0]
    assert opens(startTime=at(-100), limit=3) == [-100, -99, -98]
    assert opens(startTime=at(-100) + 1, limit=2) == [-99, -98]
    assert opens(startTime=at(-100) * 1_000, limit=2) == [-100, -99]
    assert opens(endTime=at(-100), limit=2) == [-101, -100]
    assert opens(startTime=at(-100), endTime=at(-98)) == [-100, -99, -98]
    assert opens(startTime=at(-100), endTime=at(-98) - 1) == [-100, -99]
    assert opens(startTime=at(-2)) == [-2, -1, 0]
    assert opens(startTime=at(1)) == []
    assert opens(startTime=at(-10), endTime=at(-20)) == []


def test_binance_rows_have_their_types(simulator: SimulatorProcess, session: requests.Session) -> None:
    for interval in ("1m", "1M"):
        response = klines(simulator, session, interval=interval, limit=2)
        for row in response.json():
            assert [type(value) for value in row] == [int, *[str] * 5, int, str, int, str, str, str]
            assert row[6] == TIMEFRAMES[interval].close(row[0]) - 1
            assert all(len(text.split(".")[1]) == 8 for text in row[1:6])
        assert response.headers["content-type"] == "application/json"
        assert response.headers["date"] == "Wed, 11 Nov 2026 11:11:11 GMT"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"symbol": "NOPE"}, -1121),
        ({"symbol": "BTC/USDT"}, -1100),
        ({"symbol": ""}, -1102),
        ({"interval": "7m"}, -1120),
        ({"interval": "1D"}, -1120),
        ({"limit": "many"}, -1100),
        ({"startTime": "-5"}, -1100),
    ],
)
def test_binance_refuses_with_its_codes(
    simulator: SimulatorProcess, session: requests.Session, query: dict[str, str], code: int
) -> None:
    response = klines(simulator, session, **query)
    assert (response.status_code, response.json()["code"]) == (400, code)


def test_binance_tells_the_weight_used_then_throttles_then_bans(simulator: SimulatorProcess, session: requests.Session) -> None:
    simulator.configure("binance", [(20, 86_400_000)])
    used = [klines(simulator, session, limit=1).headers["x-mbx-used-weight-1d"] for _ in range(10)]
    assert used[0] == "2"
    assert used == [str(2 * number) for number in range(1, 11)]
    throttled = klines(simulator, session, limit=1)
    assert (throttled.status_code, throttled.json()["code"]) == (429, -1003)
    assert 86_000 < int(throttled.headers["retry-after"]) <= 86_400
    statuses = [klines(simulator, session, limit=1).status_code for _ in range(11)]
    assert statuses == [429] * 9 + [418] * 2
    banned = klines(simulator, session, limit=1)
    assert int(banned.headers["retry-after"]) <= 120
    assert "banned until" in banned.json()["msg"]
    report = simulator.report()["binance"]
    assert report["windows"][0] == {**report["windows"][0], "limit": 20, "worst": 46, "over_limit": 13, "total": 46}
    info = session.get(simulator.base_url("binance") + "/api/v3/ping", timeout=HANG_S)
    assert info.status_code == 418


def test_binance_answers_what_is_not_candles(simulator: SimulatorProcess, session: requests.Session) -> None:
    base_url = simulator.base_url("binance")
    assert session.get(base_url + "/api/v3/ping", timeout=HANG_S).json() == {}
    assert session.get(base_url + "/api/v3/time", timeout=HANG_S).json() == {"serverTime": NOW_MS}
    info = session.get(base_url + "/api/v3/exchangeInfo?symbolStatus=TRADING", timeout=HANG_S).json()
    assert "OMGUSDT" not in {symbol["symbol"] for symbol in info["symbols"]}
    assert info["rateLimits"] == [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000}]
    assert session.get(base_url + "/api/v9/nothing", timeout=HANG_S).status_code == 404


# --- Coinbase by hand


def product_candles(
    simulator: SimulatorProcess, session: requests.Session, product: str = "BTC-USD", **query: object
) -> requests.Response:
    url = f"{simulator.base_url('coinbase')}/products/{product}/candles"
    return session.get(url, params={"granularity": 60, **query}, timeout=HANG_S)  # type: ignore[arg-type]


def test_coinbase_is_descending_inclusive_and_reads_low_first(simulator: SimulatorProcess, session: requests.Session) -> None:
    start_ms, end_ms = MINUTE_OPEN_MS - 10 * MINUTE_MS, MINUTE_OPEN_MS - 5 * MINUTE_MS
    rows = product_candles(simulator, session, start=iso(start_ms), end=iso(end_ms)).json()
    expected = truth("coinbase", "BTC/USD", "1m", start_ms, end_ms + 1)
    assert len(expected) == 6
    assert rows == [[row[0] // 1_000, row[3], row[2], row[1], row[4], row[5]] for row in reversed(expected)]
    snapped = product_candles(simulator, session, start=iso(start_ms + 1), end=iso(end_ms - 1)).json()
    assert snapped == rows[1:-1]


def test_coinbase_rejects_more_than_300_and_ignores_half_a_range(
    simulator: SimulatorProcess, session: requests.Session
) -> None:
    start_ms = MINUTE_OPEN_MS - 1_000 * MINUTE_MS
    widest = product_candles(simulator, session, start=iso(start_ms), end=iso(start_ms + 299 * MINUTE_MS))
    assert len(widest.json()) == 300
    too_wide = product_candles(simulator, session, start=iso(start_ms), end=iso(start_ms + 300 * MINUTE_MS))
    assert too_wide.status_code == 400
    assert "exceeds 300" in too_wide.json()["message"]
    newest = product_candles(simulator, session, start=iso(start_ms)).json()
    assert [newest[0][0], newest[-1][0]] == [MINUTE_OPEN_MS // 1_000, MINUTE_OPEN_MS // 1_000 - 299 * 60]


def test_coinbase_leaves_out_silence_and_refuses_in_its_words(simulator: SimulatorProcess, session: requests.Session) -> None:
    assert len(product_candles(simulator, session, "KSM-USD").json()) < 30
    unknown = product_candles(simulator, session, "NOPE-USD")
    assert (unknown.status_code, unknown.json()) == (404, {"message": "NotFound"})
    assert product_candles(simulator, session, granularity=120).status_code == 400
    assert product_candles(simulator, session, start="yesterday", end="today").status_code == 400
    simulator.configure("coinbase", [(1, 60_000)])
    product_candles(simulator, session)
    throttled = product_candles(simulator, session)
    assert (throttled.status_code, throttled.json()) == (429, {"message": "Public rate limit exceeded"})


# --- Kraken by hand


def kraken_ohlc(simulator: SimulatorProcess, session: requests.Session, **query: object) -> dict[str, Any]:
    response = session.get(simulator.base_url("kraken") + "/0/public/OHLC", params=query, timeout=HANG_S)  # type: ignore[arg-type]
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("pair", ["XXBTZUSD", "XBTUSD", "XBT/USD"])
def test_kraken_keeps_720_rows_and_the_running_one(simulator: SimulatorProcess, session: requests.Session, pair: str) -> None:
    for since in (None, 0, (NOW_MS - 30 * DAY_MS) // 1_000):
        answer = kraken_ohlc(simulator, session, pair=pair, interval=1, since=since)
        assert answer["error"] == []
        rows = answer["result"]["XXBTZUSD"]
        assert [row[0] * 1_000 for row in rows] == list(range(MINUTE_OPEN_MS - 720 * MINUTE_MS, NOW_MS, MINUTE_MS))
        assert answer["result"]["last"] * 1_000 == MINUTE_OPEN_MS - MINUTE_MS
        assert [type(value) for value in rows[0]] == [int, *[str] * 6, int]


def test_kraken_since_is_exclusive_and_silence_is_filled(simulator: SimulatorProcess, session: requests.Session) -> None:
    hour_ms = TIMEFRAMES["1h"].floor(NOW_MS)
    since = (hour_ms - 3 * HOUR_MS) // 1_000
    rows = kraken_ohlc(simulator, session, pair="XBTUSD", interval=60, since=since)["result"]["XXBTZUSD"]
    assert [row[0] * 1_000 for row in rows] == [hour_ms - 2 * HOUR_MS, hour_ms - HOUR_MS, hour_ms]
    quiet = kraken_ohlc(simulator, session, pair="KSMUSD")["result"]["KSMUSD"]
    silent = [row for row in quiet if float(row[6]) == 0]
    assert len(quiet) == 721
    assert len(silent) > 600
    assert all(row[1] == row[2] == row[3] == row[4] and row[5] == "0.0" and row[7] == 0 for row in silent)


def test_kraken_says_its_errors_inside_200(simulator: SimulatorProcess, session: requests.Session) -> None:
    assert kraken_ohlc(simulator, session, pair="NOPE") == {"error": ["EQuery:Unknown asset pair"]}
    assert kraken_ohlc(simulator, session, pair="XBTUSD", interval=3) == {"error": ["EGeneral:Invalid arguments"]}
    simulator.configure("kraken", [(1, 60_000)])
    throttled_before = simulator.report()["kraken"]["throttled"]
    kraken_ohlc(simulator, session, pair="XBTUSD")
    assert kraken_ohlc(simulator, session, pair="XBTUSD") == {"error": ["EGeneral:Too many requests"]}
    assert simulator.report()["kraken"]["throttled"] == throttled_before + 1


# --- what is the same for all


def test_every_arrival_is_counted_under_load(simulator: SimulatorProcess) -> None:
    simulator.configure("binance", [(100, 86_400_000), (1_000_000, 1)], punish=False)
    before = simulator.report()["binance"]

    def ask(_number: int) -> None:
        with requests.Session() as own:
            for _ in range(10):
                assert klines(simulator, own, limit=1).status_code == 200

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(16)))
    after = simulator.report()["binance"]
    assert after["requests_total"] - before["requests_total"] == 160
    assert after["weight_total"] - before["weight_total"] == 320
    whole, shortest = after["windows"]
    assert (whole["worst"], whole["total"], whole["over_limit"]) == (320, 320, 110)
    assert 2 <= shortest["worst"] < 320
    assert after["last_arrival_ms"] > after["first_arrival_ms"]


def test_a_restart_gives_the_same_candles(simulator: SimulatorProcess, session: requests.Session) -> None:
    with start_simulator(seed=SEED, freeze_at_ms=NOW_MS) as again:
        for interval in ("1m", "1d"):
            assert klines(again, session, interval=interval).content == klines(simulator, session, interval=interval).content
    with start_simulator(seed=SEED + 1, freeze_at_ms=NOW_MS) as other:
        assert klines(other, session).content != klines(simulator, session).content


def test_the_clock_moves_the_market(simulator: SimulatorProcess, session: requests.Session) -> None:
    running = klines(simulator, session, limit=1).json()[0]
    simulator.clock(advance_ms=10_000)
    grown = klines(simulator, session, limit=1).json()[0]
    assert grown[0] == running[0]
    assert float(grown[5]) > float(running[5])
    simulator.clock(advance_ms=MINUTE_MS)
    closed, following = klines(simulator, session, limit=2).json()
    assert [float(text) for text in closed[1:6]] == truth("binance", "BTC/USDT", "1m", running[0], running[0] + 1)[0][1:]
    assert following[0] == running[0] + MINUTE_MS


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "drop"}, requests.ConnectionError),
        ({"kind": "cut"}, requests.exceptions.ChunkedEncodingError),
        ({"kind": "slow", "delay_ms": 86_400_000}, requests.ReadTimeout),
        ({"kind": "not_json"}, requests.JSONDecodeError),
        ({"kind": "drip", "delay_ms": 60}, None),
    ],
)
def test_the_wire_breaks_on_demand_and_mends(
    simulator: SimulatorProcess, session: requests.Session, fault: dict[str, object], error: type[Exception] | None
) -> None:
    url = simulator.base_url("binance") + "/api/v3/klines?symbol=BTCUSDT&interval=1m"
    whole = klines(simulator, session).json()
    simulator.set_faults({"exchange": "binance", "count": 1, **fault})
    timeout_s = 0.5 if error is requests.ReadTimeout else HANG_S
    if error is None:
        assert session.get(url, timeout=timeout_s).json() == whole
    else:
        with pytest.raises(error):
            session.get(url, timeout=timeout_s).json()
    assert klines(simulator, session).json() == whole
    assert simulator.faults()[0]["left"] == 0


def test_retry_after_and_spoiled_rows_reach_the_client(simulator: SimulatorProcess, session: requests.Session) -> None:
    simulator.set_faults({"exchange": "binance", "kind": "status", "status": 429, "retry_after_s": 7, "count": 1})
    response = klines(simulator, session)
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    rows = klines(simulator, session, limit=10).json()
    simulator.set_faults({"kind": "shuffle", "count": 1}, {"kind": "nan", "symbol": "BTC/USDT"})
    spoiled = klines(simulator, session, limit=10).json()
    assert sorted(row[0] for row in spoiled) == [row[0] for row in rows]
    assert sum(row[4] == "nan" for row in spoiled) == 1
    assert "NaN" in product_candles(simulator, session, "BTC-USDT").text


def test_wrong_controls_are_refused(simulator: SimulatorProcess) -> None:
    for call in (
        lambda: simulator.set_faults({"kind": "unheard_of"}),
        lambda: simulator.configure("nowhere", [(1, 1)]),
        lambda: simulator.configure("binance", [(0, 1)]),
        lambda: simulator.clock(speed=2),
    ):
        with pytest.raises(requests.HTTPError, match="400"):
            call()


def test_recordings_replace_generated_candles(session: requests.Session, tmp_path: Path) -> None:
    rows = [(MINUTE_OPEN_MS - back * MINUTE_MS, 1e-7 * back, 2.5, 1e-9, 0.1 + back, back / 3) for back in (9, 8, 4, 3, 0)]
    with (tmp_path / "binance_PEPE-USDT_1m.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("ts_ms", "open", "high", "low", "close", "volume"), *rows])
    for exchange, symbol in (("binance", "BTC-USDT"), ("kraken", "BTC-USD"), ("coinbase", "BTC-USD")):
        (tmp_path / f"{exchange}_{symbol}_1m.csv").write_bytes((tmp_path / "binance_PEPE-USDT_1m.csv").read_bytes())
    config = {"limits": [{"exchange": "kraken", "windows": [], "punish": True}]}
    with start_simulator(seed=SEED, freeze_at_ms=NOW_MS, recordings=tmp_path, config=config) as replay:
        for symbol in ("BTCUSDT", "PEPEUSDT"):
            served = klines(replay, session, symbol=symbol).json()
            assert [(row[0], *map(float, row[1:6])) for row in served] == rows
        assert klines(replay, session, symbol="PEPEUSDT", interval="5m").json() == []
        coinbase = [(t * 1_000, o, h, low, c, v) for t, low, h, o, c, v in reversed(product_candles(replay, session).json())]
        kraken = kraken_ohlc(replay, session, pair="XBTUSD")["result"]["XXBTZUSD"]
        # No volume means no candle at Coinbase only where candles are generated: a recording is served as it is.
        assert coinbase == rows
        assert [(row[0] * 1_000, *map(float, row[1:5]), float(row[6])) for row in kraken] == rows
        assert json.dumps(replay.report()["kraken"]["windows"]) == "[]"
