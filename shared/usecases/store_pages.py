"""Store the pages of one run: compare with what is stored, compute indicators, and land it with the cursor or not at all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias, TypeVar

import numpy as np
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError

from shared.deadline import ServerClock
from shared.domain.candles import PRICE_COLUMNS, CandleBatch, FloatArray
from shared.domain.indicators import IndicatorSpec, cumulative_fields
from shared.domain.jobs import Job, JobKind, JobStatus, run_id_of, to_datetime, to_ms
from shared.domain.timeframes import IntArray
from shared.errors import StorageUnavailable
from shared.stores.candles import CandleStore, Series
from shared.stores.database import Database, Document, is_duplicate_key
from shared.stores.job_leases import JobLeases
from shared.stores.revisions import RevisionStore
from shared.telemetry import event
from shared.usecases.keep_ledger import LedgerKeeper, Settled
from shared.usecases.read_history import History, HistoryReader
from shared.usecases.series_jobs import SeriesHelpers

# Candles that stand in the way of an insert are read and compared once; more often only if somebody else writes there.
STORE_TRIES_MAX: Final = 3
# Later than any candle.
NEVER_MS: Final = 2**62

T = TypeVar("T")
BoolArray: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]


class TailMoved(Exception):
    """Others have changed candles that this run may have read, for the `epoch`-th time."""

    def __init__(self, epoch: int) -> None:
        super().__init__(epoch)
        self.epoch = epoch


class StoppedMeanwhile(Exception):
    """The job is a backfill that was paused: the page at hand is not stored."""


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
    """Rows to write: those stored already (to be replaced) and those that are new, with their indicator columns.

    `corrected` are those that the exchange has changed, as they are stored until now.
    """

    candles: CandleBatch
    values: Mapping[str, FloatArray]
    is_stored: BoolArray
    corrected: CandleBatch

    @property
    def revised_count(self) -> int:
        """How many of the rows say something else than what is stored."""
        return len(self.corrected)

    @property
    def new_count(self) -> int:
        """How many of the rows are not stored yet."""
        return int((~self.is_stored).sum())

    @classmethod
    def none(cls) -> "Change":
        """Nothing to write."""
        return cls(CandleBatch.empty(), {}, np.empty(0, np.bool_), CandleBatch.empty())


@dataclass(slots=True)
class PageWriter:
    """Writes of one run under one fence. Keeps the newest candles in memory, so that only the first page reads."""

    job: Job
    fence: int
    specs: tuple[IndicatorSpec, ...]
    series: Series
    read_specs: Callable[[], tuple[IndicatorSpec, ...]]
    database: Database
    session: ClientSession
    keeper: LedgerKeeper
    leases: JobLeases
    candles: CandleStore
    lease_ms: int
    helpers: SeriesHelpers
    revisions: RevisionStore
    clock: ServerClock
    epoch: int
    totals: StoreTotals = field(default_factory=StoreTotals)
    _tail: History | None = None
    _gap_end_ms: int | None = None
    _is_tail_given_up: bool = False
    _is_on_new_ground: bool = False  # the candles before the page are others'
    # Where the first candle behind those stored last lay, as their transaction saw it; 0: it was not looked for.
    _free_until_ms: int = 0

    def go_on(self, job: Job) -> None:
        """From the job's cursor, where somebody has moved it to: what is stored before it is not what was stored last."""
        self.job, self._tail, self._free_until_ms = job, None, 0

    def plan_change(self, page: CandleBatch, window_start_ms: int, new_ms: int) -> Change:
        """What of the page differs from what is stored, from the first difference on, with its indicators.

        Candles of the page from `window_start_ms` to `new_ms` (exclusive) were asked for again to see corrections.
        """
        if self._tail is None:
            self._tail = self._reader.read_before(new_ms, self._extra)
        return self._compare(page, self._tail.stored.candles.between(window_start_ms, new_ms))

    def plan_gap(self, page: CandleBatch, new_ms: int, end_ms: int) -> Change:
        """What of a backfill's page is new, with its indicators; where candles lie between the page's, as `plan_repair` does.

        All of [new_ms, end_ms) was asked for.
        """
        is_other_gap, self._gap_end_ms = new_ms != self._gap_end_ms, end_ms
        if not len(page):
            return Change.none()
        # Nobody is asked again where the pages before have seen that nothing lies here: should it not be so any more, this
        # page's own transaction sees it.
        if is_other_gap or self._free_until_ms <= page.open_ms[-1]:
            next_ms = self.candles.find_next_open(self.series, int(page.open_ms[0]) - 1)
            if next_ms is not None and next_ms <= page.open_ms[-1]:
                self._tail, self._free_until_ms = None, 0
                return self.plan_repair(page)
        if self._tail is None or is_other_gap:
            self._is_on_new_ground = True
            self._tail = self._reader.read_before(new_ms, self._extra)
        return self._compare(page, CandleBatch.empty())

    def plan_repair(self, page: CandleBatch) -> Change:
        """What of a repair's page is new or differs. Raw candles only: what depends on them is computed again as a whole."""
        if not len(page):
            return Change.none()
        start_ms, end_ms = int(page.open_ms[0]), int(page.open_ms[-1]) + 1
        known = self.candles.read_range(self.series, start_ms, end_ms, ()).candles
        is_stored, is_revised = _compared(page, known)
        differs = ~is_stored | is_revised
        return Change(page[differs], {}, is_stored[differs], _at(known, page.open_ms[is_revised]))

    def store(
        self, change: Change, settled: Settled, cursor_ms: int | None, begins_ms: int | None, asked_count: int = 0
    ) -> str:
        """Land the change, the cursor and the ledger in one transaction. Returns the job's status as it now is.

        `asked_count`: so many intervals were asked for, without those that were passed at once.

        Raises:
            StoppedMeanwhile: it is a backfill that is not to go on; nothing was written.
            LeaseLost: nothing was written.
            StorageUnavailable: nothing was written, or it is not known (the cursor in the database tells the next run).
        """

        def write(session: ClientSession, change: Change) -> str:
            after = self.leases.record_page(
                self.job.job_id,
                self.fence,
                cursor=None if cursor_ms is None else to_datetime(cursor_ms),
                begins_at=None if begins_ms is None else to_datetime(begins_ms),
                added={"candles": change.new_count, "revisions": change.revised_count, "asked": asked_count},
                lease_ms=self.lease_ms,
                session=session,
            )
            check_goes_on(self.job, after)
            self.land(change, settled, after, session)
            self.note_begins(begins_ms, session)
            return str(after["status"])

        status, final = self.transact(change, write)
        self.note_stored(final)
        return status

    def transact(self, change: Change, write: Callable[[ClientSession, Change], T]) -> tuple[T, Change]:
        """Run `write(session, change)` in a transaction; returns its result and the change that was written in the end.

        Candles that are there unexpectedly (a job made anew over an old series) turn inserts into comparisons. Where others
        have changed what the page's values were computed from, they are computed again; if they keep doing so, the page lands
        as it is, and is noted as stale.
        """
        self._is_tail_given_up = False
        for attempt in range(1, STORE_TRIES_MAX + 2):
            try:
                return self.database.transact(partial(_with_change, write, change), self.session), change
            except BulkWriteError as exc:
                if not is_duplicate_key(exc):
                    raise
                if attempt >= STORE_TRIES_MAX:
                    raise StorageUnavailable(f"{self.job.job_id}: others keep storing the candles of this page") from exc
                change = self._anew(change)
            except TailMoved as exc:
                self._is_tail_given_up = attempt == STORE_TRIES_MAX
                change = self._on_new_tail(change, exc.epoch)
        raise AssertionError("unreachable: the last try returns or raises")

    def land(self, change: Change, settled: Settled, after: Document, session: ClientSession) -> None:
        """Inside a transaction, once the job is written (`after`): candles, ledger, and what becomes stale behind them.

        Raises:
            TailMoved: others have changed what the page's values were computed from; the transaction must not commit.
        """
        epoch, codes_until = after.get("epoch", 0), after.get("codes_until")
        if len(change.candles) and epoch != self.epoch and not self._is_tail_given_up:
            raise TailMoved(epoch)
        if self._is_on_new_ground and len(change.candles):
            self.helpers.take_turn(self.job, session)
        # Nobody stores candles behind those of a job that follows the market.
        next_ms = None if settled.is_following else self._next_open(change, session)
        for is_replaced in (False, True):
            rows = change.is_stored == is_replaced
            if not rows.any():
                continue
            put = self.candles.replace if is_replaced else self.candles.insert
            put(self.series, change.candles[rows], {name: column[rows] for name, column in change.values.items()}, session)
        if change.revised_count:
            new = _at(change.candles, change.corrected.open_ms)
            run_id = run_id_of(self.job.job_id, self.fence)
            self.revisions.append(self.series.series_id, run_id, change.corrected, new, self.clock.now_ms(), session)
        self.keeper.write(settled, 0 if codes_until is None else to_ms(codes_until), session)
        if len(change.candles):
            self._mark_stale(change, settled, next_ms, session)

    def _next_open(self, change: Change, session: ClientSession) -> int | None:
        """Open time of the first candle behind the page, before it is stored.

        Raises:
            TailMoved: others have stored candles between those that the page's values were computed from and its end.
        """
        if self._tail is None or not len(change.candles):
            return None
        first_ms, last_ms = int(change.candles.open_ms[0]), int(change.candles.open_ms[-1])
        before = self._tail.before(first_ms).stored.candles.open_ms
        before_ms = int(before[-1]) if len(before) else -1
        next_ms = self.candles.find_next_open(self.series, before_ms, session)
        if next_ms is None or next_ms > last_ms:
            self._free_until_ms = NEVER_MS if next_ms is None else next_ms
            return next_ms
        self._free_until_ms = 0
        found = self.candles.read_open_times(self.series, before_ms + 1, last_ms + 1, session)
        if len(np.setdiff1d(found, change.candles.open_ms)) and not self._is_tail_given_up:
            raise TailMoved(self.epoch)
        return self.candles.find_next_open(self.series, last_ms, session)

    def _mark_stale(self, change: Change, settled: Settled, next_ms: int | None, session: ClientSession) -> None:
        """What has to be computed again: the page where its values are not all there, else what is behind it."""
        first_ms, last_ms = int(change.candles.open_ms[0]), int(change.candles.open_ms[-1])
        if not settled.is_following:
            self.helpers.note_page(self.job, first_ms, session)
        is_bare = self.job.kind is JobKind.REPAIR or (bool(self.specs) and not change.values)
        # The list may be another one by now.
        if is_bare or self._is_tail_given_up:
            self.helpers.want_enriching(self.job, first_ms, last_ms + 1, session)
        elif settled.is_following:
            if change.is_stored.any():
                self.helpers.note_revised(self.job, session)
        elif next_ms is not None and (self.job.end_ms is None or next_ms < self.job.end_ms):
            # These values are right; those behind them were computed without this page. What is behind a backfill as a whole
            # learns of it when that ends.
            self.helpers.want_enriching(self.job, next_ms, next_ms, session)

    def note_begins(self, begins_ms: int | None, session: ClientSession) -> None:
        """Inside a transaction: where the exchange's history of the series begins, if a first page has shown it."""
        if begins_ms is not None:
            self.keeper.ledger.asked.note_begins(self.series.series_id, begins_ms, session)

    def note_stored(self, change: Change) -> None:
        """After the commit: counts, and the tail for the next page."""
        totals = self.totals
        self._is_on_new_ground = self._is_on_new_ground and not len(change.candles)
        totals.revised += change.revised_count
        if not len(change.candles):
            return
        totals.stored += change.new_count
        first_ms, last_ms = int(change.candles.open_ms[0]), int(change.candles.open_ms[-1])
        totals.first_ms = first_ms if totals.first_ms is None else min(first_ms, totals.first_ms)
        totals.last_ms = last_ms
        if self._tail is not None:
            joined = self._tail.before(first_ms).then(change.candles, change.values, cumulative_fields(self.specs))
            first_row = self._reader.needed_from(joined, self._extra)
            # The candle before those that are needed shows that their first block is whole.
            self._tail = None if first_row is None else joined.newest(len(joined.stored.candles) + 1 - first_row)

    @property
    def _reader(self) -> HistoryReader:
        return HistoryReader(self.candles, self.series, self.specs)

    @property
    def _extra(self) -> int:
        """Besides what the indicators need: the candles read again, and the one that cumulative ones continue from."""
        return self.job.overlap + 1

    def _on_new_tail(self, change: Change, epoch: int) -> Change:
        """The same candles, with values computed from what is stored before them now."""
        event("tail_moved", "NOTICE", epoch=epoch)
        # After the epoch: a list that is changed in between counts once more, and the page does not land.
        self.epoch, self.specs = epoch, self.read_specs()
        if self.job.kind is not JobKind.REPAIR:
            self._tail = self._reader.read_before(int(change.candles.open_ms[0]), self._extra)
        return self._anew(change)

    def _anew(self, change: Change) -> Change:
        """The same candles, compared with what is stored now."""
        is_raw = self.job.kind is JobKind.REPAIR or self._tail is None
        return self.plan_repair(change.candles) if is_raw else self._against_stored(change.candles)

    def _against_stored(self, page: CandleBatch) -> Change:
        """The same page, compared with what the database holds over its whole span."""
        start_ms, end_ms = int(page.open_ms[0]), int(page.open_ms[-1]) + 1
        known = self.candles.read_range(self.series, start_ms, end_ms, ()).candles
        event("candles_there_already", "NOTICE", count=len(known), start_ms=start_ms, end_ms=end_ms)
        return self._compare(page, known, is_found_stored=True)

    def _compare(self, page: CandleBatch, known: CandleBatch, is_found_stored: bool = False) -> Change:
        is_stored, is_revised = _compared(page, known)
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
        return Change(later, values, np.isin(later.open_ms, known.open_ms), _at(known, page.open_ms[is_revised]))

    def _enrich(self, page: CandleBatch, first_ms: int) -> Mapping[str, FloatArray]:
        assert self._tail is not None
        try:
            return self._reader.compute(self._tail.before(first_ms), page)
        except Exception as exc:  # noqa: BLE001 - TA-Lib raises bare Exceptions, and raw candles must land whatever it does
            self.totals.enrichment_error = f"{type(exc).__name__}: {exc}"
            event("enrichment_failed", "ERROR", job_id=self.job.job_id, error=str(exc))
            return {}


def check_goes_on(job: Job, after: Document) -> None:
    """A backfill that was stopped stores nothing more, not even the page at hand. Raises StoppedMeanwhile."""
    if job.kind is JobKind.BACKFILL and after["status"] not in (JobStatus.ACTIVE, JobStatus.DONE):
        raise StoppedMeanwhile


def _with_change(write: Callable[[ClientSession, Change], T], change: Change, session: ClientSession) -> T:
    return write(session, change)


def _compared(page: CandleBatch, known: CandleBatch) -> tuple[BoolArray, BoolArray]:
    """Which candles of the page are known, and which of these differ."""
    is_stored = np.isin(page.open_ms, known.open_ms)
    is_revised = np.zeros(len(page), np.bool_)
    stored_rows = np.searchsorted(known.open_ms, page.open_ms[is_stored])
    for name in PRICE_COLUMNS:
        is_revised[is_stored] |= getattr(page, name)[is_stored] != getattr(known, name)[stored_rows]
    return is_stored, is_revised


def _at(candles: CandleBatch, opens_ms: IntArray) -> CandleBatch:
    """Those that open at these times."""
    return candles[np.isin(candles.open_ms, opens_ms)]


def _merge(stored: CandleBatch, fresh: CandleBatch) -> CandleBatch:
    """Both, by open time; where both have one, the fresh one."""
    missing = stored[~np.isin(stored.open_ms, fresh.open_ms)]
    if not len(missing):
        return fresh
    order = np.argsort(np.concatenate((missing.open_ms, fresh.open_ms)))
    columns = (np.concatenate((getattr(missing, name), getattr(fresh, name)))[order] for name in ("open_ms", *PRICE_COLUMNS))
    return CandleBatch(*columns)
