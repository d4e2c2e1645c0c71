"""Entry points that the platform calls: admin, tick, worker, metrics. Each is imported when it is first called by name."""

from importlib import import_module
from typing import Any

ENTRY_POINTS = ("admin", "tick", "worker", "metrics")


def __getattr__(name: str) -> Any:
    """`main.tick` and so on, so that an instance loads the code of its own function only."""
    if name in ENTRY_POINTS:
        return getattr(import_module(f"functions.{name}"), name)
    raise AttributeError(f"main has no {name!r}; the entry points are {', '.join(ENTRY_POINTS)}")
