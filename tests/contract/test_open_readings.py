"""What is not known of an exchange is asked for so that pages are right whichever holds: the simulator plays each reading."""

from dataclasses import replace

import pytest

from local_emulator.simulator.wire import Route, Span, WireRequest
from local_emulator.simulator.wire_bitget import BITGET
from local_emulator.simulator.wires import WIRES
from shared.domain.timeframes import TIMEFRAMES
from tests.contract.bench import Bench
from tests.contract.cases import CASES
from tests.contract.frozen_market import NOW_MS, truth
from tests.contract.test_exchanges import walk


def bounded(route: Route, start_from_ms: int | None, end_before_ms: int, *, keeps_oldest: bool) -> Route:
    """A path of Bitget's that honours the start, from so long behind it (None: does not), and has another end and clamp."""
    read = route.span
    if read is None:
        return route

    def span(request: WireRequest) -> Span:
        as_sent = read(request)
        if as_sent.start_ms is not None:
            return as_sent  # beyond its reach
        end_ms = int(request.query["endTime"]) + end_before_ms
        if start_from_ms is None or "startTime" not in request.query:
            return replace(as_sent, end_ms=end_ms)
        start_ms = int(request.query["startTime"]) + start_from_ms
        return replace(as_sent, start_ms=start_ms, end_ms=end_ms, keeps_oldest=keeps_oldest)

    return replace(route, span=span)


@pytest.mark.parametrize("which", ["symbol", "quiet"])
@pytest.mark.parametrize("keeps_oldest", [False, True])
@pytest.mark.parametrize("end_before_ms", [0, 1])
@pytest.mark.parametrize("start_from_ms", [None, 0, 1])
def test_bitgets_bounds(
    monkeypatch: pytest.MonkeyPatch, start_from_ms: int | None, end_before_ms: int, keeps_oldest: bool, which: str
) -> None:
    routes = tuple(bounded(route, start_from_ms, end_before_ms, keeps_oldest=keeps_oldest) for route in BITGET.routes)
    monkeypatch.setitem(WIRES, "bitget", replace(BITGET, routes=routes))
    grid, symbol = TIMEFRAMES["1m"], getattr(CASES["bitget"], which)
    end_ms = grid.closed_end(NOW_MS)
    start_ms = grid.shift(end_ms, -2_500)
    assert walk(Bench("bitget").client(), symbol, "1m", start_ms) == truth("bitget", symbol, "1m", start_ms, end_ms)
