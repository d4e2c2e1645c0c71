"""When data arrived: the kernel's word, and what is taken where there is none that can be believed."""

import socket
import sys
import time

import pytest

from local_emulator.simulator.arrivals import OUT_OF_ORDER_NS_MAX
from local_emulator.simulator.stamps import Stamp, StampingSocket, decide_stamp, stamp_of
from tests.waiting import wait_until

WALL_NS = 1_794_398_400_000_000_000
READ_NS = 5_000_000_000_000


@pytest.mark.parametrize("lateness_ns", [0, 1, OUT_OF_ORDER_NS_MAX])
def test_the_kernels_stamp_is_moved_to_the_monotonic_clock(lateness_ns: int) -> None:
    assert decide_stamp(WALL_NS - lateness_ns, WALL_NS, READ_NS) == Stamp(READ_NS - lateness_ns, lateness_ns)


@pytest.mark.parametrize("kernel_ns", [None, WALL_NS + 1, WALL_NS - OUT_OF_ORDER_NS_MAX - 1, 0])
def test_without_a_stamp_that_can_be_believed_data_arrive_when_they_are_read(kernel_ns: int | None) -> None:
    assert decide_stamp(kernel_ns, WALL_NS, READ_NS) == Stamp(READ_NS, None)


def test_data_of_another_socket_arrive_when_they_are_read() -> None:
    before_ns = time.monotonic_ns()
    stamp = stamp_of(b"x")
    assert before_ns <= stamp.at_ns <= time.monotonic_ns()
    assert stamp.lateness_ns is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what comes over TCP")
def test_an_accepted_connection_tells_when_its_newest_data_came_in() -> None:
    with StampingSocket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.ask_for_stamps()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client:
            accepted, address = listener.accept()
            with accepted:
                assert address == client.getsockname()

                def send(data: bytes) -> tuple[bytes, int]:
                    sent_ns = time.monotonic_ns()
                    client.sendall(data)
                    return accepted.recv(100), sent_ns

                # The kernel begins to stamp some time after the first socket has asked for it.
                wait_until(lambda: stamp_of(send(b"x")[0]).lateness_ns is not None)
                data, sent_ns = send(b"whole")
                read_ns, stamp = time.monotonic_ns(), stamp_of(data)
                assert data == b"whole"
                assert sent_ns <= stamp.at_ns <= read_ns
                assert stamp.lateness_ns is not None
                # Two that are read at once have the stamp of the second.
                client.sendall(b"first")
                sent_ns = time.monotonic_ns()
                client.sendall(b"second")
                wait_until(lambda: accepted.recv(100, socket.MSG_PEEK) == b"firstsecond")
                assert stamp_of(accepted.recv(100)).at_ns >= sent_ns
