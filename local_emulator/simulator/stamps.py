"""When data reached this machine: the kernel's stamp, which stays true while the simulator does not run.

On Linux a socket with SO_TIMESTAMPNS returns beside the data when the newest packet of them came in, on CLOCK_REALTIME
(https://www.kernel.org/doc/html/latest/networking/timestamping.html). The selector event loop of asyncio calls `accept` and
`recv` of the socket object that it was given, and hands what `recv` returns to the protocol unchanged. So the stamp travels
on the bytes.
"""

import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

from local_emulator.simulator.arrivals import OUT_OF_ORDER_NS_MAX

# The socket module does not name it. Asked for by this number, the stamp has the C library's long for both of its fields.
SO_TIMESTAMPNS: Final = 35
TIMESPEC: Final = struct.Struct("@ll")
# Reading both clocks takes about a microsecond. A reading that took longer was interrupted, and is repeated. If every one was,
# the last one is taken, and the stamp comes out later by the interruption at most.
READINGS_MAX: Final = 5
READING_NS_MAX: Final = 20_000


@dataclass(frozen=True, slots=True)
class Stamp:
    """When data arrived, in nanoseconds of the monotonic clock.

    lateness_ns: how long afterwards they were read. None: the kernel gave no stamp that can be believed, and `at_ns` is when
    they were read.
    """

    at_ns: int
    lateness_ns: int | None


class StampedBytes(bytes):
    """What was read, and when its last byte arrived."""

    stamp: Stamp


class StampingSocket(socket.socket):
    """A TCP socket that returns StampedBytes from `recv`; so do the connections that it accepts."""

    def ask_for_stamps(self) -> None:
        """Let the kernel stamp what arrives, here and at connections accepted from now on; without effect where it cannot."""
        if sys.platform != "linux":
            return
        try:
            self.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        except OSError:
            # Some sandboxes that pass for Linux do not know the option; the report says that nothing was stamped.
            return

    def accept(self) -> tuple["StampingSocket", Any]:
        """The next connection, which stamps like this socket, and its peer's address."""
        accepted, address = super().accept()
        return StampingSocket(accepted.family, accepted.type, accepted.proto, accepted.detach()), address

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """What came in, as StampedBytes."""
        received, ancillary, _flags, _address = self.recvmsg(bufsize, socket.CMSG_SPACE(TIMESPEC.size), flags)
        stamped = StampedBytes(received)
        stamped.stamp = decide_stamp(_kernel_ns(ancillary), *_read_clocks())
        return stamped


def stamp_of(data: bytes) -> Stamp:
    """When these data arrived; now, if they were not read by a StampingSocket."""
    return data.stamp if isinstance(data, StampedBytes) else Stamp(time.monotonic_ns(), None)


def decide_stamp(kernel_ns: int | None, wall_ns: int, monotonic_ns: int) -> Stamp:
    """The kernel's stamp on the monotonic clock, given what both clocks show at the reading.

    A stamp in the future, or further back than OUT_OF_ORDER_NS_MAX, is not believed: the wall clock was set, or it is not the
    kernel's (libfaketime). The data then count as arrived at the reading, so a delay counts against the client.
    """
    lateness_ns = -1 if kernel_ns is None else wall_ns - kernel_ns
    if not 0 <= lateness_ns <= OUT_OF_ORDER_NS_MAX:
        return Stamp(monotonic_ns, None)
    return Stamp(monotonic_ns - lateness_ns, lateness_ns)


def _kernel_ns(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(payload) == TIMESPEC.size:
            seconds, nanoseconds = TIMESPEC.unpack(payload)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return None


def _read_clocks() -> tuple[int, int]:
    """The wall clock and the monotonic clock, in nanoseconds, at one moment."""
    wall_ns = monotonic_ns = 0
    for _ in range(READINGS_MAX):
        before_ns = time.monotonic_ns()
        wall_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
        if monotonic_ns - before_ns <= READING_NS_MAX:
            break
    return wall_ns, monotonic_ns
