"""`ccxt:<id>`: an exchange read through ccxt lands the same candles, within limits of ccxt's own pacing, and never a hole."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.jobs import to_ms
from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES
from shared.errors import ExchangeRejected, ExchangeThrottled, ExchangeUnavailable, InvalidRequest
from shared.exchanges import ccxt_peers
from shared.exchanges.catalog import load_spec
from shared.exchanges.ccxt_bridge import BridgedClient, bridge_spec
from shared.exchanges.ccxt_peers import BridgePeers
from shared.exchanges.http_session import open_session
from shared.wiring import Platform
from tests.contract.ccxt_peer import rows_of
from tests.contract.frozen_market import NOW_MS, truth
from tests.factories import add_connector, add_job, run_until_caught_up, stored_documents

END_MS = TIMEFRAMES["1m"].floor(NOW_MS)
# ccxt's id, ours, and a symbol. OKX's archive gives the newest 100 rows of a range where ccxt asks for 300.
BRIDGED = [("kraken", "kraken", "BTC/USD"), ("coinbaseexchange", "coinbase", "ZEC/USD"), ("okx", "okx", "BTC/USDT")]


@pytest.fixture
def bridged(simulator: SimulatorProcess) -> Iterator[Any]:
    """Makes a client for (ccxt's id, ours)."""
    with open_session() as session:
        peers = BridgePeers(session)

        def make(ccxt_id: str, exchange: str) -> BridgedClient:
            spec = bridge_spec(f"ccxt:{ccxt_id}")
            simulator.configure(exchange, punish=False)
            base_url = simulator.base_url(exchange)
            return BridgedClient(spec, peers, session=session, now_ms=lambda: NOW_MS, base_url=base_url)

        yield make


@pytest.mark.parametrize(("ccxt_id", "exchange", "symbol"), BRIDGED)
def test_a_walk_gives_each_closed_candle_exactly_once(bridged: Any, ccxt_id: str, exchange: str, symbol: str) -> None:
    client = bridged(ccxt_id, exchange)
    start_ms = END_MS - 650 * MINUTE_MS
    rows: list[list[float]] = []
    at_ms = start_ms - 17
    for _ in range(40):
        page = client.fetch_ohlcv(symbol, "1m", at_ms, NOW_MS)
        rows += rows_of(page.candles)
        if page.covered_end_ms >= END_MS or page.covered_end_ms == at_ms:
            break
        at_ms = page.covered_end_ms
    assert rows == truth(exchange, symbol, "1m", start_ms, END_MS)


def test_each_request_is_reserved_with_what_ccxt_says_it_costs(bridged: Any) -> None:
    client = bridged("kraken", "kraken")
    weights: list[int] = []

    def before_send() -> None:
        weights.append(client.weight("1m", 10))

    client.fetch_ohlcv("BTC/USD", "1m", END_MS - 10 * MINUTE_MS, NOW_MS, before_send=before_send)
    # The list of markets first, once, at the pace of a second; then the candles, which Kraken wants further apart.
    assert weights == [1_000, 1_200]
    client.fetch_ohlcv("BTC/USD", "1m", END_MS - 10 * MINUTE_MS, NOW_MS, before_send=before_send)
    assert weights == [1_000, 1_200, 1_200]
    # So never two at once.
    assert [(window.limit, window.period_ms) for window in client.rate_limit_info().windows] == [(1_200, 1_200)]


def test_its_symbols_are_the_exchanges(bridged: Any) -> None:
    client = bridged("coinbaseexchange", "coinbase")
    markets = {market.symbol: market for market in client.list_symbols()}
    assert markets["BTC/USD"].is_active
    assert not markets["OMG/USD"].is_active
    assert client.ping() >= 0


def test_its_errors_are_ours(simulator: SimulatorProcess, bridged: Any) -> None:
    client = bridged("kraken", "kraken")
    ask = partial(client.fetch_ohlcv, "BTC/USD", "1m", END_MS - 10 * MINUTE_MS, NOW_MS)
    ask()
    simulator.set_faults({"exchange": "kraken", "kind": "status", "status": 503, "count": 1})
    with pytest.raises(ExchangeUnavailable):
        ask()
    simulator.configure("kraken", [(1, 3_600_000)])
    with pytest.raises(ExchangeThrottled):  # noqa: PT012 - the second breaks the limit
        for _ in range(2):
            ask()
    simulator.configure("kraken", punish=False)
    with pytest.raises(ExchangeRejected):
        client.fetch_ohlcv("NOPE/USD", "1m", END_MS - 10 * MINUTE_MS, NOW_MS)
    with pytest.raises(ExchangeRejected, match="no timeframe '7m'"):
        client.fetch_ohlcv("BTC/USD", "7m", END_MS - 10 * MINUTE_MS, NOW_MS)


def test_what_is_raised_at_the_gate_comes_out_as_it_is(bridged: Any) -> None:
    class NoWeight(Exception):
        pass

    def refuse() -> None:
        raise NoWeight

    with pytest.raises(NoWeight):
        bridged("kraken", "kraken").fetch_ohlcv("BTC/USD", "1m", END_MS - 10 * MINUTE_MS, NOW_MS, before_send=refuse)


def test_unknown_ids_and_a_missing_package_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="knows no exchange 'nowhere'"):
        load_spec("ccxt:nowhere")
    with pytest.raises(InvalidRequest, match="ccxt:<id>"):
        load_spec("nowhere")

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(ccxt_peers.importlib, "import_module", missing)
    with pytest.raises(InvalidRequest, match=r"requirements-ccxt\.txt"):
        load_spec("ccxt:bitrue")


def test_a_job_of_a_bridged_exchange_runs_like_any_other(platform: Platform, simulator: SimulatorProcess) -> None:
    simulator.configure("coinbase", punish=False)
    exchange, base_url = "ccxt:coinbaseexchange", simulator.base_url("coinbase")
    add_connector(platform, exchange, connector_id="through-ccxt", base_url=base_url, windows=[(60_000, 60_000)])
    start_ms = END_MS - 700 * MINUTE_MS
    job_id = add_job(platform, "BTC/USD", "1m", connector_id="through-ccxt", start_ms=start_ms, end_ms=END_MS)
    run_until_caught_up(platform, job_id)
    stored = stored_documents(platform, exchange, "BTC/USD", "1m")
    expected = truth("coinbase", "BTC/USD", "1m", start_ms, END_MS)
    assert [to_ms(document["_id"]) for document in stored] == [row[0] for row in expected]
    assert platform.jobs.get(job_id)["status"] == "done"
