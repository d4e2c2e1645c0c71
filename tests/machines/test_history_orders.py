"""However a history came together, it ends as it should: runs, backfills in any order, holes filled later, corrections, another

list of indicators, backfills that are paused and cancelled, jobs that are deleted with or without candles and made anew.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
import pytest

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.truth import true_candles
from shared.domain.coverage import IntervalState
from shared.domain.indicator_catalogue import CATALOGUE
from shared.domain.indicators import DEFAULT_INDICATORS, resolve_indicators
from shared.domain.jobs import KEEPING_KINDS
from shared.domain.timeframes import MINUTE_MS
from shared.errors import Conflict, InvalidRequest
from shared.stores.candles import Series
from shared.usecases.manage_jobs import JobChanges
from shared.usecases.plan_backfills import BackfillOrder
from shared.usecases.plan_jobs import NewJob
from shared.usecases.record_changes import Author
from shared.usecases.run_endings import RunLimits
from shared.wiring import Platform
from tests.factories import add_connector, add_job, run_once, stored_documents
from tests.machines.series_scene import NOW_MS, WIDE, back
from tests.replay import assert_series_equals
from tests.waiting import SOAK_HANG_S

SEED: Final = 47
LENGTH: Final = 5_000
STEPS: Final = 30
AUTHOR: Final = Author("me", "admin", "test")
SERIES: Final = {"exchange": "binance", "symbol": "BTC/USDT", "timeframe": "1m"}
# What happens; runs more often than all else.
STEP_KINDS: Final = (
    *("run", "run", "run", "run", "run", "run", "job", "order", "order", "steer", "steer", "list", "anew", "candles"),
    *("hide", "revise", "show", "later"),
)
EVERY_FUNCTION: Final = [{"name": name} for name, function in sorted(CATALOGUE.items()) if not function.refusal]
LIST_MAX: Final = 50
# What nothing else has computed.
OTHER: Final = [
    spec.to_document()
    for spec in resolve_indicators([{"name": "OBV", "as": "other_obv"}, {"name": "EMA", "params": {"timeperiod": 9}}])
]


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with start_simulator(freeze_at_ms=NOW_MS, seed=SEED) as running:
        running.configure("binance", WIDE)
        yield running


def documents_of(asked: Sequence[Any]) -> list[dict[str, Any]]:
    return [spec.to_document() for spec in resolve_indicators(asked)]


class History:
    """One series and what happens to it, drawn from a seed."""

    def __init__(self, platform: Platform, simulator: SimulatorProcess, rng: random.Random, wanted: list[Any]) -> None:
        self.platform, self.simulator, self.rng = platform, simulator, rng
        self.wanted, self.listed = wanted, documents_of(wanted)
        # Where people have made backfill jobs by hand, a live job does not go alone.
        self.has_made_jobs = rng.random() < 0.5
        self.now_ms = NOW_MS
        self.faults: list[dict[str, object]] = []
        # Open times that were hidden at some time.
        self.hidden: set[int] = set()
        simulator.clock(now_ms=NOW_MS)
        simulator.set_faults()
        add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)
        edges = sorted(rng.sample(range(500, LENGTH), 3), reverse=True)
        # From the back: a part that touches the live one, others that overlap or leave a gap for now.
        ranges = [(LENGTH, edges[0] - 40), (edges[0], edges[1]), (edges[1] + 30, edges[2])]
        self.job_id = add_job(platform, start_ms=back(edges[2]), indicators=wanted)
        self.unmade = [(back(first), back(last)) for first, last in ranges]
        rng.shuffle(self.unmade)
        self.limits = platform.runner.run_limits

    def jobs(self) -> list[dict[str, Any]]:
        return self.platform.jobs.list_({})

    def step(self) -> None:
        """One thing out of many."""
        rng = self.rng
        kind = rng.choice(STEP_KINDS)
        if kind == "run":
            active = [job["_id"] for job in self.jobs() if job["status"] == "active"]
            self.run(rng.choice(active), rng.choice((1, 2, 50)))
        elif kind == "job" and self.unmade and self.has_made_jobs:
            start_ms, end_ms = self.unmade.pop()
            # One of the two lists that this one would add to may be full.
            for wanted in (rng.choice((self.wanted, OTHER)), None):
                with suppress(InvalidRequest):
                    add_job(self.platform, start_ms=start_ms, end_ms=end_ms, indicators=wanted)
                    self.listed += [item for item in documents_of(wanted or ()) if item not in self.listed]
                    break
        elif kind == "order":
            first = rng.randrange(600, LENGTH)
            self.order(back(first), back(first - rng.randrange(50, 600)), rng.choice((1, 2)))
        elif kind == "steer":
            self.steer()
        elif kind == "list":
            self.change_list(rng.choice((self.wanted, OTHER, OTHER[:1])))
        elif kind in ("anew", "candles"):
            self.make_anew(with_candles=kind == "candles")
        elif kind in ("hide", "revise"):
            first = rng.randrange(10, LENGTH)
            span = {"from_ms": back(first), "to_ms": back(first - rng.choice((1, 5, 200))), "share": rng.choice((0.3, 1.0))}
            # Within the overlap only: further back nobody reads again what is stored.
            if kind == "revise":
                span = {"from_ms": self.now_ms - 2 * MINUTE_MS, "to_ms": self.now_ms, "share": 1.0}
            if kind == "hide":
                self.hidden |= set(range(int(str(span["from_ms"])), int(str(span["to_ms"])), MINUTE_MS))
            self.faults.append({"exchange": "binance", "kind": kind, **span})
            self.simulator.set_faults(*self.faults)
        elif kind == "show":
            self.show()
        elif kind == "later":
            # What was revised is read again, as it is.
            self.show()
            self.run(self.job_id, 50)
            self.now_ms += rng.choice((1, 3)) * MINUTE_MS
            self.simulator.clock(now_ms=self.now_ms)

    def order(self, start_ms: int, end_ms: int, workers: int) -> None:
        """A backfill; where another one has some of the same to ask for, none is made."""
        with suppress(Conflict):
            self.platform.backfills.create(self.job_id, BackfillOrder(start_ms, end_ms, workers), AUTHOR)

    def steer(self) -> None:
        """One of those that were ordered is paused, resumed, cancelled or forgotten."""
        backfills = self.platform.backfills
        ordered = [document["_id"] for document in self.platform.backfill_store.list_of(SERIES)]
        if ordered:
            act = self.rng.choice((backfills.pause, backfills.resume, backfills.cancel))
            with suppress(Conflict):
                act(self.rng.choice(ordered), AUTHOR)

    def change_list(self, indicators: list[Any]) -> None:
        self.listed = documents_of(indicators)
        self.platform.job_manager.patch(self.job_id, JobChanges(indicators=tuple(indicators)), None, AUTHOR)

    def make_anew(self, *, with_candles: bool) -> None:
        """The live job goes and is made anew, with another start."""
        with suppress(Conflict):
            # With the candles it cannot go while jobs that were made by hand keep them.
            self.platform.job_manager.delete(self.job_id, None, AUTHOR, with_candles=with_candles)
            start_ms = back(self.rng.randrange(5, LENGTH))
            asked = self.rng.choice((self.wanted, OTHER, OTHER[:1]))
            is_first = not any(job["kind"] in KEEPING_KINDS for job in self.jobs())
            for wanted in (tuple(asked), None):
                new = NewJob("binance", "BTC/USDT", "1m", overlap=2, start_ms=start_ms, indicators=wanted)
                with suppress(InvalidRequest):
                    self.platform.job_manager.create(new, AUTHOR)
                    known = [] if is_first else self.listed
                    self.listed = known + [item for item in documents_of(wanted or ()) if item not in known]
                    return

    def show(self) -> None:
        self.faults.clear()
        self.simulator.set_faults()

    def run(self, job_id: str, pages_max: int) -> str:
        limits = self.limits
        limited = RunLimits(limits.lease_ms, pages_max, limits.wait_ms_max, limits.attempts_max)
        object.__setattr__(self.platform.runner, "run_limits", limited)
        return run_once(self.platform, job_id).outcome.value

    def settle(self) -> None:
        """The whole range is asked for, and everything that is due is run until nothing is left to do."""
        self.show()
        for document in self.platform.backfill_store.list_of(SERIES):
            with suppress(Conflict):
                self.platform.backfills.resume(document["_id"], AUTHOR)
        self.run_all()
        # Already now: the order makes new values for all that is behind it.
        assert self.platform.series_verifier.verify(self.job_id, None, None).value_differences_count == 0
        self.order(back(LENGTH), self.now_ms // MINUTE_MS * MINUTE_MS, 2)
        self.run_all()

    def run_all(self) -> None:
        self.run(self.job_id, 50)
        for _ in range(80):
            left = [job["_id"] for job in self.jobs() if job["status"] == "active" and job["kind"] != "live"]
            if not left:
                return
            self.rng.shuffle(left)
            for job_id in left:
                if self.platform.jobs.count({"_id": job_id, "status": "active"}):
                    self.run(job_id, self.rng.choice((1, 50)))
        raise AssertionError(f"still at work: {left}")


def play(platform: Platform, simulator: SimulatorProcess, seed: int, wanted: list[Any]) -> History:
    history = History(platform, simulator, random.Random(seed), wanted)
    for _ in range(STEPS):
        history.step()
    history.settle()
    end_ms = history.now_ms // MINUTE_MS * MINUTE_MS
    found = platform.coverage_reader.read(history.job_id, back(LENGTH), end_ms, frozenset({IntervalState.NO_TRADES}), LENGTH)
    # What was hidden each time that somebody asked has had no trades, as far as anybody can tell.
    given_up = [range(run.first * MINUTE_MS, run.end * MINUTE_MS, MINUTE_MS) for run in found.runs]
    assert {at_ms for stretch in given_up for at_ms in stretch} <= history.hidden
    truth = true_candles(SEED, "binance", "BTC/USDT", "1m", back(LENGTH), end_ms)
    expected = truth[~np.isin(truth.open_ms, [at_ms for stretch in given_up for at_ms in stretch])]
    specs = resolve_indicators(history.listed)
    assert platform.series_store.read_list(Series(**SERIES)) == history.listed
    assert_series_equals(stored_documents(platform, "binance", "BTC/USDT", "1m"), expected, specs)
    left = {state for state, count in found.counts.items() if count}
    assert left <= {IntervalState.STORED, IntervalState.NO_TRADES}
    assert {job["kind"] for job in history.jobs() if job["status"] == "active"} <= {kind.value for kind in KEEPING_KINDS}
    ended = {document["status"] for document in platform.backfill_store.list_of(SERIES)}
    assert ended <= {"done", "cancelled"}
    assert platform.series_verifier.verify(history.job_id, None, None).value_differences_count == 0
    return history


@pytest.mark.parametrize("seed", range(4))
def test_any_order_ends_as_one_pass(platform: Platform, simulator: SimulatorProcess, seed: int) -> None:
    play(platform, simulator, seed, [spec.to_document() for spec in DEFAULT_INDICATORS])


@pytest.mark.soak
@pytest.mark.timeout(SOAK_HANG_S)
@pytest.mark.parametrize("seed", range(100, 116))
def test_any_order_ends_as_one_pass_for_every_function(platform: Platform, simulator: SimulatorProcess, seed: int) -> None:
    # Four lists hold them all.
    names = random.Random(seed // 4).sample(EVERY_FUNCTION, len(EVERY_FUNCTION))
    half = (seed % 4) * LIST_MAX
    wanted = (names[half : half + LIST_MAX] or names[:LIST_MAX])[:LIST_MAX]
    play(platform, simulator, seed, [spec.to_document() for spec in resolve_indicators(wanted)])
