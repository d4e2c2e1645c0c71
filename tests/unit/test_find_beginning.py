"""Where a market begins, found from the longest timeframe down: nothing that was traded is ever taken to be before it."""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.deadline import ServerClock
from shared.domain.candles import CandleBatch
from shared.domain.job_ranges import EARLIEST_MS
from shared.domain.jobs import Job, JobKind, JobStatus
from shared.domain.timeframes import DAY_MS, MINUTE_MS, TIMEFRAMES
from shared.domain.windows import Window
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.exchanges.client import ExchangeClient
from shared.exchanges.pages import FetchedPage
from shared.usecases.find_beginning import BeginningSearch, Contradicted, longer_timeframes
from shared.usecases.send_requests import Answer

NOW_MS: Final = 1_760_000_042_000
OWN: Final = TIMEFRAMES["1m"]
BY_WINDOW: Final = [
    name for name in EXCHANGES if load_spec(name).paging.is_by_window and load_spec(name).history_of("1m") is None
]


JOB: Final = Job(
    job_id="x",
    connector_id="x",
    exchange="x",
    symbol="BTC/USDT",
    timeframe=OWN,
    kind=JobKind.BACKFILL,
    status=JobStatus.ACTIVE,
    start_ms=EARLIEST_MS,
    end_ms=NOW_MS,
    cursor_ms=None,
    attempt=0,
    indicators=(),
    overlap=0,
    begins_ms=None,
    follows_ms=None,
)


@dataclass
class Market:
    """Minutes in which there were trades, ascending; of each timeframe named in `forgets` only those since then are told."""

    minutes: list[int]
    forgets: dict[str, int] = field(default_factory=dict)


@dataclass
class ScriptedSender:
    """Answers as the market says. The first answer for each window is empty, as of an exchange that is unwell."""

    job: Job
    client: ExchangeClient
    clock: Any
    market: Market
    seen: set[tuple[str, int, int]] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def fetch(self, window: Window, pages_left: int) -> Answer:
        grid = self.job.timeframe
        self.asked.append(grid.name)
        assert grid.count(window.start_ms, window.end_ms) <= self.client.page_max(grid.name, window.start_ms)
        assert window.start_ms == grid.ceil(window.start_ms)
        assert window.end_ms <= grid.closed_end(NOW_MS)
        key = (grid.name, window.start_ms, window.end_ms)
        traded = np.array(self.market.minutes, np.int64)
        opens = np.unique(grid.floors(traded[traded >= self.market.forgets.get(grid.name, 0)]))
        opens = opens[(opens >= window.start_ms) & (opens < window.end_ms)]
        if key not in self.seen:
            self.seen.add(key)
            opens = opens[:0]
        ones = np.ones(len(opens))
        return Answer(FetchedPage(CandleBatch(opens, *[ones] * 5), window.end_ms, None, (), None, len(opens)), NOW_MS)


def search_of(exchange: str, market: Market, stored_ms: int | None) -> tuple[BeginningSearch, ScriptedSender]:
    client = ExchangeClient(load_spec(exchange), session=requests.Session(), now_ms=lambda: NOW_MS)
    sender = ScriptedSender(JOB, client, ServerClock.stamped(NOW_MS), market)
    return BeginningSearch(sender.job, sender, stored_ms, EARLIEST_MS), sender  # type: ignore[arg-type]


listings = st.integers(EARLIEST_MS // MINUTE_MS, NOW_MS // MINUTE_MS - 2)
distances = st.lists(st.one_of(st.integers(1, 5), st.integers(1, 600_000)), max_size=20)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(BY_WINDOW), listings, distances, st.booleans())
def test_what_is_found_is_a_page_before_the_first_trade_at_most(
    exchange: str, listed: int, steps: list[int], is_stored: bool
) -> None:
    minutes = [minute * MINUTE_MS for minute in np.cumsum([listed, *steps]).tolist() if minute * MINUTE_MS < NOW_MS - MINUTE_MS]
    search, sender = search_of(exchange, Market(minutes), minutes[-1] if is_stored else None)
    assert search.is_traded_before(minutes[0]) is False
    begins_ms = search.narrow(search.pass_empty())
    assert begins_ms is not None
    assert begins_ms <= minutes[0]
    assert OWN.count(begins_ms, minutes[0]) <= 2 * sender.client.page_max("1m", begins_ms)
    assert len(sender.asked) <= 90
    # A later job sees that there is nothing to look for.
    later, _ = search_of(exchange, Market(minutes), None)
    month_later_ms = minutes[0] + 40 * DAY_MS
    if month_later_ms < NOW_MS:
        assert later.is_traded_before(month_later_ms)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(BY_WINDOW), listings, distances, st.data())
def test_what_an_exchange_has_forgotten_of_longer_timeframes_hides_no_minutes(
    exchange: str, listed: int, steps: list[int], data: st.DataObject
) -> None:
    minutes = [minute * MINUTE_MS for minute in np.cumsum([listed, *steps]).tolist() if minute * MINUTE_MS < NOW_MS - MINUTE_MS]
    stored_ms = data.draw(st.sampled_from([*minutes, None]))
    names = [grid.name for grid in longer_timeframes(search_of(exchange, Market([]), None)[1].client, OWN)]
    kept = st.sampled_from([0, *minutes])
    search, sender = search_of(exchange, Market(minutes, {name: data.draw(kept) for name in names}), stored_ms)
    try:
        begins_ms = search.narrow(search.pass_empty())
    except Contradicted:
        return
    if begins_ms is None:
        assert stored_ms is None
        return
    page_ms = OWN.shift(begins_ms, -sender.client.page_max("1m", begins_ms))
    assert not [minute for minute in minutes if page_ms <= minute < begins_ms]
    assert stored_ms is None or begins_ms <= stored_ms


@given(st.sampled_from(BY_WINDOW))
def test_of_a_market_without_a_trade_nothing_is_said(exchange: str) -> None:
    search, _ = search_of(exchange, Market([]), None)
    assert search.narrow(search.pass_empty()) is None
