"""What a backfill costs and how it is split: nothing is left out, nobody is given more than the others, no limit is ignored."""

from hypothesis import given
from hypothesis import strategies as st

from shared.domain.backfills import (
    IN_FLIGHT,
    PACE_MS_MIN,
    WORKERS_DEFAULT,
    WORKERS_MAX,
    Bound,
    LimitRoom,
    PartPace,
    decide_workers,
    estimate,
    eta_seconds,
    pace_per_s,
    split_range,
    workers_of_use,
)
from shared.domain.rates import RateWindow
from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES
from shared.domain.windows import GapPlan

GRID = TIMEFRAMES["1m"]
BINANCE = RateWindow(6_000, 60_000)
lengths = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 5_000)), min_size=1, max_size=12)


def gaps_of(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Gaps that do not touch, from (distance, length) in minutes."""
    gaps, at_ms = [], 0
    for distance, length in steps:
        gaps.append((at_ms + distance * MINUTE_MS, at_ms + (distance + length) * MINUTE_MS))
        at_ms = gaps[-1][1]
    return gaps


@given(lengths, st.integers(1, WORKERS_MAX))
def test_parts_follow_each_other_and_have_as_many_pages(steps: list[tuple[int, int]], workers: int) -> None:
    gaps = gaps_of(steps)
    pages = [(page.new_ms, page.end_ms) for page in GapPlan(GRID, gaps).windows_ahead(None, lambda _: 100, 10**12)]
    end_ms = gaps[-1][1] + MINUTE_MS
    parts = split_range(0, end_ms, pages, workers)
    assert len(parts) == min(workers, len(pages))
    assert [parts[0][0], *(end for _, end in parts)] == [*(start for start, _ in parts), end_ms]
    counts = [sum(start <= page[0] and page[1] <= end for page in pages) for start, end in parts]
    assert sum(counts) == len(pages), "a page lies in two parts"
    assert max(counts) - min(counts) <= 1


def test_a_limit_gives_what_is_free_at_once_and_then_its_rate() -> None:
    room = LimitRoom(BINANCE, free=6_000, live_weight=0.0)
    assert room.seconds_for(6_000) == 0
    # 98 of 100 are for backfills.
    assert room.seconds_for(6_000 + 5_880) == 60
    busy = LimitRoom(BINANCE, free=-10, live_weight=2_940.0)
    assert busy.seconds_for(2_940) == 60
    full = estimate(10, 20, 10_000, [LimitRoom(BINANCE, 0, 6_000.0)], 1)
    assert (full.seconds, full.bound) == (None, Bound.RATE_LIMIT)


def test_what_takes_longest_is_named() -> None:
    free = [LimitRoom(BINANCE, 6_000, 0.0)]
    assert estimate(80, 160, 80 * 1_000, free, 1).bound is Bound.STORING
    assert estimate(80, 160, 80, free, 1).bound is Bound.ROUND_TRIPS
    assert estimate(80, 160, 80, [LimitRoom(RateWindow(1, 1_000), 1, 0.0)], 1).bound is Bound.RATE_LIMIT
    halved = estimate(80 * IN_FLIGHT, 0, 0, free, 2).seconds
    assert halved == (estimate(80 * IN_FLIGHT, 0, 0, free, 1).seconds or 0) / 2


def test_workers() -> None:
    assert decide_workers(None, 10_000, WORKERS_MAX, has_cumulative=True) == 1
    assert decide_workers(None, 10_000, WORKERS_MAX, has_cumulative=False) == WORKERS_DEFAULT
    assert decide_workers(None, 10_000, 2, has_cumulative=False) == 2
    assert decide_workers(None, 99, WORKERS_MAX, has_cumulative=False) == 1
    assert decide_workers(8, 10_000, 3, has_cumulative=True) == 3
    assert decide_workers(2, 10_000, WORKERS_MAX, has_cumulative=True) == 2
    # A slow exchange's limit is reached by one worker; Binance's by one too, but on the way there four are of use.
    assert workers_of_use(10_000, 10_000, [LimitRoom(RateWindow(10, 1_000), 10, 0.0)]) == 1
    assert workers_of_use(10_000, 20_000, [LimitRoom(BINANCE, 6_000, 0.0)]) == 4
    assert workers_of_use(3, 6, [LimitRoom(BINANCE, 6_000, 0.0)]) == 3


def test_the_eta_follows_the_pace_of_late_once_there_is_one() -> None:
    assert eta_seconds([PartPace(0, None, 0)], 5.0) == 0.0
    assert eta_seconds([PartPace(100, None, 0)], 5.0) == 5.0
    assert eta_seconds([PartPace(100, 0.0, 0)], None) is None
    assert eta_seconds([PartPace(100, 5.0, 0)], 5.0) == 20.0
    assert eta_seconds([PartPace(100, 5.0, 0), PartPace(200, 10.0, 0), PartPace(0, None, 0)], 5.0) == 20.0
    assert pace_per_s(10, PACE_MS_MIN - 1) is None
    assert pace_per_s(50, 10_000) == 5.0


def test_what_a_silent_worker_has_left_waits_for_its_lease() -> None:
    silent = PartPace(100, 5.0, 40_000)
    assert eta_seconds([silent, PartPace(100, 5.0, 0)], 5.0) == 60.0
    assert eta_seconds([PartPace(100, 5.0, 1_000), PartPace(900, 5.0, 0)], 5.0) == 100.0
    assert eta_seconds([PartPace(0, 5.0, 40_000), PartPace(100, 5.0, 0)], 5.0) == 10.0
