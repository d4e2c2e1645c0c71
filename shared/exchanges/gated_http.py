"""Connections that ask once more before the first byte of a request leaves: when they are up, not before.

Looking up the host and the TCP and TLS handshakes can take longer than a grant of weight may be used. So a reservation is made
when the connection is there and nothing but the sending is left.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

# A request is sent by the thread that asked for it, so what this holds is its own.
_before_send: ContextVar[Callable[[], None] | None] = ContextVar("before_send", default=None)


@contextmanager
def gate(before_send: Callable[[], None] | None) -> Iterator[None]:
    """Requests inside the block call `before_send` when their connection is up; what it raises comes out of the request."""
    token = _before_send.set(before_send)
    try:
        yield
    finally:
        _before_send.reset(token)


class _GatedHTTPConnection(HTTPConnection):
    def endheaders(self, *args: Any, **options: Any) -> None:
        _open_and_ask(self)
        super().endheaders(*args, **options)


class _GatedHTTPSConnection(HTTPSConnection):
    def endheaders(self, *args: Any, **options: Any) -> None:
        _open_and_ask(self)
        super().endheaders(*args, **options)


def _open_and_ask(connection: HTTPConnection) -> None:
    """The headers are complete and nothing is sent yet: connect if need be, then ask."""
    if connection.sock is None:
        connection.connect()
    before_send = _before_send.get()
    if before_send is not None:
        before_send()


class _GatedHTTPPool(HTTPConnectionPool):
    ConnectionCls = _GatedHTTPConnection


class _GatedHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _GatedHTTPSConnection


POOL_CLASSES: Final = {"http": _GatedHTTPPool, "https": _GatedHTTPSPool}


class GatedAdapter(HTTPAdapter):
    """requests' adapter on gated connections."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Pools of gated connections for each host."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = POOL_CLASSES

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """The same behind a proxy."""
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = POOL_CLASSES
        return manager
