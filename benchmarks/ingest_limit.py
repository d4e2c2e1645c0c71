"""How much of an exchange's limit one job's backfill uses, 100 ms away from it: counted by the simulated exchange itself.

The job is claimed when it is due and run, as ticks would, until the stretch is over. The limiter's log is as full at the
beginning as a backfill leaves it that has been at work for a window: everybody may fill an empty one at once.
"""

import contextlib
import os
import statistics
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any, Final

from bson.int64 import Int64
from pymongo import MongoClient

from local_emulator.simulator.process import SimulatorProcess
from shared.deadline import Deadline
from shared.domain.rates import GRAINS_PER_WINDOW, KEPT_FOR_LIVE_PERCENT
from shared.domain.timeframes import MINUTE_MS
from shared.stores.job_leases import DueJob
from shared.stores.rate_limits import initial_limiter
from shared.usecases.send_requests import PAGE_RESERVE_MS
from shared.wiring import Platform
from tests.factories import add_connector, add_job, make_platform

LATENCY_MS: Final = 100
SLOW: Final[dict[str, object]] = {"exchange": "binance", "kind": "slow", "delay_ms": LATENCY_MS}
# Binance's: 6,000 weight a minute, of which a page of 1,000 candles weighs 2.
WEIGHT_PER_S: Final = 100
PAGE_WEIGHT: Final = 2
PAGE: Final = 1_000
SAMPLE_S: Final = 0.1
CLAIM_S: Final = 0.01
# Windows that pass: the sliding window is looked at from the end of the first to the end of the second.
WINDOWS: Final = 2


@dataclass(frozen=True)
class Share:
    """What came of it: candles a second and weight sent of the weight allowed, both over whole windows; runs that it took."""

    candles_per_s: float
    of_limit: float
    runs: int
    over_limit: int


@dataclass
class _Samples:
    utilisation: list[float]
    candles: list[tuple[float, int]]


def measure_share(mongodb_uri: str, simulator: SimulatorProcess, end_ms: int, window_s: int) -> Share:
    """One backfill at Binance's rate in windows of `window_s`, for WINDOWS of them. Leaves the simulator's limits as set."""
    windows = [(WEIGHT_PER_S * window_s, window_s * 1000)]
    simulator.configure("binance", windows)
    simulator.set_faults(SLOW)
    # More than the limit allows in that time, one window's worth to spare.
    candles = (WINDOWS + 2) * windows[0][0] // PAGE_WEIGHT * PAGE
    name = f"bench_{uuid.uuid4().hex[:10]}"
    platform = make_platform(mongodb_uri, name)
    samples, is_over = _Samples([], []), threading.Event()
    try:
        limiter = _limiter_at_work(platform.database.server_now_ms(), *windows[0])
        add_connector(platform, base_url=simulator.base_url("binance"), windows=windows, limiter=limiter)
        job_id = add_job(platform, start_ms=end_ms - candles * MINUTE_MS, end_ms=end_ms)
        sampler = threading.Thread(
            target=_sample, args=(mongodb_uri, name, job_id, simulator, window_s, samples, is_over), daemon=True
        )
        with open(os.devnull, "w") as log, contextlib.redirect_stdout(log):
            sampler.start()
            runs = _run_as_ticks_would(platform, job_id, time.monotonic() + WINDOWS * window_s + 1, is_over)
        sampler.join()
        (told,) = simulator.report()["binance"]["windows"]
    finally:
        is_over.set()
        platform.close()
        simulator.set_faults()
        with MongoClient[dict[str, Any]](mongodb_uri) as client:
            client.drop_database(name)
    return Share(_rate(samples.candles, window_s), statistics.mean(samples.utilisation), runs, told["over_limit"])


def _limiter_at_work(now_ms: int, limit: int, period_ms: int) -> dict[str, Any]:
    """A window's log with all that a backfill may have of it, sent evenly over the window."""
    weight, grain_ms = limit * (100 - KEPT_FOR_LIVE_PERCENT) // 100, period_ms // GRAINS_PER_WINDOW
    shares = [weight * (n + 1) // GRAINS_PER_WINDOW - weight * n // GRAINS_PER_WINDOW for n in range(GRAINS_PER_WINDOW)]
    entries = [{"t": Int64(now_ms - period_ms + (n + 1) * grain_ms), "w": Int64(share)} for n, share in enumerate(shares)]
    return {**initial_limiter(), "logs": [{"period_ms": Int64(period_ms), "entries": entries}]}


def _run_as_ticks_would(platform: Platform, job_id: str, until: float, is_over: threading.Event) -> int:
    """Claim the job whenever it is due and run it; returns how many runs there were."""
    runs = 0
    while not is_over.is_set() and time.monotonic() < until:
        claims = platform.leases.claim([DueJob(job_id)], "bench", 60_000)
        if not claims:
            time.sleep(CLAIM_S)
            continue
        # A run ends when it has less than that left.
        deadline = Deadline.after(until - time.monotonic() + PAGE_RESERVE_MS / 1000)
        result = platform.runner.run(job_id, claims[0].fence, "bench", deadline)
        runs += 1
        if result.outcome.value not in ("waiting", "more"):
            raise SystemExit(f"the backfill has ended as {result.outcome.value}: it was to last longer than the stretch")
    return runs


def _sample(
    mongodb_uri: str,
    name: str,
    job_id: str,
    simulator: SimulatorProcess,
    window_s: int,
    samples: _Samples,
    is_over: threading.Event,
) -> None:
    """Look at the last window again and again while the last of WINDOWS passes.

    What a window holds goes up and down by when its weight is sent; the mean over a whole window does not.
    """
    began = time.monotonic()
    with MongoClient[dict[str, Any]](mongodb_uri) as client:
        jobs = client[name]["jobs"]
        while (passed_s := time.monotonic() - began) < WINDOWS * window_s and not is_over.is_set():
            document = jobs.find_one({"_id": job_id}, {"totals.candles": 1}) or {}
            samples.candles.append((passed_s, int(document.get("totals", {}).get("candles", 0))))
            if passed_s >= (WINDOWS - 1) * window_s:
                (told,) = simulator.report(window_s * 1000)["binance"]["windows"]
                samples.utilisation.append(told["utilisation"])
            time.sleep(SAMPLE_S)
    is_over.set()


def _rate(candles: list[tuple[float, int]], window_s: int) -> float:
    """Candles a second, as the mean over windows that end while the last one passes, like the limit's share."""
    rates, first = [], 0
    for at_s, count in candles:
        if at_s < (WINDOWS - 1) * window_s:
            continue
        while candles[first + 1][0] <= at_s - window_s:
            first += 1
        rates.append((count - candles[first][1]) / (at_s - candles[first][0]))
    return statistics.mean(rates)
