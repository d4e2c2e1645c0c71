"""However a history came together, it ends as one pass: runs, backfills in any order, holes filled later, corrections."""

import random
from collections.abc import Iterator
from typing import Any, Final

import pytest

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.truth import true_candles
from shared.domain.indicator_catalogue import CATALOGUE
from shared.domain.indicators import DEFAULT_INDICATORS, resolve_indicators
from shared.domain.jobs import KEEPING_KINDS
from shared.domain.timeframes import MINUTE_MS
from shared.usecases.run_endings import RunLimits
from shared.wiring import Platform
from tests.factories import add_connector, add_job, run_once, stored_documents
from tests.machines.series_scene import NOW_MS, WIDE, back
from tests.replay import assert_series_equals
from tests.waiting import SOAK_HANG_S

SEED: Final = 47
LENGTH: Final = 5_000
STEPS: Final = 25
EVERY_FUNCTION: Final = [{"name": name} for name, function in sorted(CATALOGUE.items()) if not function.refusal]
LIST_MAX: Final = 50


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with start_simulator(freeze_at_ms=NOW_MS, seed=SEED) as running:
        running.configure("binance", WIDE)
        yield running


class History:
    """One series and what happens to it, drawn from a seed."""

    def __init__(self, platform: Platform, simulator: SimulatorProcess, rng: random.Random, wanted: list[Any]) -> None:
        self.platform, self.simulator, self.rng = platform, simulator, rng
        self.wanted = wanted
        self.now_ms = NOW_MS
        self.faults: list[dict[str, object]] = []
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
        kind = rng.choice(("run", "run", "run", "backfill", "hide", "revise", "show", "later"))
        if kind == "run":
            active = [job["_id"] for job in self.jobs() if job["status"] == "active"]
            self.run(rng.choice(active), rng.choice((1, 2, 50)))
        elif kind == "backfill" and self.unmade:
            start_ms, end_ms = self.unmade.pop()
            add_job(self.platform, start_ms=start_ms, end_ms=end_ms, indicators=self.wanted)
        elif kind in ("hide", "revise"):
            first = rng.randrange(10, LENGTH)
            span = {"from_ms": back(first), "to_ms": back(first - rng.choice((1, 5, 200))), "share": rng.choice((0.3, 1.0))}
            # Within the overlap only: further back nobody reads again what is stored.
            if kind == "revise":
                span = {"from_ms": self.now_ms - 2 * MINUTE_MS, "to_ms": self.now_ms, "share": 1.0}
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

    def show(self) -> None:
        self.faults.clear()
        self.simulator.set_faults()

    def run(self, job_id: str, pages_max: int) -> str:
        limits = self.limits
        limited = RunLimits(limits.lease_ms, pages_max, limits.wait_ms_max, limits.attempts_max)
        object.__setattr__(self.platform.runner, "run_limits", limited)
        return run_once(self.platform, job_id).outcome.value

    def settle(self) -> None:
        """Everything that is due is run until nothing is left to do."""
        self.show()
        for start_ms, end_ms in self.unmade:
            add_job(self.platform, start_ms=start_ms, end_ms=end_ms, indicators=self.wanted)
        self.unmade.clear()
        self.run(self.job_id, 50)
        for _ in range(60):
            left = [job["_id"] for job in self.jobs() if job["status"] == "active" and job["kind"] != "live"]
            if not left:
                return
            self.rng.shuffle(left)
            for job_id in left:
                self.run(job_id, self.rng.choice((1, 50)))
        raise AssertionError(f"still at work: {left}")


def play(platform: Platform, simulator: SimulatorProcess, seed: int, wanted: list[Any]) -> History:
    history = History(platform, simulator, random.Random(seed), wanted)
    for _ in range(STEPS):
        history.step()
    history.settle()
    end_ms = history.now_ms // MINUTE_MS * MINUTE_MS
    expected = true_candles(SEED, "binance", "BTC/USDT", "1m", back(LENGTH), end_ms)
    specs = resolve_indicators(wanted)
    assert_series_equals(stored_documents(platform, "binance", "BTC/USDT", "1m"), expected, specs)
    counts = platform.coverage_reader.read(history.job_id, back(LENGTH), end_ms, frozenset(), 1).counts
    assert {state.value: count for state, count in counts.items() if count} == {"stored": len(expected)}
    assert {job["kind"] for job in history.jobs() if job["status"] == "active"} <= {kind.value for kind in KEEPING_KINDS}
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
