"""What a wire format has to tell: its paths and weights, how a candle request reads, how rows and errors are written.

Everything else (choosing rows, counting, faults, serving) is the same for every exchange and written once elsewhere.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from local_emulator.simulator.arrivals import Limit, Punishment, Verdict, Window
from local_emulator.simulator.market import Market
from local_emulator.simulator.rows import Rows
from shared.domain.candles import FloatArray
from shared.domain.timeframes import Timeframe


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: status, body bytes and headers."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"

    @classmethod
    def of_json(cls, payload: object, status: int = 200, **headers: str) -> "Reply":
        """A JSON answer; header names with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, json.dumps(payload, separators=(",", ":")).encode(), named)


class Refused(Exception):
    """The exchange answers with an error of its own."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class WireRequest:
    """One request as a wire format sees it. `markets` are those that exist here; `limits` those in force."""

    query: Mapping[str, str]
    path_params: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    now_ms: int
    markets: Mapping[str, Market]
    limits: tuple[Limit, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Which rows: open times in [start_ms, end_ms), at most `limit` (None: all), the oldest or the newest of them."""

    market: Market
    timeframe: Timeframe
    start_ms: int | None = None
    end_ms: int | None = None
    limit: int | None = None
    keeps_oldest: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """One path. Either `answer` gives the whole answer, or `span` reads a candle request and `page` writes its rows.

    `{name}` in the path stands for one segment.
    """

    path: str
    weight: int = 1
    method: str = "GET"
    answer: Callable[[WireRequest], Reply] | None = None
    span: Callable[[WireRequest], Span] | None = None
    page: Callable[[WireRequest, Span, Rows], Reply] | None = None

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """The path's parameters, or None if this is another path."""
        if method != self.method:
            return None
        found = re.fullmatch(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(self.path)), path)
        return found.groupdict() if found else None


@dataclass(frozen=True, slots=True)
class Wire:
    """One exchange. `usage_headers` go on every answer; `error` writes the body that comes with a status."""

    name: str
    limits: tuple[Limit, ...]
    markets: tuple[Market, ...]
    routes: tuple[Route, ...]
    punishment: Punishment
    refusal: Callable[[Verdict, int], Reply]
    error: Callable[[int], Reply]
    omits_empty: bool = False
    usage_headers: Callable[[Window], dict[str, str]] = lambda _window: {}


PERIOD_UNITS: Final = ((86_400_000, "D", "DAY"), (3_600_000, "H", "HOUR"), (60_000, "M", "MINUTE"), (1_000, "S", "SECOND"))


def period_in_words(period_ms: int) -> tuple[int, str, str]:
    """A period as (number, letter, word) in the largest unit that divides it; below a second as one second."""
    for unit_ms, letter, word in PERIOD_UNITS:
        if period_ms % unit_ms == 0:
            return period_ms // unit_ms, letter, word
    return max(1, period_ms // 1_000), "S", "SECOND"


def texts(values: FloatArray, decimals: int | None, zeros: int = 0) -> list[str]:
    """Numbers as strings: with that many decimals and zeros behind, or (None) the shortest text of the same double."""
    numbers = values.tolist()
    if decimals is not None:
        return (f"%.{decimals}f{'' if decimals else '.' * (zeros > 0)}{'0' * zeros} " * len(numbers) % tuple(numbers)).split()
    return [repr(number) if 1e-4 <= abs(number) < 1e16 else np.format_float_positional(number, trim="0") for number in numbers]
