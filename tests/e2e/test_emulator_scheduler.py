"""The scheduler's clock fires at once and at each full slot, with Cloud Scheduler's headers, at least once, overlapping."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from local_emulator.scheduler import SchedulerClock, SchedulerOptions
from tests.waiting import HANG_S, wait_until


class Target(ThreadingHTTPServer):
    """Notes each POST's headers; answers with `statuses` in turn, the last one for ever, once `gate` is open."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[dict[str, str]] = []
        self.statuses = [200]
        self.gate = threading.Event()
        self.gate.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Target

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.statuses[min(len(self.server.seen), len(self.server.statuses) - 1)]
        self.server.seen.append(dict(self.headers))
        self.server.gate.wait(HANG_S)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def target() -> Iterator[Target]:
    server = Target()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def start(target: Target) -> Iterator[Callable[[SchedulerOptions], list[str]]]:
    clocks: list[SchedulerClock] = []

    def start(options: SchedulerOptions) -> list[str]:
        reports: list[str] = []
        clock = SchedulerClock(target.url, lambda: "the-token", reports.append, options)
        clocks.append(clock)
        clock.start()
        return reports

    yield start
    for clock in clocks:
        clock.stop()


Start = Callable[[SchedulerOptions], list[str]]


def test_the_first_slot_fires_at_once_with_token_and_headers(target: Target, start: Start) -> None:
    """For the slot that has begun already; the next one is not waited for."""
    before_s = time.time()
    start(SchedulerOptions(every_s=60))
    after_s = time.time()
    wait_until(lambda: len(target.seen) == 1)
    headers = target.seen[0]
    assert headers["Authorization"] == "Bearer the-token"
    assert headers["X-CloudScheduler-JobName"] == "chandler-tick"
    at = datetime.fromisoformat(headers["X-CloudScheduler-ScheduleTime"])
    assert at.second == 0
    assert before_s - 60 < at.timestamp() <= after_s


def test_slots_follow_each_other_on_the_grid_of_the_clock(target: Target, start: Start) -> None:
    start(SchedulerOptions(every_s=1))

    def times() -> list[float]:
        return [datetime.fromisoformat(each["X-CloudScheduler-ScheduleTime"]).timestamp() for each in list(target.seen)]

    # While nothing holds it up, it leaves none out.
    wait_until(lambda: any({at, at + 1, at + 2} <= set(times()) for at in times()))
    assert [at % 1 for at in times()] == [0] * len(times())
    assert len(set(times())) == len(times())


def test_a_failed_attempt_is_sent_again_with_the_same_slot(target: Target, start: Start) -> None:
    target.statuses = [503, 500, 200]
    reports = start(SchedulerOptions(every_s=3600, backoff_s=0.05))
    wait_until(lambda: len(target.seen) == 3)
    assert len({headers["X-CloudScheduler-ScheduleTime"] for headers in target.seen}) == 1
    wait_until(lambda: len(reports) == 2)
    assert [report.rsplit(": ", 1)[1] for report in reports] == ["status 503", "status 500"]


def test_a_slow_tick_does_not_hold_up_the_next_one(target: Target, start: Start) -> None:
    target.gate.clear()
    start(SchedulerOptions(every_s=0.2))
    wait_until(lambda: len(target.seen) >= 3)


def test_a_stuck_tick_is_not_piled_upon_without_end(target: Target, start: Start) -> None:
    target.gate.clear()
    reports = start(SchedulerOptions(every_s=0.05))
    wait_until(lambda: any("left out" in report for report in reports))
    assert len(target.seen) <= 8
