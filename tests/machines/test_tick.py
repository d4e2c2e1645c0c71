"""Ticks on a real mongod that call a worker by HTTP: each due job is started once, fairly, and never without room for it."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from pymongo import MongoClient

from local_emulator.identity import IdentityProvider
from local_emulator.processes import HOST, free_port
from local_emulator.simulator.process import start_simulator
from shared.deadline import Deadline
from shared.domain.jobs import to_datetime, to_ms
from shared.errors import LeaseLost, StorageUnavailable
from shared.wiring import Platform
from tests.factories import add_connector, add_job, claim, make_platform, run_once
from tests.waiting import wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
ACCOUNT: Final = "tick@test.iam.gserviceaccount.com"
# A tick without a budget looks once.
ONE_PASS_S: Final = 0.0
Body = dict[str, Any]
Answer = Callable[[Body], int]


@dataclass(frozen=True)
class Call:
    """A POST as it arrived."""

    at_monotonic: float
    body: Body
    authorization: str


class Receiver(ThreadingHTTPServer):
    """In the place of the worker, or of a webhook: notes every POST and answers with the status that `answer` gives."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self) -> None:
        super().__init__((HOST, 0), Handler)
        self.calls: list[Call] = []
        self.answer: Answer = lambda _body: 200
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"

    @property
    def job_ids(self) -> list[str]:
        with self.lock:
            return [call.body["job_id"] for call in self.calls]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30.0
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.calls.append(Call(time.monotonic(), body, self.headers.get("Authorization", "")))
        self.send_response(self.server.answer(body))
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture(scope="module")
def identity() -> Iterator[IdentityProvider]:
    provider = IdentityProvider([ACCOUNT])
    yield provider
    provider.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_tick(
    platform: Platform, mongodb_uri: str, database_name: str, receiver: Receiver, identity: IdentityProvider
) -> Iterator[Callable[..., Platform]]:
    """Instances of the tick function on the test's database, whose worker is the receiver unless a setting says otherwise."""
    opened: list[Platform] = []

    def open_one(**settings: Any) -> Platform:
        defaults: dict[str, Any] = {
            "worker_url": receiver.url,
            "metadata_host": identity.metadata_host(ACCOUNT),
            "tick_budget_s": ONE_PASS_S,
            "mongodb_pool_size": 30,
        }
        opened.append(make_platform(mongodb_uri, database_name, **{**defaults, **settings}))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def add_jobs(platform: Platform, connector_id: str, count: int, **fields: Any) -> list[str]:
    return [add_job(platform, f"{connector_id.upper()}{n}/USDT", connector_id=connector_id, **fields) for n in range(count)]


def server_time(platform: Platform, plus_ms: int = 0) -> Any:
    return to_datetime(platform.database.server_now_ms() + plus_ms)


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
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver
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
    ticks = [open_tick(tick_starts_max=7, tick_budget_s=1.5) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda tick: tick.dispatcher.run("schedule"), ticks))
    assert sorted(receiver.job_ids) == sorted(job_ids)
    assert sum(report.started for report in reports) == 40
    assert {document["lock"]["fence"] for document in platform.jobs.list_({})} == {1}


def test_a_job_that_falls_due_during_a_tick_is_started_within_a_second(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver
) -> None:
    add_connector(platform)
    tick = open_tick(tick_budget_s=4.0)
    tick.dispatcher  # noqa: B018 - connect before the time is taken
    due_monotonic = time.monotonic() + 2.0
    job_id = add_job(platform, next_run_at=server_time(platform, 2_000))
    began = time.monotonic()
    tick.dispatcher.run("schedule")
    assert time.monotonic() - began < 4.0 + 1.0
    assert receiver.job_ids == [job_id]
    assert -0.1 < receiver.calls[0].at_monotonic - due_monotonic < 1.0


def test_a_webhook_that_hangs_keeps_no_job_waiting(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver
) -> None:
    add_connector(platform)
    job_id = add_job(platform)
    for number in range(3):
        platform.database.transact(
            lambda session, subject=f"jobs/{number}": platform.alerts.open_(
                subject=subject, title="stopped", facts={}, opened_at=server_time(platform, 0), session=session
            )
        )
    released = threading.Event()

    def answer(body: Body) -> int:
        if "job_id" not in body:
            released.wait(20)
        return 200

    receiver.answer = answer
    tick = open_tick(alert_webhook_url=receiver.url, hosts_allowed=HOST)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(tick.dispatcher.run, "schedule")
        try:
            wait_until(lambda: any(call.body.get("job_id") == job_id for call in list(receiver.calls)))
            assert not running.done(), "the webhook has not hung"
        finally:
            released.set()
        running.result(30)


def test_a_moment_without_mongodb_does_not_end_a_tick(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver, mongo_client: MongoClient[dict[str, Any]]
) -> None:
    """Updates are not sent again by the driver: the claim fails, and the next look makes it again."""
    add_connector(platform)
    job_id = add_job(platform)
    tick = open_tick(tick_budget_s=5.0)
    tick.dispatcher  # noqa: B018 - connect before it fails
    failing = {"failCommands": ["update"], "errorCode": 10107, "appName": "chandler"}
    mongo_client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=failing)
    try:
        report = tick.dispatcher.run("schedule")
    finally:
        mongo_client.admin.command("configureFailPoint", "failCommand", mode="off")
    assert receiver.job_ids == [job_id]
    assert report.started == 1


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


def test_the_job_of_a_worker_that_was_killed_is_started_again_as_soon_as_its_lease_has_run_out(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver, mongodb_uri: str, database_name: str
) -> None:
    """Killed in the middle of a transaction, whose documents the server would keep from everybody for a minute."""
    lease_ms = 1_500
    add_connector(platform)
    job_id = add_job(platform)
    claimed = claim(platform, job_id)
    tick = open_tick(tick_budget_s=3.0)
    command = [sys.executable, "-m", "tests.machines.dying_worker", mongodb_uri, database_name, job_id]
    with subprocess.Popen([*command, str(claimed.fence), str(lease_ms)], cwd=ROOT, stdout=subprocess.PIPE) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"storing\n"
        finally:
            worker.kill()
    report = tick.dispatcher.run("schedule")
    assert (report.started, receiver.job_ids) == (1, [job_id])
    job = platform.jobs.get(job_id)
    assert (job["lock"]["fence"], job["attempt"], job["cursor"]["last_ts"]) == (claimed.fence + 1, 1, None)
    # All by the server's clock.
    (lost,) = job["abandoned"]
    assert to_ms(lost["expired_at"]) == to_ms(lost["started_at"]) + lease_ms
    assert 0 <= to_ms(job["lock"]["claimed_at"]) - to_ms(lost["expired_at"]) < 1_000


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
    with broken(way, receiver) as settings:
        report = open_tick(**settings).dispatcher.run("schedule")
    assert (report.claimed, report.started, report.given_back) == (1, 0, 1)
    job = platform.jobs.get(job_id)
    assert (job["lock"], job["attempt"], job["status"]) == ({"fence": 1}, 0, "active")
    assert 0 < to_ms(job["next_run_at"]) - platform.database.server_now_ms() + 2_000 <= 4_000


def test_what_was_given_back_is_started_again_by_the_same_tick(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver
) -> None:
    add_connector(platform)
    job_id = add_job(platform)
    receiver.answer = lambda body: 503 if body["fence"] == 1 else 200
    open_tick(tick_budget_s=4.0).dispatcher.run("schedule")
    assert [(call.body["job_id"], call.body["fence"]) for call in receiver.calls] == [(job_id, 1), (job_id, 2)]
    assert 1.8 < receiver.calls[1].at_monotonic - receiver.calls[0].at_monotonic < 3.5
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
    assert to_ms(job["next_run_at"]) - platform.database.server_now_ms() > 50_000


def test_a_worker_that_takes_longer_than_the_tick_is_left_alone(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver
) -> None:
    add_connector(platform)
    job_id = add_job(platform)
    gate = threading.Event()
    receiver.answer = lambda _body: 200 if gate.wait(20) else 500
    began = time.monotonic()
    report = open_tick(tick_budget_s=1.0).dispatcher.run("schedule")
    elapsed_s = time.monotonic() - began
    gate.set()
    assert elapsed_s < 3.0
    assert (report.started, report.given_back) == (1, 0)
    assert platform.jobs.get(job_id)["lock"]["fence"] == 1


# --- fair, and no more than there is room for


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


# --- alerts


def test_what_is_left_to_tell_is_told_once_and_again_if_the_webhook_failed(
    platform: Platform, open_tick: Callable[..., Platform], receiver: Receiver
) -> None:
    webhook = Receiver()
    try:
        add_connector(platform)
        # Fails for good, in a worker that dies before it can tell.
        job_id = add_job(platform, indicators=[{"name": "NOSUCH"}])
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
