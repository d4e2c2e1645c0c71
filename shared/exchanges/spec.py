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
from typing import ClassVar, Final, TypeAlias

from shared.domain.rates import RateWindow
from shared.domain.timeframes import TIMEFRAMES

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
# As many candles a job that follows the market asks for at most: the new one, and the overlap of ten.
LIVE_ROWS: Final = 11


class Paging(StrEnum):
    """What an exchange answers when a range holds more candles than one page.

    FORWARD: the oldest from the start. WINDOW: both bounds are needed and the range may not exceed a page. BACKWARD: the
    newest before an end, however far back they reach. LAST_N: the newest it has, whatever the start.
    """

    FORWARD = "forward"
    WINDOW = "window"
    BACKWARD = "backward"
    LAST_N = "last_n"

    @property
    def is_by_window(self) -> bool:
        """Whether one request can cover no more intervals than a page has rows: then all of them are covered by its answer."""
        return self in (Paging.WINDOW, Paging.BACKWARD)


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
    """What an error answer means to us.

    IN_DOUBT: said of a symbol that does not exist and of a passing fault alike. The list of symbols tells the two apart.
    """

    UNAVAILABLE = "unavailable"
    THROTTLED = "throttled"
    REJECTED = "rejected"
    IN_DOUBT = "in_doubt"


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
    """Moves a bound before it is sent: by whole candles, then by ms. Turns a half-open range into what the exchange expects.

    Where it is not known whether an end is among the rows, -1 ms is right for both.
    """

    candles: int = 0
    ms: int = 0


@dataclass(frozen=True, slots=True)
class SymbolForm:
    """How `BASE/QUOTE` is written. Templates know `{base}`, `{quote}` and `{settle}`.

    `spot_long` is used instead of `spot` when a side has more than three characters; `swap` for `BASE/QUOTE:SETTLE`, unless
    `swap_by_settle` has another for that settlement currency or, under INVERSE, for contracts settled in their base. Where a
    contract's name does not tell its settlement, it is the quote currency, or the quote of an inverse one is `inverse_quote`:
    others would get the candles of a namesake and are unknown. A form that is None is not traded there. `aliases` maps the
    unified currency to the exchange's own; by the name of one of these no other currency can be asked for, since the exchange
    would take it for that one. Where names are in one case, unified currencies are in capitals, whatever the list has.
    """

    INVERSE: ClassVar[str] = "base"

    spot: str | None
    spot_long: str | None = None
    swap: str | None = None
    swap_by_settle: Mapping[str, str] = field(default_factory=dict)
    inverse_quote: str = "USD"
    aliases: Mapping[str, str] = field(default_factory=dict)
    is_lower_case: bool = False
    is_upper_case: bool = False

    @property
    def kinds(self) -> str:
        """Which unified forms are known here, for messages."""
        has_swaps = self.swap is not None or bool(self.swap_by_settle)
        forms = (("BASE/QUOTE", self.spot is not None), ("BASE/QUOTE:SETTLE", has_swaps))
        return " or ".join(form for form, is_known in forms if is_known)

    def write(self, symbol: str) -> str | None:
        """The exchange's name of a unified symbol, None if it does not fit the form or that kind is not traded here."""
        match = UNIFIED_SYMBOL.fullmatch(symbol)
        if match is None or any(name is not None and self._is_taken(name) for name in match.groups()):
            return None
        names = {side: self.aliases.get(name, name) for side, name in match.groupdict().items() if name is not None}
        template = self._swap_form(match) if "settle" in names else self.spot
        if self.spot_long is not None and "settle" not in names and max(len(names["base"]), len(names["quote"])) > 3:
            template = self.spot_long
        if template is None:
            return None
        text = template.format(**names)
        if self.is_lower_case:
            return text.lower()
        return text.upper() if self.is_upper_case else text

    def _is_taken(self, currency: str) -> bool:
        """Whether the exchange means another currency by that name."""
        return currency not in self.aliases and currency in self.aliases.values()

    def _swap_form(self, match: re.Match[str]) -> str | None:
        is_inverse = match["settle"] == match["base"]
        template = self.swap_by_settle.get(self.INVERSE if is_inverse else match["settle"], self.swap)
        if template is None or "{settle}" in template:
            return template
        if is_inverse:
            return template if self.INVERSE in self.swap_by_settle and match["quote"] == self.inverse_quote else None
        return template if match["settle"] == match["quote"] else None

    def unify(self, currency: str) -> str:
        """The unified name of the exchange's name of a currency."""
        own = currency.upper() if self.is_lower_case or self.is_upper_case else currency
        return next((unified for unified, alias in self.aliases.items() if alias == own), own)


@dataclass(frozen=True, slots=True)
class CandlesRequest:
    """The request for one page. `page_limit` is the most rows one answer holds; `page_limits` where a timeframe has fewer.

    `spare_rows`: `{rows}` is so many more than the range has, and page limits so many fewer than the exchange's, where it is
    not known whether a bound counts.
    """

    path: str
    params: Mapping[str, Template]
    page_limit: int
    time_form: TimeForm
    page_limits: Mapping[str, int] = field(default_factory=dict)
    start_shift: Shift = Shift()
    end_shift: Shift = Shift()
    spare_rows: int = 0
    method: str = "GET"

    def limit_of(self, timeframe: str) -> int:
        """The most rows of that timeframe that one answer holds."""
        return self.page_limits.get(timeframe, self.page_limit)

    def sends(self, placeholder: str) -> bool:
        """Whether `{start}` or `{end}` is told to the exchange."""
        return f"{{{placeholder}}}" in f"{self.path} {self.params}"


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
    # Where a row says itself that it is final, and the word for it: (index or key, value).
    closed: tuple[int | str, str] | None = None
    # The newest row is still being written even where the clock says that its interval has ended (Kraken).
    is_newest_row_open: bool = False
    # `null` or "" in the place of the rows means: no rows.
    is_nothing_empty: bool = False


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """What an answer means. All conditions given have to hold; `text` is looked for in code and message, ignoring case.

    `body` is the whole body, where that is all an exchange says: then it is an error with status 200 too. `page_text` is
    looked for in a body that is no JSON, ignoring case: what stands in front of an exchange answers with a page. `wait_ms` is
    how long to stay away when throttled and no header says so.
    """

    outcome: Outcome
    statuses: tuple[int, ...] = ()
    codes: tuple[str, ...] = ()
    text: str = ""
    body: str = ""
    page_text: str = ""
    wait_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ErrorForm:
    """Where an answer carries its error, whatever its HTTP status, and what the errors mean: the first rule that fits.

    A code in `ok_codes` is no error. `other_code_paths`: where else a code may stand, if some errors have another form.
    Where no rule fits, transport.py judges by the status.
    """

    rules: tuple[ErrorRule, ...]
    code_path: tuple[PathStep, ...] = ()
    other_code_paths: tuple[tuple[PathStep, ...], ...] = ()
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

    Base, quote and (for contracts) the settlement currency are under `base_key`, `quote_key` and `settle_key`, or
    `pair_pattern` (groups base, quote and perhaps settle) finds them in `pair_key`; `settle` is that of all contracts of an
    exchange that has one only. Rows are left out unless they have `only` and an id of `id_pattern`; a market is active if each
    field in `active` has the value.
    """

    path: str
    params: Mapping[str, Template] = field(default_factory=dict)
    path_in_body: tuple[PathStep, ...] = ()
    id_key: str = "symbol"
    base_key: str = ""
    quote_key: str = ""
    settle_key: str = ""
    settle: str = ""
    quote: str = ""
    id_pattern: str = ""
    pair_key: str = ""
    pair_pattern: str = ""
    only: Mapping[str, object] = field(default_factory=dict)
    active: Mapping[str, object] = field(default_factory=dict)
    method: str = "GET"


@dataclass(frozen=True, slots=True)
class ExchangeSpec:
    """One exchange. `windows` are its documented limits, all of which hold at once; weights are in their unit.

    `timeframes` maps ccxt's names to the exchange's own. `archive` is asked instead of `candles` for starts more than
    `archive_after_candles` candles back. `history_candles_max`: nothing older than that many candles can be had, for all
    timeframes or for each. `quirks` are what a user has to know before choosing it, a sentence each.
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
    ping_method: str = "GET"
    ping_params: Mapping[str, Template] = field(default_factory=dict)
    # Of the largest page; `weight_steps` are smaller ones: up to so many rows, so much weight, ascending.
    candles_weight: int = 1
    weight_steps: tuple[tuple[int, int], ...] = ()
    symbols_weight: int = 1
    ping_weight: int = 1
    usage_headers: tuple[UsageHeader, ...] = ()
    # The longest of them holds, in a ban too. Naming others leaves Retry-After out, unless it is named as well.
    wait_headers: tuple[WaitHeader, ...] = (WaitHeader("Retry-After", WaitForm.RETRY_AFTER),)
    # How long to stay away when throttled and neither a header nor the rule says.
    throttle_wait_ms: int = 60_000
    archive: CandlesRequest | None = None
    archive_after_candles: int = 0
    empty_intervals: EmptyIntervals = EmptyIntervals.UNKNOWN
    history_candles_max: "int | Mapping[str, int] | None" = None
    # A symbol that does not exist is answered like one without candles: only the list of symbols tells the two apart.
    is_unknown_symbol_empty: bool = False
    settle_delay_ms: int = SETTLE_DELAY_MS
    publish_grace_ms: int = PUBLISH_GRACE_MS
    quirks: tuple[str, ...] = ()

    @property
    def timeframe_names(self) -> list[str]:
        """Its timeframes, the shortest first."""
        return [name for name in TIMEFRAMES if name in self.timeframes]

    @property
    def page_limit(self) -> int:
        """The most candles one request for recent times returns."""
        return self.candles.page_limit

    @property
    def live_weight(self) -> int:
        """What a page of a job that follows the market costs."""
        return self.weight_of(LIVE_ROWS)

    def weight_of(self, rows: int) -> int:
        """What a request for that many candles costs."""
        return next((weight for rows_max, weight in self.weight_steps if rows <= rows_max), self.candles_weight)

    def history_of(self, timeframe: str) -> int | None:
        """How many candles of that timeframe can be had, the newest ones; None: all there ever were."""
        kept = self.history_candles_max
        return kept.get(timeframe) if isinstance(kept, Mapping) else kept
