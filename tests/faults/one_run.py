"""Processes for tests that may be killed or stopped: each runs one claimed job, or makes one edit, and ends.

They are forked from a process that has imported everything, since the import takes longer than the run. Usage:
python -m tests.faults.one_run, then on standard input one JSON object a line: {uri, database, job_id, fence}, or
{uri, database, edit} with a name of tests/faults/edits.py. Each is answered
with the worker's pid, and when it has ended with its exit status, negative for a signal.
"""

import json
import os
import selectors
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared import wiring
from shared.deadline import Deadline
from shared.errors import LeaseLost, StorageUnavailable
from shared.exchanges.catalog import load_spec
from shared.settings import load_settings
from shared.stores import database
from shared.wiring import Platform
from tests.faults.edits import EDITS

ROOT: Final = Path(__file__).resolve().parents[2]
LINE_S_MAX: Final = 60.0
DEADLINE_S: Final = 100.0
# Shorter than they are, so that a call that times out is soon over; longer than any that works takes.
OPERATION_TIMEOUT_MS: Final = 4_000
TRANSACTION_TIMEOUT_S: Final = 6.0
EXCHANGE_TIMEOUT_S: Final = (4.0, 4.0)
# How a run ends; anything else that is not a signal is a fault of ours.
ENDED: Final = 0
CRASHED: Final = 1
LEASE_LOST: Final = 3
STORAGE_UNAVAILABLE: Final = 4


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that was started."""

    pid: int
    nursery: "Nursery"

    def has_ended(self) -> bool:
        """Whether `wait` would not wait."""
        return self.nursery.has_spoken(0)

    def wait(self) -> int:
        """Its exit status once it has ended: one of the above, or minus the signal that ended it."""
        return self.nursery.read()


class Nursery:
    """The process from which workers are forked, one after the other. A context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.one_run"], cwd=ROOT, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_exc: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        try:
            self._process.wait(LINE_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def start(self, uri: str, database: str, job_id: str, fence: int) -> Worker:
        """Start a worker on a claim."""
        return self._start({"uri": uri, "database": database, "job_id": job_id, "fence": fence})

    def start_edit(self, uri: str, database: str, edit: str) -> Worker:
        """Start a process that makes an edit."""
        return self._start({"uri": uri, "database": database, "edit": edit})

    def _start(self, call: dict[str, Any]) -> Worker:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(call).encode() + b"\n")
        return Worker(self.read(), self)

    def has_spoken(self, timeout_s: float) -> bool:
        """Whether there is something to read, or will be before the time-out."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return bool(selector.select(timeout_s))

    def read(self) -> int:
        """The next number it says."""
        assert self.has_spoken(LINE_S_MAX), "the worker neither runs nor ends"
        assert self._process.stdout is not None
        # Unbuffered, so that nothing is read that `has_spoken` then would not see.
        return int(self._process.stdout.readline())


def main() -> None:
    """Fork a worker for each line, until there are no more."""
    load_spec("binance")
    for line in sys.stdin:
        call: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_run(call))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(call: dict[str, Any]) -> int:
    nowhere = os.open(os.devnull, os.O_RDWR)
    # Its log is of no interest, and the lines are the parent's.
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stdin.fileno())
    try:
        # As deployed but for their length: a test waits for each of them.
        database.TRANSACTION_TIMEOUT_S = TRANSACTION_TIMEOUT_S  # type: ignore[misc]
        database.OPERATION_TIMEOUT_MS, wiring.EXCHANGE_TIMEOUT_S = OPERATION_TIMEOUT_MS, EXCHANGE_TIMEOUT_S  # type: ignore[misc]
        settings = load_settings(
            mongodb_uri=call["uri"], database=call["database"], candles_database=call["database"], lease_ms=40_000
        )
        if "edit" in call:
            EDITS[call["edit"]](Platform(settings))
        else:
            Platform(settings).runner.run(call["job_id"], call["fence"], "test", Deadline.after(DEADLINE_S))
    except LeaseLost:
        return LEASE_LOST
    except StorageUnavailable:
        return STORAGE_UNAVAILABLE
    except BaseException:  # noqa: BLE001 - a forked child must not return into its parent's loop
        traceback.print_exc()
        return CRASHED
    return ENDED


if __name__ == "__main__":
    main()
