"""What an order for a stretch of the past comes to: what of it is there, what asking for the rest costs, how it is shared."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from shared.domain.backfills import Estimate, LimitRoom, decide_workers, estimate, split_range, workers_of_use
from shared.domain.connectors import Connector, booked_windows
from shared.domain.coverage import IntervalState, Run, count_states, merge_spans
from shared.domain.indicators import cumulative_fields
from shared.domain.job_ranges import EARLIEST_MS, format_ms
from shared.domain.jobs import Job, JobKind, JobStatus, to_ms
from shared.domain.timeframes import TIMEFRAMES, Timeframe
from shared.domain.windows import GapPlan
from shared.errors import Conflict, InvalidRequest
from shared.exchanges.client import ExchangeClient
from shared.stores.candles import CandleStore, Series
from shared.stores.connectors import ConnectorStore
from shared.stores.database import Database, Document
from shared.stores.job_summaries import JobSummaries
from shared.stores.jobs import JobStore
from shared.usecases.keep_ledger import SeriesLedger, wanted_of
from shared.usecases.resolve_specs import SeriesSpecs
from shared.usecases.send_requests import OpenExchange
from shared.usecases.series_jobs import series_fields


@dataclass(frozen=True, slots=True)
class BackfillOrder:
    """[start_ms, end_ms) to be asked for; `end_ms` None: up to the last closed interval. `workers` None: as many as help."""

    start_ms: int
    end_ms: int | None
    workers: int | None


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """What an order comes to.

    `counts` are of all its intervals, `parts` the stretches of its workers (none: all is there), `part_wanted` how many
    intervals each has to ask for. `holes` are stretches that it leaves between its own and candles that are there.
    """

    backfill_id: str
    job: Job
    start_ms: int
    end_ms: int
    counts: Mapping[IntervalState, int]
    wanted: int
    estimate: Estimate
    parts: Sequence[tuple[int, int]]
    part_wanted: Sequence[int]
    holes: Sequence[tuple[int, int]]
    planned_ms: int


@dataclass(frozen=True, slots=True)
class BackfillPlanner:
    """Plans backfills. Nothing is asked of an exchange, and nothing is written."""

    database: Database
    connectors: ConnectorStore
    jobs: JobStore
    ledger: SeriesLedger
    candles: CandleStore
    summaries: JobSummaries
    open_exchange: OpenExchange
    specs: SeriesSpecs

    def plan(self, job_id: str, order: BackfillOrder) -> BackfillPlan:
        """What the order comes to, for the series of that job. Nothing is asked of the exchange.

        Raises:
            NotFound: no such job.
            Conflict: another backfill of the series that is not done wants some of the same.
            InvalidRequest: names `from` or `to`: not in order, not in the past, or before anything was traded.
        """
        now_ms = self.database.server_now_ms()
        job = Job.from_document(self.jobs.get(job_id))
        start_ms, end_ms = self._check_range(job, order, now_ms)
        grid = job.timeframe
        connector = self.connectors.get(job.connector_id)
        client = self.open_exchange(Connector.from_document(connector), lambda: now_ms)
        page_max = partial(client.page_max, grid.name)
        kept = client.spec.history_of(grid.name)
        wall_ms = 0 if kept is None else grid.shift(grid.floor(now_ms), -kept)
        begins_ms = max(wall_ms, grid.open_at(self.ledger.begins(Series.of(job), job)))
        runs = self.read_runs(job, start_ms, end_ms, wall_ms)
        # What is older than the exchange's history is not asked for, missing or not.
        reached = [replace(run, first=max(run.first, grid.number(begins_ms))) for run in runs]
        reached = [run for run in reached if run.first < run.end]
        gaps = GapPlan(grid, self.ledger.gaps_of(reached, grid, page_max(start_ms)))
        pages = [(page.new_ms, page.end_ms) for page in gaps.windows_ahead(None, page_max, now_ms)]
        wanted = wanted_of(reached)
        weight = sum(client.weight(grid.name, grid.count(*page)) for page in pages)
        has_cumulative = bool(cumulative_fields(self.specs.read(Series.of(job))))
        rooms = self._rooms(connector, client, now_ms)
        of_use = workers_of_use(len(pages), weight, rooms)
        workers = decide_workers(order.workers, len(pages), of_use, has_cumulative=has_cumulative)
        parts = split_range(max(start_ms, begins_ms), end_ms, pages, workers) if pages else ()
        keeping = self.ledger.series_jobs.list_keeping(series_fields(job))
        plan = BackfillPlan(
            backfill_id=_id_of(job, start_ms, end_ms),
            job=job,
            start_ms=start_ms,
            end_ms=end_ms,
            counts=count_states(runs),
            wanted=wanted,
            estimate=estimate(len(pages), weight, wanted, rooms, workers),
            parts=parts,
            part_wanted=[wanted_of(self.read_runs(job, *part)) for part in parts],
            holes=self._holes(job, start_ms, end_ms, wall_ms, keeping) if parts else (),
            planned_ms=now_ms,
        )
        if parts:
            check_others(plan, keeping)
        return plan

    def read_runs(self, job: Job, start_ms: int, end_ms: int, wall_ms: int = 0) -> list[Run]:
        """The states of these intervals; before `wall_ms` the exchange has nothing any more."""
        grid, series = job.timeframe, Series.of(job)
        if start_ms >= end_ms:
            return []
        begins = max(self.ledger.begins(series, job), grid.number(wall_ms))
        return self.ledger.read_runs(series, job, grid.number(start_ms), grid.number(end_ms), begins)

    def _check_range(self, job: Job, order: BackfillOrder, now_ms: int) -> tuple[int, int]:
        grid = job.timeframe
        closed_ms = grid.closed_end(now_ms)
        end_ms = closed_ms if order.end_ms is None else grid.ceil(order.end_ms)
        if end_ms > closed_ms:
            raise InvalidRequest.for_field("to", f"lies ahead; the last closed interval ends at {format_ms(closed_ms)}")
        start_ms = grid.ceil(order.start_ms)
        if start_ms >= closed_ms:
            raise InvalidRequest.for_field("from", f"lies ahead; the last closed interval ends at {format_ms(closed_ms)}")
        if start_ms >= end_ms:
            asked = f"{format_ms(start_ms)}, the first open time from `from` on, is not before {format_ms(end_ms)}"
            raise InvalidRequest.for_field("from", f"{asked}, that from `to` on")
        if start_ms < EARLIEST_MS:
            raise InvalidRequest.for_field("from", f"nothing was traded before {format_ms(EARLIEST_MS)}")
        return start_ms, end_ms

    def _rooms(self, connector: Document, client: ExchangeClient, now_ms: int) -> list[LimitRoom]:
        """The connector's windows, and what its live jobs take of each."""
        per_ms = sum(
            count * client.spec.live_weight / TIMEFRAMES[timeframe].step_ms
            for timeframe, count in self.summaries.count_live(connector["_id"]).items()
        )
        return [
            LimitRoom(booked.window, booked.free_at(now_ms), per_ms * booked.window.period_ms)
            for booked in booked_windows(connector)
        ]

    def _holes(self, job: Job, start_ms: int, end_ms: int, wall_ms: int, keeping: Sequence[Document]) -> list[tuple[int, int]]:
        """What nobody asks for between the ordered stretch and the nearest candles on either side."""
        grid, series = job.timeframe, Series.of(job)
        earlier, next_ms = self.candles.find_bounds(series, 0, start_ms), self.candles.find_next_open(series, end_ms - 1)
        sides = [(grid.close(earlier[1]), start_ms)] if earlier else []
        sides += [(end_ms, next_ms)] if next_ms is not None else []
        asked = merge_spans(_asked_by(document, grid) for document in keeping if _is_at_work(document))
        holes: list[tuple[int, int]] = []
        for side in sides:
            runs = self.read_runs(job, *side, wall_ms)
            pending = [(grid.open_at(run.first), grid.open_at(run.end)) for run in runs if run.state is IntervalState.PENDING]
            holes += [left for span in pending for left in _without(span, asked)]
        return holes


def _without(span: tuple[int, int], taken: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What of the span lies in none of those taken, which ascend and do not touch."""
    start, end = span
    for first, last in taken:
        if first >= end or last <= start:
            continue
        if start < first:
            yield start, first
        start = max(start, last)
    if start < end:
        yield start, end


def check_others(plan: BackfillPlan, keeping: Sequence[Document]) -> None:
    """Raises Conflict if one of these jobs is a backfill at work that wants some of the same."""
    for document in keeping:
        first_ms, end_ms = _asked_by(document, plan.job.timeframe)
        if _is_at_work(document) and first_ms < plan.end_ms and end_ms > plan.start_ms:
            other = backfill_id_of(document)
            raise Conflict(
                f"backfill {other} asks for some of these intervals already; see GET /v1/backfills/{other}, "
                "wait for it or cancel it",
                backfill_id=other,
            )


def _is_at_work(document: Document) -> bool:
    return bool(document["kind"] == JobKind.BACKFILL and document["status"] != JobStatus.DONE)


def _asked_by(document: Document, grid: Timeframe) -> tuple[int, int]:
    """What a job has still to ask for, as a whole; 0 for the end of one that has none."""
    cursor_at, end_at = document["cursor"]["last_ts"], document["end_at"]
    next_ms = to_ms(document["start_at"]) if cursor_at is None else grid.close(to_ms(cursor_at))
    return next_ms, 0 if end_at is None else to_ms(end_at)


def backfill_id_of(document: Document) -> str:
    """The backfill that a job is a part of; one that was made otherwise is one by itself."""
    return str(document.get("backfill_id", document["_id"]))


def _id_of(job: Job, start_ms: int, end_ms: int) -> str:
    first, end = (format_ms(at_ms)[:16].replace("-", "").replace(":", "") for at_ms in (start_ms, end_ms))
    return f"{Series.of(job).series_id}:backfill:{first}-{end}"
