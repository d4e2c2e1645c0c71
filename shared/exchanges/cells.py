"""Cells of a page as numbers: all at once where they are all written in one plain way, else one by one, to name the row.

Numbers go into numpy through `struct`, which takes a quarter of the time of numpy's own way. It takes `true` for 1.0: so what
came out as 0.0 or 1.0, and only that, is looked at again. Texts are parsed by pydantic-core, which rounds as Python does and
takes half the time (benchmarks/decode.py).
"""

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import numpy as np
from pydantic_core import SchemaValidator, core_schema

from shared.domain.candles import FloatArray
from shared.domain.timeframes import IntArray
from shared.exchanges.row_forms import TimeForm
from shared.exchanges.spec import ExchangeSpec
from shared.exchanges.tables import Key, excerpt, refuse

# No market is older than the first block of Bitcoin (2009), and none of this software runs after 2100: a time outside is in
# another unit.
OPEN_MS_MIN: Final = 1_230_768_000_000
OPEN_MS_MAX: Final = 4_102_444_800_000
NOT_IN_NUMBERS: Final = "_ \t\n\r\v\f"
ISO_LETTERS: Final = b"0123456789-:T"
ISO_CHARS: Final = 19
# One after the other, each a number or the text of one.
_WHOLE_NUMBERS: Final = SchemaValidator(core_schema.tuple_schema([core_schema.int_schema()], variadic_item_index=0))
_NUMBERS: Final = SchemaValidator(
    core_schema.tuple_schema([core_schema.float_schema(allow_inf_nan=False)], variadic_item_index=0)
)

_T = TypeVar("_T")


def parse_times(column: Sequence[Any], spec: ExchangeSpec, key: Key) -> IntArray:
    """Times in UTC ms; what lies outside int64 or is no whole number is refused here, the rest by the caller.

    Raises:
        MalformedPage: names the row.
    """
    is_iso = spec.rows.time_form is TimeForm.ISO
    times = _parse_iso_times(column) if is_iso else _parse_whole_times(column)
    if times is None:
        parse = _parse_iso if is_iso else _parse_whole
        parsed = [_parse_one(parse, value, spec, index, key) for index, value in enumerate(column)]
        try:
            times = np.fromiter(parsed, np.int64, len(parsed))
        except OverflowError:
            index = next(index for index, value in enumerate(parsed) if abs(value) > OPEN_MS_MAX)
            refuse(spec, f"row {index}: open time {excerpt(column[index])} is no time of a candle, perhaps in a wrong unit")
    if spec.rows.time_form is not TimeForm.SECONDS:
        return times
    # Clipped before the product, so that an absurd time stays absurd instead of overflowing into a sensible one.
    clipped: IntArray = np.clip(times, -OPEN_MS_MAX, OPEN_MS_MAX + 1) * 1_000
    return clipped


def parse_numbers(column: Sequence[Any], key: Key, spec: ExchangeSpec, kept: IntArray) -> FloatArray:
    """A column as doubles: JSON numbers, or strings that hold nothing but a number. `kept` are the rows' indices.

    Raises:
        MalformedPage: names the row.
    """
    numbers = _parse_plain(column)
    if numbers is not None:
        return numbers
    return np.array([_parse_one(_parse_float, value, spec, int(at), key) for at, value in zip(kept, column, strict=True)])


def _parse_plain(cells: Sequence[Any]) -> FloatArray | None:
    """Cells that all are JSON numbers, or all texts of one; None if they are not."""
    # TypeError: not all of them are strings. ValueError: not all of them hold a number. struct.error, OverflowError: not all
    # of them are numbers, or one is too large.
    with suppress(TypeError, ValueError, struct.error, OverflowError):
        if type(cells[0]) is str:
            return _pack(_NUMBERS.validate_python(cells)) if _is_plain("".join(cells)) else None
        numbers = _pack(cells)
        doubtful = np.flatnonzero((numbers == 0) | (numbers == 1)).tolist()
        return None if any(type(cells[index]) is bool for index in doubtful) else numbers
    return None


def _pack(numbers: Sequence[float]) -> FloatArray:
    return np.frombuffer(struct.pack(f"{len(numbers)}d", *numbers))


def _is_plain(text: str) -> bool:
    """Whether a parser can find numbers in the text in JSON's way only: they also take `1_000`, blanks and other digits."""
    return text.isascii() and not any(letter in text for letter in NOT_IN_NUMBERS)


def _parse_whole_times(column: Sequence[Any]) -> IntArray | None:
    """Times that all are integers, or all the digits of one; None if they are not."""
    with suppress(TypeError, ValueError, struct.error):
        if column and type(column[0]) is str:
            text = "".join(column)
            if not (text.isascii() and text.isdigit()):
                return None
            column = _WHOLE_NUMBERS.validate_python(column)
        times: IntArray = np.frombuffer(struct.pack(f"{len(column)}q", *column), np.int64)
        # `struct` takes booleans too, as 0 and 1: no times, and to be refused for what they are.
        return times if not len(times) or times.min() > 1 else None
    return None


def _parse_iso_times(column: Sequence[Any]) -> IntArray | None:
    """Times that are all written as 2024-01-31T23:59:00, in UTC; None if they are not."""
    with suppress(TypeError, ValueError):
        if set(map(len, column)) == {ISO_CHARS} and not "".join(column).encode().translate(None, ISO_LETTERS):
            times: IntArray = np.array(column, dtype="datetime64[s]").astype(np.int64) * 1_000
            return times
    return None


def _parse_one(parse: Callable[[Any], _T], value: Any, spec: ExchangeSpec, index: int, key: Key) -> _T:
    try:
        return parse(value)
    except (ValueError, TypeError, OverflowError):
        refuse(spec, f"row {index}: {excerpt(value)} at {key!r} is not a {'time' if parse is not _parse_float else 'number'}")


def _parse_whole(value: Any) -> int:
    if type(value) is int:
        return value
    if type(value) is str and value.isascii() and value.isdigit():
        return int(value)
    if type(value) is float and value.is_integer():
        return int(value)
    raise ValueError(value)


def _parse_iso(value: Any) -> int:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _parse_float(value: Any) -> float:
    if type(value) in (int, float):
        return float(value)
    # Python's parser takes more than JSON's; `nan` and `inf` are let through, to be refused for what they are.
    if type(value) is str and value.isascii() and "_" not in value and value.split() == [value]:
        return float(value)
    raise ValueError(value)
