"""Ticks on a real mongod: places are shared fairly between connectors, and nothing is started without room for it."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from local_emulator.simulator.process import start_simulator
from shared.deadline import Deadline
from shared.domain.jobs import to_datetime
from shared.wiring import Platform
from tests.factories import add_connector, add_job
from tests.machines.tick_scene import Body, Receiver, add_jobs, server_time


def test_a_connector_with_a_crowd_of_due_jobs_leaves_the_others_their_places(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver
) -> None:
    quiet = [f"q{n}" for n in range(9)]
    for connector_id in ("crowd", *quiet):
        add_connector(platform, connector_id=connector_id)
    add_jobs(platform, "crowd", 300, next_run_at=to_datetime(0))
    for connector_id in quiet:
        add_jobs(platform, connector_id, 3)
    open_tick(tick_starts_max=20, tick_calls_max=20, tick_budget_s=2.0).dispatcher.run("schedule")
    # In the order of the claims, not of the calls' arrival: those of one pass go out in threads.
    claimed = sorted(platform.jobs.list_({"lock.claim_id": {"$exists": True}}), key=lambda job: job["lock"]["claimed_at"])
    assert sorted(job["_id"] for job in claimed) == sorted(set(receiver.job_ids))
    crowded = [job["connector_id"] == "crowd" for job in claimed]
    # Ten connectors share twenty places: the first pass gives two to each, the second one to each that has one left.
    assert crowded[:20].count(False) == 18
    assert crowded[:40].count(False) == 27
    assert len(crowded) > 40


def test_places_that_become_free_one_by_one_do_not_all_go_to_the_same_connector(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver
) -> None:
    # By name the crowd comes first.
    for connector_id in ("a", "b", "c", "d", "e"):
        add_connector(platform, connector_id=connector_id)
    add_jobs(platform, "a", 20, next_run_at=to_datetime(0))
    for connector_id in ("b", "c", "d", "e"):
        add_jobs(platform, connector_id, 1)
    open_tick(tick_calls_max=1, tick_budget_s=3.0).dispatcher.run("schedule")
    assert sorted(job_id[0] for job_id in receiver.job_ids[:5]) == ["a", "b", "c", "d", "e"]


def test_no_more_jobs_are_started_than_the_limit_serves_while_their_leases_last(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver
) -> None:
    # A page of Binance weighs 2: five of them in a minute, which is also the lease.
    add_connector(platform, windows=[(10, 60_000)])
    add_jobs(platform, "binance", 12)
    assert open_tick().dispatcher.run("schedule").claimed == 5
    assert open_tick().dispatcher.run("schedule").claimed == 0
    # One of them ends, and there is room for one.
    ended = receiver.calls[0].body
    jobs = platform.database.collection("jobs")
    jobs.update_one({"_id": ended["job_id"]}, {"$set": {"lock": {"fence": 1}, "next_run_at": server_time(platform, 60_000)}})
    assert open_tick().dispatcher.run("schedule").claimed == 1
    assert len(receiver.job_ids) == 6


def test_a_blocked_connector_gets_no_worker_and_no_request_until_the_block_ends(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver
) -> None:
    with start_simulator() as simulator:
        add_connector(platform, base_url=simulator.base_url("binance"))
        add_connector(platform, connector_id="free")
        job_id = add_job(platform, indicators=[])
        free_id = add_job(platform, "FREE/USDT", connector_id="free")
        block_ms = 3_000
        ends_monotonic = time.monotonic() + block_ms / 1000
        platform.limits.block("binance", block_ms, "told to stay away")
        outcomes: list[str] = []

        def work(body: Body) -> int:
            if body["job_id"] == job_id:
                result = platform.runner.run(body["job_id"], body["fence"], "tick", Deadline.after(100))
                outcomes.append(result.outcome.value)
            return 200

        receiver.answer = work
        with ThreadPoolExecutor(1) as pool:
            ticking = pool.submit(open_tick(tick_budget_s=5.0).dispatcher.run, "schedule")
            while time.monotonic() < ends_monotonic - 0.3:
                assert simulator.report()["binance"]["requests_total"] == 0
                time.sleep(0.05)
            ticking.result(20)
        assert simulator.report()["binance"]["requests_total"] > 0
    # The first call of each.
    starts = {call.body["job_id"]: call.at_monotonic for call in reversed(receiver.calls)}
    # The others do not wait for it, and its worker is not there before it can do something soon.
    assert starts[free_id] < ends_monotonic - 2.0
    assert starts[job_id] > ends_monotonic - 1.6
    assert outcomes[-1] == "caught_up"
