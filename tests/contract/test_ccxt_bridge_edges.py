"""What ccxt says of times without candles, of floods and of bans: never a hole, never a burst, never too soon."""

from collections.abc import Iterator
from typing import Any

import ccxt
import pytest

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.timeframes import HOUR_MS, MINUTE_MS, TIMEFRAMES
from shared.errors import ExchangeRejected, ExchangeThrottled, MalformedPage
from shared.exchanges.ccxt_bridge import BridgedClient, bridge_spec
from shared.exchanges.ccxt_peers import BridgePeers
from shared.exchanges.http_session import open_session
from tests.contract.ccxt_peer import rows_of
from tests.contract.frozen_market import NOW_MS, truth

END_MS = TIMEFRAMES["1m"].floor(NOW_MS)


@pytest.fixture
def client(simulator: SimulatorProcess) -> Iterator[BridgedClient]:
    with open_session() as session:
        base_url = simulator.base_url("coinbase")
        spec = bridge_spec("ccxt:coinbaseexchange")
        yield BridgedClient(spec, BridgePeers(session), session=session, now_ms=lambda: NOW_MS, base_url=base_url)


def walk(client: BridgedClient, symbol: str, timeframe: str, start_ms: int) -> list[list[float]]:
    rows: list[list[float]] = []
    at_ms, end_ms = start_ms, TIMEFRAMES[timeframe].floor(NOW_MS)
    for _ in range(100):
        page = client.fetch_ohlcv(symbol, timeframe, at_ms, NOW_MS)
        rows += rows_of(page.candles)
        if page.covered_end_ms >= end_ms:
            return rows
        assert page.covered_end_ms > at_ms
        at_ms = page.covered_end_ms
    raise AssertionError("too many requests")


def test_a_start_long_before_the_listing_loses_nothing(client: BridgedClient) -> None:
    end_ms = TIMEFRAMES["1h"].floor(NOW_MS)
    start_ms = end_ms - 3_000 * HOUR_MS
    expected = truth("coinbase", "NOVA/USD", "1h", start_ms, end_ms)
    assert 500 < len(expected) < 1_000
    assert walk(client, "NOVA/USD", "1h", start_ms) == expected


def test_a_market_with_hardly_a_trade_loses_none(client: BridgedClient) -> None:
    start_ms = END_MS - 3_000 * MINUTE_MS
    assert walk(client, "KSM/USD", "1m", start_ms) == truth("coinbase", "KSM/USD", "1m", start_ms, END_MS)


def test_a_window_is_no_wider_than_what_ccxt_sends_in_it(client: BridgedClient) -> None:
    (window,) = client.rate_limit_info().windows
    assert (window.limit, window.period_ms) == (1_000, 1_000)
    # Ten a second are what the exchange allows.
    assert window.limit // client.spec.candles_weight <= 10


@pytest.mark.parametrize(("status", "error", "wait_ms"), [(429, ExchangeThrottled, 300_000), (418, ExchangeThrottled, 300_000)])
def test_it_stays_away_for_as_long_as_the_exchange_says(
    client: BridgedClient, simulator: SimulatorProcess, status: int, error: type[ExchangeThrottled], wait_ms: int
) -> None:
    client.list_symbols()
    fault = {"exchange": "coinbase", "kind": "status", "status": status, "retry_after_s": wait_ms // 1_000, "count": 1}
    simulator.set_faults(fault)
    with pytest.raises(error) as throttled:
        client.fetch_ohlcv("BTC/USD", "1m", END_MS - 10 * MINUTE_MS, NOW_MS)
    assert throttled.value.wait_ms == wait_ms


def test_a_country_that_is_not_served_is_a_rejection(client: BridgedClient, simulator: SimulatorProcess) -> None:
    client.list_symbols()
    simulator.set_faults({"exchange": "coinbase", "kind": "status", "status": 451, "count": 1})
    with pytest.raises(ExchangeRejected):
        client.fetch_ohlcv("BTC/USD", "1m", END_MS - 10 * MINUTE_MS, NOW_MS)


def test_an_exchange_that_keeps_clamping_is_no_gap(client: BridgedClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for, the newest ten of it come."""
    client.list_symbols()
    start_ms = END_MS - 300 * MINUTE_MS

    def clamp(_self: Any, _symbol: str, _timeframe: str, since: int, limit: int) -> list[list[float]]:
        ends = range(max(0, limit - 10), limit)
        return [[since + index * MINUTE_MS, 1.0, 1.0, 1.0, 1.0, 1.0] for index in ends if since + index * MINUTE_MS < END_MS]

    monkeypatch.setattr(ccxt.coinbaseexchange, "fetch_ohlcv", clamp)
    with pytest.raises(MalformedPage, match="ever later"):
        client.fetch_ohlcv("BTC/USD", "1m", start_ms, NOW_MS)
