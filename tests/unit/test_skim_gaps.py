"""Skimming: what is passed holds no candle that the exchange has told of, and less than a page of the rest is empty."""

import random
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import requests
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shared.domain.candles import CandleBatch
from shared.domain.job_ranges import EARLIEST_MS
from shared.domain.jobs import Job, JobKind, JobStatus
from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES
from shared.domain.windows import Window
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.exchanges.client import ExchangeClient
from shared.exchanges.pages import FetchedPage
from shared.usecases.grants import NoRoom
from shared.usecases.send_requests import Answer
from shared.usecases.skim_gaps import PAGES_MIN, GapSkimmer, longer_timeframes

NOW_MS: Final = 1_760_000_042_000
OWN: Final = TIMEFRAMES["1m"]
CLOSED_MS: Final = OWN.closed_end(NOW_MS)
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
    overlap=0,
    begins_ms=None,
    follows_ms=None,
)


@dataclass
class ScriptedSender:
    """Answers with the candles that minutes with trades make. Covers what `covers` says of each range asked for, 0 to 1.

    `is_flaky`: the first answer for each window is empty, as of an exchange that is unwell. `room`: so many requests.
    `lost_before_ms`: it has no candles of other timeframes that are older.
    """

    job: Job
    client: ExchangeClient
    minutes: list[int]
    covers: float = 1.0
    is_flaky: bool = False
    room: int = 1_000
    seen: set[tuple[str, int]] = field(default_factory=set)
    asked: list[tuple[str, Window]] = field(default_factory=list)
    lost_before_ms: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def fetch(self, window: Window, pages_left: int) -> Any:
        grid = self.job.timeframe
        if len(self.asked) >= self.room:
            return NoRoom(0, 60_000)
        self.asked.append((grid.name, window))
        count = grid.count(window.start_ms, window.end_ms)
        assert 0 < count <= self.client.page_max(grid.name, window.start_ms)
        assert (window.start_ms, window.end_ms) == (grid.ceil(window.start_ms), grid.ceil(window.end_ms))
        assert window.end_ms <= grid.closed_end(NOW_MS)
        covered_ms = grid.shift(window.start_ms, int(count * self.covers))
        opens = np.unique(grid.floors(np.array(self.minutes, np.int64)))
        opens = opens if grid is OWN else opens[opens >= self.lost_before_ms]
        opens = opens[(opens >= window.start_ms) & (opens < covered_ms)]
        if self.is_flaky and (grid.name, window.start_ms) not in self.seen:
            self.seen.add((grid.name, window.start_ms))
            opens = opens[:0]
        ones = np.ones(len(opens))
        page = FetchedPage(CandleBatch(opens, *[ones] * 5), covered_ms, None, (), None, len(opens))
        return Answer(page, NOW_MS)


def skimmer_of(exchange: str, minutes: list[int], **fields: Any) -> tuple[GapSkimmer, ScriptedSender]:
    client = ExchangeClient(load_spec(exchange), session=requests.Session(), now_ms=lambda: NOW_MS)
    sender = ScriptedSender(JOB, client, minutes, **fields)
    # Copies of it, one for each timeframe, share what was asked.
    return GapSkimmer(sender), sender  # type: ignore[arg-type]


starts = st.integers(EARLIEST_MS // MINUTE_MS, NOW_MS // MINUTE_MS - 10_000)
distances = st.lists(st.one_of(st.integers(0, 2_000), st.integers(0, 3_000_000)), max_size=12)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(BY_WINDOW), starts, distances, st.sampled_from([1.0, 1.0, 0.7, 0.01]), st.booleans())
def test_nothing_that_was_traded_is_passed(exchange: str, start: int, steps: list[int], covers: float, is_flaky: bool) -> None:
    start_ms = start * MINUTE_MS
    minutes = [minute for minute in (start_ms + np.cumsum(steps) * MINUTE_MS).tolist() if minute < CLOSED_MS]
    skimmer, sender = skimmer_of(exchange, minutes, covers=covers, is_flaky=is_flaky)
    window = Window(start_ms, start_ms, CLOSED_MS, CLOSED_MS)
    found = skimmer.skim(window, NOW_MS)
    levels = len(longer_timeframes(sender.client, OWN))
    assert len(sender.asked) <= 2 * levels + 2
    # Each shorter one begins where the longer one has come to, never before.
    asked_longer = [(name, asked) for name, asked in sender.asked if name != OWN.name]
    began = [asked.start_ms for _, asked in asked_longer]
    steps_ms = [TIMEFRAMES[name].step_ms for name, _ in asked_longer]
    assert all(began[n + 1] >= began[n] - steps_ms[n + 1] for n in range(len(began) - 1))
    first_ms = minutes[0] if minutes else CLOSED_MS
    page = sender.client.page_max("1m", start_ms)
    if not isinstance(found, Answer):
        assert found is None
        assert covers < 1 or OWN.count(start_ms, first_ms) <= 3 * page
        return
    passed_ms = found.fetched.covered_end_ms
    assert start_ms + page * MINUTE_MS < passed_ms <= first_ms
    assert not len(found.fetched.candles)
    assert found.sent_ms == NOW_MS


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(BY_WINDOW), starts, st.integers(100_000, 3_000_000), st.integers(0, 12))
def test_nothing_is_passed_before_the_jobs_own_candles_were_asked(exchange: str, start: int, distance: int, room: int) -> None:
    start_ms = start * MINUTE_MS
    assume(start_ms + distance * MINUTE_MS < CLOSED_MS)
    skimmer, sender = skimmer_of(exchange, [start_ms + distance * MINUTE_MS], room=room)
    found = skimmer.skim(Window(start_ms, start_ms, CLOSED_MS, CLOSED_MS), NOW_MS)
    if not isinstance(found, Answer):
        assert isinstance(found, NoRoom)
        assert len(sender.asked) == room
        return
    end_ms = found.fetched.covered_end_ms
    assert start_ms < end_ms <= start_ms + distance * MINUTE_MS
    pages = -(-OWN.count(start_ms, end_ms) // sender.client.page_max("1m", start_ms))
    own = [asked for name, asked in sender.asked if name == "1m"]
    assert len(own) == (2 if pages > PAGES_MIN else 1)
    assert own[0].end_ms == end_ms
    assert all(start_ms <= each.start_ms < each.end_ms <= end_ms for each in own)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(BY_WINDOW), starts, st.integers(50_000, 500_000))
def test_longer_candles_that_an_exchange_has_lost_pass_nothing(exchange: str, start: int, distance: int) -> None:
    """Its minutes are all there, one every half an hour."""
    start_ms = start * MINUTE_MS
    assume(start_ms + distance * MINUTE_MS < CLOSED_MS)
    minutes = list(range(start_ms + distance * MINUTE_MS % 1_800_000, CLOSED_MS, 1_800_000))[:20_000]
    skimmer, _ = skimmer_of(exchange, minutes, lost_before_ms=CLOSED_MS)
    found = skimmer.skim(Window(start_ms, start_ms, minutes[-1], CLOSED_MS), NOW_MS)
    assert found is None
