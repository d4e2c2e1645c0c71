"""Child processes: started on a leash, watched, started again when they die, and stopped together."""

import collections
import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from shared.errors import PlatformError

HOST: Final = "127.0.0.1"
LEASH: Final = Path(__file__).with_name("leash.py")
EPHEMERAL_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Below it are the ports that people know by heart.
PORT_MIN: Final = 20_000
PORT_TRIES_MAX: Final = 20
READY_POLL_S: Final = 0.05
WATCH_POLL_S: Final = 0.25
# A function that dies at once is not started again in a tight loop.
RESTART_WAIT_S: Final = 1.0
RESTART_WAIT_S_MAX: Final = 30.0
# Who ran that long is counted as healthy again.
HEALTHY_AFTER_S: Final = 30.0
STOP_LIMIT_S: Final = 2.0
KILL_LIMIT_S: Final = 5.0
NOTICES_MAX: Final = 200
LOG_TAIL_LINES: Final = 12
LOG_TAIL_BYTES: Final = 16_384


class StartFailed(PlatformError):
    """A part of the emulator did not come up; the message holds the end of its log."""

    code = "start_failed"


def free_port(preferred: int = 0) -> int:
    """A loopback port that nobody listens on: the preferred one if it is free, else one picked at random.

    Between this look and the service's own bind, the kernel gives ports of its ephemeral range to anybody's outgoing
    connections. So the port is picked below that range (ip(7), `ip_local_port_range`): only who asks for it by number gets it.
    """
    end = _ephemeral_start()
    picked = (random.randrange(PORT_MIN, end) for _ in range(PORT_TRIES_MAX if end > PORT_MIN else 0))
    for port in (*((preferred,) if preferred else ()), *picked, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StartFailed("no free port on 127.0.0.1")


def _ephemeral_start() -> int:
    """The first port that the kernel gives away by itself; 0 where it does not say."""
    try:
        return int(EPHEMERAL_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def spawn(
    argv: Sequence[str],
    log_path: Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    leash: Literal["become", "guard"] = "guard",
) -> "subprocess.Popen[bytes]":
    """Start a command in its own process group, output appended to `log_path`; it ends when this process does.

    How: see leash.py. With `become` the pid is the command's own, and the kernel ties it to the calling *thread*: call from
    one that lives as long as the child should.
    """
    with log_path.open("ab") as log:
        return subprocess.Popen(
            (sys.executable, "-I", "-S", str(LEASH), leash, str(os.getpid()), *argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            cwd=cwd,
            start_new_session=True,
        )


def stop(process: "subprocess.Popen[bytes]", limit_s: float = STOP_LIMIT_S) -> None:
    """SIGTERM, a limited wait, then SIGKILL to the whole process group."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(limit_s)
    _kill_group(process)
    process.wait(KILL_LIMIT_S)


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # nobody is left in it (macOS says the latter of zombies)
        return


def log_tail(path: Path) -> str:
    """The last lines of a log, for an error message."""
    if not path.exists():
        return "(no log)"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:]) or "(empty log)"


def answers_http(port: int, path: str = "/", timeout_s: float = 2.0) -> bool:
    """Whether an HTTP server answers there; any status counts, also 401."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


@dataclass(frozen=True, slots=True)
class Service:
    """A command that serves HTTP on a port of its own. `path` is what is asked to see whether it is up."""

    name: str
    argv: tuple[str, ...]
    port: int
    environment: Mapping[str, str] = field(repr=False)
    log_path: Path
    cwd: Path
    path: str = "/"

    @property
    def url(self) -> str:
        """Where it serves, without a trailing slash."""
        return f"http://{HOST}:{self.port}"


@dataclass(slots=True)
class _Running:
    service: Service
    process: "subprocess.Popen[bytes]"
    started_monotonic: float
    restarts: int = 0
    restart_wait_s: float = RESTART_WAIT_S
    restart_at_monotonic: float | None = None


class Supervisor:
    """Runs services, says what happened to them by `notices` ((UTC seconds, text) pairs), stops them all."""

    def __init__(self) -> None:
        self.notices: collections.deque[tuple[float, str]] = collections.deque(maxlen=NOTICES_MAX)
        self._running: dict[str, _Running] = {}
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def start(self, services: Sequence[Service], limit_s: float) -> None:
        """Start them all at once and wait until each answers.

        Raises:
            StartFailed: one died or did not answer in time; names its log and shows the end of it.
        """
        for service in services:
            self._running[service.name] = _Running(service, self._spawn(service), time.monotonic())
        deadline = time.monotonic() + limit_s
        for service in services:
            self._wait_ready(service, deadline)

    @property
    def restarts_count(self) -> int:
        """How often a service died and was started again."""
        return sum(running.restarts for running in self._running.values())

    def pid(self, name: str) -> int:
        """The process id of the service's guard now; its process group holds the service."""
        return self._running[name].process.pid

    def states(self) -> dict[str, str]:
        """Per service `up` or `down`."""
        return {name: "up" if running.process.poll() is None else "down" for name, running in self._running.items()}

    def stop(self) -> None:
        """Stop watching and stop every service. May be called twice."""
        self._is_stopping.set()
        self._thread.join(KILL_LIMIT_S)
        self._stop_all()

    def _spawn(self, service: Service) -> "subprocess.Popen[bytes]":
        return spawn(service.argv, service.log_path, service.environment, service.cwd)

    def _wait_ready(self, service: Service, deadline: float) -> None:
        while time.monotonic() < deadline:
            running = self._running[service.name]
            if running.process.poll() is not None or running.restarts:
                raise StartFailed(f"{service.name} died at its start; {service.log_path} ends:\n{log_tail(service.log_path)}")
            if answers_http(service.port, service.path):
                return
            time.sleep(READY_POLL_S)
        raise StartFailed(f"{service.name} does not answer; {service.log_path} ends:\n{log_tail(service.log_path)}")

    def _watch(self) -> None:
        while not self._is_stopping.wait(WATCH_POLL_S):
            for running in tuple(self._running.values()):
                self._look_after(running)

    def _stop_all(self) -> None:
        for running in self._running.values():
            if running.process.poll() is None:
                running.process.terminate()
        deadline = time.monotonic() + STOP_LIMIT_S
        for running in self._running.values():
            stop(running.process, max(0.0, deadline - time.monotonic()))

    def _look_after(self, running: _Running) -> None:
        now = time.monotonic()
        if running.process.poll() is None:
            if running.restarts and now - running.started_monotonic > HEALTHY_AFTER_S:
                running.restart_wait_s = RESTART_WAIT_S
            return
        if running.restart_at_monotonic is None:
            _kill_group(running.process)
            running.restart_at_monotonic = now + running.restart_wait_s
            running.restart_wait_s = min(RESTART_WAIT_S_MAX, running.restart_wait_s * 2)
            self._note(f"{running.service.name} ended with status {running.process.returncode}; starting it again")
        elif now >= running.restart_at_monotonic and not self._is_stopping.is_set():
            running.restart_at_monotonic = None
            running.restarts += 1
            running.process = self._spawn(running.service)
            running.started_monotonic = now

    def _note(self, text: str) -> None:
        self.notices.append((time.time(), text))
