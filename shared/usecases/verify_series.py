"""Hold what is said of a series against its candles: the ledger against what is stored, values against what they should be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.domain.candles import FloatArray
from shared.domain.coverage import IntervalState, Run
from shared.domain.indicators import IndicatorSpec
from shared.domain.jobs import Job
from shared.domain.timeframes import IntArray, Timeframe
from shared.errors import EnrichmentFailed
from shared.stores.candles import CandleStore, Series, StoredCandles
from shared.stores.jobs import JobStore
from shared.usecases.read_coverage import CoverageReader
from shared.usecases.read_history import HistoryReader
from shared.usecases.resolve_specs import SeriesSpecs

CHUNK: Final = 20_000
# A call ends before the platform's own limit: nine indicators of so many candles take some seconds.
CANDLES_MAX: Final = 500_000
# Runs of intervals that one call holds against the candles.
RUNS_MAX: Final = 2_000_000
DIFFERENCES_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class LedgerDifference:
    """Intervals [start_ms, end_ms) of which the ledger says `said`, while their candles are there, or are not."""

    start_ms: int
    end_ms: int
    said: IntervalState
    is_stored: bool


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """A stored value that is not the one computed from the candles before it; None: there is none, or should be none."""

    open_ms: int
    field: str
    stored: float | None
    computed: float | None


@dataclass(frozen=True, slots=True)
class Verification:
    """What [start_ms, end_ms) was held against. The lists hold the first DIFFERENCES_MAX; the counts are of all.

    `next_start_ms`: where the next call begins, None: that was all. `stale_count`: of so many candles of the series, at most,
    values are still to be computed.
    """

    start_ms: int
    end_ms: int
    candles_count: int
    values_count: int
    ledger_differences: Sequence[LedgerDifference]
    ledger_differences_count: int
    value_differences: Sequence[ValueDifference]
    value_differences_count: int
    next_start_ms: int | None
    stale_count: int


@dataclass(frozen=True, slots=True)
class SeriesVerifier:
    """Reads by job; changes nothing."""

    jobs: JobStore
    candles: CandleStore
    coverage_reader: CoverageReader
    specs: SeriesSpecs
    count_stale: Callable[[Series], int]

    def verify(self, job_id: str, start_ms: int | None, end_ms: int | None) -> Verification:
        """Candles and intervals that open in [start, end), by default all stored and asked for; at most CANDLES_MAX candles.

        Raises:
            NotFound: no such job.
            InvalidRequest: the start is not before the end.
            EnrichmentFailed: the values could not be computed.
        """
        covered = self.coverage_reader.read(job_id, start_ms, end_ms, frozenset(), RUNS_MAX)
        job = Job.from_document(self.jobs.get(job_id))
        series = Series.of(job)
        # Before and after: what is computed again meanwhile may differ all the same.
        stale_count = self.count_stale(series)
        specs = self.specs.read(series)
        reader = HistoryReader(self.candles, series, specs)
        opens: list[IntArray] = []
        wrong: list[ValueDifference] = []
        wrong_count = values_count = candles_count = 0
        at_ms, next_start_ms = covered.start_ms, None
        while True:
            if candles_count >= CANDLES_MAX:
                next_start_ms = at_ms
                break
            fields = tuple(name for spec in specs for name in spec.fields)
            chunk = self.candles.read_range(series, at_ms, covered.end_ms, fields, limit=CHUNK)
            if not len(chunk.candles):
                break
            differences, count = _compare_values(chunk, _computed(reader, at_ms, chunk, specs))
            wrong += differences[: DIFFERENCES_MAX - len(wrong)]
            wrong_count += count
            values_count += len(fields) * len(chunk.candles)
            candles_count += len(chunk.candles)
            opens.append(chunk.candles.open_ms)
            at_ms = int(chunk.candles.open_ms[-1]) + 1
            if len(chunk.candles) < CHUNK:
                break
        looked_end_ms = covered.end_ms if next_start_ms is None else next_start_ms
        numbers = job.timeframe.numbers(np.concatenate(opens)) if opens else np.empty(0, np.int64)
        end = job.timeframe.number(job.timeframe.ceil(looked_end_ms))
        ledger = _compare_ledger(covered.runs, numbers, end, job.timeframe)
        if ledger:
            # Pages may have landed since the ledger was read: what stands is looked at once more, as of one moment.
            span_ms = (ledger[0].start_ms, ledger[-1].end_ms)
            runs, opens_ms = self.coverage_reader.read_as_of_one_moment(job_id, *span_ms)
            ledger = _compare_ledger(runs, job.timeframe.numbers(opens_ms), end, job.timeframe)
        return Verification(
            covered.start_ms,
            looked_end_ms,
            candles_count,
            values_count,
            ledger[:DIFFERENCES_MAX],
            len(ledger),
            wrong,
            wrong_count,
            next_start_ms,
            max(stale_count, self.count_stale(series)),
        )


def _computed(
    reader: HistoryReader, start_ms: int, chunk: StoredCandles, specs: Sequence[IndicatorSpec]
) -> Mapping[str, FloatArray]:
    try:
        return reader.compute(reader.read_before(start_ms, 1), chunk.candles) if specs else {}
    except Exception as exc:
        # TA-Lib raises bare Exceptions.
        raise EnrichmentFailed(f"{reader.series.series_id}: {type(exc).__name__}: {exc}") from exc


def _compare_values(chunk: StoredCandles, computed: Mapping[str, FloatArray]) -> tuple[list[ValueDifference], int]:
    """The first differences in order of time and field, and how many there are."""
    found: list[ValueDifference] = []
    count = 0
    for name, column in computed.items():
        stored = chunk.values[name]
        rows = np.flatnonzero((stored != column) & ~(np.isnan(stored) & np.isnan(column)))
        count += len(rows)
        for row in rows[:DIFFERENCES_MAX].tolist():
            open_ms = int(chunk.candles.open_ms[row])
            found.append(ValueDifference(open_ms, name, _number(stored[row]), _number(column[row])))
    return sorted(found, key=lambda each: (each.open_ms, each.field)), count


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _compare_ledger(runs: Sequence[Run], numbers: IntArray, end: int, grid: Timeframe) -> list[LedgerDifference]:
    """Parts of runs that are said to be stored and are not, or the other way round; `numbers` are those of the candles."""
    differences: list[LedgerDifference] = []
    for run in runs:
        last = min(run.end, end)
        low, high = np.searchsorted(numbers, (run.first, last)).tolist()
        is_said_stored = run.state is IntervalState.STORED
        if run.first >= last or high - low == (last - run.first if is_said_stored else 0):
            continue
        is_there = np.zeros(last - run.first, np.bool_)
        is_there[numbers[low:high] - run.first] = True
        edges = np.flatnonzero(np.diff(is_there, prepend=not is_there[0])).tolist()
        for first, stop in zip(edges, [*edges[1:], len(is_there)], strict=True):
            if is_there[first] != is_said_stored:
                span_ms = (grid.open_at(run.first + first), grid.open_at(run.first + stop))
                differences.append(LedgerDifference(*span_ms, run.state, bool(is_there[first])))
    return differences
