"""Keep the ledger of completeness of a series: in the transaction that stores a page, what of it the exchange did not have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pymongo.client_session import ClientSession

from shared.deadline import ServerClock
from shared.domain.coverage import (
    Asked,
    IntervalState,
    Run,
    Span,
    ends_dispute,
    group_spans,
    mark_present,
    merge_spans,
    plan_runs,
    read_runs,
    repair_spans,
    set_apart,
    settle,
    wants_repair,
)
from shared.domain.job_ranges import format_ms
from shared.domain.jobs import Job, JobKind, JobStatus, to_datetime
from shared.domain.timeframes import IntArray, Timeframe
from shared.stores.alerts import AlertStore
from shared.stores.candles import CandleStore, Series
from shared.stores.coverage import CoverageStore
from shared.stores.database import Document
from shared.stores.series import SeriesStore
from shared.stores.series_jobs import SeriesJobs
from shared.usecases.fetch_pages import Page
from shared.usecases.series_jobs import SeriesHelpers, series_fields

# A live job that asks for more intervals at once than this is catching up, perhaps over what another job had asked for.
FOLLOWING_MAX: Final = 10
# What a backfill asks for.
WANTED_STATES: Final = (IntervalState.PENDING, IntervalState.MISSING, IntervalState.DISPUTED)
# Beyond the number of any interval.
NUMBER_MAX: Final = 2**40


def wanted_of(runs: Sequence[Run]) -> int:
    """How many of the intervals a backfill asks for."""
    return sum(run.end - run.first for run in runs if run.state in WANTED_STATES)


def disputed_subject(series: Series) -> str:
    """The subject of the alert that the exchange gives candles of the series that disagree."""
    return f"series/{series.series_id}/disputed"


@dataclass(frozen=True, slots=True)
class SeriesLedger:
    """The ledger of any series: which stretches were asked for, and what is missing in them."""

    coverage: CoverageStore
    asked: SeriesStore
    series_jobs: SeriesJobs
    alerts: AlertStore

    def asked_spans(self, series: Series, job: Job, session: ClientSession | None = None) -> list[Span]:
        """What this job's series was asked for, by all its jobs and by those that are gone; merged."""
        grid = job.timeframe
        gone = self.asked.read_asked(series.series_id, session)
        spans = [(grid.number(start_ms), grid.number(end_ms)) for start_ms, end_ms in gone]
        keeping = self.series_jobs.list_keeping(series_fields(job), session)
        spans += [span for other in keeping if (span := Job.from_document(other).asked_span) is not None]
        return merge_spans(spans)

    def begins(self, series: Series, job: Job) -> int:
        """The series' first interval that the exchange has, as far as that is known; else 0."""
        begins_ms = max(self.asked.read_begins_ms(series.series_id) or 0, job.begins_ms or 0)
        return job.timeframe.number(job.timeframe.ceil(begins_ms)) if begins_ms else 0

    def read_runs(
        self, series: Series, job: Job, first: int, end: int, begins: int, session: ClientSession | None = None
    ) -> list[Run]:
        """Every interval of [first, end) in its state; `begins`: the exchange has nothing that is older, or no more."""
        coded = read_runs(self.coverage.read_lines(series.series_id, first, end, session))
        return plan_runs((first, end), self.asked_spans(series, job, session), coded, begins)

    def count_left(self, document: Document) -> int:
        """How many intervals the job of a backfill has still to ask for."""
        job = Job.from_document(document)
        if job.status is JobStatus.DONE or job.end_ms is None:
            return 0
        grid, series = job.timeframe, Series.of(job)
        start_ms = grid.ceil(job.start_ms) if job.cursor_ms is None else grid.close(job.cursor_ms)
        first, end = grid.number(start_ms), grid.number(grid.ceil(job.end_ms))
        return wanted_of(self.read_runs(series, job, first, end, self.begins(series, job))) if first < end else 0

    def plan_gaps(
        self, series: Series, job: Job, intervals_max: int, first: int, end: int, begins: int
    ) -> list[tuple[int, int]]:
        """Stretches (start_ms, end_ms) of [first, end) with all that is pending, missing or disputed, from `begins` on.

        What lies between two is asked for with them where that costs no request more, at so many intervals each.
        """
        runs = self.read_runs(series, job, first, end, begins)
        return self.gaps_of(runs, job.timeframe, intervals_max)

    def gaps_of(self, runs: Sequence[Run], grid: Timeframe, intervals_max: int) -> list[tuple[int, int]]:
        """The same of runs that have been read."""
        wanted = merge_spans((run.first, run.end) for run in runs if run.state in WANTED_STATES)
        return [(grid.open_at(a), grid.open_at(b)) for a, b in merge_spans(group_spans(wanted, intervals_max))]

    def repair_spans(self, series: Series, session: ClientSession) -> list[Span]:
        """All that a repair would ask for again, by numbers; merged."""
        missing, disputed = repair_spans(self.coverage.read_lines(series.series_id, 0, NUMBER_MAX, session))
        return merge_spans([*missing, *disputed])

    def plan_repair(self, series: Series, job: Job, intervals_max: int, end: int) -> list[tuple[int, int]]:
        """Stretches (start_ms, end_ms) with all that is missing before the interval `end`, put together as by `plan_gaps`.

        Each disputed interval is a stretch of its own: asked with other bounds the exchange may give one candle for it.
        """
        grid = job.timeframe
        asked = self.asked_spans(series, job)
        if not asked:
            return []
        lines = self.coverage.read_lines(series.series_id, asked[0][0], min(end, asked[-1][1]))
        missing, disputed = repair_spans(lines)
        windows: list[Span] = []
        for first, last in asked:
            # Not across what nobody has asked for: its candles would come along and count as pending.
            inside = merge_spans(group_spans(_inside(missing, first, last), intervals_max))
            windows += set_apart(inside, [number for span in _inside(disputed, first, last) for number in range(*span)])
        return [(grid.open_at(first), grid.open_at(last)) for first, last in windows]


def _between(numbers: IntArray, first: int, end: int) -> IntArray:
    return numbers[(numbers >= first) & (numbers < end)]


def _inside(spans: Sequence[Span], first: int, end: int) -> list[Span]:
    """What of the spans lies in [first, end)."""
    return [(max(a, first), min(b, end)) for a, b in spans if a < end and b > first]


@dataclass(frozen=True, slots=True)
class Settled:
    """What a group of pages means for the ledger. `late` are numbers of candles that came after all, before what was asked.

    `is_following`: they are of a live job at the market's end. What it asks for nobody has asked for before (but for what its
    `codes_until` says), and nobody stores candles behind it.
    """

    asked: Sequence[Asked]
    late: IntArray
    is_following: bool


@dataclass(frozen=True, slots=True)
class LedgerKeeper:
    """The ledger's part in one run."""

    job: Job
    series: Series
    ledger: SeriesLedger
    candles: CandleStore
    helpers: SeriesHelpers
    clock: ServerClock

    def plan(self, pages: Sequence[Page], late_ms: IntArray, begins_ms: int | None) -> Settled:
        """What the pages have settled. `begins_ms`: the job begins there, as the exchange has nothing older."""
        grid = self.job.timeframe
        asked: list[Asked] = []
        for page in pages:
            cursor_ms, history_ms = page.advance.cursor_ms, page.fetched.history_start_ms
            if cursor_ms is None or cursor_ms < page.window.new_ms:
                continue
            first, end = grid.number(page.window.new_ms), grid.number(cursor_ms) + 1
            if begins_ms is not None:
                first = min(max(first, grid.number(grid.ceil(begins_ms))), end)
            numbers = grid.numbers(page.fetched.candles.open_ms)
            begins = None if history_ms is None else grid.number(grid.ceil(history_ms))
            disputed = grid.numbers(page.fetched.disputed_ms)
            fresh = Asked(first, end, _between(numbers, first, end), begins, _between(disputed, first, end))
            # Pages that follow each other are looked up as one.
            joined = asked[-1].then(fresh) if asked else None
            asked = [*asked, fresh] if joined is None else [*asked[:-1], joined]
        # Of a job's first page it is not known what there was before it.
        is_short = all(grid.count(page.window.new_ms, page.advance.closed_end_ms) <= FOLLOWING_MAX for page in pages)
        is_following = self.job.kind is JobKind.LIVE and self.job.cursor_ms is not None and is_short
        return Settled(asked, grid.numbers(late_ms), is_following)

    def write(self, settled: Settled, codes_until_ms: int, session: ClientSession) -> None:
        """Write it down, inside the pages' transaction. Nothing is read or written where a following page is whole.

        `codes_until_ms`: up to there others have written of intervals that this job had not come to.
        """
        grid, coverage, series_id = self.job.timeframe, self.ledger.coverage, self.series.series_id
        is_repair = self.job.kind is JobKind.REPAIR
        newly_missing: list[Span] = []
        is_dispute_ended = False
        for asked in settled.asked:
            is_new_ground = settled.is_following and grid.open_at(asked.first) >= codes_until_ms
            if asked.first >= asked.end or (asked.is_whole and is_new_ground):
                continue
            known = coverage.read(series_id, asked.first, asked.end, session)
            if asked.is_whole and not known:
                continue
            bounds_ms = (grid.open_at(asked.first), grid.open_at(asked.end))
            stored = asked.present if asked.is_whole else self._stored(bounds_ms, session)
            changed = settle(asked, known, stored, is_repair=is_repair)
            coverage.write(series_id, changed, session)
            is_dispute_ended |= ends_dispute(known, changed)
            if len(asked.disputed):
                self._open_dispute(asked, stored, session)
            if changed:
                self.helpers.note_codes(self.job, bounds_ms[1], session)
            if any(bool(wants_repair(codes).any()) for codes in changed.values()):
                newly_missing.append((asked.first, asked.end))
        if len(settled.late):
            known = coverage.read(series_id, int(settled.late[0]), int(settled.late[-1]) + 1, session)
            changed = mark_present(settled.late, known)
            coverage.write(series_id, changed, session)
            is_dispute_ended |= ends_dispute(known, changed)
        if is_dispute_ended:
            self._close_dispute(session)
        if newly_missing and not is_repair:
            start_ms, end_ms = grid.open_at(newly_missing[0][0]), grid.open_at(newly_missing[-1][1])
            self.helpers.want_repair(self.job, start_ms, end_ms, session)

    def _open_dispute(self, asked: Asked, stored: IntArray, session: ClientSession) -> None:
        """Open the series' alert, or bring the open one up to date: a person can look which of the candles is right."""
        grid = self.job.timeframe
        opens = [format_ms(grid.open_at(number)) for number in np.setdiff1d(asked.disputed, stored).tolist()]
        if opens:
            self.ledger.alerts.open_(
                subject=disputed_subject(self.series),
                title=f"{self.series.series_id}: the exchange gives candles of {opens[0]} that disagree, so none is stored",
                facts={**series_fields(self.job), "job_id": self.job.job_id, "opens_at": ", ".join(opens)},
                opened_at=to_datetime(self.clock.now_ms()),
                session=session,
            )

    def _close_dispute(self, session: ClientSession) -> None:
        """Resolve the series' alert if nothing of it is disputed any more."""
        runs = read_runs(self.ledger.coverage.read_lines(self.series.series_id, 0, NUMBER_MAX, session))
        if not any(run.state is IntervalState.DISPUTED for run in runs):
            self.ledger.alerts.resolve(disputed_subject(self.series), session)

    def _stored(self, bounds_ms: tuple[int, int], session: ClientSession) -> IntArray:
        return self.job.timeframe.numbers(self.candles.read_open_times(self.series, *bounds_ms, session))
