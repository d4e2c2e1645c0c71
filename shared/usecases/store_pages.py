"""Store the pages of one run: compare with what is stored, compute indicators, and land it with the cursor or not at all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import numpy as np
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError

from shared.domain.candles import PRICE_COLUMNS, CandleBatch, FloatArray
from shared.domain.indicators import IndicatorSpec, compute_indicators, cumulative_fields, history_candles_needed
from shared.domain.jobs import Job, to_datetime
from shared.stores.candles import CandleStore, Series, StoredCandles
from shared.stores.database import Database, is_duplicate_key
from shared.stores.job_leases import JobLeases
from shared.telemetry import event

# How many candles of history are read at a time where a cumulative indicator has to start from the beginning.
SEED_CHUNK: Final = 50_000
# Candles that stand in the way of an insert are read and compared once; more often only if somebody else writes there.
STORE_TRIES_MAX: Final = 3
# Each further read asks for more history, up to what the indicators bound themselves to.
TAIL_READS_MAX: Final = 8

T = TypeVar("T")


@dataclass(slots=True)
class StoreTotals:
    """What the run has stored so far."""

    stored: int = 0
    revised: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    enrichment_error: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Rows to write: those stored already (to be replaced) and those that are new, with their indicator columns."""

    candles: CandleBatch
    values: Mapping[str, FloatArray]
    is_stored: np.ndarray[tuple[int], np.dtype[np.bool_]]
    revised_count: int

    @property
    def new_count(self) -> int:
        """How many of the rows are not stored yet."""
        return int((~self.is_stored).sum())

    @classmethod
    def none(cls) -> "Change":
        """Nothing to write."""
        return cls(CandleBatch.empty(), {}, np.empty(0, np.bool_), 0)


@dataclass(slots=True)
class PageWriter:
    """Writes of one run under one fence. Keeps the newest candles in memory, so that only the first page reads."""

    job: Job
    fence: int
    specs: tuple[IndicatorSpec, ...]
    series: Series
    database: Database
    session: ClientSession
    leases: JobLeases
    candles: CandleStore
    lease_ms: int
    totals: StoreTotals = field(default_factory=StoreTotals)
    _tail: StoredCandles | None = None
    _tail_is_whole: bool = False

    def plan_change(self, page: CandleBatch, window_start_ms: int, new_ms: int) -> Change:
        """What of the page differs from what is stored, from the first difference on, with its indicators.

        Candles of the page from `window_start_ms` to `new_ms` (exclusive) were asked for again to see corrections.
        """
        if self._tail is None:
            self._load_tail(new_ms)
        return self._compare(page, self._known(window_start_ms, new_ms))

    def store(self, change: Change, cursor_ms: int | None) -> str:
        """Land the change and the cursor in one transaction. Returns the job's status as it now is.

        Raises:
            LeaseLost: nothing was written.
            StorageUnavailable: nothing was written, or it is not known (the cursor in the database tells the next run).
        """

        def write(session: ClientSession, change: Change) -> str:
            status = self.leases.record_page(
                self.job.job_id,
                self.fence,
                cursor=None if cursor_ms is None else to_datetime(cursor_ms),
                added={"candles": change.new_count, "revisions": change.revised_count},
                lease_ms=self.lease_ms,
                session=session,
            )
            self.write_candles(change, session)
            return status

        status, final = self.transact(change, write)
        self.note_stored(final)
        return status

    def transact(self, change: Change, write: Callable[[ClientSession, Change], T]) -> tuple[T, Change]:
        """Run `write(session, change)` in a transaction; returns its result and the change that was written in the end.

        Candles that are there unexpectedly (a job made anew over an old series) turn inserts into comparisons.
        """
        for attempt in range(1, STORE_TRIES_MAX + 1):
            try:
                return self.database.transact(partial(_with_change, write, change), self.session), change
            except BulkWriteError as exc:
                if not is_duplicate_key(exc) or attempt == STORE_TRIES_MAX:
                    raise
                change = self._against_stored(change.candles)
        raise AssertionError("unreachable: the last try returns or raises")

    def write_candles(self, change: Change, session: ClientSession) -> None:
        """Inside a transaction: insert what is new, replace what is stored."""
        for is_replaced in (False, True):
            rows = change.is_stored == is_replaced
            if not rows.any():
                continue
            put = self.candles.replace if is_replaced else self.candles.insert
            put(self.series, change.candles[rows], {name: column[rows] for name, column in change.values.items()}, session)

    def note_stored(self, change: Change) -> None:
        """After the commit: counts, and the tail for the next page."""
        totals = self.totals
        totals.revised += change.revised_count
        if not len(change.candles):
            return
        totals.stored += change.new_count
        first_ms, last_ms = int(change.candles.open_ms[0]), int(change.candles.open_ms[-1])
        totals.first_ms = first_ms if totals.first_ms is None else min(first_ms, totals.first_ms)
        totals.last_ms = last_ms
        tail = self._tail or StoredCandles(CandleBatch.empty(), {})
        kept = tail.candles.between(0, first_ms)
        joined = kept.then(change.candles)
        count = self._tail_count(joined)
        self._tail_is_whole = self._tail_is_whole and len(joined) <= count
        values = {
            name: np.concatenate(
                (tail.values[name][: len(kept)], change.values.get(name, np.full(len(change.candles), np.nan)))
            )[-count:]
            for name in cumulative_fields(self.specs)
        }
        self._tail = StoredCandles(joined[-count:], values)

    def _tail_count(self, history: CandleBatch) -> int:
        """What the indicators need before a page, the candles read again, and the one that cumulative ones continue from."""
        return history_candles_needed(self.specs, history) + self.job.overlap + 1

    def _load_tail(self, before_ms: int) -> None:
        """Read the newest stored candles: more of them where the market stood still, as indicators then need more."""
        fields = cumulative_fields(self.specs)
        count = self._tail_count(CandleBatch.empty())
        for _ in range(TAIL_READS_MAX):
            tail = self.candles.read_tail(self.series, before_ms, count, fields)
            needed = self._tail_count(tail.candles)
            self._tail, self._tail_is_whole = tail, len(tail.candles) < count
            if self._tail_is_whole or needed <= count:
                return
            count = needed

    def _known(self, start_ms: int, end_ms: int) -> CandleBatch:
        return CandleBatch.empty() if self._tail is None else self._tail.candles.between(start_ms, end_ms)

    def _against_stored(self, page: CandleBatch) -> Change:
        """The same page, compared with what the database holds over its whole span."""
        start_ms, end_ms = int(page.open_ms[0]), int(page.open_ms[-1]) + 1
        known = self.candles.read_range(self.series, start_ms, end_ms, ()).candles
        event("candles_there_already", "NOTICE", count=len(known), start_ms=start_ms, end_ms=end_ms)
        return self._compare(page, known, is_found_stored=True)

    def _compare(self, page: CandleBatch, known: CandleBatch, is_found_stored: bool = False) -> Change:
        is_stored = np.isin(page.open_ms, known.open_ms)
        is_revised = np.zeros(len(page), np.bool_)
        stored_rows = np.searchsorted(known.open_ms, page.open_ms[is_stored])
        for name in PRICE_COLUMNS:
            is_revised[is_stored] |= getattr(page, name)[is_stored] != getattr(known, name)[stored_rows]
        differs = ~is_stored | is_revised
        if is_found_stored:
            # Their indicators may have been computed with less history than there is now.
            differs[:] = True
        if not differs.any():
            return Change.none()
        first_ms = int(page.open_ms[int(np.argmax(differs))])
        # A stored candle that the page leaves out stays and counts in the indicators.
        later = _merge(known[known.open_ms >= first_ms], page[page.open_ms >= first_ms])
        values = self._enrich(later, first_ms)
        return Change(later, values, np.isin(later.open_ms, known.open_ms), int(is_revised.sum()))

    def _enrich(self, page: CandleBatch, first_ms: int) -> Mapping[str, FloatArray]:
        tail = self._tail or StoredCandles(CandleBatch.empty(), {})
        history = tail.candles.between(0, first_ms)
        carried = {name: float(column[len(history) - 1]) for name, column in tail.values.items()} if len(history) else None
        try:
            if len(history) and not self._tail_is_whole and _lacks(carried, cumulative_fields(self.specs)):
                carried = self._seed_from_beginning(int(history.open_ms[-1]) + 1)
            return compute_indicators(self.specs, history, page, carried, history_is_whole=self._tail_is_whole)
        except Exception as exc:  # noqa: BLE001 - TA-Lib raises bare Exceptions, and raw candles must land whatever it does
            self.totals.enrichment_error = f"{type(exc).__name__}: {exc}"
            event("enrichment_failed", "ERROR", job_id=self.job.job_id, error=str(exc))
            return {}

    def _seed_from_beginning(self, end_ms: int) -> dict[str, float]:
        """Cumulative values at the last candle before `end_ms`, from the series' first candle on, in chunks."""
        specs = tuple(spec for spec in self.specs if set(spec.fields) & set(cumulative_fields(self.specs)))
        carried: dict[str, float] | None = None
        last = CandleBatch.empty()
        start_ms = 0
        while True:
            chunk = self.candles.read_range(self.series, start_ms, end_ms, (), limit=SEED_CHUNK).candles
            if not len(chunk):
                return carried or {}
            values = compute_indicators(specs, last, chunk, carried, history_is_whole=not len(last))
            carried = {name: float(column[-1]) for name, column in values.items()}
            last = chunk[-1:]
            start_ms = int(chunk.open_ms[-1]) + 1


def _with_change(write: Callable[[ClientSession, Change], T], change: Change, session: ClientSession) -> T:
    return write(session, change)


def _merge(stored: CandleBatch, fresh: CandleBatch) -> CandleBatch:
    """Both, by open time; where both have one, the fresh one."""
    missing = stored[~np.isin(stored.open_ms, fresh.open_ms)]
    if not len(missing):
        return fresh
    order = np.argsort(np.concatenate((missing.open_ms, fresh.open_ms)))
    columns = (np.concatenate((getattr(missing, name), getattr(fresh, name)))[order] for name in ("open_ms", *PRICE_COLUMNS))
    return CandleBatch(*columns)


def _lacks(carried: Mapping[str, float] | None, fields: tuple[str, ...]) -> bool:
    return any(not np.isfinite((carried or {}).get(name, np.nan)) for name in fields)
