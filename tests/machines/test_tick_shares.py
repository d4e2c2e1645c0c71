"""Ticks on a real mongod: places are shared fairly between connectors, and nothing is started without room for it."""

from collections.abc import Callable
from datetime import timedelta

from local_emulator.simulator.process import start_simulator
from shared.deadline import Deadline
from shared.domain.jobs import to_datetime
from shared.usecases.dispatch_due_jobs import WAIT_MS_MAX
from shared.wiring import Platform
from tests.factories import add_connector, add_job
from tests.machines.tick_scene import Body, Receiver, TickEnd, add_jobs, server_time, ticking
from tests.waiting import HANG_S, wait_until


def test_a_connector_with_a_crowd_of_due_jobs_leaves_the_others_their_places(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver, tick_end: TickEnd
) -> None:
    quiet = [f"q{n}" for n in range(9)]
    for connector_id in ("crowd", *quiet):
        add_connector(platform, connector_id=connector_id)
    add_jobs(platform, "crowd", 300, next_run_at=to_datetime(0))
    for connector_id in quiet:
        add_jobs(platform, connector_id, 3)
    with ticking(open_tick(tick_starts_max=20, tick_calls_max=20), tick_end):
        wait_until(lambda: len(receiver.job_ids) > 40)
    # In the order of the claims, not of the calls' arrival: those of one pass go out in threads.
    claimed = sorted(platform.jobs.list_({"lock.claim_id": {"$exists": True}}), key=lambda job: job["lock"]["claimed_at"])
    assert sorted(job["_id"] for job in claimed) == sorted(set(receiver.job_ids))
    crowded = [job["connector_id"] == "crowd" for job in claimed]
    # Ten connectors share twenty places: the first pass gives two to each, the second one to each that has one left.
    assert crowded[:20].count(False) == 18
    assert crowded[:40].count(False) == 27
    assert len(crowded) > 40


def test_places_that_become_free_one_by_one_do_not_all_go_to_the_same_connector(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver, tick_end: TickEnd
) -> None:
    # By name the crowd comes first.
    for connector_id in ("a", "b", "c", "d", "e"):
        add_connector(platform, connector_id=connector_id)
    add_jobs(platform, "a", 20, next_run_at=to_datetime(0))
    for connector_id in ("b", "c", "d", "e"):
        add_jobs(platform, connector_id, 1)
    with ticking(open_tick(tick_calls_max=1), tick_end):
        wait_until(lambda: len(receiver.job_ids) >= 5)
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
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver, tick_end: TickEnd
) -> None:
    with start_simulator() as simulator:
        add_connector(platform, base_url=simulator.base_url("binance"))
        add_connector(platform, connector_id="free")
        job_id = add_job(platform, indicators=[])
        free_id = add_job(platform, "FREE/USDT", connector_id="free")
        platform.limits.block("binance", 3_600_000, "told to stay away")

        def work(body: Body) -> int:
            if body["job_id"] == job_id:
                platform.runner.run(body["job_id"], body["fence"], "tick", Deadline.after(HANG_S))
            return 200

        receiver.answer = work
        with ticking(open_tick(), tick_end):
            # The others do not wait for it.
            wait_until(lambda: free_id in receiver.job_ids)
            tick_end.wait_for_looks()
            assert receiver.job_ids == [free_id]
            until = server_time(platform, WAIT_MS_MAX + 500)
            platform.database.collection("connectors").update_one({"_id": "binance"}, {"$set": {"blocked_until": until}})
            wait_until(lambda: simulator.report()["binance"]["requests_total"] or server_time(platform) >= until)
            # Looked at in this order: a request that came too early is seen, and a look that came too late accuses nobody.
            assert server_time(platform) >= until
            wait_until(lambda: platform.jobs.get(job_id)["cursor"]["last_ts"])
        (run, *_) = sorted(platform.runs.list_of_job(job_id, None, 10), key=lambda run: run["fence"])
    # Its worker is not there before it can do something soon.
    assert run["claimed_at"] >= until - timedelta(milliseconds=WAIT_MS_MAX)
