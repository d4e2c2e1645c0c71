"""Rows as they arrived, to be had by column: where an answer carries them, and that each has the shape of a row.

Rows that are arrays are turned over as a whole, once for all columns.
"""

import reprlib
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final, NoReturn, TypeAlias

from shared.domain.timeframes import IntArray
from shared.errors import MalformedPage
from shared.exchanges.row_forms import OtherThan, PathStep, RowKind
from shared.exchanges.spec import ExchangeSpec

# A parsed answer: rows as lists or objects of JSON values. `Any` ends in rows.py.
Rows: TypeAlias = Sequence[Any]
Key: TypeAlias = int | str

# The most rows of one answer that are looked at; no venue sends more than 10,000.
ROWS_MAX: Final = 20_000
EXCERPT_CHARS: Final = 60

_MISSING: Final = object()


class Table:
    """The rows of one answer. `rows` are lists, objects, or (for columns) the rows that the columns make.

    Raises:
        MalformedPage: one of them has another shape.
    """

    __slots__ = ("_by_key", "_rows", "_spec", "_turned", "count")

    def __init__(self, rows: Rows, spec: ExchangeSpec, by_key: dict[Key, list[Any]] | None = None) -> None:
        self._rows, self._spec, self._by_key = rows, spec, by_key
        self._turned: list[tuple[Any, ...]] | None = None
        self.count = len(rows) if by_key is None else len(next(iter(by_key.values())))
        shape = dict if spec.rows.kind is RowKind.OBJECTS else list
        if by_key is None and list(map(type, rows)).count(shape) != self.count:
            index = next(index for index, row in enumerate(rows) if type(row) is not shape)
            refuse(spec, f"row {index} is not {'an object' if shape is dict else 'an array'}: {excerpt(rows[index])}")

    def __len__(self) -> int:
        return self.count

    @property
    def rows(self) -> Rows:
        """Row by row; what is made of columns has their order in RowForm: time, open, high, low, close, volume."""
        return self._rows if self._by_key is None else [list(row) for row in zip(*self._by_key.values(), strict=True)]

    def cell(self, index: int, key: Key) -> Any:
        """One value."""
        return self._rows[index][key] if self._by_key is None else self._by_key[key][index]

    def columns(self, keys: Sequence[Key], kept: IntArray | None = None) -> list[Sequence[Any]]:
        """The values under each key, of all rows or of those at `kept`; what the others hold does not matter.

        Raises:
            MalformedPage: a row has none; names its index.
        """
        if self._by_key is not None:
            return [_pick(self._by_key[key], kept) for key in keys]
        if self._spec.rows.kind is RowKind.ARRAYS:
            if self._turned is None:
                # As many columns as the shortest row has.
                self._turned = list(zip(*self._rows, strict=False))
            if len(self._turned) > max(int(key) for key in keys):
                return [_pick(self._turned[int(key)], kept) for key in keys]
        rows = _pick(self._rows, kept)
        return [self._column(rows, key, kept) for key in keys]

    def _column(self, rows: Rows, key: Key, kept: IntArray | None) -> list[Any]:
        try:
            return list(map(itemgetter(key), rows))
        except (IndexError, KeyError):
            short = next(
                index for index, row in enumerate(rows) if not (key in row if isinstance(row, dict) else len(row) > int(key))
            )
            at = short if kept is None else kept[short]
            refuse(self._spec, f"row {at} has nothing at {key!r}: {excerpt(rows[short])}")


def find_in(payload: object, path: Sequence[PathStep]) -> object | None:
    """The value at a path inside a parsed answer, None if the path leads nowhere."""
    found = _find(payload, path)
    return None if found is _MISSING else found


def find_rows(payload: object, spec: ExchangeSpec) -> Table:
    """The rows of an answer.

    Raises:
        MalformedPage: there are no rows where they should be, too many, of another shape, or columns of different lengths.
    """
    form = spec.rows
    found = _find(payload, form.path)
    if form.is_nothing_empty and (found is None or found == ""):
        found = []
    elif form.kind is RowKind.COLUMNS:
        return _find_columns(found, spec)
    if not isinstance(found, list):
        refuse(spec, f"no list of rows at {form.path or 'the top'}: {excerpt(payload)}")
    _check_count(len(found), spec)
    return Table(found, spec)


def _find_columns(found: Any, spec: ExchangeSpec) -> Table:
    form = spec.rows
    columns = {key: _find(found, (key,)) for key in (form.time, form.open, form.high, form.low, form.close, form.volume)}
    if any(type(column) is not list for column in columns.values()) or len(set(map(len, columns.values()))) != 1:
        refuse(spec, f"no columns of one length: {excerpt(found)}")
    _check_count(len(columns[form.time]), spec)
    return Table((), spec, columns)


def _check_count(count: int, spec: ExchangeSpec) -> None:
    if count > ROWS_MAX:
        refuse(spec, f"{count} rows are more than {ROWS_MAX}")


def _find(value: Any, path: Sequence[PathStep]) -> Any:
    for step in path:
        if isinstance(step, OtherThan):
            keys = [key for key in value if key not in step.keys] if isinstance(value, dict) else []
            if len(keys) != 1:
                return _MISSING
            value = value[keys[0]]
        elif step in value if isinstance(value, dict) else isinstance(value, list) and step in range(len(value)):
            value = value[step]
        else:
            return _MISSING
    return value


def _pick(values: Sequence[Any], kept: IntArray | None) -> Sequence[Any]:
    """Those at the indices `kept`, which ascend."""
    if kept is None or len(kept) == len(values):
        return values
    first, last = int(kept[0]), int(kept[-1])
    # What is left out nearly always stands at one end.
    is_run = last - first + 1 == len(kept)
    return values[first : last + 1] if is_run else [values[index] for index in kept.tolist()]


def refuse(spec: ExchangeSpec, problem: str) -> NoReturn:
    """Raise MalformedPage."""
    raise MalformedPage(f"{spec.name}: {problem}", exchange=spec.name)


def excerpt(value: object) -> str:
    """As much of a value as fits into a message."""
    # Numbers of thousands of digits have no repr in Python; nothing else in a parsed answer fails here.
    try:
        text = reprlib.repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= EXCERPT_CHARS else text[:EXCERPT_CHARS] + "..."
