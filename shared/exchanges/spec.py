"""What may differ between exchanges, as data. The code that reads it (rows.py, client.py) knows no exchange by name.

An exchange is one file with one `SPEC`. If it seems to need an `if`, a field is missing here.

Templates (`path`, `params`) are filled with `{symbol}` and `{timeframe}` in the exchange's own names, `{start}` and `{end}` in
its time form after the shifts below, and `{rows}`, how many candles are asked for. A parameter that is one placeholder and
nothing else keeps the value's type, which JSON bodies (`method="POST"`) need; parameters may be nested mappings.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TypeAlias

from shared.domain.rates import RateWindow

Template: TypeAlias = str | int | bool | Mapping[str, "Template"]
# A step from a JSON value to one inside it: a key, an index, or `OtherThan`.
PathStep: TypeAlias = "str | int | OtherThan"

UNIFIED_SYMBOL: Final = re.compile(
    r"(?P<base>[^\s/:%?#&-]{1,32})/(?P<quote>[^\s/:%?#&-]{1,32})(?::(?P<settle>[^\s/:%?#&-]{1,32}))?"
)
# A closed candle is asked for this long after its close, in ms; one that is not there yet when it is 2 s, 8 s and 32 s old.
SETTLE_DELAY_MS: Final = 500
# After this long an interval that still is absent is believed to have had no trades.
PUBLISH_GRACE_MS: Final = 120_000


class Paging(StrEnum):
    """What an exchange answers when a range holds more candles than one page.

    FORWARD: the oldest from the start. WINDOW: both bounds are needed and the range may not exceed a page. LAST_N: the newest
    it has, whatever the start.
    """

    FORWARD = "forward"
    WINDOW = "window"
    LAST_N = "last_n"


class EmptyIntervals(StrEnum):
    """Whether an interval without trades is left out or given as a flat candle with volume 0."""

    OMITTED = "omitted"
    FILLED = "filled"
    UNKNOWN = "unknown"


class TimeForm(StrEnum):
    """How a moment is written. ISO without a zone is UTC."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    ISO = "iso"

    def write(self, at_ms: int) -> int | str:
        """A moment in UTC ms as the exchange wants it; seconds round down."""
        if self is TimeForm.MILLISECONDS:
            return at_ms
        if self is TimeForm.SECONDS:
            return at_ms // 1000
        return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class RowKind(StrEnum):
    """The shape of a page: a list of arrays, a list of objects, or one array per column."""

    ARRAYS = "arrays"
    OBJECTS = "objects"
    COLUMNS = "columns"


class Outcome(StrEnum):
    """What an error answer means to us."""

    UNAVAILABLE = "unavailable"
    THROTTLED = "throttled"
    REJECTED = "rejected"


class WaitForm(StrEnum):
    """How a header says when to come back: Retry-After (seconds or an HTTP date), milliseconds, or a moment since the epoch."""

    RETRY_AFTER = "retry_after"
    MILLISECONDS = "ms"
    AT_SECONDS = "at_s"
    AT_MILLISECONDS = "at_ms"


@dataclass(frozen=True, slots=True)
class OtherThan:
    """A path step: the one key that is not among these (Kraken names the page after its own name of the pair)."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shift:
    """Moves a bound before it is sent: by whole candles, then by ms. Turns a half-open range into what the exchange expects."""

    candles: int = 0
    ms: int = 0


@dataclass(frozen=True, slots=True)
class SymbolForm:
    """How `BASE/QUOTE` is written. Templates know `{base}`, `{quote}` and `{settle}`.

    `spot_long` is used instead of `spot` when a side has more than three characters; `swap` for `BASE/QUOTE:SETTLE`. A form
    that is None is not traded there. `aliases` maps the unified currency to the exchange's own.
    """

    spot: str | None
    spot_long: str | None = None
    swap: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    is_lower_case: bool = False

    def write(self, symbol: str) -> str | None:
        """The exchange's name of a unified symbol, None if it does not fit the form or that kind is not traded here."""
        match = UNIFIED_SYMBOL.fullmatch(symbol)
        if match is None:
            return None
        names = {side: self.aliases.get(name, name) for side, name in match.groupdict().items() if name is not None}
        template = self.swap if "settle" in names else self.spot
        if self.spot_long is not None and "settle" not in names and max(len(names["base"]), len(names["quote"])) > 3:
            template = self.spot_long
        if template is None:
            return None
        text = template.format(**names)
        return text.lower() if self.is_lower_case else text

    def unify(self, currency: str) -> str:
        """The unified name of the exchange's name of a currency."""
        own = currency.upper() if self.is_lower_case else currency
        return next((unified for unified, alias in self.aliases.items() if alias == own), own)


@dataclass(frozen=True, slots=True)
class CandlesRequest:
    """The request for one page. `page_limit` is the most rows one answer holds."""

    path: str
    params: Mapping[str, Template]
    page_limit: int
    time_form: TimeForm
    start_shift: Shift = Shift()
    end_shift: Shift = Shift()
    method: str = "GET"


@dataclass(frozen=True, slots=True)
class RowForm:
    """Where the rows are in the answer, and where the columns are in a row (index, or key)."""

    kind: RowKind
    time: int | str
    open: int | str
    high: int | str
    low: int | str
    close: int | str
    volume: int | str
    time_form: TimeForm
    path: tuple[PathStep, ...] = ()
    # The newest row is still being written even where the clock says that its interval has ended (Kraken).
    is_newest_row_open: bool = False
    # `null` or "" in the place of the rows means: no rows.
    is_nothing_empty: bool = False


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """What an answer means. All conditions given have to hold; `text` is looked for in code and message, ignoring case.

    `wait_ms` is how long to stay away when throttled and no header says so.
    """

    outcome: Outcome
    statuses: tuple[int, ...] = ()
    codes: tuple[str, ...] = ()
    text: str = ""
    wait_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ErrorForm:
    """Where an answer carries its error, whatever its HTTP status, and what the errors mean: the first rule that fits.

    A code in `ok_codes` is no error. Where no rule fits, client.py judges by the status.
    """

    rules: tuple[ErrorRule, ...]
    code_path: tuple[PathStep, ...] = ()
    message_path: tuple[PathStep, ...] = ()
    ok_codes: tuple[str, ...] = ()


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


@dataclass(frozen=True, slots=True)
class MarketsRequest:
    """The list of symbols: rows at `path_in_body` are objects, or plain ids (then `id_key` is ignored).

    Base and quote are under `base_key` and `quote_key`, or `pair_pattern` (groups base, quote) finds them in `pair_key`.
    Rows are left out unless they have `only`; a market is active if each field in `active` has the value.
    """

    path: str
    params: Mapping[str, Template] = field(default_factory=dict)
    path_in_body: tuple[PathStep, ...] = ()
    id_key: str = "symbol"
    base_key: str = ""
    quote_key: str = ""
    pair_key: str = ""
    pair_pattern: str = ""
    only: Mapping[str, object] = field(default_factory=dict)
    active: Mapping[str, object] = field(default_factory=dict)
    method: str = "GET"


@dataclass(frozen=True, slots=True)
class ExchangeSpec:
    """One exchange. `windows` are its documented limits, all of which hold at once; weights are in their unit.

    `timeframes` maps ccxt's names to the exchange's own. `archive` is asked instead of `candles` for starts more than
    `archive_after_candles` candles back. `history_candles_max`: nothing older than that many candles can be had.
    """

    name: str
    docs_url: str
    base_url: str
    windows: tuple[RateWindow, ...]
    timeframes: Mapping[str, str | int]
    symbol_form: SymbolForm
    paging: Paging
    candles: CandlesRequest
    rows: RowForm
    errors: ErrorForm
    markets: MarketsRequest
    ping_path: str
    candles_weight: int = 1
    symbols_weight: int = 1
    ping_weight: int = 1
    usage_headers: tuple[UsageHeader, ...] = ()
    wait_headers: tuple[WaitHeader, ...] = (WaitHeader("Retry-After", WaitForm.RETRY_AFTER),)
    # How long to stay away when throttled and neither a header nor the rule says.
    throttle_wait_ms: int = 60_000
    archive: CandlesRequest | None = None
    archive_after_candles: int = 0
    empty_intervals: EmptyIntervals = EmptyIntervals.UNKNOWN
    history_candles_max: int | None = None
    settle_delay_ms: int = SETTLE_DELAY_MS
    publish_grace_ms: int = PUBLISH_GRACE_MS

    @property
    def page_limit(self) -> int:
        """The most candles one request for recent times returns."""
        return self.candles.page_limit
