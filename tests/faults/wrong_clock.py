"""Starts Python code in a process whose own clock is wrong, while its monotonic clock and everybody else's are right.

Two ways. `shifted_command` needs nothing installed: this module, run as a program, puts shifted clocks in place of those of
`time` and `datetime` before anything else is imported, then becomes the module that it was told. `preload_environment` shifts
what the C library tells, for any program, mongod too, by libfaketime (https://github.com/wolfcw/libfaketime): the one in
requirements-dev.txt for x86-64 Linux, else Debian's package of that name.

Usage: python -m tests.faults.wrong_clock SHIFT_S MODULE [ARGUMENT...]
"""

import datetime
import importlib.util
import os
import runpy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

IN_WHEEL: Final = Path("vendor/libfaketime/src/libfaketime.so.1")
# Where Debian's package `libfaketime` puts it.
DEBIAN_PATTERN: Final = "lib/*/faketime/libfaketime.so.1"


def shifted_command(shift_s: float, module: str, arguments: Sequence[str]) -> list[str]:
    """Command line that runs `python -m module arguments` with clocks that are `shift_s` ahead (negative: behind)."""
    return [sys.executable, "-m", "tests.faults.wrong_clock", str(shift_s), module, *arguments]


def find_libfaketime() -> Path | None:
    """The library, or None where there is none."""
    parent = importlib.util.find_spec("libfaketime") if sys.platform == "linux" else None
    in_wheel = [Path(folder) / IN_WHEEL for folder in (parent.submodule_search_locations or ())] if parent else []
    return next((path for path in (*in_wheel, *Path("/usr").glob(DEBIAN_PATTERN)) if path.exists()), None)


def preload_environment(library: Path, shift_s: float) -> dict[str, str]:
    """This process's environment, and in it what shifts the clock of whatever is started with it."""
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{shift_s:+.3f}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Without it, waits on the monotonic clock end at once, and mongod spins.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }


def movable_environment(library: Path, file: Path) -> dict[str, str]:
    """The same with a clock that is as far ahead as `move_clock` has last written into that file, a second or two later."""
    return {
        **{name: value for name, value in preload_environment(library, 0).items() if name != "FAKETIME"},
        "FAKETIME_TIMESTAMP_FILE": str(file),
        # Not read at each look at the clock (FAKETIME_NO_CACHE): mongod under load comes to hang for good with that.
        "FAKETIME_CACHE_DURATION": "1",
    }


def move_clock(file: Path, shift_s: float) -> None:
    """From now on the clock that reads this file is so far ahead of the host's."""
    fresh = file.with_suffix(".new")
    fresh.write_text(f"{shift_s:+.3f}\n")
    # At once: nobody reads half a number.
    fresh.replace(file)


@dataclass(frozen=True)
class Clock:
    """How to start a module with a clock that is `shift_s` ahead."""

    shift_s: float
    by_libfaketime: bool = False

    def command(self, module: str, arguments: Sequence[str]) -> list[str]:
        if self.by_libfaketime or not self.shift_s:
            return [sys.executable, "-m", module, *arguments]
        return shifted_command(self.shift_s, module, arguments)

    def environment(self) -> dict[str, str]:
        if not self.by_libfaketime:
            return dict(os.environ)
        library = find_libfaketime()
        assert library is not None
        return preload_environment(library, self.shift_s)


def shift_clocks(shift_s: float) -> None:
    """From now on `time` and `datetime` of this process are that far ahead; what is monotonic stays as it is."""
    shift_ns = int(shift_s * 1_000_000_000)
    right_ns, right_localtime, right_gmtime, right_gettime = time.time_ns, time.localtime, time.gmtime, time.clock_gettime

    def wrong_time() -> float:
        return (right_ns() + shift_ns) / 1e9

    time.time = wrong_time
    time.time_ns = lambda: right_ns() + shift_ns
    time.localtime = lambda seconds=None: right_localtime(wrong_time() if seconds is None else seconds)
    time.gmtime = lambda seconds=None: right_gmtime(wrong_time() if seconds is None else seconds)
    time.clock_gettime = lambda clock: wrong_time() if clock == time.CLOCK_REALTIME else right_gettime(clock)
    datetime.datetime = _wrong_datetime(datetime.datetime)  # type: ignore[misc]


def _wrong_datetime(right: type[datetime.datetime]) -> type[datetime.datetime]:
    """A `datetime` that reads the clock of `time`. Dates that C code makes (BSON's) count as instances of it."""

    class AnyDatetime(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, right)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, right)

    class WrongDatetime(right, metaclass=AnyDatetime):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return right.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> datetime.datetime:
            return right.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> datetime.datetime:
            return right.fromtimestamp(time.time())

    return WrongDatetime


if __name__ == "__main__":
    shift_clocks(float(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
