"""What tests of ticks share: a worker by HTTP that notes who calls it, an end that comes when the test says so, due jobs."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from local_emulator.processes import HOST
from shared.domain.jobs import to_datetime
from shared.usecases.dispatch_due_jobs import TickReport
from shared.wiring import Platform
from tests.factories import add_job
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
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.calls.append(Call(body, self.headers.get("Authorization", "")))
        self.send_response(self.server.answer(body))
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


class TickEnd:
    """In the place of the deadline of a test's ticks: it comes when the test has seen what it waits for."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._asked = 0

    def remaining_ms(self) -> int:
        """An hour, until it has come. A tick asks after each look."""
        self._asked += 1
        return 0 if self._is_over.is_set() else 3_600_000

    @property
    def has_come(self) -> bool:
        return self._is_over.is_set()

    def come(self) -> None:
        """Ticks end with the look that they are at."""
        self._is_over.set()

    def wait_for_looks(self) -> None:
        """Until a tick that starts nothing has begun a look and ended it: it asks twice after each."""
        before = self._asked
        wait_until(lambda: self._asked >= before + 5)


@contextmanager
def ticking(platform: Platform, tick_end: TickEnd) -> Iterator["Future[TickReport]"]:
    """A tick that goes on for as long as the block, or until the end of another one inside has come."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(platform.dispatcher.run, "schedule")
        try:
            yield running
            assert tick_end.has_come or not running.done(), running.result()
        finally:
            tick_end.come()


def add_jobs(platform: Platform, connector_id: str, count: int, **fields: Any) -> list[str]:
    return [add_job(platform, f"{connector_id.upper()}{n}/USDT", connector_id=connector_id, **fields) for n in range(count)]


def server_time(platform: Platform, plus_ms: int = 0) -> Any:
    return to_datetime(platform.database.server_now_ms() + plus_ms)
