"""Every exchange and timeframe beside ccxt: both ask for the same candles, read the same numbers, and read the truth."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from shared.domain.timeframes import TIMEFRAMES
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.exchanges.spec import Paging
from tests.contract.bench import Bench
from tests.contract.cases import CASES
from tests.contract.ccxt_peer import open_ccxt, rows_of
from tests.contract.frozen_market import NOW_MS, truth

# So many intervals before now a page begins, and so many rows it asks for: inside of the shortest history.
BACK, LIMIT = 90, 40
SPARE_ROWS_MAX = 2


@cache
def peer_of(exchange: str) -> tuple[Any, Bench]:
    """ccxt's client of an exchange, and what it talks to; one for all tests, because its list of markets takes a while."""
    bench = Bench(exchange)
    return open_ccxt(CASES[exchange], bench), bench


def both_support() -> list[Any]:
    pairs = []
    for exchange in sorted(EXCHANGES):
        for timeframe in load_spec(exchange).timeframes:
            off = CASES[exchange].ccxt_timeframes_off.get(timeframe)
            if off is None:
                pairs.append(pytest.param(exchange, timeframe, id=f"{exchange}-{timeframe}"))
    return pairs


def test_every_exchange_has_a_case() -> None:
    assert set(CASES) == set(EXCHANGES)


@pytest.mark.parametrize("exchange", sorted(EXCHANGES))
def test_what_ccxt_reads_otherwise_is_a_timeframe_of_ours_or_none(exchange: str) -> None:
    assert set(CASES[exchange].ccxt_timeframes_off) <= set(load_spec(exchange).timeframes)


@pytest.mark.parametrize(("exchange", "timeframe"), both_support())
def test_both_ask_for_the_same_and_read_the_same(exchange: str, timeframe: str) -> None:
    case, grid = CASES[exchange], TIMEFRAMES[timeframe]
    start_ms = grid.shift(grid.floor(NOW_MS), -BACK)
    end_ms = grid.shift(start_ms, LIMIT)
    expected = truth(exchange, case.symbol, timeframe, start_ms, end_ms)
    assert len(expected) == LIMIT

    bench = Bench(exchange)
    ours = bench.client().fetch_ohlcv(case.symbol, timeframe, start_ms, NOW_MS, LIMIT)
    assert rows_of(ours.candles)[:LIMIT] == expected

    peer, peer_bench = peer_of(exchange)
    until = {"until": end_ms - 1} if case.ccxt_needs_end else {}
    # Rows outside of what was asked for may come with a page, by both.
    theirs = [row for row in peer.fetch_ohlcv(case.symbol, timeframe, start_ms, LIMIT, until) if start_ms <= row[0] < end_ms]
    assert theirs == expected

    our_span, their_span = bench.newest.span, peer_bench.newest.span
    assert our_span is not None
    assert their_span is not None
    assert (our_span.market, our_span.timeframe) == (their_span.market, their_span.timeframe)
    # No more than that span, but for rows at its edges that are asked for to be sure of them.
    assert load_spec(exchange).paging is Paging.LAST_N or ours.rows_count <= LIMIT + SPARE_ROWS_MAX
    # The same payload, read by both decoders.
    payload = json.loads(bench.newest.body)
    read_by_ccxt = [row for row in parsed_by(peer, payload)(case.symbol, timeframe, start_ms) if start_ms <= row[0] < end_ms]
    assert read_by_ccxt == expected


def parsed_by(peer: Any, payload: Any) -> Callable[[str, str, int], list[list[float]]]:
    """ccxt's own way from a payload to candles."""

    def parse(symbol: str, timeframe: str, start_ms: int) -> list[list[float]]:
        fetch = peer.fetch
        peer.fetch = lambda *_args, **_options: payload
        try:
            rows: list[list[float]] = peer.fetch_ohlcv(symbol, timeframe, start_ms, LIMIT)
        finally:
            peer.fetch = fetch
        return rows

    return parse


@pytest.mark.parametrize("exchange", sorted(EXCHANGES))
def test_both_read_the_same_symbols(exchange: str) -> None:
    peer, _ = peer_of(exchange)
    ours = {market.symbol: market for market in Bench(exchange).client().list_symbols()}
    theirs = {symbol: market for symbol, market in peer.markets.items() if symbol in ours}
    assert set(theirs) == set(ours)
    for symbol, market in ours.items():
        assert theirs[symbol]["active"] in (market.is_active, None), symbol
        written = load_spec(exchange).symbol_form.write(symbol)
        assert written in (theirs[symbol]["id"], market.exchange_symbol, theirs[symbol].get("baseName")), symbol
