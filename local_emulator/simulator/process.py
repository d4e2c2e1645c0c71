"""The simulator as a child process, for tests, benchmarks and the emulator."""

import json
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import requests

# Guards against hanging: a machine with much else to do has taken half a minute.
READY_S_MAX: Final = 300
STOP_S_MAX: Final = 10
REQUEST_S_MAX: Final = 300
PROJECT_DIR: Final = Path(__file__).resolve().parents[2]


class SimulatorProcess:
    """A running simulator and its controls. Methods raise `requests.HTTPError` for what the simulator does not understand."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.port = port
        self._process = process
        self._session = requests.Session()
        self._session.trust_env = False

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def base_url(self, exchange: str) -> str:
        """What stands in place of the exchange's own host."""
        return f"http://127.0.0.1:{self.port}/{exchange}"

    def report(self, last_ms: int = 60_000) -> dict[str, Any]:
        """Counts by exchange, see Arrivals.report."""
        exchanges: dict[str, Any] = self._call("GET", f"report?last_ms={last_ms}")["exchanges"]
        return exchanges

    def set_faults(self, *faults: dict[str, object]) -> None:
        """These and no others, each as the fields of Fault; none clears all."""
        self._call("DELETE", "faults")
        self._call("POST", "faults", list(faults))

    def faults(self) -> list[dict[str, Any]]:
        """All, with `left` and `applied`."""
        listed: list[dict[str, Any]] = self._call("GET", "faults")
        return listed

    def configure(
        self,
        exchange: str,
        windows: Sequence[tuple[int, int]] | None = None,
        punish: bool = True,
        history: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Limits of an exchange as (limit, period_ms); None keeps them. Bans end, and its windows hold `history` only.

        That is (age in ms, weight) of what is to count as arrived before.
        """
        named = None if windows is None else _named(windows)
        body = {"exchange": exchange, "windows": named, "punish": punish, "history": [list(pair) for pair in history]}
        self._call("POST", "limits", body)

    def change_limits(self, exchange: str, windows: Sequence[tuple[int, int]]) -> None:
        """Other limits for windows of the same periods, which go on with what they hold."""
        self._call("POST", "limits", {"exchange": exchange, "windows": _named(windows), "keeps_counts": True})

    def clock(self, **change: object) -> dict[str, Any]:
        """The simulator's time {now_ms, offset_ms, is_frozen}, after a change if any (fields of ClockChange)."""
        told: dict[str, Any] = self._call("POST", "clock", change) if change else self._call("GET", "clock")
        return told

    def stop(self) -> None:
        """End the child and wait for it. Again is harmless."""
        self._session.close()
        self._process.terminate()
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _call(self, method: str, path: str, body: object = None) -> Any:
        url = f"http://127.0.0.1:{self.port}/_simulator/{path}"
        response = self._session.request(method, url, json=body, timeout=REQUEST_S_MAX)
        response.raise_for_status()
        return response.json()


def _named(windows: Sequence[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"limit": limit, "period_ms": period_ms} for limit, period_ms in windows]


@contextmanager
def start_simulator(
    *,
    port: int = 0,
    seed: int | None = None,
    recordings: Path | None = None,
    clock_offset_ms: int | None = None,
    freeze_at_ms: int | None = None,
    config: dict[str, object] | None = None,
) -> Iterator[SimulatorProcess]:
    """A simulator that is ready to answer, ended with the block. `config` is what --config takes from a file.

    Raises:
        RuntimeError: it ended or was not ready in time; what it printed on standard error tells why.
    """
    options = {
        "--port": port,
        "--seed": seed,
        "--recordings": None if recordings is None else recordings.resolve(),
        "--clock-offset-ms": clock_offset_ms,
        "--freeze-at-ms": freeze_at_ms,
    }
    arguments = [f"{name}={value}" for name, value in options.items() if value is not None]
    with tempfile.TemporaryDirectory() as folder:
        if config is not None:
            file = Path(folder) / "simulator.json"
            file.write_text(json.dumps(config))
            arguments.append(f"--config={file}")
        simulator = _start(arguments)
        try:
            yield simulator
        finally:
            simulator.stop()


def _start(arguments: list[str]) -> SimulatorProcess:
    command = [sys.executable, "-m", "local_emulator.simulator", "--stop-with-stdin", *arguments]
    process = subprocess.Popen(command, cwd=PROJECT_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(READY_S_MAX) else b""
    simulator = SimulatorProcess(process, json.loads(line)["port"] if line else 0)
    if not line:
        simulator.stop()
        raise RuntimeError(f"the simulator did not start (exit code {process.returncode})")
    return simulator
