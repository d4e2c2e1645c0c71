"""ccxt's clients: what they swallow is found out, none waits for another, and no request is charged less than it weighs."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.timeframes import MINUTE_MS
from shared.errors import ExchangeUnavailable, MalformedPage, PlatformError
from shared.exchanges.ccxt_bridge import BridgedClient, bridge_spec
from shared.exchanges.ccxt_peers import CLIENTS_MAX, BridgePeers, PeerPool
from shared.exchanges.http_session import open_session
from tests.contract.frozen_market import NOW_MS as FROZEN_MS
from tests.contract.loopback_venue import NOW_MS, Venue, rows_of
from tests.waiting import HANG_S

START_MS = NOW_MS - 30 * MINUTE_MS
# What each says of a time without trades, as its documentation has it. `BTCUSDT` is the market's id below.
NO_TRADES: dict[str, Any] = {
    "bitfinex": [],
    "bitstamp": {"data": {"pair": "BTC/USDT", "ohlc": []}},
    "bitvavo": [],
    "coinbaseexchange": [],
    "deribit": {"jsonrpc": "2.0", "result": {name: [] for name in ("ticks", "open", "high", "low", "close", "volume")}},
    "gate": [],
    "hitbtc": [],
    "htx": {"status": "ok", "ch": "market.btcusdt.kline.1min", "ts": NOW_MS, "data": []},
    "kraken": {"error": [], "result": {"BTCUSDT": [], "last": 1}},
    "kucoin": {"code": "200000", "data": []},
    "okx": {"code": "0", "msg": "", "data": []},
    "phemex": {"code": 0, "msg": "OK", "data": {"total": -1, "rows": []}},
    "poloniex": [],
    "upbit": [],
    "whitebit": {"success": True, "message": None, "result": []},
}
NO_ANSWERS: list[Any] = [
    {},
    {"data": None, "result": None, "code": "0", "error": []},
    {"data": {}, "result": {}, "code": "200000", "status": "ok", "success": True},
    b"null",
    b"",
    b"<html><body>Back soon</body></html>",
]


def market_of(name: str) -> dict[str, Any]:
    base, quote = name.split("/")
    market: dict[str, Any] = {
        "id": base + quote,
        "symbol": name,
        "base": base,
        "quote": quote,
        "baseId": base,
        "quoteId": quote,
    }
    kinds = {"spot": True, "swap": False, "future": False, "option": False, "contract": False, "margin": False, "active": True}
    return {**market, **kinds, "type": "spot", "precision": {"price": 0.01, "amount": 0.01}, "limits": {}, "info": {}}


def give_markets(pool: PeerPool) -> None:
    """As if the exchange had been asked for them."""
    with pool.borrow() as peer:
        peer.client.set_markets([market_of("BTC/USDT")])
        pool._keeper.set_markets_from_exchange(peer.client)


@pytest.fixture
def bridge(venue: Venue) -> Iterator[Callable[[str], BridgedClient]]:
    """A client of that exchange of ccxt's which talks to the venue, its markets known."""
    with open_session() as session:

        def make(ccxt_id: str) -> BridgedClient:
            spec, peers = bridge_spec(f"ccxt:{ccxt_id}"), BridgePeers(session)
            give_markets(peers.pool_of(spec.name, venue.url))
            return BridgedClient(spec, peers, session=session, now_ms=lambda: NOW_MS, base_url=venue.url)

        yield make


@pytest.mark.parametrize("ccxt_id", sorted(NO_TRADES))
def test_a_time_without_trades_is_believed_only_if_the_answer_has_the_empty_list(
    bridge: Callable[[str], BridgedClient], venue: Venue, ccxt_id: str
) -> None:
    client = bridge(ccxt_id)
    venue.says(NO_TRADES[ccxt_id])
    page = client.fetch_ohlcv("BTC/USDT", "1m", START_MS, NOW_MS)
    assert (len(page.candles), page.covered_end_ms) == (0, NOW_MS)
    asked_count = len(venue.asked)
    # A bare list is an answer only where the rows are not inside of something.
    answers = NO_ANSWERS if NO_TRADES[ccxt_id] == [] else [*NO_ANSWERS, []]
    for answer in answers:
        venue.says(answer)
        # Some of them ccxt takes for another fault itself.
        with pytest.raises((MalformedPage, ExchangeUnavailable)):
            client.fetch_ohlcv("BTC/USDT", "1m", START_MS, NOW_MS)
    # Reading an answer twice asks nothing twice.
    assert len(venue.asked) == asked_count + len(answers)


def test_rows_that_ccxt_leaves_out_for_want_of_a_time_are_no_gap(bridge: Callable[[str], BridgedClient], venue: Venue) -> None:
    client = bridge("coinbaseexchange")
    rows = rows_of("coinbase", [START_MS + index * MINUTE_MS for index in range(30)])
    venue.says(rows)
    assert len(client.fetch_ohlcv("BTC/USDT", "1m", START_MS, NOW_MS).candles) == 30
    rows[7][0] = None
    for damaged in (rows, [None, None], [[]]):
        venue.says(damaged)
        with pytest.raises(MalformedPage):
            client.fetch_ohlcv("BTC/USDT", "1m", START_MS, NOW_MS)
    # Older ones are no answer to the question, but say that there are no newer ones.
    venue.says(rows_of("coinbase", [START_MS - MINUTE_MS]))
    assert client.fetch_ohlcv("BTC/USDT", "1m", START_MS, NOW_MS).covered_end_ms == NOW_MS


@pytest.mark.parametrize("answer", [{}, [], b"<html></html>"])
def test_a_list_of_markets_that_is_none_rejects_no_symbol(venue: Venue, answer: Any) -> None:
    with open_session() as session:
        spec = bridge_spec("ccxt:coinbaseexchange")
        client = BridgedClient(spec, BridgePeers(session), session=session, now_ms=lambda: NOW_MS, base_url=venue.url)
        venue.says(answer)
        for ask in (lambda: client.fetch_ohlcv("BTC/USD", "1m", START_MS, NOW_MS), client.list_symbols):
            with pytest.raises(MalformedPage):
                ask()


def test_who_waits_for_weight_keeps_nobody_else_waiting(simulator: SimulatorProcess) -> None:
    base_url = simulator.base_url("coinbase")
    arrived, goes_on = threading.Event(), threading.Event()
    weights: list[int] = []

    def wait() -> None:
        weights.append(client.weight("1m", 10))
        arrived.set()
        assert goes_on.wait(HANG_S)

    with open_session() as session:
        peers, spec = BridgePeers(session), bridge_spec("ccxt:coinbaseexchange")
        client = BridgedClient(spec, peers, session=session, now_ms=lambda: FROZEN_MS, base_url=base_url)
        other = BridgedClient(spec, peers, session=session, now_ms=lambda: FROZEN_MS, base_url=base_url)
        client.list_symbols()
        asked = ("BTC/USD", "1m", FROZEN_MS - 10 * MINUTE_MS, FROZEN_MS)
        slow = threading.Thread(target=client.fetch_ohlcv, args=asked, kwargs={"before_send": wait})
        slow.start()
        try:
            assert arrived.wait(HANG_S)
            found = threading.Event()
            quick = threading.Thread(target=lambda: (other.fetch_ohlcv(*asked), found.set()))
            quick.start()
            assert found.wait(HANG_S / 2), "the other job's request waits too"
            quick.join()
        finally:
            goes_on.set()
            slow.join()
        assert weights == [spec.candles_weight]


def test_many_at_once_share_one_list_of_markets_and_no_more_clients_than_connections(simulator: SimulatorProcess) -> None:
    threads_count = 2 * CLIENTS_MAX
    faults: list[PlatformError] = []
    requests_count = 0
    counting = threading.Lock()

    def note() -> None:
        nonlocal requests_count
        with counting:
            requests_count += 1

    with open_session() as session:
        peers, spec = BridgePeers(session), bridge_spec("ccxt:coinbaseexchange")
        base_url = simulator.base_url("coinbase")

        def ask() -> None:
            client = BridgedClient(spec, peers, session=session, now_ms=lambda: FROZEN_MS, base_url=base_url)
            try:
                client.fetch_ohlcv("BTC/USD", "1m", FROZEN_MS - 10 * MINUTE_MS, FROZEN_MS, before_send=note)
            except PlatformError as exc:
                faults.append(exc)

        threads = [threading.Thread(target=ask) for _ in range(threads_count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        # One for the markets.
        assert requests_count == threads_count + 1
        pool = peers.pool_of(spec.name, base_url)
        assert len(pool._idle) <= CLIENTS_MAX
        assert len({id(peer.client.markets) for peer in pool._idle}) == 1


# MEXC's list of contracts costs 100, Weex's of spot pairs as much: 5 and 2 seconds of their pace.
@pytest.mark.parametrize(
    ("ccxt_id", "heaviest"), [("mexc", 5_000), ("weex", 2_000), ("kraken", 1_200), ("coinbaseexchange", 1_000)]
)
def test_a_window_holds_the_heaviest_request_as_it_is(ccxt_id: str, heaviest: int) -> None:
    spec = bridge_spec(f"ccxt:{ccxt_id}")
    (window,) = spec.windows
    assert window.limit == window.period_ms == heaviest
    assert max(spec.candles_weight, spec.symbols_weight, spec.ping_weight) <= window.limit


def test_no_request_is_charged_less_than_it_weighs(venue: Venue) -> None:
    venue.says({})
    weights: list[int] = []
    with open_session() as session:
        spec, peers = bridge_spec("ccxt:mexc"), BridgePeers(session)
        client = BridgedClient(spec, peers, session=session, now_ms=lambda: NOW_MS, base_url=venue.url)

        def note() -> None:
            weights.append(client.weight_of_next(spec.symbols_weight))

        with pytest.raises(MalformedPage):
            client.list_symbols(before_send=note)
    assert max(weights) == 5_000
