"""Runs a command that ends with the process that started it: `python leash.py become|guard PARENT_PID COMMAND [ARGUMENT...]`.

`become`: turns into the command, to which the kernel sends SIGTERM when the parent dies, even by kill -9 (Linux only: prctl(2),
PR_SET_PDEATHSIG, which survives execve). For mongod, which then closes its files.

`guard`: stays as the command's parent, passes SIGTERM on, and when its own parent is gone kills the whole process group. For
servers that fork, whose children would work on for half a minute without their master.

A file of its own instead of a `preexec_fn`, because running Python between fork and exec is not safe in a parent with threads.
"""

import ctypes
import os
import signal
import subprocess
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1
POLL_S = 0.25


def become(parent_pid: int, command: list[str]) -> NoReturn:
    """Bind the life of this process to its parent's, then turn into the command."""
    _die_with_parent(signal.SIGTERM)
    # The parent may have died before that call, and then nothing would ever be sent.
    if os.getppid() != parent_pid:
        sys.exit(1)
    os.execvp(command[0], command)


def guard(parent_pid: int, command: list[str]) -> int:
    """Run the command in this process group; its exit code, 128 + N if a signal ended it."""
    # This process has one thread, so Python between fork and exec is safe here.
    child = subprocess.Popen(command, preexec_fn=lambda: _die_with_parent(signal.SIGKILL))
    signal.signal(signal.SIGTERM, lambda number, frame: child.terminate())
    while True:
        try:
            code = child.wait(POLL_S)
        except subprocess.TimeoutExpired:
            if os.getppid() != parent_pid:
                os.killpg(0, signal.SIGKILL)
            continue
        return code if code >= 0 else 128 - code


def _die_with_parent(signal_number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


if __name__ == "__main__":
    mode, parent, words = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    sys.exit(guard(parent, words) if mode == "guard" else become(parent, words))
