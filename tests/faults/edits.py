"""Edits that people make of one series, by name, for a process that may be killed at any of its calls."""

from collections.abc import Callable, Mapping
from typing import Final

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.jobs import to_datetime
from shared.domain.timeframes import MINUTE_MS
from shared.stores.candles import Series
from shared.usecases.manage_jobs import JobChanges
from shared.usecases.plan_backfills import BackfillOrder
from shared.usecases.plan_jobs import NewJob
from shared.usecases.record_changes import Author
from shared.usecases.run_endings import RunLimits
from shared.wiring import Platform
from tests.factories import add_connector, run_once, run_until_caught_up
from tests.machines.series_scene import WIDE, back, hide

AUTHOR: Final = Author("me", "admin", "test")
SERIES: Final = Series("binance", "BTC/USDT", "1m")
LIVE: Final = SERIES.series_id
NEW_LIST: Final = ({"name": "RSI"}, {"name": "OBV"})
SECOND: Final = ({"name": "TRANGE"},)
# Half done when the edit comes.
AT_WORK: Final = (back(2_500), back(500))
ORDERED: Final = (back(5_000), back(2_800))
AT_WORK_ID: Final = f"{LIVE}:backfill:20251007T1514-20251009T0034"


def change_list(platform: Platform) -> None:
    """Other indicators for all that is stored."""
    platform.job_manager.patch(LIVE, JobChanges(indicators=NEW_LIST), None, AUTHOR)


def order(platform: Platform) -> None:
    """A backfill before the live job's start, in two parts."""
    platform.backfills.create(LIVE, BackfillOrder(*ORDERED, 2), AUTHOR)


def make_second(platform: Platform) -> None:
    """A second job on the series, with an indicator that is not in its list."""
    new = NewJob("binance", "BTC/USDT", "1m", overlap=2, start_ms=back(2_700), end_ms=back(2_600), indicators=SECOND)
    platform.job_manager.create(new, AUTHOR)


def cancel(platform: Platform) -> None:
    """The backfill that is at work."""
    if (found := platform.backfill_store.find(AT_WORK_ID)) is None or found["status"] != "cancelled":
        platform.backfills.cancel(AT_WORK_ID, AUTHOR)


def delete(platform: Platform) -> None:
    """The live job with its candles, and so everything of the series."""
    platform.job_manager.delete(LIVE, None, AUTHOR, with_candles=True)


EDITS: Final[Mapping[str, Callable[[Platform], None]]] = {
    "change the list": change_list,
    "backfill before the start": order,
    "second job": make_second,
    "cancel": cancel,
    "delete with candles": delete,
}


def set_up(platform: Platform, simulator: SimulatorProcess) -> None:
    """A live job with a hole in its candles, and a backfill of which a page is stored."""
    simulator.configure("binance", WIDE)
    add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)
    hide(simulator, back(200), back(195))
    new = NewJob("binance", "BTC/USDT", "1m", overlap=2, start_ms=back(500))
    platform.job_manager.create(new, AUTHOR)
    run_until_caught_up(platform, LIVE)
    assert platform.backfills.create(LIVE, BackfillOrder(*AT_WORK, 1), AUTHOR).backfill_id == AT_WORK_ID
    limits = platform.runner.run_limits
    object.__setattr__(platform.runner, "run_limits", RunLimits(limits.lease_ms, 1, limits.wait_ms_max, limits.attempts_max))
    assert run_once(platform, f"{AT_WORK_ID}:1").outcome.value == "more"
    object.__setattr__(platform.runner, "run_limits", limits)
    simulator.set_faults()


def pass_time(platform: Platform) -> None:
    """What a dead process has left open ends, and ticks finish what it has decided."""
    platform.database.collection("jobs").update_many({"is_retiring": True}, {"$set": {"updated_at": to_datetime(0)}})
    platform.database.collection("backfills").update_many({"is_carried_out": False}, {"$set": {"decided_at": to_datetime(0)}})
    platform.backfill_steering.carry_out_left()
    platform.job_manager.finish_deletions_left()


def run_all(platform: Platform, simulator: SimulatorProcess) -> None:
    """Everything that is due, until nothing is left to do; the market goes on meanwhile."""
    simulator.clock(advance_ms=MINUTE_MS)
    for _ in range(60):
        left = [job for job in platform.jobs.list_({"status": "active"}) if job["kind"] != "live"]
        for job in platform.jobs.list_({"status": "active", "kind": "live"}):
            run_once(platform, job["_id"])
        if not left:
            return
        for job in left:
            if platform.jobs.count({"_id": job["_id"], "status": "active"}):
                run_once(platform, job["_id"])
    raise AssertionError(f"still at work: {[job['_id'] for job in left]}")
