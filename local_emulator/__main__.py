"""`python -m local_emulator up | demo | exec | token`: the whole platform on this machine."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from local_emulator.demo import run_demo
from local_emulator.emulator import Emulator, EmulatorOptions
from local_emulator.scheduler import SchedulerOptions
from local_emulator.snapshot import take_snapshot
from local_emulator.state import STATE_DIR_DEFAULT, StateDirectory
from local_emulator.tokens import ROLES, TTL_S_DEFAULT, admin_token
from local_emulator.view import introduction, show
from shared.errors import PlatformError

DEMO_SECONDS_DEFAULT: Final = 45.0
EXIT_BAD_RESULT: Final = 1
EXIT_NOT_STARTED: Final = 2
COMMAND_STOP_LIMIT_S: Final = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        return int(options.run(options))
    except PlatformError as exc:
        print(f"chandler: {exc.message}", file=sys.stderr)
        return EXIT_NOT_STARTED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _up(options: argparse.Namespace) -> int:
    console = Console()
    emulator_options = EmulatorOptions(
        state=StateDirectory(Path(options.state_dir)),
        seed=options.seed,
        admin_port=options.admin_port,
        is_live=options.live,
        scheduler=SchedulerOptions(every_s=options.tick_every_s),
    )
    console.print("starting mongod, the simulator and the functions ...")
    with Emulator(emulator_options) as emulator:
        console.print(introduction(emulator), markup=False, highlight=False, soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):
            show(emulator, options.plain, console)
        console.print("stopping ...")
    return 0


@contextlib.contextmanager
def _state_directory(path: str | None) -> Iterator[StateDirectory]:
    """The named directory, or a temporary one that is removed at the end unless the block ends badly."""
    if path is not None:
        yield StateDirectory(Path(path))
        return
    temporary = Path(tempfile.mkdtemp(prefix="chandler-"))
    try:
        yield StateDirectory(temporary)
    except PlatformError:
        print(f"chandler: the logs are in {temporary / 'logs'}", file=sys.stderr)
        raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(temporary, ignore_errors=True)


def _demo(options: argparse.Namespace) -> int:
    scheduler = SchedulerOptions(every_s=options.tick_every_s)
    with (
        _state_directory(None) as state,
        Emulator(EmulatorOptions(state, seed=options.seed, is_temporary=True, scheduler=scheduler)) as emulator,
    ):
        print(f"chandler: running for {options.seconds:g} s on {emulator.urls['admin']}", file=sys.stderr)
        result = run_demo(emulator, options.seconds)
        if not result.is_good:
            _tell_troubles(emulator)
    print(json.dumps(result.to_json()))
    return 0 if result.is_good else EXIT_BAD_RESULT


def _tell_troubles(emulator: Emulator) -> None:
    """What went wrong, on standard error: the logs go away with the temporary directory."""
    snapshot = take_snapshot(emulator.client[emulator.database])
    for _, text in sorted((*snapshot.troubles, *tuple(emulator.supervisor.notices))):
        print(f"chandler: {text}", file=sys.stderr)
    for job in snapshot.jobs:
        if job.state not in ("live", "running"):
            print(f"chandler: {job.job_id} {job.state} {job.progress:.1%} {job.error}", file=sys.stderr)


def _exec(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        print("chandler: exec needs a command: exec [options] -- COMMAND [ARGUMENT...]", file=sys.stderr)
        return EXIT_NOT_STARTED
    with _state_directory(options.state_dir) as state:
        emulator_options = EmulatorOptions(
            state=state,
            seed=options.seed,
            admin_port=options.admin_port,
            is_temporary=options.state_dir is None,
            with_jobs=options.demo_jobs,
            scheduler=SchedulerOptions(every_s=options.tick_every_s),
        )
        with Emulator(emulator_options) as emulator:
            return _run_command(command, emulator)


def _run_command(command: Sequence[str], emulator: Emulator) -> int:
    """The command's exit code; 128 + N if a signal ended it, as shells have it."""
    try:
        process = subprocess.Popen(command, env={**os.environ, **emulator.environment()})
    except OSError as exc:
        print(f"chandler: cannot run {command[0]}: {exc.strerror}", file=sys.stderr)
        return 127
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(COMMAND_STOP_LIMIT_S)
        process.kill()
        process.wait()
        raise
    return code if code >= 0 else 128 - code


def _token(options: argparse.Namespace) -> int:
    if not Path(options.state_dir).is_dir():
        print(f"no emulator has run in {options.state_dir} yet; start it first, or name its --state-dir", file=sys.stderr)
        return 2
    secret = StateDirectory(Path(options.state_dir)).jwt_secret()
    print(admin_token(secret, options.role, options.ttl_s))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local_emulator", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="run everything and show it until Ctrl-C")
    up.add_argument("--state-dir", default=STATE_DIR_DEFAULT, help="data, logs and the token secret (default: %(default)s)")
    up.add_argument("--admin-port", type=int, default=8080, help="0 picks a free one (default: %(default)s)")
    up.add_argument("--plain", action="store_true", help="lines instead of the live view")
    up.add_argument("--live", action="store_true", help="the real exchanges instead of the simulator")
    up.set_defaults(run=_up)

    demo = commands.add_parser("demo", help="run everything for a while, print a verdict as one line of JSON")
    demo.add_argument("--seconds", type=float, default=DEMO_SECONDS_DEFAULT, help="default: %(default)s")
    demo.set_defaults(run=_demo)

    execute = commands.add_parser("exec", help="run everything while a command runs: exec [options] -- COMMAND [ARGUMENT...]")
    execute.add_argument("--state-dir", default=None, help="default: a temporary one, removed afterwards")
    execute.add_argument("--admin-port", type=int, default=0, help="default: a free one")
    execute.add_argument("--demo-jobs", action="store_true", help="make the demo jobs too, not only the connectors")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    execute.set_defaults(run=_exec)

    for command in (up, demo, execute):
        command.add_argument("--seed", type=int, default=None, help="of the simulated market (default: 1)")
        command.add_argument("--tick-every-s", type=float, default=60.0, help="the scheduler's period (default: %(default)s)")

    token = commands.add_parser("token", help="print an admin token")
    token.add_argument("--role", choices=ROLES, required=True)
    token.add_argument("--ttl-s", type=int, default=TTL_S_DEFAULT, help="seconds that it is valid (default: %(default)s)")
    token.add_argument("--state-dir", default=STATE_DIR_DEFAULT, help="of the emulator (default: %(default)s)")
    token.set_defaults(run=_token)
    return parser


if __name__ == "__main__":
    sys.exit(main())
