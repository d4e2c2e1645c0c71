"""A whole platform whose time can be moved on: mongod (so `$$NOW`) and the exchanges' clock together, by days at once.

The functions are the deployed ones. The scheduler's calls are made here, so that an outage is time in which there are none.
Limits are counted on monotonic clocks at the exchange's door, but on the database's by those who have to hold them; time is
therefore moved only after a whole period in which nothing was sent, which is how it would have passed.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from local_emulator.identity import IdentityProvider
from local_emulator.processes import Service, Supervisor, answers_http
from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.truth import true_candles
from shared.domain.candles import CandleBatch
from shared.domain.indicators import DEFAULT_INDICATORS
from shared.domain.jobs import to_datetime, to_ms
from shared.domain.timeframes import TIMEFRAMES
from shared.errors import PlatformError
from shared.telemetry import event
from shared.usecases.run_endings import BACKFILL_AWAITED_MS
from shared.wiring import Platform
from tests.deployed import SCHEDULER, TICK, start_functions, tick_caller
from tests.factories import add_connector, make_platform, stored_documents
from tests.faults.replica_set import start_replica_set
from tests.faults.wrong_clock import find_libfaketime, movable_environment, move_clock
from tests.replay import assert_series_equals
from tests.waiting import HANG_S, wait_until

SEED: Final = 31
DATABASE: Final = "outage"
PERIOD_MS: Final = 1_000
# A live job has its candle after so many of its own runs since the close, or since the end of an outage: one that may be sent
# away for want of room, and one that asks.
FRESH_RUNS: Final = 2
# Looks of the tick that claim history of its connector after it has fallen due and before it is claimed itself: the one that is
# under way, and every eighth, which begins with history.
LOOKS_BEFORE_MAX: Final = 2
# A run ends after so many pages: an outage finds the history half done, not after one run.
PAGES_MAX: Final = 12

Document = dict[str, Any]


def is_on_its_way(job: Document, now_ms: int) -> bool:
    """Whether somebody may be at work on it."""
    return "claim_id" in job["lock"] and to_ms(job["lock"]["expires_at"]) > now_ms


@dataclass
class World:
    """The processes, and what time it is."""

    platform: Platform
    simulator: SimulatorProcess
    supervisor: Supervisor
    clock_file: Path
    worker: Service
    call_tick: Callable[[], Document]
    limits: Mapping[str, tuple[int, int]]
    ahead_ms: int = 0

    def now_ms(self) -> int:
        """By the database."""
        return self.platform.database.server_now_ms()

    @property
    def moves(self) -> Collection[Document]:
        """Something to write to that means nothing."""
        return self.platform.database.collection("moves")

    def jobs(self, kind: str | None = None) -> list[Document]:
        """All, or those of one kind."""
        return list(self.platform.database.collection("jobs").find({} if kind is None else {"kind": kind}))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The scheduler calls the tick all the while."""
        is_over, failed = threading.Event(), list[Exception]()

        def call() -> None:
            while not is_over.is_set():
                try:
                    self.call_tick()
                except Exception as exc:  # noqa: BLE001 - the test's own thread tells it
                    failed.append(exc)
                    return

        thread = threading.Thread(target=call)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
        assert not failed, failed

    def pass_time(self, by_ms: int, until_ms: tuple[int, int] = (1, 0), *, were_killed: bool = False) -> int:
        """Nothing runs for so long, and on to the next moment that is `until_ms` = (period, phase). Returns the time then.

        Runs that are on their way end first, if they were not killed.
        """
        if not were_killed:
            # One that was killed before keeps its lease, until that has run out and somebody claims its job.
            wait_until(lambda: not any(is_on_its_way(job, self.now_ms()) for job in self.jobs()), self.told)
        self.rest()
        period_ms, phase_ms = until_ms
        by_ms += (phase_ms - self.now_ms() - by_ms) % period_ms
        self.ahead_ms += by_ms
        move_clock(self.clock_file, self.ahead_ms / 1000)
        told = self.simulator.clock(offset_ms=self.ahead_ms)
        wait_until(lambda: self.has_come_to(told["now_ms"]), self.simulator.clock)
        return self.now_ms()

    def has_come_to(self, now_ms: int) -> bool:
        """Whether mongod's clock has, and it does its work: what is under way while its clock jumps is out of time there."""
        try:
            self.platform.database.transact(lambda session: self.moves.insert_one({}, session=session))
            return self.now_ms() >= now_ms
        except (PlatformError, PyMongoError):
            return False

    def rest(self) -> None:
        """Until what has been sent is a whole period ago, and nothing can be under way any more: a request that is sent before

        the clock jumps and arrives after it is what no limiter can count.
        """
        margin_ms = 300

        def is_quiet() -> bool:
            report = self.simulator.report(PERIOD_MS + margin_ms)
            return not self.may_arrive() and all(report[exchange]["weight_recent"] == 0 for exchange in self.limits)

        wait_until(is_quiet, self.simulator.report)

    def may_arrive(self) -> bool:
        """Whether a connector has grants of which it is not known yet what has become of them, and whose end has not come."""
        now_ms = self.now_ms()
        limiters = [
            each["limiter"] for each in self.platform.database.collection("connectors").find({}, {"limiter.unsettled": 1})
        ]
        return any(grant["t"] > now_ms for limiter in limiters for grant in limiter.get("unsettled", ()))

    def kill_worker(self) -> None:
        """kill -9 of the worker's process, with all runs in it; the supervisor starts another one."""
        restarts = self.supervisor.restarts_count
        os.killpg(self.supervisor.pid("worker"), signal.SIGKILL)
        wait_until(lambda: self.supervisor.restarts_count > restarts and answers_http(self.worker.port), self.supervisor.states)

    def look(self) -> list[Document]:
        """All jobs, each live one's candle at its cursor seen to be there."""
        jobs = self.jobs()
        for job in jobs:
            at = job["cursor"]["last_ts"]
            # One that has just been brought to the market's end stands before the first candle that it will have there.
            if job["kind"] == "live" and at is not None and at >= job.get("follows_at", at):
                name = f"candles_{job['exchange']}_{job['symbol'].replace('/', '-')}_{job['timeframe']}"
                found = self.platform.database.collection(name).count_documents({"_id": at}, limit=1)
                assert found, f"{job['_id']} is at {at}, and has no such candle"
        return jobs

    def work_until(self, holds: Callable[[list[Document]], object], limit_s: float = HANG_S) -> None:
        """Ticks, until that holds of the jobs."""
        with self.at_work():
            wait_until(lambda: holds(self.look()), self.told, limit_s)

    def settle(self, limit_s: float = HANG_S) -> int:
        """Ticks, until live jobs are at the market's end and nothing is left of what their series have made for themselves.

        Returns when all history was there; until then time was not moved.
        """
        self.work_until(lambda jobs: self.are_fresh(jobs) and not any(is_left(job, ("backfill",)) for job in jobs), limit_s)
        worked_ms = self.now_ms()
        for _ in range(5):
            if not any(is_left(job, ("enrich",)) for job in self.jobs()):
                return worked_ms
            # It looks for the end of the history jobs now and then.
            self.pass_time(BACKFILL_AWAITED_MS)
            self.work_until(lambda jobs: not any(is_due(job, self.now_ms()) for job in jobs), limit_s)
        raise AssertionError(self.told())

    def are_fresh(self, jobs: list[Document]) -> bool:
        """Whether each live job has all that has closed."""
        now_ms = self.now_ms()
        return all(cursor_ms(job) >= newest_ms(job["timeframe"], now_ms) for job in jobs if job["kind"] == "live")

    def told(self) -> object:
        names = ("_id", "status", "cursor", "start_at", "end_at", "next_run_at", "lock", "last_error")
        return to_datetime(self.now_ms()), [[job.get(name) for name in names] for job in self.jobs()]

    def clear(self) -> None:
        """No jobs, no runs; series stay, so that a test takes symbols that none before it had."""
        self.rest()
        for name in ("jobs", "job_runs", "alerts"):
            self.platform.database.collection(name).delete_many({})

    def runs(self, job_id: str, since_ms: int) -> list[Document]:
        """Of a job, in order, those that started then or later."""
        found = self.platform.database.collection("job_runs").find(
            {"job_id": job_id, "started_at": {"$gte": to_datetime(since_ms)}}
        )
        return sorted(found, key=lambda run: int(run["fence"]))

    def assert_live_first(self, back_ms: int, worked_ms: int) -> int:
        """Each live job was at the market's end before all history: after `back_ms`, and after each close until `worked_ms`.

        Returns how many closes there have been.
        """
        took = []
        for job in self.jobs("live"):
            grid, runs = TIMEFRAMES[job["timeframe"]], self.runs(job["_id"], back_ms)
            close_ms = grid.closed_end(back_ms)
            while close_ms <= worked_ms:
                goal = to_datetime(grid.shift(close_ms, -1))
                since = [run for run in runs if to_ms(run["started_at"]) >= close_ms]
                having = [number for number, run in enumerate(since) if run["cursor_after"] and run["cursor_after"] >= goal]
                if having:
                    assert having[0] < FRESH_RUNS, f"{job['_id']} took {having[0] + 1} runs for {goal}: {since[:3]}"
                    for run in since[: having[0] + 1]:
                        self._assert_first(run)
                    took.append(to_ms(since[having[0]]["finished_at"]) - max(close_ms, back_ms))
                else:
                    # The last close may be served when all history is there already.
                    assert back_ms < close_ms <= worked_ms < grid.close(close_ms), (job, runs)
                close_ms = grid.close(close_ms)
        event("fresh_closes", took_ms=sorted(took))
        return len(took) - len(self.jobs("live"))

    def _assert_first(self, run: Document) -> None:
        """From when it fell due no history of its connector was claimed before it."""
        claims = self.platform.database.collection("job_runs").distinct(
            "claimed_at",
            {
                "connector_id": run["connector_id"],
                "job_id": {"$regex": ":history$"},
                "claimed_at": {"$gt": run["scheduled_at"], "$lt": run["claimed_at"]},
            },
        )
        assert len(claims) <= LOOKS_BEFORE_MAX, f"{run} came after the history that was claimed at {claims}"

    def assert_limits_held(self) -> None:
        """At the exchanges' doors, since their start."""
        for exchange, (limit, _) in self.limits.items():
            report = self.simulator.report()[exchange]
            assert (report["throttled"], report["bans"]) == (0, 0), report
            for window in report["windows"]:
                assert window["over_limit"] == 0, report
                assert window["worst"] <= limit, report

    def assert_whole(self, job_id: str, lost: Sequence[tuple[int, int]] = ()) -> int:
        """From the job's start to its cursor everything is stored and right but for what is lost. Returns how many candles."""
        job = self.platform.jobs.get(job_id)
        grid = TIMEFRAMES[job["timeframe"]]
        bounds_ms = (grid.ceil(to_ms(job["start_at"])), grid.close(cursor_ms(job)))
        expected = true_candles(SEED, job["exchange"], job["symbol"], job["timeframe"], *bounds_ms)
        expected = without(expected, lost)
        stored = stored_documents(self.platform, job["exchange"], job["symbol"], job["timeframe"])
        assert_series_equals(stored, expected, DEFAULT_INDICATORS, grid.name)
        found = self.platform.coverage_reader.read(job_id, None, bounds_ms[1], frozenset(), 1)
        beyond = sum(grid.count(*stretch) for stretch in lost)
        told = {state.value: count for state, count in found.counts.items() if count}
        assert told == {"stored": len(expected), **({"beyond_history": beyond} if beyond else {})}
        return len(expected)


def without(candles: CandleBatch, stretches: Sequence[tuple[int, int]]) -> CandleBatch:
    for start_ms, end_ms in stretches:
        candles = candles[(candles.open_ms < start_ms) | (candles.open_ms >= end_ms)]
    return candles


def cursor_ms(job: Document) -> int:
    """0 without one."""
    at = job["cursor"]["last_ts"]
    return 0 if at is None else to_ms(at)


def newest_ms(timeframe: str, now_ms: int) -> int:
    """Open time of the newest closed interval."""
    grid = TIMEFRAMES[timeframe]
    return grid.shift(grid.closed_end(now_ms), -1)


def is_left(job: Document, kinds: Sequence[str]) -> bool:
    return job["kind"] in kinds and job["status"] != "done"


def is_due(job: Document, now_ms: int) -> bool:
    return job["status"] == "active" and (to_ms(job["next_run_at"]) <= now_ms or "claim_id" in job["lock"])


@contextmanager
def start_world(folder: Path, limits: Mapping[str, tuple[int, int]]) -> Iterator[World]:
    """All processes, with a connector for each exchange and its limit; libfaketime has to be there."""
    library = find_libfaketime()
    assert library is not None
    clock_file = folder / "clock"
    move_clock(clock_file, 0)
    with ExitStack() as stack:
        mongod = stack.enter_context(start_replica_set(folder, [movable_environment(library, clock_file)]))
        simulator = stack.enter_context(start_simulator(seed=SEED))
        platform = make_platform(mongod.uri, DATABASE)
        stack.callback(platform.close)
        for exchange, limit in limits.items():
            simulator.configure(exchange, [limit])
            add_connector(platform, exchange, base_url=simulator.base_url(exchange), windows=[limit], settle_delay_ms=500)
        provider = IdentityProvider([SCHEDULER, TICK])
        stack.callback(provider.stop)
        supervisor = Supervisor()
        stack.callback(supervisor.stop)
        settings = {"CHANDLER_WORKER_PAGES_MAX": str(PAGES_MAX), "CHANDLER_LEASE_MS": "40000"}
        tick, worker = start_functions(supervisor, provider, mongod.uri, DATABASE, folder, **settings)
        call_tick = stack.enter_context(tick_caller(provider, tick))
        yield World(platform, simulator, supervisor, clock_file, worker, call_tick, limits)
