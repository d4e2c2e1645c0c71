"""What is not known of an exchange is asked for so that pages are right whichever holds: the simulator plays each reading."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from local_emulator.simulator.wire import Route, Span, WireRequest
from local_emulator.simulator.wires import WIRES
from shared.domain.timeframes import TIMEFRAMES
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.exchanges.row_forms import TimeForm
from shared.exchanges.spec import ExchangeSpec, Paging
from tests.contract.bench import Bench
from tests.contract.cases import CASES
from tests.contract.frozen_market import NOW_MS, truth
from tests.contract.test_exchanges import first_kept_ms, walk
from tests.upload import REPOSITORY

# Of whom it is not known whether the candle that opens at the start, or at the end, is among the rows: the comments of the
# specs, and "What is not verified" in docs/exchanges.md. Deribit has lost the first one now and then.
OPEN_STARTS = {"cryptocom", "deribit"}
OPEN_ENDS = {"bitget", "cryptocom", "htx", "kucoin", "mexc", "poloniex"}
# So many more than a page, and than the newest ones that an archive does not have.
BEYOND = 1_600


@dataclass(frozen=True)
class Reading:
    """How bounds are taken; None: as the simulator usually does. `keeps_oldest`: of more rows than a page has."""

    start_counts: bool | None = None
    end_counts: bool | None = None
    keeps_oldest: bool | None = None

    def __str__(self) -> str:
        said = (("start", self.start_counts), ("end", self.end_counts), ("oldest", self.keeps_oldest))
        return ",".join(f"{'' if value else 'no '}{name}" for name, value in said if value is not None)

    def of(self, route: Route, spec: ExchangeSpec) -> Route:
        """The same path, read this way."""
        if route.span is None:
            return route
        read = route.span

        def span(request: WireRequest) -> Span:
            as_usual = read(request)
            if as_usual.start_ms is not None and as_usual.start_ms == as_usual.end_ms:
                return as_usual  # nothing, for another reason
            start_ms, end_ms = told_ms(request, spec, "{start}"), told_ms(request, spec, "{end}")
            changes: dict[str, int | bool] = {}
            if self.start_counts is not None and start_ms is not None:
                changes["start_ms"] = start_ms if self.start_counts else start_ms + 1
            if self.end_counts is not None and end_ms is not None:
                changes["end_ms"] = end_ms + 1 if self.end_counts else end_ms
            if self.keeps_oldest is not None:
                changes["keeps_oldest"] = self.keeps_oldest
            return replace(as_usual, **changes)

        return replace(route, span=span)


def told_ms(request: WireRequest, spec: ExchangeSpec, placeholder: str) -> int | None:
    """A bound as it was sent."""
    name = next((name for name, template in spec.candles.params.items() if template == placeholder), "")
    if name not in request.query or spec.candles.time_form is TimeForm.ISO:
        return None
    return int(request.query[name]) * (1_000 if spec.candles.time_form is TimeForm.SECONDS else 1)


def readings_of(exchange: str) -> Iterator[Reading]:
    """All that may be; of an exchange with windows either side may be kept, since no window holds more than a page."""
    starts = (True, False) if exchange in OPEN_STARTS else (None,)
    ends = (True, False) if exchange in OPEN_ENDS else (None,)
    sides = (True, False) if load_spec(exchange).paging is Paging.WINDOW else (None,)
    for reading in itertools.starmap(Reading, itertools.product(starts, ends, sides)):
        if reading != Reading():
            yield reading


@pytest.mark.parametrize("which", ["symbol", "quiet"])
@pytest.mark.parametrize(
    ("exchange", "reading"),
    [
        pytest.param(exchange, reading, id=f"{exchange}-{reading}")
        for exchange in sorted(EXCHANGES)
        for reading in readings_of(exchange)
    ],
)
def test_nothing_is_lost_however_the_bounds_are_taken(
    monkeypatch: pytest.MonkeyPatch, exchange: str, reading: Reading, which: str
) -> None:
    wire, spec = WIRES[exchange], load_spec(exchange)
    routes = tuple(reading.of(route, spec) for route in wire.routes)
    monkeypatch.setitem(WIRES, exchange, replace(wire, routes=routes))
    symbol, end_ms = getattr(CASES[exchange], which), TIMEFRAMES["1m"].closed_end(NOW_MS)
    start_ms = first_kept_ms(exchange, "1m", spec.candles.limit_of("1m") + BEYOND)
    assert walk(Bench(exchange).client(), symbol, "1m", start_ms) == truth(exchange, symbol, "1m", start_ms, end_ms)


def test_every_exchange_whose_bounds_are_said_to_be_unknown_is_read_each_way() -> None:
    """The words of docs/exchanges.md: whether the end (the bounds) is among the rows, or counts."""
    text = (REPOSITORY / "docs" / "exchanges.md").read_text().partition("## What is not verified")[2]
    said = dict(re.findall(r"^- \*\*(\w+)\*\*: (.*?)(?=^- |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(said) == set(EXCHANGES)
    open_ends = {name for name, words in said.items() if re.search(r"whether\s[^;:]*(end|bounds)\s[^;:]*(rows|counts)", words)}
    assert open_ends == OPEN_ENDS, "name in OPEN_ENDS those of whom docs/exchanges.md says that the end is not known"
