"""Outages of up to thirty days: everything is caught up, live series are fresh meanwhile, and the limits hold."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from shared.domain.coverage import TRIES_MAX
from shared.domain.jobs import PRIORITIES, JobKind, to_datetime, to_ms
from shared.domain.timeframes import DAY_MS, HOUR_MS, MINUTE_MS
from shared.usecases.series_jobs import REPAIR_APART_MS
from tests.factories import add_job
from tests.faults.wrong_clock import find_libfaketime
from tests.machines.outage_scene import PERIOD_MS, Document, World, cursor_ms, is_due, start_world
from tests.machines.series_scene import counts
from tests.waiting import SOAK_HANG_S

pytestmark = pytest.mark.skipif(
    find_libfaketime() is None, reason="needs libfaketime: requirements-dev.txt has it for x86-64 Linux"
)

# Binance takes a weight of 2 for a page of 1000, Coinbase 1 for one of 300, Kraken 1 for its newest 720.
LIMITS: Final = {"binance": (12, PERIOD_MS), "coinbase": (4, PERIOD_MS), "kraken": (2, PERIOD_MS)}
MONTH_MS: Final = 30 * DAY_MS
# So long before its moment a repair is seen not to have begun: a look takes less on any machine.
NOT_YET_MS: Final = REPAIR_APART_MS // 2
# So shortly before 1m and 5m candles close that they do while the histories are filled.
BEFORE_CLOSE: Final = (5 * MINUTE_MS, 5 * MINUTE_MS - 4_000)


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("outage")
    with start_world(folder, LIMITS) as world:
        yield world


@pytest.fixture
def world(shared_world: World) -> World:
    """Without jobs; the exchanges are well."""
    shared_world.simulator.set_faults()
    shared_world.clear()
    return shared_world


def follow(world: World, symbol: str, series: dict[str, str]) -> list[str]:
    """Live jobs (exchange -> timeframe) of a few hours, caught up."""
    start_ms = world.now_ms() - 4 * HOUR_MS
    job_ids = [
        add_job(world.platform, symbol, timeframe, connector_id=exchange, start_ms=start_ms)
        for exchange, timeframe in series.items()
    ]
    world.settle()
    return job_ids


def history_done_ms(world: World, job_id: str, since_ms: int) -> int:
    """When the history job of a series had everything."""
    return next(to_ms(run["finished_at"]) for run in world.runs(f"{job_id}:history", since_ms) if run["outcome"] == "done")


@pytest.mark.parametrize(
    ("symbol", "outage_ms"),
    [pytest.param("BTC/USDT", HOUR_MS, marks=pytest.mark.soak), ("ETH/USDT", DAY_MS), ("SOL/USDT", MONTH_MS)],
    ids=["hour", "day", "month"],
)
def test_after_an_outage_live_series_are_fresh_at_once_and_in_the_end_all_is_there(
    world: World, symbol: str, outage_ms: int
) -> None:
    job_ids = follow(world, symbol, {"binance": "1m", "coinbase": "5m"})
    back_ms = world.pass_time(outage_ms, BEFORE_CLOSE)
    closes = world.assert_live_first(back_ms, world.settle())
    world.assert_limits_held()
    for job_id in job_ids:
        assert world.assert_whole(job_id) * MINUTE_MS * (5 if "5m" in job_id else 1) >= outage_ms + 3 * HOUR_MS
    if outage_ms == MONTH_MS:
        assert closes >= len(job_ids), "candles have closed meanwhile"
        for job_id in job_ids:
            first = world.runs(job_id, back_ms)[0]
            assert history_done_ms(world, job_id, back_ms) > to_ms(first["finished_at"]), "fresh before the rest"


def test_a_second_outage_before_the_first_is_made_good_leaves_no_hole(world: World) -> None:
    (job_id,) = follow(world, "XRP/USDT", {"binance": "1m"})
    history_id = f"{job_id}:history"
    world.pass_time(15 * DAY_MS)
    world.work_until(lambda jobs: any(job["_id"] == history_id and job["cursor"]["last_ts"] for job in jobs))
    history = world.platform.jobs.get(history_id)
    # With as few series as here everybody gets a place; what that priority is worth among many: test_tick_shares.py.
    assert (history["status"], history["priority"]) == ("active", PRIORITIES[JobKind.BACKFILL])
    assert cursor_ms(history) < to_ms(history["end_at"])
    back_ms = world.pass_time(5 * DAY_MS, BEFORE_CLOSE)
    world.assert_live_first(back_ms, world.settle())
    world.assert_limits_held()
    assert world.assert_whole(job_id) >= 20 * DAY_MS // MINUTE_MS


def test_workers_killed_while_they_catch_up_lose_nothing(world: World) -> None:
    job_ids = follow(world, "DOGE/USDT", {"binance": "1m", "coinbase": "5m"})
    back_ms = world.pass_time(10 * DAY_MS)
    for _ in range(2):
        before = world.simulator.report()["binance"]["requests_total"]
        world.work_until(lambda _jobs, least=before + 4: world.simulator.report()["binance"]["requests_total"] >= least)
        world.kill_worker()
        # Their leases run out.
        world.pass_time(41_000, were_killed=True)
    world.settle()
    runs = [run["outcome"] for job in world.jobs() for run in world.runs(job["_id"], back_ms)]
    assert "lost" in runs
    world.assert_limits_held()
    for job_id in job_ids:
        world.assert_whole(job_id)


@pytest.mark.parametrize(
    ("symbol", "outage_ms"),
    [pytest.param("BTC/USD", DAY_MS, marks=pytest.mark.soak), ("ETH/USD", MONTH_MS)],
    ids=["day", "month"],
)
def test_what_the_exchange_no_longer_keeps_is_told_and_not_asked_for(world: World, symbol: str, outage_ms: int) -> None:
    (job_id,) = follow(world, symbol, {"kraken": "1m"})
    next_ms = cursor_ms(world.platform.jobs.get(job_id)) + MINUTE_MS
    back_ms = world.pass_time(outage_ms, (MINUTE_MS, 10_000))
    worked_ms = world.settle()
    world.assert_live_first(back_ms, worked_ms)
    alert = world.platform.database.collection("alerts").find_one({"subject": f"jobs/{job_id}/history"})
    assert alert is not None
    stored = [
        to_ms(row["_id"])
        for row in world.platform.database.collection("candles_kraken_" + symbol.replace("/", "-") + "_1m").find()
    ]
    kept_ms = min(open_ms for open_ms in stored if open_ms >= next_ms)
    # 720 closed candles are kept; the request comes after the outage.
    assert (back_ms - kept_ms) // MINUTE_MS <= 720
    assert (worked_ms - kept_ms) // MINUTE_MS >= 718
    assert (alert["facts"]["from"], alert["facts"]["to"]) == (to_datetime(next_ms), to_datetime(kept_ms))
    world.assert_whole(job_id, lost=[(next_ms, kept_ms)])
    assert not any(job["kind"] == "repair" for job in world.jobs())
    # Nothing but the newest candle is asked for any more.
    for _ in range(2):
        before, closed_ms = world.simulator.report()["kraken"]["requests_total"], world.now_ms() // MINUTE_MS
        world.pass_time(MINUTE_MS, (MINUTE_MS, 10_000))
        world.work_until(lambda jobs: world.are_fresh(jobs) and not any("claim_id" in job["lock"] for job in jobs))
        closes = world.now_ms() // MINUTE_MS - closed_ms
        assert world.simulator.report()["kraken"]["requests_total"] <= before + closes
    world.assert_limits_held()


def test_repairs_keep_their_distance_and_three_passes_say_that_there_were_no_trades(world: World) -> None:
    start_ms = (world.now_ms() - 2 * HOUR_MS) // MINUTE_MS * MINUTE_MS
    hole = (start_ms + 30 * MINUTE_MS, start_ms + 40 * MINUTE_MS)
    world.simulator.set_faults({"exchange": "binance", "kind": "hide", "from_ms": hole[0], "to_ms": hole[1], "share": 1.0})
    job_id = add_job(world.platform, "ADA/USDT", start_ms=start_ms)
    repair_id = f"{job_id}:repair"
    woken_ms = world.now_ms()
    world.work_until(world.are_fresh)
    asleep_ms = world.now_ms()
    for passes in range(1, TRIES_MAX + 1):
        # Counted from when it was woken, or its ending decided.
        due_ms = to_ms(world.platform.jobs.get(repair_id)["next_run_at"])
        assert woken_ms <= due_ms - REPAIR_APART_MS <= asleep_ms
        # The tick looks at it some time before: everything else that is due is done, and this is not begun.
        world.pass_time(due_ms - world.now_ms() - NOT_YET_MS)
        world.work_until(world.are_fresh)
        world.call_tick()
        assert len(world.runs(repair_id, 0)) == passes - 1
        world.pass_time(max(0, due_ms - world.now_ms()))
        world.work_until(lambda _jobs, count=passes: len(world.runs(repair_id, 0)) == count)
        last = world.runs(repair_id, 0)[-1]
        woken_ms, asleep_ms = to_ms(last["started_at"]), to_ms(last["finished_at"])
        state = "missing" if passes < TRIES_MAX - 1 else "no_trades"
        assert counts(world.platform, job_id, hole[1])[state] == 10
    assert [run["outcome"] for run in world.runs(repair_id, 0)] == ["caught_up", "caught_up", "done"]
    assert world.platform.jobs.get(repair_id)["status"] == "done"


# Limits that make a month's backlog last over several closes.
NARROW: Final = {
    "binance": (4, PERIOD_MS),
    "coinbase": (2, PERIOD_MS),
    "okx": (2, PERIOD_MS),
    "bybit": (1, PERIOD_MS),
    "kraken": (1, PERIOD_MS),
}


@pytest.mark.soak
@pytest.mark.timeout(SOAK_HANG_S)
def test_a_month_is_caught_up_on_several_exchanges_while_minute_after_minute_closes(tmp_path: Path) -> None:
    with start_world(tmp_path, NARROW) as world:
        kept = [exchange for exchange in NARROW if exchange != "kraken"]
        for symbol in ("ETH/USDT", "SOL/USDT"):
            follow(world, symbol, dict.fromkeys(kept, "1m"))
        (lossy_id,) = follow(world, "BTC/USD", {"kraken": "1m"})
        next_ms = cursor_ms(world.platform.jobs.get(lossy_id)) + MINUTE_MS
        back_ms = world.pass_time(MONTH_MS, (MINUTE_MS, 50_000))
        assert world.assert_live_first(back_ms, world.settle(700)) >= 9
        world.assert_limits_held()
        for job in world.jobs("live"):
            if job["_id"] != lossy_id:
                assert world.assert_whole(job["_id"]) >= MONTH_MS // MINUTE_MS
                history_done_ms(world, job["_id"], back_ms)
        alert = world.platform.database.collection("alerts").find_one({"subject": f"jobs/{lossy_id}/history"})
        assert alert is not None
        world.assert_whole(lossy_id, lost=[(next_ms, to_ms(alert["facts"]["to"]))])


@pytest.mark.soak
@pytest.mark.timeout(SOAK_HANG_S)
@pytest.mark.parametrize("seed", range(3))
def test_outages_and_kills_in_any_order_lose_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    with start_world(tmp_path, LIMITS) as world:
        job_ids = [
            *follow(world, "BTC/USDT", {"binance": "1m", "coinbase": "5m"}),
            *follow(world, "ETH/USDT", {"binance": "5m", "coinbase": "1m"}),
        ]
        for _ in range(8):
            # A minute to a week.
            world.pass_time(round(60_000 * 10 ** rng.uniform(0, 4)))
            requests_count = sum(world.simulator.report()[exchange]["requests_total"] for exchange in LIMITS)
            enough = requests_count + rng.randint(1, 40)

            def is_enough(jobs: list[Document], enough: int = enough) -> bool:
                report = world.simulator.report()
                has_asked = sum(report[exchange]["requests_total"] for exchange in LIMITS) >= enough
                return has_asked or not any(is_due(job, world.now_ms()) for job in jobs)

            world.work_until(is_enough)
            if rng.random() < 0.4:
                world.kill_worker()
                world.pass_time(41_000, were_killed=True)
        world.settle(200)
        world.assert_limits_held()
        for job_id in job_ids:
            world.assert_whole(job_id)
