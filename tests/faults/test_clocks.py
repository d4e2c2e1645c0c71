"""Processes whose clocks are ten minutes ahead and ten behind: nothing that is stored, claimed or sent depends on them."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import jwt
import pytest

from local_emulator.identity import IdentityProvider
from local_emulator.processes import Supervisor
from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.truth import true_candles
from shared.domain.jobs import Job, to_datetime, to_ms
from shared.domain.timeframes import MINUTE_MS
from shared.errors import Unauthenticated
from shared.settings import load_settings
from shared.stores.candles import Series
from shared.usecases.authorize import IdentityTokens
from shared.wiring import Platform
from tests.deployed import SCHEDULER, TICK, start_functions, tick_caller
from tests.factories import add_connector, add_job, stored_documents
from tests.faults.wrong_clock import Clock, find_libfaketime
from tests.replay import assert_series_equals
from tests.waiting import HANG_S, wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
SEED: Final = 11
WRONG_S: Final = 600.0
SYMBOLS: Final = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "DOGE/USDT")
# A limit that stops everybody several times in the few seconds of the short test.
LIMIT: Final = 30
PERIOD_MS: Final = 2_000
LEASE_MS: Final = 60_000
# A stamp of the database's may be this far from our own clock after the longest of these tests; a wrong one is ten minutes off.
NEAR: Final = timedelta(minutes=5)
# How long a child has been at work at most when its log is read.
LOG_AGE_S_MAX: Final = HANG_S
assert LOG_AGE_S_MAX < WRONG_S


@dataclass(frozen=True)
class Worker:
    """A work_loop process and what it printed: its events, each with the time of its own clock."""

    clock: Clock
    process: "subprocess.Popen[bytes]"
    log: Path


needs_libfaketime = pytest.mark.skipif(
    find_libfaketime() is None, reason="needs libfaketime: requirements-dev.txt has it for x86-64 Linux"
)


def start_workers(clocks: Sequence[Clock], mongodb_uri: str, database: str, folder: Path, seconds: float) -> list[Worker]:
    arguments = (mongodb_uri, database, str(seconds), str(LEASE_MS), "20")
    workers = []
    for index, clock in enumerate(clocks):
        log = folder / f"worker{index}.log"
        command = clock.command("tests.machines.work_loop", arguments)
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=clock.environment(), stdout=output)
        workers.append(Worker(clock, process, log))
    return workers


def events(log: Path) -> list[dict[str, Any]]:
    """The structured lines of a log."""
    return [json.loads(line) for line in log.read_text(errors="replace").splitlines() if line.startswith('{"severity"')]


def assert_clock_was_wrong(log: Path, shift_s: float) -> None:
    """By the times that the process itself wrote: else the test would show nothing."""
    written = events(log)
    assert written, f"it did no work: {log.read_text(errors='replace')[-2000:]}"
    seen_s = datetime.fromisoformat(written[-1]["time"]).timestamp() - time.time()
    assert shift_s - LOG_AGE_S_MAX < seen_s < shift_s + 1


def last_closed_ms(at_ms: int) -> int:
    """Open time of the newest closed one-minute candle."""
    return at_ms // MINUTE_MS * MINUTE_MS - MINUTE_MS


def has_come_to(platform: Platform, goal_ms: int) -> bool:
    """Whether all live jobs have, and nothing is left of what their series have made for themselves."""
    jobs = all_of(platform, "jobs")
    reached = [to_ms(job["cursor"]["last_ts"] or to_datetime(0)) for job in jobs if job["kind"] == "live"]
    return min(reached) >= goal_ms and all(job["status"] == "done" for job in jobs if job["kind"] != "live")


def told(platform: Platform) -> Callable[[], object]:
    return lambda: [(job["_id"], job["cursor"], job["next_run_at"], job["last_error"]) for job in all_of(platform, "jobs")]


def all_of(platform: Platform, name: str) -> list[dict[str, Any]]:
    return list(platform.database.collection(name).find())


def assert_limit_held(simulator: SimulatorProcess, limit: int) -> None:
    report = simulator.report()["binance"]
    (window,) = report["windows"]
    assert (window["over_limit"], report["throttled"]) == (0, 0), report
    assert window["worst"] <= limit


def assert_series_right(platform: Platform, job_id: str, start_ms: int, simulator: SimulatorProcess) -> None:
    """All up to the cursor as they were when closed, and none that is not."""
    job = platform.jobs.get(job_id)
    documents = stored_documents(platform, "binance", job["symbol"], "1m")
    now_ms = int(simulator.clock()["now_ms"])
    assert to_ms(documents[-1]["_id"]) + MINUTE_MS <= now_ms, "a candle was stored that has not closed"
    expected = true_candles(SEED, "binance", job["symbol"], "1m", start_ms, to_ms(job["cursor"]["last_ts"]) + MINUTE_MS)
    specs = platform.specs.read(Series.of(Job.from_document(job)))
    assert_series_equals(documents, expected, specs)


def assert_runs_in_order(platform: Platform, job_id: str) -> None:
    """No claim before the one before it had ended, each on record, none lost; all times by the database's clock."""
    job = platform.jobs.get(job_id)
    runs = sorted(platform.runs.list_of_job(job_id, None, 500), key=lambda run: int(run["fence"]))
    is_held = "claim_id" in job["lock"]
    assert [run["fence"] for run in runs] == list(range(1, job["lock"]["fence"] + 1 - is_held))
    assert {run["outcome"] for run in runs} <= {"caught_up", "more", "waiting", "done"}
    for earlier, later in pairwise(runs):
        assert later["claimed_at"] >= earlier["finished_at"] - timedelta(milliseconds=5)
    now = to_datetime(platform.database.server_now_ms())
    stamps = [run[name] for run in runs for name in ("scheduled_at", "claimed_at", "started_at", "finished_at")]
    for stamp in (*stamps, job["next_run_at"]):
        assert abs(stamp - now) < NEAR, f"{stamp} is by a wrong clock"
    (connector,) = all_of(platform, "connectors")
    assert abs(to_datetime(connector["limiter"]["last_at_ms"]) - now) < NEAR


def run_workers_with_wrong_clocks(
    platform: Platform, uri: str, database: str, folder: Path, clocks: Sequence[Clock], intervals: int, until_s: float
) -> None:
    """Workers catch up with the market and follow it for `until_s`; then what they left is judged."""
    with start_simulator(seed=SEED) as simulator:
        simulator.configure("binance", [(LIMIT, PERIOD_MS)])
        add_connector(platform, base_url=simulator.base_url("binance"), windows=[(LIMIT, PERIOD_MS)], settle_delay_ms=500)
        began_ms = platform.database.server_now_ms()
        start_ms = last_closed_ms(began_ms) - intervals * MINUTE_MS
        job_ids = [add_job(platform, symbol, start_ms=start_ms) for symbol in SYMBOLS]
        workers = start_workers(clocks, uri, database, folder, 2 * HANG_S)
        goal_ms = last_closed_ms(began_ms + int(until_s * 1000))
        try:
            wait_until(lambda: has_come_to(platform, goal_ms), told(platform), until_s + HANG_S)
            assert [worker.process.poll() for worker in workers] == [None] * len(workers)
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.wait()
        assert_limit_held(simulator, LIMIT)
        for job_id in job_ids:
            assert_series_right(platform, job_id, start_ms, simulator)
            assert_runs_in_order(platform, job_id)
        for worker in workers:
            assert_clock_was_wrong(worker.log, worker.clock.shift_s)


def test_workers_ten_minutes_ahead_and_behind_share_jobs_as_if_their_clocks_were_right(
    platform: Platform, mongodb_uri: str, database_name: str, tmp_path: Path
) -> None:
    clocks = [Clock(+WRONG_S, False), Clock(-WRONG_S, False)]
    run_workers_with_wrong_clocks(platform, mongodb_uri, database_name, tmp_path, clocks, 4_000, 0)


@pytest.mark.soak
@pytest.mark.parametrize("by_libfaketime", [False, pytest.param(True, marks=needs_libfaketime)])
def test_workers_with_wrong_clocks_follow_the_market_over_several_closes(
    platform: Platform, mongodb_uri: str, database_name: str, tmp_path: Path, by_libfaketime: bool
) -> None:
    clocks = [Clock(shift_s, by_libfaketime) for shift_s in (+WRONG_S, +WRONG_S, -WRONG_S, -WRONG_S)]
    run_workers_with_wrong_clocks(platform, mongodb_uri, database_name, tmp_path, clocks, 20_000, 2 * MINUTE_MS / 1000)


# --- tick and worker as they are deployed, with identity tokens between them


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    started = IdentityProvider([SCHEDULER, TICK])
    yield started
    started.stop()


def run_functions_with_wrong_clocks(
    platform: Platform, provider: IdentityProvider, uri: str, database: str, folder: Path, tick: Clock, worker: Clock
) -> None:
    """The scheduler, whose clock is right, calls the tick until all jobs have caught up."""
    with ExitStack() as stack:
        simulator = stack.enter_context(start_simulator(seed=SEED))
        add_connector(platform, base_url=simulator.base_url("binance"))
        start_ms = last_closed_ms(platform.database.server_now_ms()) - 2_000 * MINUTE_MS
        job_ids = [add_job(platform, symbol, start_ms=start_ms, indicators=[]) for symbol in SYMBOLS]
        supervisor = Supervisor()
        stack.callback(supervisor.stop)
        tick_service, worker_service = start_functions(supervisor, provider, uri, database, folder, tick, worker)
        call_tick = stack.enter_context(tick_caller(provider, tick_service))
        goal_ms = last_closed_ms(platform.database.server_now_ms())

        def tick_once() -> bool:
            report = call_tick()
            refused = [event for event in events(tick_service.log_path) if event["event"] == "worker_not_started"]
            assert (report["given_back"], refused) == (0, []), "the worker does not let the tick in"
            return has_come_to(platform, goal_ms)

        wait_until(tick_once, told(platform))
        for job_id in job_ids:
            assert_series_right(platform, job_id, start_ms, simulator)
            assert_runs_in_order(platform, job_id)
        for service, clock in ((tick_service, tick), (worker_service, worker)):
            assert_clock_was_wrong(service.log_path, clock.shift_s)


def test_a_tick_far_ahead_starts_workers_far_behind(
    platform: Platform, provider: IdentityProvider, mongodb_uri: str, database_name: str, tmp_path: Path
) -> None:
    tick, worker = Clock(+WRONG_S, False), Clock(-WRONG_S, False)
    run_functions_with_wrong_clocks(platform, provider, mongodb_uri, database_name, tmp_path, tick, worker)


@pytest.mark.soak
@pytest.mark.parametrize("tick_s", [+WRONG_S, -WRONG_S])
@pytest.mark.parametrize("by_libfaketime", [False, pytest.param(True, marks=needs_libfaketime)])
def test_tick_and_worker_work_together_whichever_is_ahead(
    platform: Platform,
    provider: IdentityProvider,
    mongodb_uri: str,
    database_name: str,
    tmp_path: Path,
    tick_s: float,
    by_libfaketime: bool,
) -> None:
    tick, worker = Clock(tick_s, by_libfaketime), Clock(-tick_s, by_libfaketime)
    run_functions_with_wrong_clocks(platform, provider, mongodb_uri, database_name, tmp_path, tick, worker)


# (seconds since it was issued, seconds left) by the verifier's own clock, and whether it is let in.
TOKENS: Final = {
    "issued in ten minutes, as a verifier ten minutes behind sees a new one": (-600, 4200, True),
    # A tick ten minutes behind keeps a token for five minutes more than it is good for, and ten are the verifier's own.
    "kept by a tick that is behind, seen by a worker that is ahead": (4500, -900, True),
    "expired for longer than clocks can explain": (5400, -1800, False),
    "issued later than clocks can explain": (-1800, 5400, False),
}


@pytest.mark.parametrize("name", TOKENS)
def test_an_identity_token_is_judged_with_room_for_two_wrong_clocks(provider: IdentityProvider, name: str) -> None:
    age_s, left_s, is_let_in = TOKENS[name]
    settings = load_settings(identity_issuer=provider.issuer, identity_jwks_url=provider.jwks_url)
    tokens = IdentityTokens(settings, audience="https://worker.test", callers=(TICK,), setting_prefix="CHANDLER_WORKER")
    claims = jwt.decode(provider.token(TICK, "https://worker.test"), options={"verify_signature": False})
    now_s = int(time.time())
    token = provider.sign({**claims, "iat": now_s - age_s, "exp": now_s + left_s})
    if is_let_in:
        assert tokens.verify(f"Bearer {token}") == TICK
    else:
        with pytest.raises(Unauthenticated):
            tokens.verify(f"Bearer {token}")
