"""One job to be run again and again from the same state, by a worker whose every call can be made to go wrong.

The job has three pages to fetch, and, unless it is new, a stored tail whose newest candles the exchange has corrected since.
Here are also the laws that hold whatever happened, once time has passed and the job has been run until it was caught up.

Indicators are compared byte by byte. For that the prices are multiples of TICK: TA-Lib carries sums, means and squares along
while a window slides, so that for any other prices the last digits of SMA and BBANDS depend on where pages began.
"""

import csv
import os
import re
import signal
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.recordings import CSV_COLUMNS
from shared.deadline import Deadline
from shared.domain.candles import CandleBatch
from shared.domain.indicators import DEFAULT_INDICATORS
from shared.domain.jobs import to_datetime, to_ms
from shared.domain.timeframes import MINUTE_MS
from shared.stores.job_leases import DueJob
from shared.stores.rate_limits import initial_limiter
from shared.wiring import Platform
from tests.factories import add_connector, add_job, make_platform, run_until_caught_up, stored_documents
from tests.faults.one_run import ENDED, Nursery, Worker
from tests.faults.wire_proxy import HOST, Call, Fate, HttpProtocol, MongoProtocol, Proxy, Tap
from tests.replay import assert_series_equals
from tests.waiting import HANG_S, wait_until

SEED: Final = 23
# Five quarters: a mean over 20 is a whole number of sixteenths, so all that is carried along is exact.
TICK: Final = 1.25
TAIL: Final = 600
NEW: Final = 2_500
CANDLES: Final = "candles_binance_BTC-USDT_1m"
# Nothing that was booked is forgotten before the end, so that it can be compared with what arrived.
WINDOW: Final = (100_000, 3_600_000)
LEASE_MS: Final = 40_000
RUNS_MAX: Final = 10
# A run that began but did not end is `lost`, one that did not begin `not_started`; the other two end by themselves.
OUTCOMES: Final = {"caught_up", "failed", "lost", "not_started"}


@dataclass(frozen=True, slots=True)
class Stored:
    """What a run leaves behind, as bytes."""

    candles: tuple[bytes, ...]
    job: bytes
    runs: tuple[bytes, ...]


class Scene:
    """The job, the proxies around its worker, and what was so before and has to be so after each run."""

    def __init__(
        self,
        platform: Platform,
        client: MongoClient[dict[str, Any]],
        simulator: SimulatorProcess,
        nursery: Nursery,
        tap: Tap,
        proxied_uri: str,
        proxies: tuple[Proxy, Proxy],
        market: CandleBatch,
    ) -> None:
        self.platform = platform
        self._market = market
        self._tail = len(market) - NEW
        self._closed_ms = int(market.open_ms[-1]) + MINUTE_MS
        self.simulator = simulator
        self.tap = tap
        self._nursery = nursery
        self._uri = proxied_uri
        self._proxies = proxies
        self._raw = client.get_database(platform.settings.database).with_options(
            codec_options=client.codec_options.with_options(document_class=RawBSONDocument)
        )
        self._jobs = platform.database.collection("jobs")
        self._pid: int | None = None
        self._is_born = threading.Event()
        self._claimed: list[int] = []
        tap.kill, tap.after_reply = self._kill, self._pass_time_after
        self._prepare()
        self.recorded = self._record()

    # --- the worker's runs

    def strike(self, call: Call, fate: Fate) -> tuple[int, bool]:
        """A run from the start in which that becomes of that call: the worker's exit status, and whether the call came."""
        worker = self._start(call, fate)
        status = worker.wait()
        self.tap.disarm()
        self._drain()
        return status, self.tap.is_struck.is_set()

    def stop_and_overtake(self, call: Call) -> tuple[int, Stored, Stored] | None:
        """A run that is stopped at that call, overtaken by another worker, and goes on when that one is through.

        Returns the stopped worker's exit status, and what was stored when it went on and when it had ended; None if there
        was no such call.
        """
        worker = self._start(call, Fate.HOLD)
        wait_until(lambda: self.tap.is_struck.is_set() or worker.has_ended())
        if not self.tap.is_struck.is_set():
            assert worker.wait() == ENDED
            self._drain()
            return None
        os.kill(worker.pid, signal.SIGSTOP)
        wait_until(lambda: _state_of(worker.pid) == "T")
        self.recover()
        before = self.stored()
        self.tap.disarm()
        os.kill(worker.pid, signal.SIGCONT)
        status = worker.wait()
        self._drain()
        return status, before, self.stored()

    def recover(self) -> None:
        """Time passes, ticks claim what is due, workers run it until it is caught up: at least once."""
        for _ in range(RUNS_MAX):
            self._pass_time()
            result = self.platform.runner.run(self._job_id, self._claim(), "recovery", Deadline.after(HANG_S))
            if result.outcome.value == "caught_up":
                return
        raise AssertionError(f"not caught up after {RUNS_MAX} runs")

    # --- the laws

    def stored(self) -> Stored:
        """What lies in the database now."""
        return Stored(
            tuple(document.raw for document in self._raw[CANDLES].find().sort("_id")),
            next(document.raw for document in self._raw["jobs"].find({"_id": self._job_id})),
            tuple(document.raw for document in self._raw["job_runs"].find().sort("_id")),
        )

    def expected_outcome(self) -> str:
        """How the worker's run has to be called in `job_runs`, by what it has left."""
        lock = self.platform.jobs.get(self._job_id)["lock"]
        if "claim_id" in lock:
            return "not_started" if lock["run_id"] is None else "lost"
        return self.outcome()

    def outcome(self) -> str:
        """What `job_runs` says of the first run."""
        run = self.platform.database.collection("job_runs").find_one({"fence": self._claimed[0]})
        assert run is not None
        return str(run["outcome"])

    def assert_as_undisturbed(self) -> None:
        """Candles, indicators and cursor as after the recorded run; every claim in `job_runs`; no request without a grant."""
        job = self.platform.jobs.get(self._job_id)
        candles = self.stored().candles
        assert len(candles) == len(self._expected), "candles are missing, or there are too many"
        assert candles == self._expected, "a candle or an indicator differs"
        assert to_ms(job["cursor"]["last_ts"]) == self._closed_ms - MINUTE_MS
        runs = list(self.platform.database.collection("job_runs").find())
        assert sorted(run["fence"] for run in runs) == self._claimed, "every attempt is in job_runs, and nothing else"
        assert {run["outcome"] for run in runs} <= OUTCOMES
        assert (job["status"], job["lock"], job["abandoned"]) == ("active", {"fence": self._claimed[-1]}, [])
        totals = {name: count - self._start_totals.get(name, 0) for name, count in job["totals"].items()}
        ended = [run for run in runs if "requests" in run]
        assert (totals["candles"], totals["revisions"]) == (NEW, int(self._tail > 0)), "counted with the candles, once"
        assert totals["runs"] == len(ended)
        assert totals["requests"] == sum(run["requests"] for run in ended)
        self._assert_all_granted()

    def _assert_all_granted(self) -> None:
        report = self.simulator.report()["binance"]
        assert [window["over_limit"] for window in report["windows"]] == [0]
        assert report["throttled"] == 0
        connector = self.platform.database.collection("connectors").find_one({"_id": "binance"})
        assert connector is not None
        limiter = connector["limiter"]
        (log,) = limiter["logs"]
        # Grants of which nobody has said yet what became of them stand beside the log and count in full.
        booked = sum(entry["w"] for entry in [*log["entries"], *limiter.get("unsettled", [])])
        assert 0 < report["weight_total"] - self._weight_before <= booked, "a request was sent without a grant"

    # --- how it is set up

    def _prepare(self) -> None:
        """The job, and its tail."""
        url = f"http://{HOST}:{self._proxies[1].port}/binance"
        add_connector(self.platform, base_url=url, windows=[WINDOW])
        self._job_id = add_job(self.platform, start_ms=int(self._market.open_ms[0]))
        if self._tail:
            self._store_tail()
        self._start_candles = list(self._raw[CANDLES].find().sort("_id"))
        self._start_job = self.platform.jobs.get(self._job_id)
        self._start_totals = self._start_job["totals"]

    def _store_tail(self) -> None:
        """Its last but one candle is stored otherwise than the exchange has it, and the indicators from there on."""
        self.simulator.clock(advance_ms=-NEW * MINUTE_MS)
        run_until_caught_up(self.platform, self._job_id)
        self.simulator.clock(advance_ms=NEW * MINUTE_MS)
        since = to_datetime(self._closed_ms - (NEW + 2) * MINUTE_MS)
        self._raw[CANDLES].update_one({"_id": since}, [{"$set": {"close": "$low"}}])
        self._raw[CANDLES].update_many({"_id": {"$gte": since}}, {"$set": {"ind.sma_20": 1.0}})

    def _record(self) -> list[Call]:
        """The calls of an undisturbed run, in order. What it stores is what has to be stored in the end, and it is right."""
        status, _ = self.strike(Call("none", 0), Fate.CUT)
        assert status == ENDED
        self._expected = self.stored().candles
        assert_series_equals(stored_documents(self.platform, "binance", "BTC/USDT", "1m"), self._market, DEFAULT_INDICATORS)
        self.assert_as_undisturbed()
        return self.tap.calls

    def _reset(self) -> None:
        """As it was before the recorded run, but for the fence, which never goes back."""
        if self._tail:
            self._raw[CANDLES].delete_many({})
            self._raw[CANDLES].insert_many(self._start_candles)
        else:
            self._raw[CANDLES].drop()
        fence = self.platform.jobs.get(self._job_id)["lock"]["fence"]
        self._jobs.replace_one({"_id": self._job_id}, {**self._start_job, "lock": {"fence": fence}})
        self.platform.database.collection("job_runs").delete_many({})
        self.platform.database.collection("connectors").update_one({}, {"$set": {"limiter": initial_limiter()}})
        self._weight_before = self.simulator.report()["binance"]["weight_total"]
        self._claimed = []

    def _start(self, call: Call, fate: Fate) -> Worker:
        self._reset()
        self._pass_time()
        fence = self._claim()
        self._is_born.clear()
        self.tap.arm(call, fate)
        worker = self._nursery.start(self._uri, self.platform.settings.database, self._job_id, fence)
        self._pid = worker.pid
        self._is_born.set()
        return worker

    def _drain(self) -> None:
        """Whatever a worker that has ended still had under way has been done or dropped."""
        # Our own connections to the exchange, which would stay open, go by the same way.
        self.platform.exchange_session.close()
        for proxy in self._proxies:
            proxy.join()

    def _kill(self) -> None:
        """A worker may be at its call before we know its pid."""
        assert self._is_born.wait(HANG_S)
        assert self._pid is not None
        os.kill(self._pid, signal.SIGKILL)

    def _claim(self) -> int:
        """As a tick does, which also ends what a dead worker has left open. Returns the fence."""
        session_id = self.platform.jobs.get(self._job_id)["lock"].get("session_id")
        claims = self.platform.leases.claim([DueJob(self._job_id, session_id)], "test", LEASE_MS)
        assert claims, "the job cannot be claimed: something holds its document"
        self._claimed.append(claims[0].fence)
        return claims[0].fence

    def _pass_time(self) -> None:
        """As if leases had run out and the next run were due."""
        self._jobs.update_one({"_id": self._job_id, "lock.expires_at": {"$gt": to_datetime(0)}}, _IS_OVER)
        self._jobs.update_one({"_id": self._job_id, "next_run_at": {"$gt": to_datetime(0)}}, _IS_DUE)

    def _pass_time_after(self, kind: str) -> None:
        """Leases run out as soon as they are renewed, since a transaction that a dead worker leaves open keeps its documents

        from any other write until it is ended, and that it has to be by the claim.
        """
        if kind == "findAndModify jobs" or kind.startswith("commitTransaction"):
            self._jobs.update_one({"_id": self._job_id, "lock.expires_at": {"$gt": to_datetime(0)}}, _IS_OVER)


_IS_DUE: Final = {"$set": {"next_run_at": to_datetime(0)}}
_IS_OVER: Final = {"$set": {"next_run_at": to_datetime(0), "lock.expires_at": to_datetime(0)}}


@contextmanager
def open_scene(mongodb_uri: str, client: MongoClient[dict[str, Any]], tail: int = TAIL) -> Iterator[Scene]:
    """Everything started, the tail stored, one undisturbed run recorded."""
    address = client.address
    assert address is not None
    database_name = f"test_{uuid.uuid4().hex[:12]}"
    with ExitStack() as stack:
        nursery = stack.enter_context(Nursery())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # The present, because weight is reserved for all pages until then: no more of it than the run needs.
        now_ms = to_ms(client.admin.command("hello")["localTime"])
        market = write_market(folder / "binance_BTC-USDT_1m.csv", now_ms // MINUTE_MS * MINUTE_MS, tail + NEW)
        simulator = stack.enter_context(start_simulator(freeze_at_ms=now_ms, recordings=folder))
        simulator.configure("binance", [WINDOW])
        tap = Tap()
        to_database = stack.enter_context(Proxy(tap, address, MongoProtocol))
        to_exchange = stack.enter_context(Proxy(tap, (HOST, simulator.port), HttpProtocol))
        stack.callback(client.drop_database, database_name)
        platform = make_platform(mongodb_uri, database_name)
        stack.callback(platform.close)
        uri = through(mongodb_uri, to_database.port)
        yield Scene(platform, client, simulator, nursery, tap, uri, (to_database, to_exchange), market)


def write_market(path: Path, closed_ms: int, count: int) -> CandleBatch:
    """A random walk in ticks around a thousand, its last candle closing at `closed_ms`; also as a recording, in a file."""
    rng = np.random.default_rng(SEED)
    closes = 1000 + TICK * np.cumsum(rng.integers(-4, 5, count)).astype(np.float64)
    opens = np.append(1000.0, closes[:-1])
    # Below and above both: a candle whose close is set to its low differs.
    lows = np.minimum(opens, closes) - TICK * rng.integers(1, 4, count)
    highs = np.maximum(opens, closes) + TICK * rng.integers(1, 4, count)
    volumes = rng.integers(1, 100, count).astype(np.float64)
    market = CandleBatch(closed_ms + MINUTE_MS * np.arange(-count, 0), opens, highs, lows, closes, volumes)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(CSV_COLUMNS)
        rows.writerows(zip(market.open_ms.tolist(), opens, highs, lows, closes, volumes, strict=True))
        # The candle that is running now, so that the one before it is known to have closed.
        rows.writerow((closed_ms, *[float(closes[-1])] * 4, 1.0))
    return market


def through(uri: str, port: int) -> str:
    """The same URI by way of the proxy: one host, taken as it is, whatever it says of its replica set."""
    matched = re.fullmatch(r"(mongodb://(?:[^@/]*@)?)[^/?]+/?([^?]*)\??(.*)", uri)
    assert matched is not None, "a proxy needs a plain mongodb:// URI"
    options = [option for option in matched[3].split("&") if option and not option.startswith("replicaSet=")]
    return f"{matched[1]}{HOST}:{port}/{matched[2]}?{'&'.join([*options, 'directConnection=true'])}"


def _state_of(pid: int) -> str:
    """One letter, from /proc/PID/stat (proc(5)): the first field after the name in brackets."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
