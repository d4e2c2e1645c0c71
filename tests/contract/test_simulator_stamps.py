"""A simulator that stands still charges nobody with it: what came in meanwhile counts from when it came in."""

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what comes over TCP")

ANSWER_S_MAX = 60
REQUEST = b"GET /binance/api/v3/ping HTTP/1.1\r\nHost: simulator\r\n\r\n"
POST_HEAD = b"POST /hyperliquid/info HTTP/1.1\r\nHost: simulator\r\nContent-Length: 16\r\n\r\n"
POST_BODY = b'{"type": "meta"}'


def now_ms() -> float:
    return time.monotonic_ns() / 1e6


def read_answer(client: socket.socket) -> bytes:
    """The first part of what is answered: its status line at least."""
    return client.recv(65_536)


@pytest.fixture
def simulator() -> Iterator[SimulatorProcess]:
    """One whose kernel stamps already: the very first messages may have no stamp."""
    with start_simulator(seed=1) as process:
        with connect(process) as client:

            def is_stamped() -> bool:
                client.sendall(REQUEST.replace(b"/binance/", b"/mexc/"))
                assert read_answer(client)
                return process.report()["mexc"]["stamped_total"] > 0

            wait_until(is_stamped)
        yield process


def connect(simulator: SimulatorProcess) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", simulator.port), ANSWER_S_MAX)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


@contextmanager
def standing_still(simulator: SimulatorProcess) -> Iterator[None]:
    os.kill(simulator.pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, simulator.pid, os.WSTOPPED)
        yield
    finally:
        os.kill(simulator.pid, signal.SIGCONT)


def test_what_comes_in_while_the_simulator_stands_still_counts_from_when_it_was_sent(simulator: SimulatorProcess) -> None:
    simulator.configure("binance", [(1, 100)])
    with ExitStack() as stack:
        known, other = (stack.enter_context(connect(simulator)) for _ in range(2))
        with standing_still(simulator):
            # A connection that nobody has accepted yet is stamped like any other.
            new = stack.enter_context(connect(simulator))
            clients, sent_ms, passed_ms = (known, new, other), [], []
            for client in clients:
                sent_ms.append(now_ms())
                client.sendall(REQUEST)
                passed_ms.append(now_ms())
                assert select.select(clients, [], [], 0.4) == ([], [], []), "it does not stand still"
            continued_ms = now_ms()
        assert [read_answer(client).split(b" ")[1] for client in clients] == [b"200"] * 3
    report = simulator.report()["binance"]
    assert (report["requests_total"], report["stamped_total"], report["read_late_total"]) == (3, 3, 3)
    assert sent_ms[0] <= report["first_arrival_ms"] <= continued_ms
    assert sent_ms[2] <= report["last_arrival_ms"] <= continued_ms
    assert report["lateness_ms_max"] >= continued_ms - passed_ms[0]
    # Read together, but sent more than a period apart: no two of them share a window.
    (window,) = report["windows"]
    assert (window["worst"], window["over_limit"], report["throttled"]) == (1, 0, 0)


@pytest.mark.parametrize(("exchange", "request_"), [("binance", REQUEST), ("hyperliquid", POST_HEAD + POST_BODY)])
@pytest.mark.parametrize("last", [1, 20])
def test_a_request_in_parts_arrives_with_its_last(
    simulator: SimulatorProcess, exchange: str, request_: bytes, last: int
) -> None:
    with connect(simulator) as client:
        client.sendall(request_[:-last])
        assert select.select([client], [], [], 0.05) == ([], [], [])
        sent_ms = now_ms()
        client.sendall(request_[-last:])
        assert read_answer(client).startswith(b"HTTP/1.1 ")
        answered_ms = now_ms()
    report = simulator.report()[exchange]
    assert (report["requests_total"], report["stamped_total"]) == (1, 1)
    assert sent_ms <= report["first_arrival_ms"] == report["last_arrival_ms"] <= answered_ms
