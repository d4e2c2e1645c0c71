"""kill -9 in the middle of a backlog, of the worker and of everything: afterwards nothing is missing, doubled or left over."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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
from tests.waiting import HANG_S, wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
SEED: Final = 23
PAGE: Final = 1_000
BACKLOG: Final = {"SOL/USDT": 30 * PAGE, "XRP/USDT": 25 * PAGE}
# Between two kills the exchange answers so many pages of each, slowly, and then no more: however late the kill comes, both are
# on their way.
ANSWERED: Final = 10
PAGE_DELAY_MS: Final = 150
assert min(BACKLOG.values()) > 2 * ANSWERED * PAGE
STARTED: Final = re.compile(r"^(admin|simulator) +(http://\S+)", re.MULTILINE)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
MongoDatabase = Database[dict[str, Any]]


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
        found = wait_until(lambda: len(urls := STARTED.findall(self.log())) == 2 and urls, self.log)
        self.urls = dict(found)
        port = int((self._state_dir / "mongod" / "port").read_text())
        self.client: MongoClient[dict[str, Any]] = MongoClient(
            f"mongodb://127.0.0.1:{port}/?directConnection=true", tz_aware=True, serverSelectionTimeoutMS=60_000
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

    def answer_some(self) -> None:
        """The exchange answers ANSWERED more pages of each backlog."""
        slow, never = {"delay_ms": PAGE_DELAY_MS, "count": ANSWERED}, {"delay_ms": 86_400_000}
        faults = [{"kind": "slow", "symbol": symbol, **how} for symbol in BACKLOG for how in (slow, never)]
        url = f"{self.urls['simulator']}/_simulator/faults"
        with requests.Session() as session:
            session.trust_env = False
            session.delete(url, timeout=HANG_S).raise_for_status()
            session.post(url, json=faults, timeout=HANG_S).raise_for_status()

    def add_backlog(self) -> None:
        token = admin_token(StateDirectory(self._state_dir).jwt_secret(), "admin")
        now_ms = int(time.time() * 1000)
        with requests.Session() as session:
            session.trust_env = False
            session.headers["Authorization"] = f"Bearer {token}"
            for symbol, candles in BACKLOG.items():
                start_at = to_datetime(now_ms - candles * 60_000).isoformat()
                body = {"connector_id": "binance", "symbol": symbol, "timeframe": "1m", "start_at": start_at}
                session.post(f"{self.urls['admin']}/v1/jobs", json=body, timeout=HANG_S).raise_for_status()

    def backlog(self) -> list[dict[str, Any]]:
        return list(self.database["jobs"].find({"symbol": {"$in": list(BACKLOG)}, "timeframe": "1m"}))

    def candles(self) -> dict[str, int]:
        """Stored, by symbol."""
        found = dict.fromkeys(BACKLOG, 0)
        for job in self.backlog():
            found[job["symbol"]] += job["totals"].get("candles", 0)
        return found

    def wait_for_pages(self, before: dict[str, int]) -> None:
        """Until some pages of each have been stored since."""
        least = {symbol: count + 3 * PAGE for symbol, count in before.items()}
        wait_until(lambda: all(count >= least[symbol] for symbol, count in self.candles().items()), self.backlog)

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
        self.process.wait(HANG_S)
        wait_until(lambda: not self.left_over(), self.left_over)

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
        first.answer_some()
        first.add_backlog()
        first.wait_for_pages(dict.fromkeys(BACKLOG, 0))
        killed = first.worker_group()
        os.killpg(killed, signal.SIGKILL)
        wait_until(lambda: not is_alive(killed))
        # The dead worker's jobs are still leased to it.
        assert any(job["lock"].get("run_id") for job in first.backlog())
        first.expire_leases()
        before = first.candles()
        first.answer_some()
        first.wait_for_pages(before)
        stored = first.candles()
        assert first.worker_group() != killed
        assert not is_settled(first.backlog())
        first.end(signal.SIGKILL)
    with emulator(state_dir, tmp_path / "second.log") as second:
        assert all(count >= stored[symbol] for symbol, count in second.candles().items())
        second.expire_leases()
        jobs = second.database["jobs"]
        wait_until(
            lambda: is_settled(list(jobs.find())),
            lambda: [(job["_id"], job["cursor"], job["last_error"]) for job in jobs.find()],
        )
        listed = list(jobs.find({"kind": "live"}))
        assert len(listed) == 14
        compared = {job["_id"]: compare_job(second.database, job, SEED) for job in listed}
        for job_id, found in compared.items():
            assert found == SeriesComparison(found.candles_count, 0, 0, 0), job_id
        outcomes: dict[str, set[str]] = {}
        for run in second.database["job_runs"].find():
            outcomes.setdefault(run["job_id"].removesuffix(":history"), set()).add(run["outcome"])
        for job in listed:
            if job["symbol"] not in BACKLOG or job["timeframe"] != "1m":
                continue
            assert "lost" in outcomes[job["_id"]], "the run that was killed is on record"
            assert job["status"] == "active"
            assert compared[job["_id"]].candles_count >= BACKLOG[job["symbol"]] - 1
        second.end(signal.SIGTERM)
    assert second.process.returncode == 0
