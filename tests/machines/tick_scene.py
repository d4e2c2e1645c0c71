"""What tests of ticks share: a worker by HTTP that notes who calls it and answers as it is told, and jobs that are due."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from local_emulator.processes import HOST
from shared.domain.jobs import to_datetime
from shared.wiring import Platform
from tests.factories import add_job

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


def add_jobs(platform: Platform, connector_id: str, count: int, **fields: Any) -> list[str]:
    return [add_job(platform, f"{connector_id.upper()}{n}/USDT", connector_id=connector_id, **fields) for n in range(count)]


def server_time(platform: Platform, plus_ms: int = 0) -> Any:
    return to_datetime(platform.database.server_now_ms() + plus_ms)
