"""Candles put together to a higher timeframe: as a plain loop does it, however they are cut, as the exchange does it."""

from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.candles import PRICE_COLUMNS, CandleBatch
from shared.domain.resample import Buckets, Resampler
from shared.domain.timeframes import DAY_MS, HOUR_MS, MINUTE_MS, TIMEFRAMES, Timeframe
from shared.errors import InvalidRequest
from tests.replay import DATA_DIR, read_recording

# A Friday in a leap year's February, so that weeks and months end in between.
FRIDAY_MS = 1_708_646_400_000
PAIRS = [(source, target) for source in TIMEFRAMES.values() for target in TIMEFRAMES.values() if target.is_made_of(source)]
needs_recordings = pytest.mark.skipif(not DATA_DIR.exists(), reason="the recordings are not part of the project")


def market(source: str, offsets: Sequence[int], seed: int = 1) -> CandleBatch:
    """Candles at these intervals after a Friday."""
    grid, rng = TIMEFRAMES[source], np.random.default_rng(seed)
    open_ms = np.array([grid.shift(grid.ceil(FRIDAY_MS), offset) for offset in offsets], np.int64)
    low, high = rng.uniform(90, 100, len(offsets)), rng.uniform(110, 120, len(offsets))
    prices = rng.uniform(100, 110, (2, len(offsets)))
    return CandleBatch(open_ms, prices[0], high, low, prices[1], rng.lognormal(0, 3, len(offsets)))


def resample(candles: CandleBatch, source: str, target: str, cuts: Sequence[int] = (), known_end_ms: int = 0) -> Buckets:
    resampler = Resampler(TIMEFRAMES[source], TIMEFRAMES[target])
    bounds = [0, *sorted(cuts), len(candles)]
    parts = [resampler.feed(candles[first:last]) for first, last in pairwise(bounds)] + [resampler.finish(known_end_ms)]
    joined = CandleBatch.empty()
    for part in parts:
        joined = joined.then(part.candles)
    return Buckets(joined, np.concatenate([part.source_count for part in parts]))


def assert_same(found: Buckets, expected: Buckets) -> None:
    assert found.source_count.tolist() == expected.source_count.tolist()
    for name in ("open_ms", *PRICE_COLUMNS):
        assert getattr(found.candles, name).tolist() == getattr(expected.candles, name).tolist(), name


@given(st.sampled_from(PAIRS), st.sets(st.integers(0, 400), max_size=150), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_buckets_are_what_a_plain_loop_makes(pair: tuple[Timeframe, Timeframe], offsets: set[int], seed: int) -> None:
    source, target = pair[0].name, pair[1].name
    candles = market(source, sorted(offsets), seed)
    found = resample(candles, source, target, known_end_ms=2**50)
    rows = list(zip(*(getattr(candles, name).tolist() for name in ("open_ms", *PRICE_COLUMNS)), strict=True))
    expected = []
    for bucket_ms, group in groupby(rows, lambda row: TIMEFRAMES[target].floor(row[0])):
        _, opens, highs, lows, closes, volumes = zip(*group, strict=True)
        expected.append((bucket_ms, opens[0], max(highs), min(lows), closes[-1], pytest.approx(sum(volumes), 1e-9), len(opens)))
    columns = [getattr(found.candles, name).tolist() for name in ("open_ms", *PRICE_COLUMNS)]
    assert list(zip(*columns, found.source_count.tolist(), strict=True)) == expected


@given(st.sampled_from(PAIRS), st.sets(st.integers(0, 300), max_size=120), st.lists(st.integers(0, 120), max_size=12))
@settings(max_examples=150, deadline=None)
def test_cutting_the_series_changes_no_bit(pair: tuple[Timeframe, Timeframe], offsets: set[int], cuts: list[int]) -> None:
    source, target = pair[0].name, pair[1].name
    candles = market(source, sorted(offsets))
    cuts = [min(cut, len(candles)) for cut in cuts]
    assert_same(resample(candles, source, target, cuts), resample(candles, source, target))
    assert_same(resample(candles, source, target, range(len(candles))), resample(candles, source, target))


@pytest.mark.parametrize(
    ("count", "known_intervals", "expected"), [(60, 0, 1), (59, 0, 0), (59, 59, 0), (59, 60, 1), (61, 0, 1)]
)
def test_the_last_bucket_comes_once_it_is_closed(count: int, known_intervals: int, expected: int) -> None:
    candles = market("1m", range(count))
    found = resample(candles, "1m", "1h", known_end_ms=FRIDAY_MS + known_intervals * MINUTE_MS)
    assert found.source_count.tolist() == [min(count, 60)] * expected


def test_what_is_missing_inside_is_counted_and_an_empty_bucket_left_out() -> None:
    candles = market("1m", [0, 1, 7, 8, 9, 20, 21, 22, 23, 24])
    found = resample(candles, "1m", "5m")
    assert ((found.candles.open_ms - FRIDAY_MS) // MINUTE_MS).tolist() == [0, 5, 20]
    assert found.source_count.tolist() == [2, 3, 5]


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    hours = market("1h", range(24 * 40))
    weeks, months = (resample(hours, "1h", target, known_end_ms=2**50).candles.open_ms for target in ("1w", "1M"))
    assert [(int(week) // DAY_MS + 3) % 7 for week in weeks] == [0] * len(weeks)
    assert [str(month)[:10] for month in months.astype("datetime64[ms]")] == ["2024-02-01", "2024-03-01", "2024-04-01"]


def test_only_whole_multiples_are_put_together() -> None:
    refused = [("1h", "1h"), ("1h", "1m"), ("3m", "5m"), ("2h", "3h"), ("3d", "1w"), ("1w", "1M"), ("1M", "1w"), ("3d", "1M")]
    for source, target in refused:
        with pytest.raises(InvalidRequest, match=f"{target} is not made of whole intervals of {source}"):
            Resampler(TIMEFRAMES[source], TIMEFRAMES[target])
    assert {target.name for source, target in PAIRS if source.name == "1m"} == TIMEFRAMES.keys() - {"1m"}
    assert TIMEFRAMES["1d"].is_made_of(TIMEFRAMES["3h"])
    assert TIMEFRAMES["1h"].step_ms == HOUR_MS


@needs_recordings
@pytest.mark.parametrize(
    ("source", "target"),
    [
        (source, target)
        for source in ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d")
        for target in ("3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
        # 500 candles were recorded: those pairs of which that is at least one whole interval, wherever the recording begins.
        if TIMEFRAMES[target].is_made_of(TIMEFRAMES[source])
        and 2 * TIMEFRAMES[target].step_ms <= 500 * TIMEFRAMES[source].step_ms
    ],
)
def test_they_are_the_exchanges_own(source: str, target: str) -> None:
    """Every interval of which all lower candles were recorded: the same prices, the same volume but for its rounding."""
    lower, own = (read_recording(DATA_DIR / f"BINANCE_ETH-BTC_{name.replace('1M', '1mo')}.csv.gz") for name in (source, target))
    # The last candle of a recording is the running one.
    lower, own = lower[: len(lower) - 1], own[: len(own) - 1]
    grid = TIMEFRAMES[target]
    # The first interval is there in part only, unless the recording begins with it.
    lower = lower.between(grid.ceil(int(lower.open_ms[0])), 2**50)
    found = resample(lower, source, target).candles
    assert len(found)
    expected = own.between(int(found.open_ms[0]), int(found.open_ms[-1]) + 1)
    assert found.open_ms.tolist() == expected.open_ms.tolist()
    for name in ("open", "high", "low", "close"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
    np.testing.assert_allclose(found.volume, expected.volume, rtol=1e-9)
