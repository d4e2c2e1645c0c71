"""Compute indicators again from stored candles: behind holes that were filled, revised candles, new lists, earlier history.

The stretches to do are noted at the series (stores/series.py). From the start of each the values are computed
again, and those that differ are written, until nothing that has changed counts any more: where all blocks start behind its end
(domain/indicator_starts.py), and cumulative values meet those that are stored. Nothing is asked of the exchange.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pymongo.client_session import ClientSession

from shared.deadline import Deadline
from shared.domain.candles import CandleBatch, FloatArray
from shared.domain.indicator_starts import BESIDES, BLOCK, HISTORY_CANDLES_MAX
from shared.domain.indicators import IndicatorSpec, cumulative_fields, history_from
from shared.domain.jobs import Job, JobKind, JobStatus
from shared.domain.timeframes import IntArray
from shared.errors import EnrichmentFailed
from shared.stores.candles import CandleStore, Series, StoredCandles
from shared.stores.connectors import ConnectorStore
from shared.stores.database import Database
from shared.stores.job_leases import JobLeases
from shared.stores.series import SeriesStore, Stale
from shared.stores.series_jobs import SeriesJobs
from shared.telemetry import event
from shared.usecases.read_history import HistoryReader
from shared.usecases.resolve_specs import SpecLists
from shared.usecases.series_jobs import FOREVER_MS, series_fields

# Candles of one transaction: 30 ms on an idle machine, 0.3 s on a busy one. Larger ones are not faster and lose more.
CHUNK: Final = 2_000
# A run does not begin another chunk with less time left.
CHUNK_RESERVE_MS: Final = 15_000
CHUNKS_MAX: Final = 2_000
# [start_ms, end_ms): what has changed; one that is empty, or ends before it begins, is what is left behind a change.
Stretch: TypeAlias = tuple[int, int]


class StaleAdded(Exception):
    """Stretches were added while a chunk was computed: it may be wrong by now."""


class Enriched(StrEnum):
    """Why a run ends: nothing is stale any more, a backfill has to end first, the job was paused, or the time is up."""

    DONE = "done"
    WAITS = "waits"
    PAUSED = "paused"
    MORE = "more"


@dataclass(frozen=True, slots=True)
class SeriesEnricher:
    """The work of enrich jobs, on one instance."""

    database: Database
    series: SeriesStore
    series_jobs: SeriesJobs
    connectors: ConnectorStore
    leases: JobLeases
    candles: CandleStore
    spec_lists: SpecLists
    lease_ms: int

    def run(self, job: Job, fence: int, session: ClientSession, deadline: Deadline) -> Enriched:
        """Work off the stretches until none is left or the time is up; each chunk lands in a transaction of its own.

        Raises:
            LeaseLost: somebody else has the job now.
            StorageUnavailable: what was done so far is stored, and what is left is known.
        """
        series = Series.of(job)
        for _ in range(CHUNKS_MAX):
            stale = self.series.read_stale(series)
            if not stale.stretches:
                return Enriched.DONE
            if stale.is_list_untold:
                self._tell_backfills(series, stale, session)
                continue
            specs = self.spec_lists.resolve(stale.indicators)
            work = _Work(self, job, fence, session, series, specs, HistoryReader(self.candles, series, specs))
            first = _first_to_do(stale.stretches, self._is_backfilled(job))
            if first is None:
                return Enriched.WAITS
            if deadline.remaining_ms() < CHUNK_RESERVE_MS:
                break
            try:
                if work.do_chunk(first, stale) != JobStatus.ACTIVE:
                    return Enriched.PAUSED
            except StaleAdded:
                event("stale_added", "DEBUG", job_id=job.job_id)
        return Enriched.MORE

    def _tell_backfills(self, series: Series, stale: Stale, session: ClientSession) -> None:
        """Let no page of a backfill land any more that is of another list; those that have, wherever, are stale too.

        It is done here and not with the change itself, which would have to wait for pages of backfills at full speed.
        """
        self.series_jobs.tell_backfills(series.named)

        def write(session: ClientSession) -> None:
            if self.series.note_list_told(series.series_id, stale.changes, session):
                first_ms = self.candles.find_next_open(series, -1, session)
                if first_ms is not None:
                    self.series.add_stale(series.series_id, first_ms, None, session)

        self.database.transact(write, session)

    def _is_backfilled(self, job: Job) -> bool:
        """Whether a backfill of the series is on its way, and not kept from it for who knows how long."""
        keeping = self.series_jobs.list_keeping(series_fields(job))
        backfills = [each for each in keeping if each["kind"] == JobKind.BACKFILL and each["status"] == JobStatus.ACTIVE]
        if not backfills:
            return False
        runnable = {connector["_id"] for connector in self.connectors.list_runnable()}
        return any(each["connector_id"] in runnable for each in backfills)


@dataclass(slots=True)
class _Work:
    """One run's chunks."""

    enricher: SeriesEnricher
    job: Job
    fence: int
    session: ClientSession
    series: Series
    specs: tuple[IndicatorSpec, ...]
    reader: HistoryReader

    def do_chunk(self, stretch: Stretch, stale: Stale) -> str:
        """Compute the next candles of one stretch again, and write those that had other values. Returns the job's status."""
        start_ms, end_ms = stretch
        fields = tuple(name for spec in self.specs for name in spec.fields)
        chunk = self.enricher.candles.read_range(self.series, start_ms, FOREVER_MS, fields, limit=CHUNK)
        count = len(chunk.candles)
        values = self._compute(start_ms, chunk.candles) if fields else {}
        opens_ms, changed = _changes(chunk, values)
        is_settled = count < CHUNK or self._is_settled(chunk, values, end_ms)
        last_ms = int(chunk.candles.open_ms[-1]) if count else start_ms - 1
        others = [other for other in stale.stretches if other != stretch]
        # What reached beyond the beginnings of those behind it has done that part of them.
        left = [(max(first, last_ms + 1) if first >= start_ms else first, end) for first, end in others]
        left = _merged(left if is_settled else [(last_ms + 1, end_ms), *left])

        def write(session: ClientSession) -> str:
            status = self._write(stale.changes, left, opens_ms, changed, session)
            until_ms = FOREVER_MS if count < CHUNK else last_ms + 1
            if len(self.enricher.candles.read_open_times(self.series, start_ms, until_ms, session)) != count:
                # Stored since it was read, in its middle or behind it: those values continue from the ones replaced here.
                raise StaleAdded
            return status

        return self.enricher.database.transact(write, self.session)

    def _write(
        self,
        changes: int,
        left: list[Stretch],
        opens_ms: IntArray,
        changed: Mapping[str, FloatArray],
        session: ClientSession,
    ) -> str:
        enricher, job = self.enricher, self.job
        if not enricher.series.replace_stale(self.series.series_id, changes, left, session):
            raise StaleAdded
        count = len(opens_ms)
        after = enricher.leases.record_page(
            job.job_id, self.fence, cursor=None, added={"enriched": count}, lease_ms=enricher.lease_ms, session=session
        )
        if count:
            enricher.candles.set_values(self.series, opens_ms, changed, session)
            enricher.series_jobs.next_epoch(series_fields(job), int(opens_ms[0]), job.job_id, session)
        return str(after["status"])

    def _compute(self, start_ms: int, candles: CandleBatch) -> Mapping[str, FloatArray]:
        history = self.reader.read_before(start_ms, 1)
        try:
            return self.reader.compute(history, candles)
        except Exception as exc:
            # TA-Lib raises bare Exceptions.
            raise EnrichmentFailed(f"{self.job.symbol} {self.job.timeframe.name}: {type(exc).__name__}: {exc}") from exc

    def _is_settled(self, chunk: StoredCandles, values: Mapping[str, FloatArray], end_ms: int) -> bool:
        """Whether nothing of what has changed before `end_ms` can be felt behind this chunk."""
        last_ms = int(chunk.candles.open_ms[-1])
        if last_ms < end_ms:
            return False
        if not all(_same(chunk.values[name][-1:], values[name][-1:]).all() for name in cumulative_fields(self.specs)):
            return False
        past = self.enricher.candles.read_range(
            self.series, end_ms, last_ms + 1, (), limit=HISTORY_CANDLES_MAX + BESIDES + BLOCK
        ).candles
        return history_from(self.specs, self.reader.grid, past, len(past) - 1, is_whole=False) is not None


def _changes(chunk: StoredCandles, values: Mapping[str, FloatArray]) -> tuple[IntArray, dict[str, FloatArray]]:
    """Open times of the candles that have a value which is not the stored one, and the columns that have such values."""
    differs = {name: ~_same(chunk.values[name], column) for name, column in values.items()}
    rows = np.any(list(differs.values()), axis=0) if differs else np.zeros(len(chunk.candles), np.bool_)
    changed = {name: values[name][rows] for name, is_other in differs.items() if bool(is_other.any())}
    return chunk.candles.open_ms[rows], changed


def _same(stored: FloatArray, computed: FloatArray) -> NDArray[np.bool_]:
    """Bit for bit, but for 0 and -0."""
    return np.asarray((stored == computed) | (np.isnan(stored) & np.isnan(computed)))


def _merged(stretches: list[Stretch]) -> list[Stretch]:
    """The same work as stretches that neither overlap nor touch; empty ones stay, as they stand for what is behind them."""
    merged: list[Stretch] = []
    for start_ms, end_ms in sorted(stretches):
        if merged and start_ms <= max(merged[-1]):
            merged[-1] = (merged[-1][0], max(merged[-1][1], end_ms))
        else:
            merged.append((start_ms, end_ms))
    return merged


def _first_to_do(stretches: list[Stretch], is_backfilled: bool) -> Stretch | None:
    """The first stretch that need not wait for a backfill, None if all do.

    Where only something before it has changed (it is empty), a backfill that is on its way would make it stale again if it is
    before it, and be kept from landing its pages if it is behind it; candles that have changed themselves are not kept waiting.
    """
    return next((each for each in stretches if each[0] != each[1] or not is_backfilled), None)
