"""The one contract of all exchanges: what a client promises holds for each, on the simulator with that exchange's manners."""

import itertools
import random
from collections.abc import Iterator
from functools import cache

import pytest

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.wires import WIRES
from shared.domain.timeframes import TIMEFRAMES
from shared.errors import ExchangeRejected, ExchangeThrottled, ExchangeUnavailable
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.exchanges.client import ExchangeClient
from shared.exchanges.error_form import Outcome
from shared.exchanges.http_session import open_session
from shared.exchanges.spec import EmptyIntervals, Paging
from tests.contract.bench import Bench
from tests.contract.cases import CASES
from tests.contract.ccxt_peer import rows_of
from tests.contract.frozen_market import NOW_MS, SEED, truth

ALL = sorted(EXCHANGES)
# Where an exchange has fewer, all it has. Whose days do not open by UTC has none.
WALKED = {"1m": 5_000, "1h": 2_000, "1d": 700}
# Windows without a candle are passed one by one.
REQUESTS_MAX = 2_000


def walk(client: ExchangeClient, symbol: str, timeframe: str, start_ms: int) -> list[list[float]]:
    """Page after page from `start_ms` to now; what every page covers is where the next begins."""
    rows: list[list[float]] = []
    at_ms = start_ms
    closed_end_ms = TIMEFRAMES[timeframe].closed_end(NOW_MS)
    for _ in range(REQUESTS_MAX):
        page = client.fetch_ohlcv(symbol, timeframe, at_ms, NOW_MS)
        rows += rows_of(page.candles)
        assert page.covered_end_ms <= NOW_MS
        if page.covered_end_ms >= closed_end_ms:
            return rows
        assert page.covered_end_ms > at_ms, "it does not get on"
        at_ms = page.covered_end_ms
    raise AssertionError("too many requests")


def first_kept_ms(exchange: str, timeframe: str, candles_back: int) -> int:
    """That many intervals before now, or where the exchange's history begins."""
    spec, grid = load_spec(exchange), TIMEFRAMES[timeframe]
    kept = spec.history_of(timeframe)
    back = candles_back if kept is None else min(candles_back, kept)
    return grid.shift(grid.floor(NOW_MS), -back)


@pytest.mark.parametrize("which", ["symbol", "quiet"])
@pytest.mark.parametrize(
    ("exchange", "timeframe"),
    [(exchange, name) for exchange in ALL for name in WALKED if name in load_spec(exchange).timeframes],
)
def test_a_walk_gives_each_closed_candle_exactly_once(exchange: str, which: str, timeframe: str) -> None:
    symbol, grid = getattr(CASES[exchange], which), TIMEFRAMES[timeframe]
    start_ms = first_kept_ms(exchange, timeframe, WALKED[timeframe])
    odd = random.Random(f"{exchange} {which} {timeframe}").randrange(1, grid.step_ms)
    end_ms = grid.closed_end(NOW_MS)
    expected = truth(exchange, symbol, timeframe, start_ms, end_ms)
    assert len(expected) > 1
    for start_asked_ms in (start_ms, start_ms - odd, start_ms + odd):
        rows = walk(Bench(exchange).client(), symbol, timeframe, start_asked_ms)
        assert [row for row in rows if row[0] >= start_asked_ms][-len(expected) :] == [
            row for row in expected if row[0] >= start_asked_ms
        ]
        assert len({row[0] for row in rows}) == len(rows)
        assert not rows or rows[-1][0] < end_ms


@pytest.mark.parametrize("exchange", ALL)
def test_every_timeframe_is_read_as_it_is(exchange: str) -> None:
    for timeframe in load_spec(exchange).timeframes:
        grid = TIMEFRAMES[timeframe]
        start_ms = grid.shift(grid.floor(NOW_MS), -7)
        page = Bench(exchange).client().fetch_ohlcv(CASES[exchange].symbol, timeframe, start_ms, NOW_MS)
        expected = truth(exchange, CASES[exchange].symbol, timeframe, start_ms, grid.closed_end(NOW_MS))
        assert rows_of(page.candles) == expected, timeframe
        assert page.covered_end_ms == grid.closed_end(NOW_MS), timeframe


@pytest.mark.parametrize("exchange", [exchange for exchange in ALL if load_spec(exchange).history_of("1m") is not None])
def test_a_start_before_the_history_is_told(exchange: str) -> None:
    spec = load_spec(exchange)
    grid = TIMEFRAMES["1m"]
    kept = spec.history_of("1m")
    assert kept is not None
    wall_ms = grid.shift(grid.floor(NOW_MS), -kept)
    page = Bench(exchange).client().fetch_ohlcv(CASES[exchange].symbol, "1m", wall_ms - 100 * grid.step_ms, NOW_MS)
    assert len(page.candles)
    if spec.paging is Paging.LAST_N:
        # It gives what it has; what may be asked for is a little less.
        assert page.history_start_ms == page.candles.open_ms[0]
        assert grid.shift(wall_ms, -2) <= page.history_start_ms <= wall_ms
    else:
        assert page.history_start_ms == wall_ms
        client = Bench(exchange).client()
        before = client.fetch_ohlcv(CASES[exchange].symbol, "1m", wall_ms - 100 * grid.step_ms, wall_ms - 50 * grid.step_ms)
        assert before.history_start_ms is not None
        assert before.covered_end_ms == wall_ms - 50 * grid.step_ms
        assert not len(before.candles)


@pytest.mark.parametrize("exchange", [exchange for exchange in ALL if load_spec(exchange).candles.spare_rows])
def test_where_it_is_not_known_whether_a_bound_counts_a_row_more_is_asked_for(exchange: str) -> None:
    request, bench = load_spec(exchange).candles, Bench(exchange)
    page = bench.client().fetch_ohlcv(CASES[exchange].symbol, "1m", first_kept_ms(exchange, "1m", 50), NOW_MS, 40)
    asked = next(int(bench.newest.query[key]) for key, template in request.params.items() if template == "{rows}")
    assert asked == 40 + request.spare_rows == page.rows_count
    assert len(page.candles) == 40


@pytest.mark.parametrize("exchange", ALL)
def test_no_other_symbol_is_asked_for_by_the_name_of_a_market(exchange: str) -> None:
    markets, write = WIRES[exchange].markets, load_spec(exchange).symbol_form.write
    owners = {write(market.symbol): market.symbol for market in markets}
    assert len(owners) == len(markets)
    assert None not in owners
    quotes = {market.quote for market in markets} | {"USD", "USDC", "USDT"}
    settles = ["", *(f":{currency}" for currency in sorted({market.base for market in markets} | quotes | {"EUR"}))]
    for base, quote, settle in itertools.product({market.base for market in markets}, quotes, settles):
        symbol = f"{base}/{quote}{settle}"
        assert owners.get(write(symbol), symbol) == symbol


@pytest.mark.parametrize("exchange", ALL)
def test_an_unknown_symbol_is_rejected(exchange: str) -> None:
    start_ms = first_kept_ms(exchange, "1m", 50)
    with pytest.raises(ExchangeRejected):
        Bench(exchange).client().fetch_ohlcv(CASES[exchange].unknown, "1m", start_ms, NOW_MS)


@cache
def windows_of(exchange: str) -> set[tuple[int, int]]:
    return {(window.limit, window.period_ms) for window in load_spec(exchange).windows}


@pytest.mark.parametrize("exchange", ALL)
def test_the_simulator_holds_the_documented_limits(exchange: str) -> None:
    simulated = {(limit.limit, limit.period_ms) for limit in WIRES[exchange].limits}
    # A connector may be more careful than the exchange is strict, never the other way.
    for limit, period_ms in simulated:
        assert any(ours / ours_ms <= limit / period_ms for ours, ours_ms in windows_of(exchange))
    info = Bench(exchange).client().rate_limit_info()
    assert {(window.limit, window.period_ms) for window in info.windows} == windows_of(exchange)
    assert load_spec(exchange).live_weight <= info.candles_weight <= min(window.limit for window in info.windows) * 100


# --- over HTTP, with the limit in force


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with start_simulator(seed=SEED, freeze_at_ms=NOW_MS) as running:
        yield running


@pytest.mark.parametrize("exchange", ALL)
def test_over_http_it_answers_lists_symbols_serves_and_throttles(simulator: SimulatorProcess, exchange: str) -> None:
    simulator.configure(exchange, [(1_000, 3_600_000)])
    spec = load_spec(exchange)
    with open_session() as session:
        client = ExchangeClient(spec, session=session, now_ms=lambda: NOW_MS, base_url=simulator.base_url(exchange))
        assert client.ping() >= 0
        markets = {market.symbol: market for market in client.list_symbols()}
        assert markets[CASES[exchange].symbol].is_active
        names_all = not CASES[exchange].hides_delisted
        assert set(markets) == {each.symbol for each in WIRES[exchange].markets if names_all or each.is_trading(NOW_MS)}
        start_ms = first_kept_ms(exchange, "1m", 30)
        page = client.fetch_ohlcv(CASES[exchange].symbol, "1m", start_ms, NOW_MS)
        assert rows_of(page.candles) == truth(exchange, CASES[exchange].symbol, "1m", start_ms, page.covered_end_ms)
        weight = simulator.report()[exchange]["weight_total"]
        assert weight == spec.ping_weight + spec.symbols_weight + client.weight("1m", 30)
        simulator.configure(exchange, [(client.weight("1m", 30), 3_600_000)])
        client.fetch_ohlcv(CASES[exchange].symbol, "1m", start_ms, NOW_MS)
        with pytest.raises(ExchangeThrottled) as throttled:
            client.fetch_ohlcv(CASES[exchange].symbol, "1m", start_ms, NOW_MS)
        assert throttled.value.wait_ms >= 1_000


def has_doubts(exchange: str) -> bool:
    return any(rule.outcome is Outcome.IN_DOUBT for rule in load_spec(exchange).error_rules)


@pytest.mark.parametrize("exchange", [exchange for exchange in ALL if has_doubts(exchange)])
def test_a_fault_that_looks_like_an_unknown_symbol_is_no_rejection_of_a_known_one(
    simulator: SimulatorProcess, exchange: str
) -> None:
    case, spec = CASES[exchange], load_spec(exchange)
    simulator.configure(exchange, [(1_000, 3_600_000)])
    simulator.set_faults({"exchange": exchange, "kind": "status", "status": 500, "symbol": case.symbol, "count": 1})
    start_ms = first_kept_ms(exchange, "1m", 30)
    with open_session() as session:
        client = ExchangeClient(spec, session=session, now_ms=lambda: NOW_MS, base_url=simulator.base_url(exchange))
        with pytest.raises(ExchangeUnavailable):
            client.fetch_ohlcv(case.symbol, "1m", start_ms, NOW_MS)
        with pytest.raises(ExchangeRejected):
            client.fetch_ohlcv(case.unknown, "1m", start_ms, NOW_MS)
        assert len(client.fetch_ohlcv(case.symbol, "1m", start_ms, NOW_MS).candles)
    simulator.set_faults()


@pytest.mark.parametrize("exchange", ALL)
def test_spec_and_simulator_agree_on_intervals_without_trades(exchange: str) -> None:
    is_omitted = load_spec(exchange).empty_intervals is EmptyIntervals.OMITTED
    assert is_omitted == WIRES[exchange].omits_empty, (
        f"{exchange}: one of spec.empty_intervals and the wire's omits_empty is wrong"
    )


def test_every_exchange_can_be_simulated() -> None:
    assert set(WIRES) == set(EXCHANGES)
