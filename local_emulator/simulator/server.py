"""The simulator as a server process: uvicorn on the loopback address, one process, one event loop."""

import asyncio
import json
import os
import socket
import sys
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from local_emulator.simulator.app import Simulator
from local_emulator.simulator.stamps import StampingSocket, stamp_of

HOST: Final = "127.0.0.1"
# Pages are computed beside the loop in a thread. A short turn lets the loop read at once, which matters where it is the reading
# that dates an arrival.
SWITCH_INTERVAL_S: Final = 0.0005
KEEP_ALIVE_S: Final = 75


class _Connection(H11Protocol):
    """A connection that knows when its newest data arrived, and lets the application hang up."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stamp = stamp_of(b"")
        self.app_state = {**self.app_state, "connection": self}

    def data_received(self, data: bytes) -> None:
        self.stamp = stamp_of(data)
        super().data_received(data)


class _Server(uvicorn.Server):
    """Says on standard output, in one JSON line, when and where it is ready."""

    def __init__(self, config: uvicorn.Config, port: int, stops_with_stdin: bool) -> None:
        super().__init__(config)
        self._port = port
        self._stops_with_stdin = stops_with_stdin

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._stops_with_stdin:
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._read_stdin)
        print(json.dumps({"port": self._port}), flush=True)

    def _read_stdin(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            self.should_exit = True
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())


def serve(simulator: Simulator, port: int, stops_with_stdin: bool = False) -> None:
    """Serve until SIGTERM, SIGINT or (if asked) the end of standard input. Port 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # asyncio switches Nagle's delay off only where the protocol is named; with it every small answer takes 40 ms.
    with StampingSocket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.ask_for_stamps()
        listener.bind((HOST, port))
        config = uvicorn.Config(
            simulator.app(),
            http=_Connection,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            date_header=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
        )
        _Server(config, listener.getsockname()[1], stops_with_stdin).run([listener])
