"""Run one job: claim in hand, fetch its pages within the limit, store them enriched, and say when it runs next."""

import random
from dataclasses import dataclass, replace
from typing import Final

from pymongo.client_session import ClientSession

from shared.deadline import Deadline, ServerClock
from shared.domain.connectors import Connector, ConnectorStatus
from shared.domain.jobs import Job, JobKind, RunOutcome, run_id_of, to_datetime, to_ms
from shared.domain.windows import WindowPlan
from shared.errors import ConfigurationError, EnrichmentFailed, ExchangeError, InvalidRequest, NotFound, StorageUnavailable
from shared.stores.alerts import AlertStore
from shared.stores.candles import CandleStore, Series
from shared.stores.connectors import ConnectorStore
from shared.stores.database import Database, Document, storage_errors
from shared.stores.job_leases import JobLeases
from shared.stores.revisions import RevisionStore
from shared.stores.runs import RunStore
from shared.telemetry import bound, event
from shared.usecases.enrich_series import SeriesEnricher
from shared.usecases.fetch_pages import NothingDue, Page, PageFetcher
from shared.usecases.keep_ledger import LedgerKeeper, SeriesLedger, Settled
from shared.usecases.pages_ahead import PagesAhead
from shared.usecases.plan_run import RunPlanner, plan_live
from shared.usecases.resolve_specs import SeriesSpecs
from shared.usecases.run_alerts import open_run_alerts
from shared.usecases.run_endings import Ending, RunEndings, RunLimits
from shared.usecases.run_records import error_document, kept_facts, lost_runs, spent_fields, stored_fields
from shared.usecases.send_requests import PAGE_RESERVE_MS, FetchTotals, RequestSender, RequestSenders
from shared.usecases.series_jobs import SeriesHelpers
from shared.usecases.settle_slots import RunSlots
from shared.usecases.store_pages import Change, PageWriter, StoppedMeanwhile, StoreTotals, check_goes_on

LOGGED_FIELDS: Final = ("outcome", "pages", "requests", "candles", "revised", "error")
# A repair or backfill gives its place to others after this long: there are fewer places than jobs that are far behind.
TURN_MS: Final = 15_000


@dataclass(frozen=True, slots=True)
class RunResult:
    """What the worker answers: enough for a person to read in a log."""

    run_id: str
    outcome: RunOutcome
    candles: int
    requests: int


@dataclass(frozen=True, slots=True)
class JobRunner:
    """The worker's use case. Holds the stores; one instance serves many runs at once."""

    database: Database
    connectors: ConnectorStore
    leases: JobLeases
    senders: RequestSenders
    candles: CandleStore
    ledger: SeriesLedger
    helpers: SeriesHelpers
    planner: RunPlanner
    enricher: SeriesEnricher
    revisions: RevisionStore
    runs: RunStore
    alerts: AlertStore
    run_limits: RunLimits
    rng: random.Random
    specs: SeriesSpecs

    def run(self, job_id: str, fence: int, trigger: str, deadline: Deadline) -> RunResult:
        """Run the claim to its end.

        Raises:
            LeaseLost: the claim is not ours (any more); nothing was written after that was known.
            StorageUnavailable: MongoDB went away; the lease runs out and the job is claimed again.
        """
        run_id = run_id_of(job_id, fence)
        with storage_errors(), bound(job_id=job_id, run_id=run_id), self.database.open_session() as session:
            session_id = session.session_id["id"]
            document = self.leases.begin(job_id, fence, run_id, self.run_limits.lease_ms, session_id)
            clock = ServerClock.stamped(to_ms(document["lock"]["started_at"]))
            return _Run(self, document, fence, trigger, clock, deadline, session).run()


class _Run:
    """One run: the state that its steps share."""

    def __init__(
        self,
        runner: JobRunner,
        document: Document,
        fence: int,
        trigger: str,
        clock: ServerClock,
        deadline: Deadline,
        session: ClientSession,
    ) -> None:
        self._runner = runner
        self._session = session
        self._document = document
        self._job = Job.from_document(document)
        self._fence = fence
        self._trigger = trigger
        self._clock = clock
        self._deadline = deadline
        if self._job.kind is not JobKind.LIVE:
            self._deadline = deadline.earlier(Deadline.after((PAGE_RESERVE_MS + TURN_MS) / 1000))
        self._endings = RunEndings(self._job, runner.run_limits, runner.rng)
        self._cursor_ms = self._job.cursor_ms
        self._connector: Connector | None = None
        self._sender: RequestSender | None = None
        self._fetcher: PageFetcher | None = None
        self._writer: PageWriter | None = None
        self._keeper: LedgerKeeper | None = None
        self._plan: WindowPlan | None = None
        self._page_max = 0
        self._begins_ms: int | None = None
        self._history_start_ms: int | None = None
        self._lost: Document | None = None
        self._pages = 0
        self._stored_pages = 0

    def run(self) -> RunResult:
        """Everything between the begin of the lease and its release."""
        limits = self._runner.run_limits
        try:
            if self._job.attempt >= limits.attempts_max:
                died = ConfigurationError(f"{self._job.attempt} attempts in a row failed, or their workers died")
                return self._finish(Ending(RunOutcome.ERROR, self._clock.now_ms(), self._job.attempt, "error", died))
            if self._job.kind is JobKind.ENRICH:
                return self._enrich()
            connector = self._connector = self._runner.connectors.get_connector(self._job.connector_id)
            if connector.status is ConnectorStatus.PAUSED:
                return self._finish(self._endings.paused(self._clock.now_ms(), self._attempt()))
            with storage_errors():
                lease = Deadline.after(limits.lease_ms / 1000)
                sender = self._runner.senders.open(self._job, connector, self._clock, self._deadline.earlier(lease))
                self._sender = sender
                self._open(connector, sender)
                return self._follow(connector)
        except (ExchangeError, EnrichmentFailed, ConfigurationError, InvalidRequest, NotFound, StorageUnavailable) as exc:
            # MongoDB perhaps is back already; if not, the lease runs out by itself.
            return self._finish(self._endings.failed(exc, self._clock.now_ms(), self._attempt()))
        finally:
            if self._sender is not None:
                self._sender.grants.close()

    def _enrich(self) -> RunResult:
        """The run of a job that asks nothing of the exchange."""
        with storage_errors():
            done = self._runner.enricher.run(self._job, self._fence, self._session, self._deadline)
            return self._finish(self._endings.enriched(done, self._clock.now_ms()))

    def _open(self, connector: Connector, sender: RequestSender) -> None:
        runner, job, client = self._runner, self._job, sender.client
        series = Series.of(job)
        runner.candles.ensure_collection(series)
        helpers = runner.helpers
        planned = runner.planner.plan(job, series, connector, client, self._clock)
        self._plan, self._begins_ms = planned.windows, planned.begins_ms
        if planned.begins_ms is not None:
            self._note_lost(job.start_ms, planned.begins_ms)
        self._page_max = client.spec.candles.limit_of(job.timeframe.name)
        self._keeper = LedgerKeeper(job, series, runner.ledger, runner.candles, helpers, self._clock)
        self._writer = PageWriter(
            job=job,
            fence=self._fence,
            specs=runner.specs.of_run(self._document, series),
            read_specs=lambda: runner.specs.read(series),
            series=series,
            keeper=self._keeper,
            database=runner.database,
            session=self._session,
            leases=runner.leases,
            candles=runner.candles,
            lease_ms=runner.run_limits.lease_ms,
            helpers=helpers,
            revisions=runner.revisions,
            clock=self._clock,
            epoch=self._document.get("epoch", 0),
        )
        self._fetcher = PageFetcher(job, self._plan, sender)

    def _follow(self, connector: Connector) -> RunResult:
        """Pages until caught up, out of room or out of time; more are fetched while those before are stored."""
        assert self._fetcher is not None
        fetcher, pages_max = self._fetcher, self._runner.run_limits.pages_max
        step = fetcher.next_page()
        if isinstance(step, Page) and pages_max > 1 and self._is_far(step):
            if self._store([step]) != "active":
                return self._finish(self._endings.stopped(self._clock.now_ms()))
            self._move_on(step.now_ms)
            step = fetcher.next_page()
        # One by one, and never the run's last: what comes behind them is asked for as far as they have got.
        while isinstance(step, Page) and self._pages + 2 < pages_max and fetcher.will_skim(step):
            if self._store([step]) != "active":
                return self._finish(self._endings.stopped(self._clock.now_ms()))
            step = fetcher.next_page()
        if not isinstance(step, Page):
            return self._end_without_page(step, connector)
        pages_left = pages_max - self._pages
        if step.advance.is_caught_up or pages_left == 1:
            return self._store_last([step], connector)
        with fetcher.reading_ahead(pages_left - 1), PagesAhead(fetcher, step, pages_left) as ahead:
            while isinstance(taken := ahead.take(), list):
                if taken[-1].advance.is_caught_up or self._pages + len(taken) == pages_max:
                    return self._store_last(taken, connector)
                if self._store(taken) != "active":
                    return self._finish(self._endings.stopped(self._clock.now_ms()))
        return self._end_without_page(taken, connector)

    def _is_far(self, page: Page) -> bool:
        return self._runner.planner.is_far(self._job, page.cursor_ms, self._page_max, page.now_ms)

    def _move_on(self, now_ms: int) -> None:
        """To the market's end; what is between is left to the series' history job."""
        assert self._fetcher is not None
        assert self._writer is not None
        begins_ms = self._job.begins_ms or self._begins_ms
        job = replace(self._job, cursor_ms=self._cursor_ms, begins_ms=begins_ms)
        moved = self._runner.planner.move_on(job, self._fence, self._fetcher.sender.client, now_ms, self._session)
        self._job, self._plan, self._cursor_ms = moved, plan_live(moved), moved.cursor_ms
        self._fetcher.go_on(moved, self._plan)
        self._writer.go_on(moved)

    def _store(self, pages: list[Page]) -> str:
        """Pages that are not the run's last, in one transaction. Returns the job's status."""
        assert self._fetcher is not None
        assert self._writer is not None
        if self._runner.helpers.is_stopped(self._document):
            return "paused"
        change, settled = self._plan_change(pages)
        renewed = Deadline.after(self._runner.run_limits.lease_ms / 1000)
        cursor_ms = pages[-1].cursor_ms
        # What is passed at once, since nothing was traded, is no measure of the pace.
        asked_count = sum(min(page.asked_count(self._job.timeframe), self._page_max) for page in pages)
        try:
            status = self._writer.store(change, settled, cursor_ms, self._begins_ms, asked_count)
        except StoppedMeanwhile:
            return "paused"
        # Not before: a page that could not be stored must be asked for again.
        self._cursor_ms = cursor_ms
        self._stored_pages += len(pages)
        self._fetcher.sender.deadline = self._deadline.earlier(renewed)
        event("pages_stored", "DEBUG", pages=len(pages), candles_count=change.new_count, cursor_ms=cursor_ms)
        return status

    def _store_last(self, pages: list[Page], connector: Connector) -> RunResult:
        """The run's last pages, in the transaction that also ends it."""
        if self._fetcher is not None:
            self._fetcher.stop_ahead()
            # Nothing more is asked for: what is left of its grants is free for others while this is stored.
            self._fetcher.sender.grants.close()
        change, settled = self._plan_change(pages)
        ending = self._endings.after_page(pages[-1], connector, self._clock.now_ms())
        try:
            return self._finish(ending, change, settled, pages[-1].cursor_ms)
        except StoppedMeanwhile:
            return self._finish(self._endings.stopped(self._clock.now_ms()))

    def _plan_change(self, pages: list[Page]) -> tuple[Change, Settled]:
        """What pages that follow each other change, as if they were one, and what they settle."""
        assert self._writer is not None
        assert self._keeper is not None
        self._pages += len(pages)
        candles = pages[0].fetched.candles
        for page in pages[1:]:
            candles = candles.then(page.fetched.candles)
        for page in pages:
            self._note_history_start(page)
        window, kind = pages[0].window, self._job.kind
        if kind is JobKind.REPAIR:
            change = self._writer.plan_repair(candles)
        elif kind is JobKind.BACKFILL:
            asked_ms = pages[-1].advance.cursor_ms
            end_ms = window.new_ms if asked_ms is None else self._job.timeframe.close(asked_ms)
            change = self._writer.plan_gap(candles, window.new_ms, end_ms)
        else:
            change = self._writer.plan_change(candles, window.start_ms, window.new_ms)
        opens_ms = change.candles.open_ms
        late_ms = opens_ms[~change.is_stored & (opens_ms < window.new_ms)]
        return change, self._keeper.plan(pages, late_ms, self._begins_ms)

    def _note_history_start(self, page: Page) -> None:
        """Where the exchange's history begins; behind our cursor it means that candles are gone for good."""
        history_start_ms, new_ms = page.fetched.history_start_ms, page.window.new_ms
        if history_start_ms is None:
            return
        self._history_start_ms = self._history_start_ms or history_start_ms
        is_new = self._document["cursor"]["last_ts"] is None and not self._stored_pages
        if history_start_ms > new_ms and is_new and self._job.kind is not JobKind.REPAIR:
            self._begins_ms = self._begins_ms or history_start_ms
        if history_start_ms > new_ms and (not is_new or self._job.kind is not JobKind.LIVE):
            self._note_lost(new_ms, history_start_ms)

    def _note_lost(self, start_ms: int, end_ms: int) -> None:
        from_at = to_datetime(start_ms) if self._lost is None else self._lost["from"]
        self._lost = {"from": from_at, "to": to_datetime(end_ms)}
        event("history_lost", "ERROR", from_ms=start_ms, to_ms=end_ms)

    def _end_without_page(self, step: object, connector: Connector) -> RunResult:
        if isinstance(step, NothingDue) and self._plan is not None:
            self._cursor_ms = self._plan.pass_known(self._cursor_ms)
        now_ms, attempt = self._clock.now_ms(), self._attempt()
        return self._finish(self._endings.without_page(step, connector, now_ms, self._cursor_ms, attempt))

    def _attempt(self) -> int:  # failed runs in a row: one that got on ends the row, however it ends itself
        return 0 if self._stored_pages else self._job.attempt

    def _finish(
        self, ending: Ending, change: Change | None = None, settled: Settled | None = None, cursor_ms: int | None = None
    ) -> RunResult:
        """The last transaction: a page and its cursor if any, lease released, job_runs, an alert for a hard failure."""
        change = change or Change.none()
        cursor_ms = self._cursor_ms if cursor_ms is None else cursor_ms

        def write(session: ClientSession, change: Change) -> Document:
            return self._write_ending(ending, change, settled, cursor_ms, session)

        if self._writer is None:
            record = self._runner.database.transact(lambda session: write(session, change), self._session)
        else:
            record, _ = self._writer.transact(change, write)
        severity = {RunOutcome.FAILED: "WARNING", RunOutcome.ERROR: "ERROR"}.get(ending.outcome, "INFO")
        event("run_ended", severity, **{name: record[name] for name in LOGGED_FIELDS})
        return RunResult(record["_id"], ending.outcome, record["candles"], record["requests"])

    def _write_ending(
        self, ending: Ending, change: Change, settled: Settled | None, cursor_ms: int | None, session: ClientSession
    ) -> Document:
        runner, job = self._runner, self._job
        record = self._run_document(ending, change, cursor_ms)
        has_failed = ending.outcome in (RunOutcome.FAILED, RunOutcome.ERROR)
        error = record["error"]
        slots = RunSlots(self._document, self._connector, ending.outcome, ending.asked_end_ms, to_ms(record["finished_at"]))
        planned = slots.plan()
        after = runner.leases.finish(
            job.job_id,
            self._fence,
            status=ending.status,
            end_at=self._document["end_at"],
            wakes=self._document.get("wakes", 0),
            next_run_at=to_datetime(ending.next_run_ms),
            attempt=ending.attempt,
            last_error=error,
            cursor=record["cursor_after"],
            begins_at=None if self._begins_ms is None else to_datetime(self._begins_ms),
            added={
                "runs": 1,
                "requests": record["requests"],
                "weight": record["weight"],
                "candles": change.new_count,
                "revisions": change.revised_count,
                "failures": int(has_failed),
            },
            facts={
                **kept_facts(job, self._writer.specs if self._writer else None, self._history_start_ms),
                **ending.facts,
                **({"done_at": record["finished_at"]} if ending.status == "done" else {}),
            },
            ledgers=planned.ledgers if planned else None,
            session=session,
        )
        if planned:
            record["slots"] = slots.settle(planned, after, runner.leases, self._fence, session)
        if self._writer is not None and settled is not None:
            check_goes_on(job, after)
            self._writer.land(change, settled, after, session)
            self._writer.note_begins(self._begins_ms, session)
        if job.kind is JobKind.BACKFILL and (ending.status is not None or after["status"] != "active"):
            runner.helpers.note_left(job, cursor_ms, session)
        runner.helpers.note_part_done(self._document, after["status"], session)
        runner.runs.append([*lost_runs(job, self._document.get("abandoned", ())), record], session)
        open_run_alerts(runner.alerts, record, ending.outcome, self._lost, session)
        return record

    def _run_document(self, ending: Ending, change: Change, cursor_ms: int | None) -> Document:
        """What goes to `job_runs`. `change` is what the same transaction stores and `_writer.totals` does not count yet."""
        lock = self._document["lock"]
        finished_ms = self._clock.now_ms()
        return {
            "_id": lock["run_id"],
            "job_id": self._job.job_id,
            "connector_id": self._job.connector_id,
            "trigger": self._trigger,
            "holder": lock["holder"],
            "fence": self._fence,
            "scheduled_at": lock["scheduled_at"],
            "claimed_at": lock["claimed_at"],
            "started_at": lock["started_at"],
            "finished_at": to_datetime(finished_ms),
            "outcome": ending.outcome.value,
            "pages": self._pages,
            **spent_fields(self._sender.totals if self._sender else FetchTotals()),
            **stored_fields(self._writer.totals if self._writer else StoreTotals(), change),
            "cursor_before": self._document["cursor"]["last_ts"],
            "cursor_after": None if cursor_ms is None else to_datetime(cursor_ms),
            "error": error_document(ending.error, finished_ms),
        }
