"""kill -9 in the middle of a backlog, of the worker and of everything: afterwards nothing is missing, doubled or left over."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import requests
from pymongo import MongoClient
from pymongo.database import Database

from local_emulator.comparison import SeriesComparison, compare_job
from local_emulator.demo import is_caught_up
from local_emulator.state import StateDirectory
from local_emulator.tokens import admin_token
from shared.domain.jobs import to_datetime

ROOT: Final = Path(__file__).resolve().parents[2]
SEED: Final = 23
START_LIMIT_S: Final = 40.0
LIMIT_S: Final = 40.0
GONE_LIMIT_S: Final = 10.0
# Deep enough not to be done before the kills, with pages slowed down; small enough to be done soon without that.
BACKLOG: Final = {"SOL/USDT": 60_000, "XRP/USDT": 40_000}
PAGE_DELAY_MS: Final = 150
STARTED: Final = re.compile(r"^(admin|simulator) +(http://\S+)", re.MULTILINE)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
MongoDatabase = Database[dict[str, Any]]


def wait_until(holds: Callable[[], Any], limit_s: float = LIMIT_S, told: Callable[[], object] = str) -> Any:
    """What it gives, as soon as that is true."""
    deadline = time.monotonic() + limit_s
    while not (held := holds()):
        assert time.monotonic() < deadline, f"it did not come to hold in time: {told()}"
        time.sleep(0.05)
    return held


def is_settled(jobs: list[dict[str, Any]]) -> bool:
    """Whether the live jobs are at the market's end, and nothing is left of what their series have made for themselves."""
    now_ms = time.time() * 1000
    return all(is_caught_up(job, now_ms) if job["kind"] == "live" else job["status"] == "done" for job in jobs)


def descendants(pid: int) -> dict[int, str]:
    """All living processes below one: pid -> command line."""
    listing = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "stat=", "-o", "args="],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split(None, 3) for line in listing.stdout.splitlines()]
    children: dict[int, list[tuple[int, str]]] = {}
    for child, parent, state, command in (row for row in rows if len(row) == 4):
        if not state.startswith("Z"):
            children.setdefault(int(parent), []).append((int(child), command))
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        for child, command in children.get(waiting.pop(), []):
            found[child] = command
            waiting.append(child)
    return found


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


class RunningEmulator:
    """`up --plain` as a user starts it, on a state directory that outlives it."""

    def __init__(self, state_dir: Path, log_path: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "MONGODB_URI"}
        words = ("up", "--plain", "--admin-port", "0", "--state-dir", str(state_dir), "--seed", str(SEED))
        self._state_dir = state_dir
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "local_emulator", *words],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._log_path = log_path
        self._seen: set[int] = set()

    def wait_ready(self) -> None:
        found = wait_until(lambda: len(urls := STARTED.findall(self.log())) == 2 and urls, START_LIMIT_S, self.log)
        self.urls = dict(found)
        port = int((self._state_dir / "mongod" / "port").read_text())
        self.client: MongoClient[dict[str, Any]] = MongoClient(
            f"mongodb://127.0.0.1:{port}/?directConnection=true", tz_aware=True, serverSelectionTimeoutMS=5_000
        )
        self.database: MongoDatabase = self.client["chandler"]

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def family(self) -> dict[int, str]:
        found = descendants(self.process.pid)
        self._seen |= set(found)
        return found

    def worker_group(self) -> int:
        """The process group in which the worker function runs: its guard's pid."""
        return next(pid for pid, command in self.family().items() if "leash.py guard" in command and "worker" in command)

    def slow_down(self, delay_ms: int | None) -> None:
        url = f"{self.urls['simulator']}/_simulator/faults"
        with requests.Session() as session:
            session.trust_env = False
            session.delete(url, timeout=10).raise_for_status()
            if delay_ms is not None:
                session.post(url, json={"kind": "slow", "delay_ms": delay_ms}, timeout=10).raise_for_status()

    def add_backlog(self) -> None:
        token = admin_token(StateDirectory(self._state_dir).jwt_secret(), "admin")
        now_ms = int(time.time() * 1000)
        with requests.Session() as session:
            session.trust_env = False
            session.headers["Authorization"] = f"Bearer {token}"
            for symbol, candles in BACKLOG.items():
                start_at = to_datetime(now_ms - candles * 60_000).isoformat()
                body = {"connector_id": "binance", "symbol": symbol, "timeframe": "1m", "start_at": start_at}
                session.post(f"{self.urls['admin']}/v1/jobs", json=body, timeout=20).raise_for_status()

    def backlog(self) -> list[dict[str, Any]]:
        return list(self.database["jobs"].find({"symbol": {"$in": list(BACKLOG)}, "timeframe": "1m"}))

    def candles_total(self) -> int:
        return sum(job["totals"].get("candles", 0) for job in self.backlog())

    def expire_leases(self) -> None:
        """As if the time of the dead worker's leases had passed; what it left open is ended, as who claims does."""
        held = [job["lock"]["session_id"] for job in self.database["jobs"].find({"lock.session_id": {"$ne": None}})]
        if held:
            self.client.admin.command("killSessions", [{"id": session_id} for session_id in held])
        past = to_datetime(0)
        self.database["jobs"].update_many(
            {"lock.expires_at": {"$exists": True}}, {"$set": {"lock.expires_at": past, "next_run_at": past}}
        )

    def end(self, signal_number: int) -> None:
        """The signal to the emulator itself; all that it had started has to be gone soon after."""
        self.family()
        self.client.close()
        self.process.send_signal(signal_number)
        self.process.wait(GONE_LIMIT_S)
        wait_until(lambda: not self.left_over(), GONE_LIMIT_S, self.left_over)

    def left_over(self) -> list[int]:
        return [pid for pid in self._seen if is_alive(pid)]


@contextmanager
def emulator(state_dir: Path, log_path: Path) -> Iterator[RunningEmulator]:
    running = RunningEmulator(state_dir, log_path)
    try:
        running.wait_ready()
        with running.client:
            yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


def test_a_backlog_survives_kill_9_of_the_worker_and_of_the_whole_emulator(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    with emulator(state_dir, tmp_path / "first.log") as first:
        first.slow_down(PAGE_DELAY_MS)
        first.add_backlog()
        wait_until(lambda: first.candles_total() >= 8_000, told=first.backlog)
        killed = first.worker_group()
        os.killpg(killed, signal.SIGKILL)
        wait_until(lambda: not is_alive(killed))
        # The dead worker's jobs are still leased to it.
        assert any(job["lock"].get("run_id") for job in first.backlog())
        first.expire_leases()
        count = first.candles_total()
        wait_until(lambda: first.candles_total() >= count + 6_000, told=first.backlog)
        assert first.worker_group() != killed
        assert not is_settled(first.backlog())
        first.end(signal.SIGKILL)
    with emulator(state_dir, tmp_path / "second.log") as second:
        assert second.candles_total() >= count + 6_000
        second.expire_leases()
        jobs = second.database["jobs"]
        wait_until(
            lambda: is_settled(list(jobs.find())),
            told=lambda: [(job["_id"], job["cursor"], job["last_error"]) for job in jobs.find()],
        )
        listed = list(jobs.find({"kind": "live"}))
        assert len(listed) == 14
        for job in listed:
            compared = compare_job(second.database, job, SEED)
            assert compared == SeriesComparison(compared.candles_count, 0, 0, 0), job["_id"]
        outcomes: dict[str, set[str]] = {}
        for run in second.database["job_runs"].find():
            outcomes.setdefault(run["job_id"].removesuffix(":history"), set()).add(run["outcome"])
        for job in listed:
            if job["symbol"] not in BACKLOG or job["timeframe"] != "1m":
                continue
            assert "lost" in outcomes[job["_id"]], "the run that was killed is on record"
            assert job["status"] == "active"
            assert compare_job(second.database, job, SEED).candles_count >= BACKLOG[job["symbol"]] - 1
        second.end(signal.SIGTERM)
    assert second.process.returncode == 0
