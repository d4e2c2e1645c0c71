"""What is not known of an exchange is asked for so that pages are right whichever holds: the simulator plays each reading."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from local_emulator.simulator.wire import Route, Span, WireRequest
from local_emulator.simulator.wires import WIRES
from shared.domain.timeframes import TIMEFRAMES
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.exchanges.spec import Paging
from tests.contract.bench import Bench
from tests.contract.cases import CASES
from tests.contract.frozen_market import NOW_MS, truth
from tests.contract.test_exchanges import walk

BY_END = [
    exchange
    for exchange in sorted(EXCHANGES)
    if load_spec(exchange).candles.spare_rows and load_spec(exchange).paging is Paging.BACKWARD
]


def with_inclusive_end(route: Route) -> Route:
    """The path, but for the candle that opens at the end: it counts."""
    if route.span is None:
        return route
    read: Callable[[WireRequest], Span] = route.span

    def span(request: WireRequest) -> Span:
        as_sent = read(request)
        return as_sent if as_sent.end_ms is None else replace(as_sent, end_ms=as_sent.end_ms + 1)

    return replace(route, span=span)


@pytest.mark.parametrize("which", ["symbol", "quiet"])
@pytest.mark.parametrize("exchange", BY_END)
def test_nothing_is_lost_where_the_end_counts(monkeypatch: pytest.MonkeyPatch, exchange: str, which: str) -> None:
    wire = WIRES[exchange]
    monkeypatch.setitem(WIRES, exchange, replace(wire, routes=tuple(map(with_inclusive_end, wire.routes))))
    grid, symbol = TIMEFRAMES["1m"], getattr(CASES[exchange], which)
    end_ms = grid.closed_end(NOW_MS)
    start_ms = grid.shift(end_ms, -2_500)
    assert walk(Bench(exchange).client(), symbol, "1m", start_ms) == truth(exchange, symbol, "1m", start_ms, end_ms)
