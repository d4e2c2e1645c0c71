"""What a wire format has to tell: its paths and weights, how a candle request reads, how rows and errors are written.

Everything else (choosing rows, counting, faults, serving) is the same for every exchange and written once elsewhere.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

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

    `{name}` in the path stands for one segment. `body_type` is the `type` that a JSON body must have, where one path serves
    several questions. `query_weight` weighs a request by its query, or by its JSON body, instead of `weight`.
    """

    path: str
    weight: int = 1
    method: str = "GET"
    body_type: str = ""
    answer: Callable[[WireRequest], Reply] | None = None
    span: Callable[[WireRequest], Span] | None = None
    page: Callable[[WireRequest, Span, Rows], Reply] | None = None
    query_weight: Callable[[Mapping[str, Any]], int] | None = None

    def match(self, method: str, path: str, body: bytes = b"") -> dict[str, str] | None:
        """The path's parameters, or None if this is another path."""
        if method != self.method or (self.body_type and json_object(body).get("type") != self.body_type):
            return None
        found = re.fullmatch(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(self.path)), path)
        return found.groupdict() if found else None


# What an exchange says with a status; see Wire.
Errors: TypeAlias = Mapping[int | None, tuple[Any, ...] | Reply]


@dataclass(frozen=True, slots=True)
class Wire:
    """One exchange.

    `errors` has for a status what `write_error` is told, in front of the status, or the whole answer; None is for every status
    that is not among them. Who is too fast gets the answer of `throttle_status`, who is banned that of `ban_status` if there is
    one, or both what `refuse` says; with the headers of `told_wait` ({ms}, {s}: for how long; {at_ms}, {at_s}: until when).
    `told_usage` goes on every answer: the {limit} of a window, what is {remaining} and what is {used} of it; a name may hold
    the window's period as {number} and {letter}. All windows are told of, or that of `told_period_ms`.
    """

    name: str
    limits: tuple[Limit, ...]
    markets: tuple[Market, ...]
    routes: tuple[Route, ...]
    punishment: Punishment
    errors: Errors
    write_error: Callable[..., Reply]
    throttle_status: int = 429
    ban_status: int | None = None
    refuse: Callable[[Verdict, int], Reply] | None = None
    omits_empty: bool = False
    told_wait: Mapping[str, str] = field(default_factory=dict)
    told_usage: Mapping[str, str] = field(default_factory=dict)
    told_period_ms: int | None = None

    def error(self, status: int) -> Reply:
        """The answer that comes with a status."""
        said = self.errors.get(status, self.errors[None])
        return said if isinstance(said, Reply) else self.write_error(*said, status)

    def refusal(self, verdict: Verdict, now_ms: int) -> Reply:
        """The answer to who is too fast."""
        status = self.ban_status if verdict.status == "banned" else None
        reply = self.refuse(verdict, now_ms) if self.refuse else self.error(status or self.throttle_status)
        wait_ms = verdict.retry_after_ms
        wait = {"ms": wait_ms, "s": -(-wait_ms // 1_000), "at_ms": now_ms + wait_ms, "at_s": -(-(now_ms + wait_ms) // 1_000)}
        return replace(reply, headers={name: text.format(**wait) for name, text in self.told_wait.items()})

    def usage_headers(self, window: Window) -> dict[str, str]:
        """What every answer tells of that window."""
        limit, period_ms = window.rule.limit, window.rule.period_ms
        if not self.told_usage or self.told_period_ms not in (None, period_ms):
            return {}
        number, letter, _word = period_in_words(period_ms)
        usage = {"limit": limit, "remaining": max(0, limit - window.usage), "used": window.grid_usage}
        names = {"number": number, "letter": letter.lower()}
        return {name.format(**names): text.format(**usage) for name, text in self.told_usage.items()}


def json_object(body: bytes) -> dict[str, Any]:
    """A request's JSON body; what is no object counts as an empty one."""
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


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


@dataclass(frozen=True, slots=True)
class RowTexts:
    """The five values of each row as strings, the way most exchanges write numbers."""

    open: list[str]
    high: list[str]
    low: list[str]
    close: list[str]
    volume: list[str]


def row_texts(rows: Rows, market: Market) -> RowTexts:
    """With the market's decimals, or the shortest text of the same double where a row does not come from the market's ticks."""
    price, volume = (market.price_decimals, market.volume_decimals) if rows.has_ticks else (None, None)
    opens, highs, lows, closes = (texts(getattr(rows, name), price) for name in ("open", "high", "low", "close"))
    return RowTexts(opens, highs, lows, closes, texts(rows.volume, volume))


def turnover(rows: Rows) -> FloatArray:
    """A made-up volume in the quote currency: the volume at a price inside the candle."""
    return rows.volume * (rows.open + rows.high + rows.low + rows.close) / 4


def trade_counts(rows: Rows) -> list[int]:
    """A made-up number of trades: 0 where there was no volume."""
    traded = rows.volume > 0
    return [int(count) for count in (traded + (rows.volume * 1e4) % 977 * traded).tolist()]


def find_market(request: WireRequest, own_name: Callable[[Market], str], name: str) -> Market | None:
    """The listed market that the exchange calls by that name."""
    listed = (market for market in request.markets.values() if market.listed_ms <= request.now_ms)
    return next((market for market in listed if own_name(market) == name), None)


def listed_markets(request: WireRequest) -> list[Market]:
    """All that have ever been traded here; what was delisted too."""
    return [market for market in request.markets.values() if market.listed_ms <= request.now_ms]


def whole_number(query: Mapping[str, Any], name: str, refuse: Callable[[str], Refused]) -> int | None:
    """A parameter as a number, None if it was not sent; `refuse` makes the exchange's answer to one that is none."""
    value = query.get(name)
    if value is None or value == "":
        return None
    if not re.fullmatch(r"-?\d{1,20}", str(value)):
        raise refuse(name)
    return int(value)
