"""How an exchange's headers tell what it has counted, and how long to stay away."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class WaitForm(StrEnum):
    """How a header says when to come back: Retry-After (seconds or an HTTP date), milliseconds, or a moment since the epoch."""

    RETRY_AFTER = "retry_after"
    MILLISECONDS = "ms"
    AT_SECONDS = "at_s"
    AT_MILLISECONDS = "at_ms"


@dataclass(frozen=True, slots=True)
class UsageHeader:
    """A header with the weight used in a window, or what remains of `limit` in it. `pattern` finds the number."""

    name: str
    period_ms: int
    remaining_of: int | None = None
    pattern: str = r"^\s*(\d+)\s*$"


@dataclass(frozen=True, slots=True)
class WaitHeader:
    """A header that says how long to stay away."""

    name: str
    form: WaitForm


RETRY_AFTER: Final = WaitHeader("Retry-After", WaitForm.RETRY_AFTER)
