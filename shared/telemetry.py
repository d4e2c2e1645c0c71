"""Structured logs: one JSON object a line on standard output, in the form Cloud Logging reads.

Special fields are Google's (https://cloud.google.com/logging/docs/structured-logging): `severity`, `message`, `time`,
`logging.googleapis.com/trace`. Everything else is the event's own facts.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

_facts: ContextVar[dict[str, Any]] = ContextVar("facts", default={})  # noqa: B039 - replaced, never mutated
FIELD_CHARS_MAX: Final = 4_000
TRACE_FIELD: Final = "logging.googleapis.com/trace"


@contextmanager
def bound(**facts: Any) -> Iterator[None]:
    """Every event inside the block carries these facts (run_id, job_id, trace, ...)."""
    token = _facts.set({**_facts.get(), **facts})
    try:
        yield
    finally:
        _facts.reset(token)


def event(name: str, severity: str = "INFO", **facts: Any) -> None:
    """Log one fact. Severities are Cloud Logging's: DEBUG, INFO, NOTICE, WARNING, ERROR, CRITICAL."""
    line = {
        "severity": severity,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": name,
        **_facts.get(),
        **facts,
    }
    line.setdefault("message", name.replace("_", " "))
    text = json.dumps(line, default=_as_text, separators=(",", ":"))
    # One write, so that lines of several threads do not mix.
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _as_text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)[:FIELD_CHARS_MAX]
