"""An HTTP server on loopback that answers like an exchange, a slow one, or a broken one, as a test tells it."""

import contextlib
import json
import socket
import sys
import threading
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from shared.domain.timeframes import DAY_MS

START_MS = 1_704_067_200_000  # 2024-01-01
NOW_MS = START_MS + 400 * DAY_MS
VALUES = ("100.5", "103.25", "99.125", "101.0", "7.5")


@dataclass
class Reply:
    """What the server answers next. `send_bytes` cuts the body; `drip_s` is the pause after each byte of body or head."""

    body: bytes = b"[]"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    date_ms: int | None = NOW_MS
    send_bytes: int | None = None
    drip_s: float = 0.0
    drips_head: bool = False
    delay_s: float = 0.0


class Venue(ThreadingHTTPServer):
    """An exchange that says what it is told to, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.agents: list[str | None] = []
        self.reply = Reply()
        self.stopped = threading.Event()
        self._connections: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted, address = super().get_request()
        self._connections.append(accepted)
        return accepted, address

    def close_connections(self) -> None:
        """As an exchange does with those that have been idle; returns when its peers can know."""
        for each in self._connections:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early is what some tests are about."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def says(self, value: Any, status: int = 200, **more: Any) -> None:
        self.reply = Reply(value if isinstance(value, bytes) else json.dumps(value).encode(), status, **more)

    @property
    def query(self) -> dict[str, str]:
        return self.asked[-1][2]


class _Handler(BaseHTTPRequestHandler):
    server: Venue
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        venue, reply, parts = self.server, self.server.reply, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        venue.asked.append((self.command, parts.path, query, json.loads(body) if body else None))
        venue.agents.append(self.headers.get("User-Agent"))
        venue.stopped.wait(reply.delay_s)
        if reply.drips_head:
            self._drip(b"HTTP/1.1 200 OK\r\nX-Padding: " + reply.body + b"\r\n\r\n", reply.drip_s)
            return
        self.send_response_only(reply.status)
        if reply.date_ms is not None:
            self.send_header("Date", formatdate(reply.date_ms // 1000, usegmt=True))
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        try:
            self.end_headers()
            body = reply.body[: reply.send_bytes]
            for at in range(0, len(body), 1 if reply.drip_s else max(1, len(body))):
                self.wfile.write(body[at : at + 1] if reply.drip_s else body)
                self.wfile.flush()
                if reply.drip_s and venue.stopped.wait(reply.drip_s):
                    break
        except ConnectionError:
            pass  # the client had enough, which some tests want
        self.close_connection = reply.send_bytes is not None or bool(reply.drip_s)

    def _drip(self, head: bytes, pause_s: float) -> None:
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            for at in range(len(head)):
                self.wfile.write(head[at : at + 1])
                self.wfile.flush()
                if self.server.stopped.wait(pause_s):
                    return

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


def rows_of(exchange: str, opens_ms: list[int]) -> list[Any]:
    """Rows in the exchange's own order of columns and rows, all with VALUES."""
    open_, high, low, close, volume = VALUES
    if exchange == "binance":
        return [[at, *VALUES, at + 59_999, "1", 1, "1", "1", "0"] for at in opens_ms]
    if exchange == "coinbase":
        numbers = [float(value) for value in (low, high, open_, close, volume)]
        return [[at // 1000, *numbers] for at in reversed(opens_ms)]
    return [[at // 1000, open_, high, low, close, "100.9", volume, 3] for at in opens_ms]


def page_of(exchange: str, opens_ms: list[int]) -> Any:
    rows = rows_of(exchange, opens_ms)
    return {"error": [], "result": {"XXBTZUSD": rows, "last": 1}} if exchange == "kraken" else rows
