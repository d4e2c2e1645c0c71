"""ExchangeClient against a real HTTP server on loopback."""

import contextlib
import gzip
import socket
import time
import tomllib
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from shared.domain.timeframes import DAY_MS, HOUR_MS, MINUTE_MS
from shared.errors import ExchangeRejected, ExchangeThrottled, ExchangeUnavailable, InvalidRequest, MalformedPage
from shared.exchanges import transport as transport_module
from shared.exchanges.catalog import load_spec
from shared.exchanges.client import ExchangeClient
from shared.exchanges.header_forms import UsageHeader, WaitForm, WaitHeader
from shared.exchanges.http_session import USER_AGENT, open_session
from shared.exchanges.rows import Market
from shared.exchanges.spec import Template
from tests.contract.conftest import Connect
from tests.contract.loopback_venue import NOW_MS, START_MS, Venue, page_of
from tests.waiting import HANG_S


def minutes(first: int, end: int, step: int = 1) -> list[int]:
    return [START_MS + index * MINUTE_MS for index in range(first, end, step)]


# What is asked


def test_forward_paging_asks_for_the_range_and_covers_up_to_the_last_row(venue: Venue, connect: Connect) -> None:
    venue.says(page_of("binance", minutes(0, 1000)))
    page = connect().fetch_ohlcv("BTC/USDT", "1m", START_MS, START_MS + DAY_MS)
    assert venue.asked[-1][:2] == ("GET", "/api/v3/klines")
    assert venue.query == {
        "symbol": "BTCUSDT",
        "interval": "1m",
        "startTime": str(START_MS),
        "endTime": str(START_MS + DAY_MS - 1),
        "limit": "1000",
    }
    assert len(page.candles) == page.rows_count == 1000
    assert page.covered_end_ms == START_MS + 1000 * MINUTE_MS
    assert venue.agents == [USER_AGENT]


def test_an_empty_page_covers_the_whole_range(venue: Venue, connect: Connect) -> None:
    for exchange, symbol in (("binance", "BTC/USDT"), ("kraken", "BTC/USD")):
        venue.says(page_of(exchange, []))
        page = connect(exchange).fetch_ohlcv(symbol, "1m", START_MS, START_MS + DAY_MS)
        assert len(page.candles) == 0
        assert page.covered_end_ms == START_MS + DAY_MS


def test_a_page_that_was_cut_short_makes_no_hole(venue: Venue, connect: Connect) -> None:
    venue.says(page_of("binance", minutes(0, 7)))
    page = connect().fetch_ohlcv("BTC/USDT", "1m", START_MS, START_MS + HOUR_MS)
    assert page.covered_end_ms == START_MS + 7 * MINUTE_MS


def test_windows_are_sent_with_both_bounds_and_covered_whole(venue: Venue, connect: Connect) -> None:
    venue.says(page_of("coinbase", minutes(-1, 5, 2)))
    page = connect("coinbase").fetch_ohlcv("BTC/USD", "1m", START_MS, START_MS + DAY_MS)
    assert venue.asked[-1][1] == "/products/BTC-USD/candles"
    assert venue.query == {"granularity": "60", "start": "2024-01-01T00:00:00.000Z", "end": "2024-01-01T04:59:00.000Z"}
    assert page.candles.open_ms.tolist() == minutes(1, 5, 2)
    assert page.covered_end_ms == START_MS + 300 * MINUTE_MS


def test_limit_shortens_the_range(venue: Venue, connect: Connect) -> None:
    venue.says([])
    page = connect().fetch_ohlcv("BTC/USDT", "1m", START_MS, START_MS + DAY_MS, 10)
    assert (venue.query["endTime"], venue.query["limit"]) == (str(START_MS + 10 * MINUTE_MS - 1), "10")
    assert page.covered_end_ms == START_MS + 10 * MINUTE_MS
    connect("coinbase").fetch_ohlcv("BTC/USD", "1m", START_MS, START_MS + DAY_MS, 10)
    assert venue.query["end"] == "2024-01-01T00:09:00.000Z"
    with pytest.raises(InvalidRequest, match="limit"):
        connect().fetch_ohlcv("BTC/USDT", "1m", START_MS, START_MS + DAY_MS, 0)


def test_bounds_off_the_grid_ask_only_for_intervals_that_open_inside(venue: Venue, connect: Connect) -> None:
    venue.says(page_of("binance", minutes(0, 4)))
    page = connect().fetch_ohlcv("BTC/USDT", "1m", START_MS + 1, START_MS + 3 * MINUTE_MS + 1)
    assert (venue.query["startTime"], venue.query["limit"]) == (str(START_MS + MINUTE_MS), "3")
    assert page.candles.open_ms.tolist() == minutes(1, 4)


def test_months_are_asked_by_the_calendar(venue: Venue, connect: Connect) -> None:
    venue.says(page_of("binance", [START_MS, START_MS + 31 * DAY_MS]))
    page = connect().fetch_ohlcv("BTC/USDT", "1M", START_MS, START_MS + 60 * DAY_MS)
    assert venue.query["limit"] == "2"
    assert page.covered_end_ms == START_MS + 60 * DAY_MS


def test_nothing_is_sent_for_what_has_not_closed(venue: Venue, connect: Connect) -> None:
    for start_ms in (NOW_MS, NOW_MS + DAY_MS):
        page = connect(now_ms=NOW_MS + 59_999).fetch_ohlcv("BTC/USDT", "1m", start_ms, start_ms + HOUR_MS)
        assert (len(page.candles), page.covered_end_ms, page.exchange_now_ms) == (0, start_ms, None)
    assert venue.asked == []


def test_json_bodies_archives_and_long_symbols_need_only_data(venue: Venue, connect: Connect) -> None:
    binance = load_spec("binance")
    body: dict[str, Template] = {"type": "snapshot", "req": {"coin": "{symbol}", "startTime": "{start}", "deep": True}}
    posted = replace(binance.candles, method="POST", path="/info", params=body)
    spec = replace(binance, archive=posted, archive_after_candles=60)
    venue.says([])
    connect(spec).fetch_ohlcv("BTC/USDT", "1m", START_MS, START_MS + HOUR_MS)
    expected = {"type": "snapshot", "req": {"coin": "BTCUSDT", "startTime": START_MS, "deep": True}}
    assert venue.asked[-1] == ("POST", "/info", {}, expected)
    connect(spec).fetch_ohlcv("BTC/USDT", "1m", NOW_MS - HOUR_MS, NOW_MS)
    assert venue.asked[-1][:2] == ("GET", "/api/v3/klines")


# Clocks


def test_only_what_has_closed_on_both_clocks_is_kept(venue: Venue, connect: Connect) -> None:
    end_ms = START_MS + HOUR_MS
    for date_ms, now_ms, closed in (
        (START_MS + 3 * MINUTE_MS + 5_000, NOW_MS, 3),
        (NOW_MS, START_MS + 3 * MINUTE_MS + 5_000, 3),
        (START_MS + 3 * MINUTE_MS - 1_000, NOW_MS, 2),
        (None, START_MS + 4 * MINUTE_MS, 4),
    ):
        venue.says(page_of("binance", minutes(0, 6)), date_ms=date_ms)
        page = connect(now_ms=now_ms).fetch_ohlcv("BTC/USDT", "1m", START_MS, end_ms)
        assert page.candles.open_ms.tolist() == minutes(0, closed)
        assert page.covered_end_ms == START_MS + closed * MINUTE_MS
        assert page.exchange_now_ms == (None if date_ms is None else date_ms + 999)


def test_an_exchange_whose_clock_is_behind_the_start_covers_nothing(venue: Venue, connect: Connect) -> None:
    venue.says([], date_ms=START_MS - DAY_MS)
    page = connect().fetch_ohlcv("BTC/USDT", "1m", START_MS, START_MS + HOUR_MS)
    assert (len(page.candles), page.covered_end_ms) == (0, START_MS)


# Kraken


def test_the_uncommitted_row_of_kraken_is_never_stored_nor_passed(venue: Venue, connect: Connect) -> None:
    venue.says(page_of("kraken", minutes(-1, 3)))
    page = connect("kraken").fetch_ohlcv("BTC/USD", "1m", START_MS, START_MS + HOUR_MS)
    assert venue.query == {"pair": "XBTUSD", "interval": "1", "since": str(START_MS // 1000 - 60)}
    assert page.candles.open_ms.tolist() == minutes(0, 2)
    assert page.covered_end_ms == START_MS + 2 * MINUTE_MS
    venue.says(page_of("kraken", minutes(0, 1)))
    page = connect("kraken").fetch_ohlcv("BTC/USD", "1m", START_MS, START_MS + HOUR_MS)
    assert (len(page.candles), page.covered_end_ms) == (0, START_MS)


def test_the_wall_of_kraken_is_reported(venue: Venue, connect: Connect) -> None:
    venue.says(page_of("kraken", minutes(5_000, 5_721)))
    exchange = connect("kraken", now_ms=START_MS + 5_720 * MINUTE_MS)
    page = exchange.fetch_ohlcv("BTC/USD", "1m", START_MS, START_MS + 5_720 * MINUTE_MS)
    assert page.history_start_ms == START_MS + 5_000 * MINUTE_MS
    assert (len(page.candles), page.rows_count) == (720, 721)
    page = exchange.fetch_ohlcv("BTC/USD", "1m", START_MS + 5_000 * MINUTE_MS, START_MS + 5_720 * MINUTE_MS)
    assert page.history_start_ms is None
    page = exchange.fetch_ohlcv("BTC/USD", "1m", START_MS, START_MS + HOUR_MS)
    assert (len(page.candles), page.covered_end_ms) == (0, START_MS + HOUR_MS)


def test_a_job_from_the_wall_of_kraken_on_loses_nothing_while_its_first_request_is_on_its_way(
    venue: Venue, connect: Connect
) -> None:
    kept = load_spec("kraken").history_of("1m")
    assert kept is not None
    wall_ms = START_MS + (5_720 - kept) * MINUTE_MS
    # Made at minute 5,720, served two minutes later: 720 closed candles and the running one.
    for late, lost in ((0, 0), (1, 0), (2, 0), (3, 1)):
        venue.says(page_of("kraken", minutes(5_000 + late, 5_721 + late)))
        exchange = connect("kraken", now_ms=START_MS + (5_720 + late) * MINUTE_MS)
        page = exchange.fetch_ohlcv("BTC/USD", "1m", wall_ms, START_MS + 5_730 * MINUTE_MS)
        first_ms = int(page.candles.open_ms[0])
        assert first_ms == wall_ms + lost * MINUTE_MS
        # What is lost in spite of it is told.
        assert page.history_start_ms == (first_ms if lost else None)


# Errors

MINUTE_WAIT = 60_000
ERRORS = [
    ("binance", 429, {"code": -1003, "msg": "Too many"}, {"Retry-After": "7"}, ExchangeThrottled, 7_000),
    ("binance", 429, {"code": -1003, "msg": "Too many"}, {}, ExchangeThrottled, MINUTE_WAIT),
    ("binance", 429, {}, {"Retry-After": formatdate(NOW_MS // 1000 + 90, usegmt=True)}, ExchangeThrottled, 90_000),
    ("binance", 429, {}, {"Retry-After": "9" * 30}, ExchangeThrottled, 3 * DAY_MS),
    ("binance", 429, {}, {"Retry-After": "0"}, ExchangeThrottled, 1_000),
    ("binance", 429, {}, {"Retry-After": "soon"}, ExchangeThrottled, MINUTE_WAIT),
    ("binance", 418, {"code": -1003, "msg": "banned"}, {}, ExchangeThrottled, 120_000),
    ("binance", 403, b"<html>WAF</html>", {}, ExchangeThrottled, 300_000),
    ("binance", 400, {"code": -1003, "msg": "Too many"}, {}, ExchangeThrottled, MINUTE_WAIT),
    ("binance", 451, {"code": 0, "msg": "restricted location"}, {}, ExchangeRejected, None),
    ("binance", 400, {"code": -1121, "msg": "Invalid symbol."}, {}, ExchangeRejected, None),
    ("binance", 400, {"code": -1008, "msg": "overloaded"}, {}, ExchangeUnavailable, None),
    ("binance", 503, b"", {}, ExchangeUnavailable, None),
    ("binance", 302, b"", {"Location": "/elsewhere"}, ExchangeUnavailable, None),
    ("binance", 404, b"<html>not here</html>", {}, ExchangeUnavailable, None),
    ("binance", 200, b"<html>maintenance</html>", {}, MalformedPage, None),
    ("binance", 200, b"", {}, MalformedPage, None),
    ("binance", 200, b"[[170406720000", {}, MalformedPage, None),
    ("binance", 200, {"symbols": []}, {}, MalformedPage, None),
    ("coinbase", 404, {"message": "NotFound"}, {}, ExchangeRejected, None),
    ("coinbase", 429, {"message": "Public rate limit exceeded"}, {}, ExchangeThrottled, 1_000),
    ("coinbase", 400, {"message": "Public rate limit exceeded"}, {}, ExchangeThrottled, 1_000),
    ("coinbase", 500, {"message": "Internal server error"}, {}, ExchangeUnavailable, None),
    ("kraken", 200, {"error": ["EGeneral:Too many requests"]}, {}, ExchangeThrottled, 5_000),
    ("kraken", 200, {"error": ["EGeneral:Temporary lockout"]}, {}, ExchangeThrottled, 900_000),
    ("kraken", 200, {"error": ["EQuery:Unknown asset pair"]}, {}, ExchangeRejected, None),
    ("kraken", 200, {"error": ["EService:Unavailable"]}, {}, ExchangeUnavailable, None),
    ("kraken", 200, {"error": ["EGeneral:Never heard of"]}, {}, ExchangeUnavailable, None),
    ("kraken", 520, b"<html>cloudflare</html>", {}, ExchangeUnavailable, None),
]


@pytest.mark.parametrize(("exchange", "status", "body", "headers", "error", "wait_ms"), ERRORS)
def test_every_error_answer_has_its_type(
    venue: Venue, connect: Connect, exchange: str, status: int, body: Any, headers: Any, error: Any, wait_ms: int | None
) -> None:
    venue.says(body, status, headers=headers)
    with pytest.raises(error) as caught:
        connect(exchange).fetch_ohlcv("BTC/USD", "1m", START_MS, START_MS + HOUR_MS)
    assert type(caught.value) is error
    assert exchange in caught.value.message
    assert status == 200 or str(status) in caught.value.message
    assert wait_ms is None or caught.value.wait_ms == wait_ms
    assert len(venue.asked) == 1


def test_an_exchange_may_say_how_long_to_wait_in_its_own_way(venue: Venue, connect: Connect) -> None:
    spec = load_spec("binance")
    for form, text in (
        (WaitForm.MILLISECONDS, "4000"),
        (WaitForm.AT_SECONDS, str(NOW_MS // 1000 + 4)),
        (WaitForm.AT_MILLISECONDS, str(NOW_MS + 4_000)),
    ):
        venue.says({}, 429, headers={"X-Reset": text})
        with pytest.raises(ExchangeThrottled) as caught:
            connect(replace(spec, wait_headers=(WaitHeader("X-Reset", form),))).ping()
        assert caught.value.wait_ms == 4_000


def test_rows_far_after_the_range_mean_that_the_bounds_were_ignored(venue: Venue, connect: Connect) -> None:
    venue.says(page_of("coinbase", minutes(9_000, 9_300)))
    with pytest.raises(MalformedPage, match="bounds were not honoured"):
        connect("coinbase").fetch_ohlcv("BTC/USD", "1m", START_MS, START_MS + DAY_MS)


def test_the_newest_rows_are_no_window_though_some_lie_in_it(venue: Venue, connect: Connect) -> None:
    """Those before them would pass for intervals without trades."""
    venue.says(page_of("coinbase", minutes(200, 500)))
    with pytest.raises(MalformedPage, match="bounds were not honoured"):
        connect("coinbase").fetch_ohlcv("BTC/USD", "1m", START_MS, START_MS + DAY_MS)
    # One behind the end is a bound that is inclusive.
    venue.says(page_of("coinbase", minutes(0, 301)))
    page = connect("coinbase").fetch_ohlcv("BTC/USD", "1m", START_MS, START_MS + DAY_MS)
    assert page.candles.open_ms.tolist() == minutes(0, 300)


def bitstamp_page(*days: tuple[int, str]) -> Any:
    """Daily rows of (time in s, close), as Bitstamp writes them; the other values are made up."""
    others = {"open": "4001.00", "high": "4080.00", "low": "3600.00", "volume": "5311.98"}
    rows = [{"timestamp": str(opens_s), "close": close, **others} for opens_s, close in days]
    return {"data": {"pair": "BTC/USD", "ohlc": rows}}


def test_two_rows_of_one_day_that_disagree_cost_that_day_and_no_other(venue: Venue, connect: Connect) -> None:
    """Bitstamp's `btcusd`, step 86400, as recorded in July 2020: one day comes twice, with two closes."""
    day_s = 1_546_992_000
    before, after = (day_s - 86_400, "4005.00"), (day_s + 86_400, "3630.00")
    start_ms, end_ms = (day_s - 86_400) * 1_000, (day_s + 2 * 86_400) * 1_000
    venue.says(bitstamp_page(before, (day_s, "4000.18"), (day_s, "4002.13"), after))
    page = connect("bitstamp").fetch_ohlcv("BTC/USD", "1d", start_ms, end_ms)
    assert page.candles.open_ms.tolist() == [start_ms, start_ms + 2 * DAY_MS]
    assert page.candles.close.tolist() == [4005.0, 3630.0]
    assert page.disputed_ms.tolist() == [day_s * 1_000]
    assert (page.first_ms, page.last_ms, page.rows_count) == (start_ms, start_ms + 2 * DAY_MS, 4)
    assert page.covered_end_ms == end_ms
    # That day asked for by itself: something is there, and the cursor may pass it.
    venue.says(bitstamp_page((day_s, "4000.18"), (day_s, "4002.13")))
    page = connect("bitstamp").fetch_ohlcv("BTC/USD", "1d", day_s * 1_000, day_s * 1_000 + DAY_MS)
    assert (len(page.candles), page.is_empty) == (0, False)
    assert page.first_ms == page.last_ms == day_s * 1_000
    assert page.covered_end_ms == day_s * 1_000 + DAY_MS


def test_a_slow_a_cut_and_a_dead_connection_are_unavailable(venue: Venue, connect: Connect) -> None:
    venue.says([], delay_s=HANG_S)
    with pytest.raises(ExchangeUnavailable, match="no answer: ReadTimeout"):
        connect(timeout_s=(0.5, 0.1)).ping()
    venue.says(page_of("binance", minutes(0, 50)), send_bytes=100)
    with pytest.raises(ExchangeUnavailable, match="IncompleteRead") as caught:
        connect().fetch_ohlcv("BTC/USDT", "1m", START_MS, START_MS + HOUR_MS)
    assert caught.value.__cause__ is not None
    with open_session() as own, pytest.raises(ExchangeUnavailable, match="ConnectionError"):
        ExchangeClient(load_spec("binance"), session=own, now_ms=lambda: NOW_MS, base_url="http://127.0.0.1:1").ping()


@pytest.mark.parametrize("drips_head", [False, True])
def test_a_peer_that_drips_bytes_does_not_hold_us(venue: Venue, connect: Connect, drips_head: bool) -> None:
    """It goes on for minutes, and no single byte is late."""
    venue.says(b"[" + b"a" * 10_000 + b"]", drip_s=0.03, drips_head=drips_head)
    with pytest.raises(ExchangeUnavailable, match="timed out"):
        connect(timeout_s=(1.0, 0.5)).ping()


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}])
def test_a_body_that_is_too_large_is_not_read_to_its_end(
    venue: Venue, connect: Connect, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "BODY_BYTES_MAX", 100_000)
    body = b"[" + b" " * 3_000_000 + b"]"
    venue.says(gzip.compress(body) if headers else body, headers=headers)
    with pytest.raises(MalformedPage, match="larger than 100000 bytes"):
        connect().ping()


def test_what_is_not_supported_is_rejected_without_a_request(venue: Venue, connect: Connect) -> None:
    with pytest.raises(ExchangeRejected, match="supported are 1m, 5m, 15m, 1h, 6h, 1d"):
        connect("coinbase").fetch_ohlcv("BTC/USD", "3m", START_MS, START_MS + HOUR_MS)
    for symbol in ("BTCUSDT", "BTC/USDT:USDT", "BTC/US DT", "BTC/USDT/../x"):
        with pytest.raises(ExchangeRejected, match="not of the form BASE/QUOTE"):
            connect().fetch_ohlcv(symbol, "1m", START_MS, START_MS + HOUR_MS)
    assert venue.asked == []


def test_before_send_can_stop_a_request(venue: Venue, connect: Connect) -> None:
    def stop() -> None:
        raise RuntimeError("the reservation has run out")

    with pytest.raises(RuntimeError):
        connect().ping(before_send=stop)
    assert venue.asked == []


def test_before_send_runs_when_the_connection_is_up_and_before_the_first_byte() -> None:
    """A handshake may outlast a grant of weight: what asks for the grant has to come after it."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(HANG_S)

        def look() -> None:
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            with accepted, contextlib.suppress(BlockingIOError):
                seen.append(accepted.recv(1))
            raise RuntimeError("looked")

        client = ExchangeClient(
            load_spec("binance"),
            session=open_session(),
            now_ms=lambda: NOW_MS,
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
        )
        with pytest.raises(RuntimeError, match="looked"):
            client.ping(before_send=look)
    assert seen == []


# The other calls


def test_ping_symbols_limits_and_usage(venue: Venue, connect: Connect) -> None:
    exchange = connect()
    venue.says({})
    began = time.monotonic()
    # In whole milliseconds.
    assert 0 <= exchange.ping() <= (time.monotonic() - began) * 1000 + 1
    assert venue.asked[-1][1] == "/api/v3/ping"
    symbols = [{"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"}]
    venue.says({"symbols": [*symbols, {"symbol": "OLDUSDT", "baseAsset": "OLD", "quoteAsset": "USDT", "status": "BREAK"}]})
    assert exchange.list_symbols() == [Market("BTC/USDT", "BTCUSDT", True), Market("OLD/USDT", "OLDUSDT", False)]
    venue.says([], headers={"X-MBX-USED-WEIGHT-1M": "1234"})
    page = exchange.fetch_ohlcv("BTC/USDT", "1m", START_MS, START_MS + HOUR_MS)
    assert page.usage == ((60_000, 1234),)
    info = exchange.rate_limit_info()
    assert (info.candles_weight, info.symbols_weight, info.ping_weight, exchange.weight("1m", 9)) == (2, 20, 1, 2)
    assert [(window.limit, window.period_ms) for window in info.windows] == [(6_000, 60_000)]
    assert info.usage_headers == ("X-MBX-USED-WEIGHT-1M",)
    remaining = UsageHeader("X-Remain", 10_000, remaining_of=200, pattern=r"sec=(\d+)")
    venue.says([], headers={"X-Remain": "group=candles; sec=150"})
    page = connect(replace(load_spec("binance"), usage_headers=(remaining,))).fetch_ohlcv("A/B", "1m", START_MS, NOW_MS)
    assert page.usage == ((10_000, 50),)


def test_the_user_agent_carries_the_version_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert f"{project['name']}/{project['version']}" == USER_AGENT


def test_the_environments_proxy_is_used_but_not_where_it_says_no(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    venue.says(page_of("binance", minutes(0, 2)))
    monkeypatch.setenv("HTTP_PROXY", venue.url)
    monkeypatch.setenv("http_proxy", venue.url)

    def ask(no_proxy: str) -> None:
        monkeypatch.setenv("NO_PROXY", no_proxy)
        monkeypatch.setenv("no_proxy", no_proxy)
        with open_session() as session:
            client = ExchangeClient(
                load_spec("binance"), session=session, now_ms=lambda: NOW_MS, base_url="http://exchange.invalid"
            )
            client.fetch_ohlcv("BTC/USDT", "1m", START_MS, START_MS + HOUR_MS)

    ask("")
    assert len(venue.asked) == 1
    with pytest.raises(ExchangeUnavailable):
        ask("exchange.invalid")
    assert len(venue.asked) == 1
