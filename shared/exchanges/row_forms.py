"""How an exchange writes what it has: where the rows of candles and of markets are in an answer, and what is where in a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias

# A step from a JSON value to one inside it: a key, an index, or `OtherThan`.
PathStep: TypeAlias = "str | int | OtherThan"


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


@dataclass(frozen=True, slots=True)
class OtherThan:
    """A path step: the one key that is not among these (Kraken names the page after its own name of the pair)."""

    keys: tuple[str, ...]


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

    @classmethod
    def arrays(
        cls,
        columns: str,
        time_form: TimeForm,
        *,
        path: tuple[PathStep, ...] = (),
        closed: str | None = None,
        is_newest_row_open: bool = False,
        is_nothing_empty: bool = False,
    ) -> "RowForm":
        """Each row is an array. `columns` names what stands in it, from the left: time, open, high, low, close, volume, and
        others by any word, which are not read. `closed` is the word in the column of that name where a candle is final.

        Raises:
            KeyError: one of the six is missing.
        """
        at = {name: index for index, name in enumerate(columns.split())}
        return cls(
            RowKind.ARRAYS,
            *(at["time"], at["open"], at["high"], at["low"], at["close"], at["volume"]),
            time_form,
            path,
            closed=None if closed is None else (at["closed"], closed),
            is_newest_row_open=is_newest_row_open,
            is_nothing_empty=is_nothing_empty,
        )

    @classmethod
    def objects(cls, keys: str, time_form: TimeForm, *, path: tuple[PathStep, ...] = ()) -> "RowForm":
        """Each row is an object. `keys` are those of time, open, high, low, close and volume, in this order."""
        time, open_, high, low, close, volume = keys.split()
        return cls(RowKind.OBJECTS, time, open_, high, low, close, volume, time_form, path)

    @classmethod
    def columns(cls, keys: str, time_form: TimeForm, *, path: tuple[PathStep, ...] = ()) -> "RowForm":
        """One array for each column. `keys` are those of time, open, high, low, close and volume, in this order."""
        time, open_, high, low, close, volume = keys.split()
        return cls(RowKind.COLUMNS, time, open_, high, low, close, volume, time_form, path)


@dataclass(frozen=True, slots=True)
class MarketForm:
    """How a row of the list of symbols reads. Rows at `path` are objects, or plain ids (then `id_key` is ignored).

    Base, quote and (for contracts) the settlement currency are under `base_key`, `quote_key` and `settle_key`, or
    `pair_pattern` (groups base, quote and perhaps settle) finds them in `pair_key`; `settle` is that of all contracts of an
    exchange that has one only. Where a list has a `settle_key`, a row without a settlement is left out, unless its id matches
    `spot_pattern`. Rows are left out unless they have `only` and an id of `id_pattern`; a market is active unless a field in
    `active` has another value.
    """

    path: tuple[PathStep, ...] = ()
    id_key: str = "symbol"
    base_key: str = ""
    quote_key: str = ""
    settle_key: str = ""
    settle: str = ""
    quote: str = ""
    id_pattern: str = ""
    spot_pattern: str = ""
    pair_key: str = ""
    pair_pattern: str = ""
    only: Mapping[str, object] = field(default_factory=dict)
    active: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def objects(
        cls,
        keys: str,
        *,
        path: tuple[PathStep, ...] = (),
        id_pattern: str = "",
        spot_pattern: str = "",
        only: Mapping[str, object] = MappingProxyType({}),
        active: Mapping[str, object] = MappingProxyType({}),
    ) -> "MarketForm":
        """Each row is an object. `keys` are those of the id, base, quote and (for contracts) settlement, in this order."""
        id_key, base_key, quote_key, *settle_key = keys.split()
        return cls(
            path,
            id_key,
            base_key,
            quote_key,
            "".join(settle_key),
            id_pattern=id_pattern,
            spot_pattern=spot_pattern,
            only=only,
            active=active,
        )

    @classmethod
    def pairs(
        cls,
        keys: str,
        pattern: str,
        *,
        path: tuple[PathStep, ...] = (),
        id_pattern: str = "",
        active: Mapping[str, object] = MappingProxyType({}),
    ) -> "MarketForm":
        """The pattern finds base and quote in one text. `keys` are those of the id and of the text; one if that is the id."""
        id_key, *pair_key = keys.split()
        text_key = pair_key[0] if pair_key else id_key
        return cls(path, id_key, id_pattern=id_pattern, pair_key=text_key, pair_pattern=pattern, active=active)
