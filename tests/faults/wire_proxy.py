"""Proxies between a worker and what it calls: every call is told apart from outside, and one can be made to go wrong.

The worker is unpatched: its MongoDB URI and its exchange's base URL name these proxies. A call is one MongoDB command or one
HTTP request; it is known by its kind (what it does, and to which collection) and by its number among those of its kind, which
unlike its number among all calls does not depend on how the run's two threads interleave.

Formats: MongoDB's wire protocol (OP_MSG: 16 bytes of header, 4 of flags, then sections; the body is the one of kind 0), and as
much of HTTP/1.1 as a GET with an answer of known length needs (RFC 9112).
"""

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from bson.raw_bson import RawBSONDocument

from tests.waiting import HANG_S

HOST: Final = "127.0.0.1"
HEADER_BYTES: Final = 16
OP_MSG: Final = 2013
BODY_AT: Final = HEADER_BYTES + 5
CHUNK_BYTES: Final = 65_536
# A connection that stays cut this long outlasts every quick retry.
CUT_S: Final = 1.0
# A held call that nobody releases would hang the test.
HOLD_S_MAX: Final = HANG_S
JOIN_S_MAX: Final = 20.0


class Fate(Enum):
    """What becomes of a call."""

    CUT = auto()  # fails: the connection ends before the server sees it
    CUT_FOR_A_WHILE = auto()  # likewise, and so do all of its kind for CUT_S
    KILL_BEFORE = auto()  # the process dies before the server sees it
    KILL_AFTER = auto()  # the server has done it, the process dies before the reply arrives
    LOSE_REPLY = auto()  # the server has done it, the process sees a connection that ended
    TIME_OUT = auto()  # the server has done it, the reply never comes: the process waits for its own time-out
    HOLD = auto()  # kept back until it is released


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """The `number`-th call of its kind, from 1 on."""

    kind: str
    number: int


@dataclass(slots=True)
class Tap:
    """What all proxies of one worker share: the calls seen so far, and what is to happen to which.

    `kill` ends the worker. `after_reply` is called with a call's kind before its reply is passed on.
    """

    kill: Callable[[], None] = lambda: None
    after_reply: Callable[[str], None] = lambda _kind: None
    calls: list[Call] = field(default_factory=list)
    is_struck: threading.Event = field(default_factory=threading.Event)
    is_released: threading.Event = field(default_factory=threading.Event)
    _target: Call | None = None
    _fate: Fate | None = None
    _cut_until: float = 0.0
    _counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arm(self, target: Call | None = None, fate: Fate | None = None) -> None:
        """Count anew from here; `fate` is what becomes of `target`, None of either lets everything pass."""
        with self._lock:
            self.calls = []
            self._counts.clear()
            self._target, self._fate, self._cut_until = target, fate, 0.0
            self.is_struck.clear()
            self.is_released.clear()

    def disarm(self) -> list[Call]:
        """Let everything pass from now on; the calls since `arm`."""
        with self._lock:
            self._target, self._cut_until = None, 0.0
            self.is_released.set()
            return self.calls

    def note(self, kind: str) -> Fate | None:
        """A call has come: what is to become of it. None: pass it."""
        with self._lock:
            self._counts[kind] += 1
            call = Call(kind, self._counts[kind])
            self.calls.append(call)
            if call == self._target:
                self.is_struck.set()
                if self._fate is Fate.CUT_FOR_A_WHILE:
                    self._cut_until = time.monotonic() + CUT_S
                return self._fate
            is_cut = self._target is not None and kind == self._target.kind and time.monotonic() < self._cut_until
            return Fate.CUT if is_cut else None


class Proxy:
    """Listens on a free loopback port and passes messages to `upstream` and back. A context manager; leaving ends all."""

    def __init__(self, tap: Tap, upstream: tuple[str, int], protocol: "type[Protocol]") -> None:
        self.tap = tap
        self.upstream = upstream
        self._protocol = protocol
        self._listener = socket.create_server((HOST, 0))
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(JOIN_S_MAX)
        with self._lock:
            links = list(self._links)
        for link in links:
            link.hang_up()
        self.join()

    def join(self) -> None:
        """Wait until no connection is left: of a worker that has ended, everything it sent has been passed on or dropped."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.upstream)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(self.tap, self._protocol(), client, server, self._forget)
            # Together: who finds it waits for its threads.
            with self._lock:
                self._links.add(link)
                link.start()

    def _forget(self, link: "_Link") -> None:
        with self._lock:
            self._links.discard(link)


class _Link:
    """One connection, passed on by two threads. At most one call at a time is under way on it."""

    def __init__(
        self, tap: Tap, protocol: "Protocol", client: socket.socket, server: socket.socket, forget: "Callable[[_Link], None]"
    ) -> None:
        self._tap = tap
        self._protocol = protocol
        self._client = client
        self._server = server
        self._forget = forget
        self._kind: str | None = None
        self._fate: Fate | None = None
        self._is_left = threading.Event()
        self._up = threading.Thread(target=self._pass_calls, name="calls", daemon=True)
        self._down = threading.Thread(target=self._pass_replies, name="replies", daemon=True)

    def start(self) -> None:
        # In this order: the other one waits for it in the end.
        self._down.start()
        self._up.start()

    def join(self) -> None:
        for thread in (self._up, self._down):
            thread.join(JOIN_S_MAX)
            assert not thread.is_alive(), "a connection of a worker that has ended stays open"

    def hang_up(self) -> None:
        """End the connection at both ends; the threads then end too."""
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass_calls(self) -> None:
        try:
            while message := self._protocol.read_call(self._client):
                kind = self._protocol.kind_of(message)
                fate = None if kind is None else self._tap.note(kind)
                if fate in (Fate.KILL_BEFORE, Fate.CUT, Fate.CUT_FOR_A_WHILE):
                    if fate is Fate.KILL_BEFORE:
                        self._tap.kill()
                    return
                if fate is Fate.HOLD:
                    self._tap.is_released.wait(HOLD_S_MAX)
                self._kind, self._fate = kind, fate
                self._server.sendall(message)
        except OSError:
            pass
        finally:
            self._is_left.set()
            self.hang_up()
            self._down.join(JOIN_S_MAX)
            self._client.close()
            self._server.close()
            self._forget(self)

    def _pass_replies(self) -> None:
        try:
            while reply := self._protocol.read_reply(self._server):
                if self._kind is not None:
                    self._tap.after_reply(self._kind)
                    self._kind = None
                if self._fate is Fate.KILL_AFTER:
                    self._tap.kill()
                if self._fate is Fate.TIME_OUT:
                    self._is_left.wait(HOLD_S_MAX)
                    return
                if self._fate in (Fate.KILL_AFTER, Fate.LOSE_REPLY):
                    return
                self._client.sendall(reply)
        except OSError:
            pass
        finally:
            self.hang_up()


class Protocol:
    """How messages are cut out of a stream, one instance a connection. An empty message is the stream's end."""

    def read_call(self, source: socket.socket) -> bytes:
        """The next message of the client."""
        raise NotImplementedError

    def read_reply(self, source: socket.socket) -> bytes:
        """The next message of the server."""
        raise NotImplementedError

    def kind_of(self, message: bytes) -> str | None:
        """What a message asks for; None: nothing that the worker has asked for itself."""
        raise NotImplementedError


class MongoProtocol(Protocol):
    """MongoDB's wire protocol, without compression."""

    def __init__(self) -> None:
        self._before = ""

    def read_call(self, source: socket.socket) -> bytes:
        header = _read(source, HEADER_BYTES)
        return header and header + _read(source, struct.unpack_from("<i", header)[0] - HEADER_BYTES)

    read_reply = read_call

    def kind_of(self, message: bytes) -> str | None:
        """`find connectors`, `insert job_runs in a transaction`, `commitTransaction after insert job_runs in a transaction`.

        What the driver says by itself (handshakes, heartbeats) names no session.
        """
        if struct.unpack_from("<i", message, 12)[0] != OP_MSG:
            return None
        assert message[BODY_AT - 1] == 0, "the body does not come first"
        length = struct.unpack_from("<i", message, BODY_AT)[0]
        body = RawBSONDocument(message[BODY_AT : BODY_AT + length])
        if "lsid" not in body:
            return None
        command = next(iter(body))
        subject = body.get("collection", body[command])
        kind = f"{command} {subject}" if isinstance(subject, str) else str(command)
        if body.get("autocommit") is False:
            # A transaction's last call keeps its name however many pages, and so transactions, there are before.
            kind = f"{kind} after {self._before}" if command.endswith("Transaction") else f"{kind} in a transaction"
        self._before = kind
        return kind


class HttpProtocol(Protocol):
    """HTTP/1.1 requests without a body, answers with a Content-Length."""

    def __init__(self) -> None:
        self._rest = b""

    def read_call(self, source: socket.socket) -> bytes:
        """A head is the whole request; nobody sends the next one before the answer."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            chunk = source.recv(CHUNK_BYTES)
            if not chunk:
                return b""
            head += chunk
        return head

    def read_reply(self, source: socket.socket) -> bytes:
        answer = b""
        while b"\r\n\r\n" not in answer:
            chunk = source.recv(CHUNK_BYTES)
            if not chunk:
                return b""
            answer += chunk
        head, _, body = answer.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
        return answer + _read(source, int(fields[b"content-length"]) - len(body))

    def kind_of(self, message: bytes) -> str | None:
        """`GET /api/v3/klines`: method and path, without the query."""
        method, target, _ = message.split(b"\r\n", 1)[0].split(b" ")
        return f"{method.decode()} {target.partition(b'?')[0].decode()}"


def _read(source: socket.socket, count: int) -> bytes:
    """So many bytes, or none if the stream ends before."""
    chunks: list[bytes] = []
    while count > 0:
        chunk = source.recv(min(count, CHUNK_BYTES))
        if not chunk:
            return b""
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)
