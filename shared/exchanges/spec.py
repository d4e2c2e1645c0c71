"""What may differ between exchanges, as data. The code that reads it (rows.py, client.py) knows no exchange by name.

An exchange is one file with one `SPEC`. If it seems to need an `if`, a field is missing here. How it names markets is said in
own_names.py, how its answers read in row_forms.py, error_form.py and header_forms.py.

Templates (`path`, `params`) are filled with `{symbol}` and `{timeframe}` in the exchange's own names, `{start}` and `{end}` in
its time form after the shifts below, and `{rows}`, how many candles are asked for. A parameter that is one placeholder and
nothing else keeps the value's type, which JSON bodies (`method="POST"`) need; parameters may be nested mappings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from shared.domain.rates import RateWindow
from shared.domain.timeframes import TIMEFRAMES
from shared.exchanges.error_form import ErrorForm, ErrorRule
from shared.exchanges.header_forms import RETRY_AFTER, UsageHeader, WaitHeader
from shared.exchanges.own_names import SymbolForm
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm

Template: TypeAlias = str | int | bool | Mapping[str, "Template"]

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


@dataclass(frozen=True, slots=True)
class Shift:
    """Moves a bound before it is sent: by whole candles, then by ms. Turns a half-open range into what the exchange expects.

    Where it is not known whether an end is among the rows, -1 ms is right for both.
    """

    candles: int = 0
    ms: int = 0


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
class MarketsRequest:
    """The request for the list of symbols."""

    path: str
    params: Mapping[str, Template] = field(default_factory=dict)
    method: str = "GET"


@dataclass(frozen=True, slots=True)
class ExchangeSpec:
    """One exchange. `windows` are its documented limits, all of which hold at once; weights are in their unit.

    `timeframes` maps ccxt's names to the exchange's own. `archive` is asked instead of `candles` for starts more than
    `archive_after_candles` candles back. `history_candles_max`: nothing older than that many candles can be had, for all
    timeframes or for each. `error_rules`: what its errors mean, the first that fits; where none does, transport.py judges by
    the status. `quirks` are what a user has to know before choosing it, a sentence each.
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
    error_rules: tuple[ErrorRule, ...]
    markets: MarketsRequest
    market_rows: MarketForm
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
    wait_headers: tuple[WaitHeader, ...] = (RETRY_AFTER,)
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
