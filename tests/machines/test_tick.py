"""Ticks on a real mongod that call a worker by HTTP: each due job is started once, whatever fails meanwhile."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import jwt
import pytest
from pymongo import MongoClient

from local_emulator.identity import IdentityProvider
from local_emulator.processes import HOST, free_port
from shared.domain.jobs import to_ms
from shared.errors import LeaseLost, StorageUnavailable
from shared.senders import alert_posts
from shared.usecases.dispatch_due_jobs import GIVE_BACK_MS
from shared.wiring import Platform
from tests.factories import NOSUCH, add_connector, add_job, claim, put_list, run_once
from tests.machines.tick_scene import ACCOUNT, ONE_PASS_S, ROOT, Body, Receiver, TickEnd, add_jobs, server_time, ticking
from tests.waiting import HANG_S, wait_until

# --- each due job once


def test_a_tick_tells_the_worker_of_each_due_job_once_and_who_calls(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver, identity: IdentityProvider
) -> None:
    add_connector(platform)
    job_ids = add_jobs(platform, "binance", 5)
    add_job(platform, "LATER/USDT", next_run_at=server_time(platform, 60_000))
    add_job(platform, "PAUSED/USDT", status="paused")
    report = open_tick().dispatcher.run("schedule")
    assert [call.body for call in sorted(receiver.calls, key=lambda call: call.body["job_id"])] == [
        {"job_id": job_id, "fence": 1, "trigger": "schedule"} for job_id in job_ids
    ]
    assert (report.claimed, report.started, report.given_back) == (5, 5, 0)
    token = receiver.calls[0].authorization.removeprefix("Bearer ")
    key = jwt.PyJWK(identity.jwks()["keys"][0]).key
    assert jwt.decode(token, key, algorithms=["RS256"], audience=receiver.url)["email"] == ACCOUNT
    # They are leased now, though their worker has not begun: the next tick has nothing to start.
    assert open_tick().dispatcher.run("schedule").claimed == 0
    assert len(receiver.calls) == 5


def test_two_ticks_at_once_start_each_job_once(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver, tick_end: TickEnd
) -> None:
    add_connector(platform)
    job_ids = add_jobs(platform, "binance", 40)

    def begin(body: Body) -> int:
        try:
            platform.leases.begin(body["job_id"], body["fence"], f"{body['job_id']}#{body['fence']}", 60_000)
        except LeaseLost:
            return 409
        return 200

    receiver.answer = begin
    with (
        ticking(open_tick(tick_starts_max=7), tick_end) as first,
        ticking(open_tick(tick_starts_max=7), tick_end) as second,
    ):
        wait_until(lambda: len(receiver.job_ids) >= 40)
        tick_end.wait_for_looks()
    assert sorted(receiver.job_ids) == sorted(job_ids)
    assert first.result().started + second.result().started == 40
    assert {document["lock"]["fence"] for document in platform.jobs.list_({})} == {1}


def test_a_job_that_falls_due_during_a_tick_is_started_by_it_and_not_before(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver, tick_end: TickEnd
) -> None:
    """However long the worker of another one goes on."""
    add_connector(platform)
    other_id = add_job(platform, "ETH/USDT")
    job_id = add_job(platform, next_run_at=server_time(platform, 3_600_000))
    released = threading.Event()
    receiver.answer = lambda body: 200 if body["job_id"] == job_id or released.wait(HANG_S) else 500
    with ticking(open_tick(), tick_end):
        try:
            wait_until(lambda: receiver.calls)
            tick_end.wait_for_looks()
            due_at = server_time(platform, 300)
            platform.database.collection("jobs").update_one({"_id": job_id}, {"$set": {"next_run_at": due_at}})
            wait_until(lambda: len(receiver.calls) > 1)
            tick_end.wait_for_looks()
        finally:
            released.set()
    assert receiver.job_ids == [other_id, job_id]
    assert platform.jobs.get(job_id)["lock"]["claimed_at"] >= due_at


def test_a_webhook_that_hangs_keeps_no_job_waiting(
    platform: Platform,
    open_tick: Callable[..., Platform],
    receiver: Receiver,
    tick_end: TickEnd,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It hangs until the job has been started, in a tick that may hold one call open."""
    monkeypatch.setattr(alert_posts, "TIMEOUT_S", (HANG_S, HANG_S))
    add_connector(platform)
    for number in range(3):
        platform.database.transact(
            lambda session, subject=f"jobs/{number}": platform.alerts.open_(
                subject=subject, title="stopped", facts={}, opened_at=server_time(platform, 0), session=session
            )
        )
    released = threading.Event()

    def answer(body: Body) -> int:
        if "job_id" not in body:
            released.wait(HANG_S)
        return 200

    receiver.answer = answer
    tick = open_tick(alert_webhook_url=receiver.url, hosts_allowed=HOST, tick_calls_max=1)
    with ticking(tick, tick_end):
        try:
            wait_until(lambda: receiver.calls)
            job_id = add_job(platform)
            wait_until(lambda: len(receiver.calls) > 1)
            assert receiver.calls[1].body["job_id"] == job_id
        finally:
            released.set()


def test_a_moment_without_mongodb_does_not_end_a_tick(
    platform: Platform,
    open_tick: Callable[..., Platform],
    receiver: Receiver,
    tick_end: TickEnd,
    mongo_client: MongoClient[dict[str, Any]],
) -> None:
    """Updates are not sent again by the driver: the claim fails, and the next look makes it again."""
    add_connector(platform)
    job_id = add_job(platform)
    tick = open_tick()
    tick.dispatcher  # noqa: B018 - connect before it fails
    failing = {"failCommands": ["update"], "errorCode": 10107, "appName": "chandler"}
    mongo_client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=failing)
    try:
        with ticking(tick, tick_end) as running:
            wait_until(lambda: receiver.calls or running.done())
    finally:
        mongo_client.admin.command("configureFailPoint", "failCommand", mode="off")
    assert receiver.job_ids == [job_id]
    assert running.result().started == 1


def test_a_tick_that_does_not_find_mongodb_by_its_end_says_so(
    platform: Platform, open_tick: Callable[..., Platform], mongo_client: MongoClient[dict[str, Any]]
) -> None:
    add_connector(platform)
    add_job(platform)
    tick = open_tick()
    tick.dispatcher  # noqa: B018 - connect before it fails
    failing = {"failCommands": ["update"], "errorCode": 10107, "appName": "chandler"}
    mongo_client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=failing)
    try:
        with pytest.raises(StorageUnavailable):
            tick.dispatcher.run("schedule")
    finally:
        mongo_client.admin.command("configureFailPoint", "failCommand", mode="off")


@pytest.mark.usefixtures("endless_transactions")
def test_the_job_of_a_worker_that_was_killed_is_started_again_when_its_lease_has_run_out(
    platform: Platform,
    open_tick: Callable[..., Platform],
    receiver: Receiver,
    tick_end: TickEnd,
    mongodb_uri: str,
    database_name: str,
) -> None:
    """Killed in the middle of a transaction, which keeps its documents from everybody until somebody ends it."""
    lease_ms = 1_500
    add_connector(platform)
    job_id = add_job(platform)
    claimed = claim(platform, job_id)
    command = [sys.executable, "-m", "tests.machines.dying_worker", mongodb_uri, database_name, job_id]
    with subprocess.Popen([*command, str(claimed.fence), str(lease_ms)], cwd=ROOT, stdout=subprocess.PIPE) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"storing\n"
        finally:
            worker.kill()
    with ticking(open_tick(), tick_end) as running:
        wait_until(lambda: receiver.calls or running.done())
    assert (running.result().started, receiver.job_ids) == (1, [job_id])
    job = platform.jobs.get(job_id)
    assert (job["lock"]["fence"], job["attempt"], job["cursor"]["last_ts"]) == (claimed.fence + 1, 1, None)
    # All by the server's clock.
    (lost,) = job["abandoned"]
    assert to_ms(lost["expired_at"]) == to_ms(lost["started_at"]) + lease_ms
    assert job["lock"]["claimed_at"] >= lost["expired_at"]


# --- what could not be started


@contextmanager
def broken(way: str, receiver: Receiver) -> Iterator[dict[str, Any]]:
    """Settings with which no worker can be started."""
    if way.isdigit():
        receiver.answer = lambda _body: int(way)
        yield {}
    elif way == "connection refused":
        yield {"worker_url": f"http://{HOST}:{free_port()}"}
    elif way == "no identity token":
        yield {"metadata_host": f"{HOST}:{free_port()}"}
    else:
        yield {"worker_url": ""}


@pytest.mark.parametrize("way", ["connection refused", "no identity token", "no worker_url", "429", "503", "500"])
def test_what_could_not_be_started_is_given_back_and_costs_no_attempt(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver, way: str
) -> None:
    add_connector(platform)
    job_id = add_job(platform)
    before, after_ms = server_time(platform), timedelta(milliseconds=GIVE_BACK_MS)
    with broken(way, receiver) as settings:
        report = open_tick(**settings).dispatcher.run("schedule")
    assert (report.claimed, report.started, report.given_back) == (1, 0, 1)
    job = platform.jobs.get(job_id)
    assert (job["lock"], job["attempt"], job["status"]) == ({"fence": 1}, 0, "active")
    assert before + after_ms <= job["next_run_at"] <= server_time(platform) + after_ms


def test_what_was_given_back_is_started_again_by_the_same_tick(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver, tick_end: TickEnd
) -> None:
    add_connector(platform)
    job_id = add_job(platform)
    claimed_ms: list[int] = []

    def answer(body: Body) -> int:
        claimed_ms.append(to_ms(platform.jobs.get(job_id)["lock"]["claimed_at"]))
        return 503 if body["fence"] == 1 else 200

    receiver.answer = answer
    with ticking(open_tick(), tick_end):
        wait_until(lambda: len(claimed_ms) == 2)
        tick_end.wait_for_looks()
    assert [(call.body["job_id"], call.body["fence"]) for call in receiver.calls] == [(job_id, 1), (job_id, 2)]
    assert claimed_ms[1] >= claimed_ms[0] + GIVE_BACK_MS
    assert platform.jobs.get(job_id)["attempt"] == 0


def test_a_worker_that_has_begun_keeps_its_job_whatever_it_answers(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver
) -> None:
    add_connector(platform)
    job_id = add_job(platform)

    def begin(body: Body) -> int:
        platform.leases.begin(body["job_id"], body["fence"], "the run", 60_000)
        return 500

    receiver.answer = begin
    report = open_tick().dispatcher.run("schedule")
    assert (report.started, report.given_back) == (1, 0)
    job = platform.jobs.get(job_id)
    assert job["lock"]["run_id"] == "the run"
    assert to_ms(job["next_run_at"]) == to_ms(job["lock"]["started_at"]) + 60_000


def test_a_worker_that_takes_longer_than_the_tick_is_left_alone(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver
) -> None:
    add_connector(platform)
    job_id = add_job(platform)
    gate = threading.Event()
    receiver.answer = lambda _body: 200 if gate.wait(HANG_S) else 500
    report = open_tick(tick_budget_s=1.0).dispatcher.run("schedule")
    # Its worker has not answered when it ends.
    gate.set()
    assert (report.started, report.given_back) == (1, 0)
    assert platform.jobs.get(job_id)["lock"]["fence"] == 1


# --- alerts


def test_what_is_left_to_tell_is_told_once_and_again_if_the_webhook_failed(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver
) -> None:
    webhook = Receiver()
    try:
        add_connector(platform)
        # Fails for good, in a worker that dies before it can tell.
        job_id = add_job(platform)
        put_list(platform, [NOSUCH])
        assert run_once(platform, job_id).outcome.value == "error"
        tick = open_tick(alert_webhook_url=webhook.url, hosts_allowed=("127.0.0.1",), tick_budget_s=ONE_PASS_S)
        webhook.answer = lambda _body: 503
        tick.dispatcher.run("schedule")
        tick.dispatcher.run("schedule")
        # Not twice within a minute, however often there is a tick.
        assert len(webhook.calls) == 1
        webhook.answer = lambda _body: 200
        platform.database.collection("alerts").update_many({}, {"$set": {"trying_at": server_time(platform, -61_000)}})
        for _ in range(3):
            tick.dispatcher.run("schedule")
            platform.database.collection("alerts").update_many({}, {"$set": {"trying_at": server_time(platform, -61_000)}})
        assert len(webhook.calls) == 2
        told = webhook.calls[-1].body
        assert "NOSUCH" in told["text"]
        assert told["facts"]["subject"] == f"jobs/{job_id}"
        (alert,) = platform.alerts.list_("open", 10)
        assert (alert["tries"], alert["notified_at"] is None) == (2, False)
        assert receiver.calls == []
    finally:
        webhook.shutdown()
        webhook.server_close()
