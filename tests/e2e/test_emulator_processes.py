"""Children are started, watched, started again and stopped; none outlives a parent that was killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_emulator.processes import HOST, Service, StartFailed, Supervisor, answers_http, free_port
from local_emulator.state import StateDirectory
from shared.errors import ConfigurationError
from tests.waiting import HANG_S, wait_until


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text() if sys.platform == "linux" else True


def file_server(tmp_path: Path, name: str = "files") -> Service:
    port = free_port()
    argv = (sys.executable, "-m", "http.server", "--bind", HOST, str(port))
    return Service(name, argv, port, dict(os.environ), tmp_path / f"{name}.log", tmp_path)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    supervisor.stop()


def test_services_answer_after_start_and_are_gone_after_stop(supervisor: Supervisor, tmp_path: Path) -> None:
    services = [file_server(tmp_path, "one"), file_server(tmp_path, "two")]
    supervisor.start(services, HANG_S)
    pids = [supervisor.pid(service.name) for service in services]
    assert all(answers_http(service.port) for service in services)
    supervisor.stop()
    assert not any(is_alive(pid) for pid in pids)


def test_a_service_that_dies_is_started_again_and_it_is_said(supervisor: Supervisor, tmp_path: Path) -> None:
    service = file_server(tmp_path)
    supervisor.start([service], HANG_S)
    first_pid = supervisor.pid("files")
    os.kill(first_pid, signal.SIGKILL)
    wait_until(lambda: supervisor.restarts_count == 1 and answers_http(service.port))
    assert supervisor.pid("files") != first_pid
    assert [text for _, text in supervisor.notices] == ["files ended with status -9; starting it again"]


def test_a_service_that_cannot_start_is_reported_with_its_log(supervisor: Supervisor, tmp_path: Path) -> None:
    argv = (sys.executable, "-c", "raise SystemExit('the reason')")
    service = Service("broken", argv, free_port(), dict(os.environ), tmp_path / "broken.log", tmp_path)
    with pytest.raises(StartFailed, match=r"broken died at its start.*\n.*the reason"):
        supervisor.start([service], HANG_S)


@pytest.mark.parametrize("leash", ["become", "guard"])
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_parent_leaves_neither_child_nor_grandchild_behind(tmp_path: Path, leash: str) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from local_emulator.processes import spawn\n"
        "tree = 'sleep 900 & echo $!; exec sleep 901'\n"
        "argv = ['sleep', '900'] if sys.argv[2] == 'become' else ['sh', '-c', tree]\n"
        "child = spawn(argv, Path(sys.argv[1]), leash=sys.argv[2])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(900)\n"
    )
    log = tmp_path / "log"
    argv = [sys.executable, "-c", script, str(log), leash]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        wait_until(lambda: "sleep" in commands_of_group(group))
        parent.kill()
    wait_until(lambda: not commands_of_group(group))


def commands_of_group(group: int) -> list[str]:
    """The names of a process group's living members."""
    listing = subprocess.run(
        ["ps", "-A", "-o", "pgid=", "-o", "stat=", "-o", "comm="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listing.stdout.splitlines()]
    return [comm for pgid, state, comm in rows if int(pgid) == group and not state.startswith("Z")]


def test_a_state_directory_has_one_owner(tmp_path: Path) -> None:
    with (
        StateDirectory(tmp_path).owned(),
        pytest.raises(ConfigurationError, match=r"runs on .* already"),
        StateDirectory(tmp_path).owned(),
    ):
        pass
    with StateDirectory(tmp_path).owned():
        pass


def test_a_state_directory_keeps_to_one_market(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert state.settle_origin(7, default_seed=1, is_live=False) == 7
    assert state.settle_origin(None, default_seed=1, is_live=False) == 7
    for seed, is_live in ((8, False), (None, True)):
        with pytest.raises(ConfigurationError, match="holds candles of the simulator with seed 7"):
            state.settle_origin(seed, default_seed=1, is_live=is_live)
