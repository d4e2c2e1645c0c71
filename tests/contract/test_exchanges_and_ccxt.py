"""Every exchange and timeframe beside ccxt: both ask for the same candles, read the same numbers, and read the truth."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from local_emulator.simulator.market import LISTED_MS
from shared.domain.timeframes import TIMEFRAMES, Timeframe
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.exchanges.rows import decode_open_times
from shared.exchanges.spec import Paging
from shared.exchanges.tables import find_rows
from tests.contract.bench import Bench
from tests.contract.cases import CASES, Asks
from tests.contract.ccxt_peer import open_ccxt, rows_of
from tests.contract.error_answers import ERRORS
from tests.contract.frozen_market import NOW_MS, truth

ALL = sorted(EXCHANGES)
# So many intervals before now a page begins, and so many rows it asks for: inside of the shortest history.
BACK, LIMIT = 90, 40
# And so many before the last that is not in an archive.
BEYOND = 150


@cache
def peer_of(exchange: str) -> tuple[Any, Bench]:
    """ccxt's client of an exchange, and what it talks to; one for all tests, because its list of markets takes a while."""
    bench = Bench(exchange)
    return open_ccxt(CASES[exchange], bench), bench


def both_support(exchange: str) -> list[str]:
    return [name for name in load_spec(exchange).timeframes if name not in CASES[exchange].ccxt_timeframes_off]


def start_of(timeframe: str, back: int) -> int:
    grid = TIMEFRAMES[timeframe]
    return grid.shift(grid.floor(NOW_MS), -back)


def back_in_archive(exchange: str) -> int:
    return load_spec(exchange).archive_after_candles + BEYOND


def test_every_exchange_has_a_case() -> None:
    assert set(CASES) == set(ERRORS) == set(EXCHANGES)


@pytest.mark.parametrize("exchange", ALL)
def test_what_ccxt_reads_otherwise_is_a_timeframe_of_ours_or_none(exchange: str) -> None:
    assert set(CASES[exchange].ccxt_timeframes_off) <= set(load_spec(exchange).timeframes)


def compare(exchange: str, symbol: str, timeframe: str, back: int) -> tuple[Bench, Bench]:
    """Both ask for the same series, get the true candles, and read our payload alike; what each of them exchanged."""
    start_ms = start_of(timeframe, back)
    end_ms = TIMEFRAMES[timeframe].shift(start_ms, LIMIT)
    expected = truth(exchange, symbol, timeframe, start_ms, end_ms)
    assert expected

    def inside(rows: list[list[float]]) -> list[list[float]]:
        # Rows outside of what was asked for may come with a page, by both.
        return [row for row in rows if start_ms <= row[0] < end_ms]

    bench = Bench(exchange)
    ours = bench.client().fetch_ohlcv(symbol, timeframe, start_ms, NOW_MS, LIMIT)
    assert inside(rows_of(ours.candles)) == expected

    peer, peer_bench = peer_of(exchange)
    until = {"until": end_ms - 1} if CASES[exchange].ccxt_needs_end else {}
    assert inside(peer.fetch_ohlcv(symbol, timeframe, start_ms, LIMIT, until)) == expected

    our_span, their_span = bench.newest.span, peer_bench.newest.span
    assert our_span is not None
    assert their_span is not None
    assert (our_span.market, our_span.timeframe) == (their_span.market, their_span.timeframe)
    # The same payload, read by both decoders.
    payload = json.loads(bench.newest.body)
    assert inside(parsed_by(peer, payload)(symbol, timeframe, start_ms)) == expected
    return bench, peer_bench


def edges_of(exchange: str, bench: Bench, grid: Timeframe) -> tuple[int, int]:
    """The first and the last interval that a page was asked for: of a market that trades all the time, those that came."""
    spec = load_spec(exchange)
    opens_ms = decode_open_times(find_rows(json.loads(bench.newest.body), spec), spec, grid)
    return int(opens_ms.min()), int(opens_ms.max())


def edges_meant(grid: Timeframe, start_ms: int, asks: Asks) -> tuple[int, int]:
    newest_ms = grid.floor(NOW_MS)
    last_ms = newest_ms if asks.behind is None else min(newest_ms, grid.shift(start_ms, LIMIT - 1 + asks.behind))
    return grid.shift(start_ms, -asks.before), last_ms


def compare_with_edges(exchange: str, timeframe: str, back: int) -> None:
    """As `compare`, and the first and the last interval asked for are the same, but for what the case says with a reason."""
    case, grid, start_ms = CASES[exchange], TIMEFRAMES[timeframe], start_of(timeframe, back)
    bench, peer_bench = compare(exchange, case.symbol, timeframe, back)
    ours, theirs = (edges_of(exchange, each, grid) for each in (bench, peer_bench))
    if load_spec(exchange).paging is Paging.LAST_N:
        assert ours == theirs
    else:
        first_ms, last_ms = edges_meant(grid, start_ms, case.we_ask)
        assert ours == (first_ms, last_ms)
        # The bounds are told as tightly as that, where the number of rows would do too.
        span = bench.newest.span
        assert span is not None
        assert span.start_ms is None or grid.ceil(span.start_ms) == first_ms
        assert span.end_ms is None or grid.ceil(span.end_ms) == grid.close(last_ms)
        assert theirs == edges_meant(grid, start_ms, case.ccxt_asks)


@pytest.mark.parametrize(("exchange", "timeframe"), [(exchange, name) for exchange in ALL for name in both_support(exchange)])
def test_both_ask_for_the_same_and_read_the_same(exchange: str, timeframe: str) -> None:
    compare_with_edges(exchange, timeframe, BACK)


@pytest.mark.parametrize(
    ("exchange", "timeframe"),
    [
        (exchange, name)
        for exchange in ALL
        if load_spec(exchange).archive is not None
        for name in both_support(exchange)
        if start_of(name, back_in_archive(exchange)) > LISTED_MS
    ],
)
def test_both_ask_an_archive_for_the_same_and_read_the_same(exchange: str, timeframe: str) -> None:
    archive = load_spec(exchange).archive
    compare_with_edges(exchange, timeframe, back_in_archive(exchange))
    bench, _ = compare(exchange, CASES[exchange].quiet, timeframe, back_in_archive(exchange))
    assert archive is not None
    assert bench.newest.path == archive.path


@pytest.mark.parametrize("exchange", ALL)
def test_both_read_the_same_of_a_quiet_market(exchange: str) -> None:
    compare(exchange, CASES[exchange].quiet, "1m", BACK)


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


@pytest.mark.parametrize("exchange", ALL)
def test_both_read_the_same_symbols(exchange: str) -> None:
    peer, _ = peer_of(exchange)
    ours = {market.symbol: market for market in Bench(exchange).client().list_symbols()}
    theirs = {symbol: market for symbol, market in peer.markets.items() if symbol in ours}
    assert set(theirs) == set(ours)
    for symbol, market in ours.items():
        assert theirs[symbol]["active"] in (market.is_active, None), symbol
        written = load_spec(exchange).symbol_form.write(symbol)
        assert written in (theirs[symbol]["id"], market.exchange_symbol, theirs[symbol].get("baseName")), symbol
