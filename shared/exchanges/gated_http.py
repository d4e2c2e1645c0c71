"""Connections that ask once more before the first byte of a request leaves, say when its answer begins, and bound its time.

Looking up the host and the TCP and TLS handshakes can take longer than a grant of weight may be used. So a reservation is made
when the connection is there and nothing but the sending is left. When the head of an answer is there, whatever it says, the
request has arrived. On Linux a request of which nothing was acknowledged for ANSWER_MS_MAX is given up by the kernel
itself, so it cannot arrive later, not even after its process was killed. And a peer that sends a byte now and then keeps every
single read below its time-out; so each read only gets what is left of the answer's time, in its headers too.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPResponse
from io import BufferedReader
from typing import Any, Final, TypeAlias

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import BaseHTTPResponse
from urllib3.util import wait_for_read

from shared.domain.rates import ANSWER_MS_MAX


@dataclass(frozen=True, slots=True)
class Passage:
    """Whom a request's fate is reported to: that its answer has begun, or that it was not sent after all."""

    on_answer: Callable[[], None]
    on_unsent: Callable[[], None]


# Called when a request may leave.
BeforeSend: TypeAlias = Callable[[], Passage | None] | None

# Linux only (tcp(7)): how long sent data may stay unacknowledged before the kernel drops the connection. Elsewhere the kernel
# goes on for some minutes after a process was killed.
USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)
SOCKET_OPTIONS: Final = [
    *HTTPConnection.default_socket_options,
    *([] if USER_TIMEOUT is None else [(socket.IPPROTO_TCP, USER_TIMEOUT, ANSWER_MS_MAX)]),
]

# A request is sent by the thread that asked for it, so what this holds is its own.
_before_send: ContextVar[BeforeSend] = ContextVar("before_send", default=None)
_answer_s: ContextVar[float | None] = ContextVar("answer_s", default=None)


@contextmanager
def gate(before_send: BeforeSend, answer_s: float) -> Iterator[None]:
    """Requests inside the block call `before_send` when their connection is up; what it raises comes out of the request.

    What it returns hears what has become of the request: the head of its answer has come, or it was not sent, as its kept
    connection was closed meanwhile. An answer that is not complete `answer_s` seconds after its
    request was sent ends in a time-out.
    """
    asked, bounded = _before_send.set(before_send), _answer_s.set(answer_s)
    try:
        yield
    finally:
        _before_send.reset(asked)
        _answer_s.reset(bounded)


class _TimedSocket(socket.SocketIO):
    """The reading end of a socket, for one answer."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        super().__init__(sock, "rb")
        self._answer_of = sock
        self._until = until
        self._read_s = sock.gettimeout()

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer was not complete in time")
        self._answer_of.settimeout(left_s if self._read_s is None else min(left_s, self._read_s))
        return super().readinto(buffer)


class _TimedResponse(HTTPResponse):
    """http.client's response, read through a _TimedSocket."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        answer_s = _answer_s.get()
        if answer_s is not None:
            # What `sock.makefile` made is closed, and with it counted down; ours is counted up as `makefile` would do it.
            sock._io_refs += 1  # type: ignore[attr-defined]
            self.fp.close()
            self.fp = BufferedReader(_TimedSocket(sock, time.monotonic() + answer_s))


class _GatedHTTPConnection(HTTPConnection):
    response_class = _TimedResponse
    passage: Passage | None = None

    def endheaders(self, *args: Any, **options: Any) -> None:
        """The headers are complete and nothing is sent yet: connect if need be, then ask."""
        is_kept = self.sock is not None
        if self.sock is None:
            self.connect()
        before_send = _before_send.get()
        self.passage = None if before_send is None else before_send()
        # It may have waited for its moment meanwhile. On a connection that was used before there is nothing to be read now,
        # unless the peer has closed it; on a new one TLS may have sent its tickets.
        if self.passage is not None and is_kept and self.sock is not None and wait_for_read(self.sock, timeout=0):
            self.close()
            self.passage.on_unsent()
            raise ConnectionResetError("the exchange closed the connection while the request waited for its moment")
        super().endheaders(*args, **options)

    def getresponse(self) -> BaseHTTPResponse:  # type: ignore[override]
        response = super().getresponse()
        if self.passage is not None:
            self.passage.on_answer()
        return response


class _GatedHTTPSConnection(_GatedHTTPConnection, HTTPSConnection):
    """The same over TLS: what is not gated is HTTPSConnection's."""


class _GatedHTTPPool(HTTPConnectionPool):
    ConnectionCls = _GatedHTTPConnection


class _GatedHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _GatedHTTPSConnection


POOL_CLASSES: Final = {"http": _GatedHTTPPool, "https": _GatedHTTPSPool}


class GatedAdapter(HTTPAdapter):
    """requests' adapter on gated connections."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Pools of gated connections for each host."""
        super().init_poolmanager(*args, **options, socket_options=SOCKET_OPTIONS)
        self.poolmanager.pool_classes_by_scheme = POOL_CLASSES

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """The same behind a proxy."""
        manager = super().proxy_manager_for(*args, **options, socket_options=SOCKET_OPTIONS)
        manager.pool_classes_by_scheme = POOL_CLASSES
        return manager
