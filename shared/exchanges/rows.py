"""From an exchange's answer to candles: pure, checked, and fast (a page of 1,000 rows takes a third of a millisecond).

Whole columns are taken at a time, by code that is not Python's own loop: the parser of numbers is pydantic-core's, which rounds
as Python does and takes half the time (benchmarks/decode.py). Row by row is only looked for what is wrong.

Trusted is nothing: not the order, not the uniqueness, not the bounds, not the types. What does not make sense as a whole is
refused with the row's index, since a wrong candle is worse than none.
"""

import re
import reprlib
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic_core import SchemaValidator, core_schema

from shared.domain.candles import PRICE_COLUMNS, CandleBatch, FloatArray
from shared.domain.timeframes import IntArray, Timeframe
from shared.errors import MalformedPage
from shared.exchanges.row_forms import OtherThan, PathStep, RowForm, RowKind, TimeForm
from shared.exchanges.spec import ExchangeSpec

# A parsed answer: rows as lists or objects of JSON values. `Any` ends in this module.
Rows: TypeAlias = Sequence[Any]

# No market is older than the first block of Bitcoin (2009), and none of this software runs after 2100: a time outside is in
# another unit.
OPEN_MS_MIN: Final = 1_230_768_000_000
OPEN_MS_MAX: Final = 4_102_444_800_000
# The most rows of one answer that are looked at; no venue sends more than 10,000.
ROWS_MAX: Final = 20_000
EXCERPT_CHARS: Final = 60
NOT_IN_NUMBERS: Final = "_ \t\n\r\v\f"
ISO_LETTERS: Final = frozenset("0123456789-:T")
ISO_CHARS: Final = 19
# One after the other, each a number or the text of one.
_WHOLE_NUMBERS: Final = SchemaValidator(core_schema.tuple_schema([core_schema.int_schema()], variadic_item_index=0))
_NUMBERS: Final = SchemaValidator(
    core_schema.tuple_schema([core_schema.float_schema(allow_inf_nan=False)], variadic_item_index=0)
)

_MISSING: Final = object()
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Market:
    """One tradable pair: unified name, the exchange's own, and whether it trades now."""

    symbol: str
    exchange_symbol: str
    is_active: bool


def find_in(payload: object, path: Sequence[PathStep]) -> object | None:
    """The value at a path inside a parsed answer, None if the path leads nowhere."""
    found = _find(payload, path)
    return None if found is _MISSING else found


def find_rows(payload: object, spec: ExchangeSpec) -> Rows:
    """The rows of an answer, columnar ones turned into arrays of (time, open, high, low, close, volume).

    Raises:
        MalformedPage: there are no rows where they should be, too many, or columns of different lengths.
    """
    form = spec.rows
    found = _find(payload, form.path)
    if form.is_nothing_empty and (found is None or found == ""):
        return []
    if form.kind is RowKind.COLUMNS:
        found = _zip_columns(found, spec)
    if not isinstance(found, list):
        _refuse(spec, f"no list of rows at {form.path or 'the top'}: {_excerpt(payload)}")
    if len(found) > ROWS_MAX:
        _refuse(spec, f"{len(found)} rows are more than {ROWS_MAX}")
    return found


def decode_open_times(rows: Rows, spec: ExchangeSpec, timeframe: Timeframe) -> IntArray:
    """Open times of all rows in UTC ms, in the order of the rows.

    Raises:
        MalformedPage: a row has another shape, or a time is of a wrong type or unit or off the timeframe's grid.
    """
    form = spec.rows
    shape = dict if form.kind is RowKind.OBJECTS else list
    key = 0 if form.kind is RowKind.COLUMNS else form.time
    if not set(map(type, rows)) <= {shape}:
        index = next(index for index, row in enumerate(rows) if type(row) is not shape)
        _refuse(spec, f"row {index} is not {'an object' if shape is dict else 'an array'}: {_excerpt(rows[index])}")
    times_ms = _parse_times(_column(rows, key, spec), spec, key)
    if len(times_ms) and not (times_ms.min() >= OPEN_MS_MIN and times_ms.max() <= OPEN_MS_MAX):
        is_bad = (times_ms < OPEN_MS_MIN) | (times_ms > OPEN_MS_MAX)
        _refuse_time(rows, key, is_bad, "is no time of a candle, perhaps in a wrong unit", spec)
    is_on_grid = timeframe.are_open_times(times_ms)
    if not is_on_grid.all():
        _refuse_time(rows, key, ~is_on_grid, f"is off the {timeframe.name} grid", spec)
    return times_ms


def _refuse_time(rows: Rows, key: int | str, is_bad: NDArray[np.bool_], problem: str, spec: ExchangeSpec) -> NoReturn:
    index = int(is_bad.argmax())
    _refuse(spec, f"row {index}: open time {_excerpt(rows[index][key])} {problem}")


def decode(
    rows: Rows, spec: ExchangeSpec, timeframe: Timeframe, start_ms: int, end_ms: int, *, opens_ms: IntArray | None = None
) -> CandleBatch:
    """The candles with start_ms <= open time < end_ms among the rows: sorted, unique, on the grid, every value checked.

    Rows outside the range are dropped unseen but for their times: exchanges snap bounds, and a running candle (keep it out by
    `end_ms`) may hold anything. Identical repeats are dropped. `opens_ms` are the times if `decode_open_times` has run already.

    Raises:
        MalformedPage: names the row's index and what is wrong with it: shape, type, time, a value that is not finite, a price
            not above zero, a volume below zero, high or low that do not enclose open and close, or two rows that disagree.
    """
    if opens_ms is None:
        opens_ms = decode_open_times(rows, spec, timeframe)
    kept = np.flatnonzero((opens_ms >= start_ms) & (opens_ms < end_ms))
    if not len(kept):
        return CandleBatch.empty()
    if len(kept) < len(rows):
        first, last = int(kept[0]), int(kept[-1])
        # What is dropped nearly always stands at one end.
        is_run = last - first + 1 == len(kept)
        rows = rows[first : last + 1] if is_run else [rows[index] for index in kept.tolist()]
        opens_ms = opens_ms[kept]
    columns = [
        _parse_numbers(column, key, spec, kept)
        for key, column in zip(_value_keys(spec.rows), _value_columns(rows, spec, kept), strict=True)
    ]
    _check_values(columns, spec, kept)
    if not bool((opens_ms[1:] > opens_ms[:-1]).all()):
        if bool((opens_ms[1:] < opens_ms[:-1]).all()):
            order: NDArray[np.int64] | slice = slice(None, None, -1)
        else:
            order = _unique_order(opens_ms, columns, spec, kept)
        opens_ms, columns = opens_ms[order], [column[order] for column in columns]
    return CandleBatch(opens_ms, *columns)


def find_open_flags(rows: Rows, spec: ExchangeSpec) -> NDArray[np.bool_]:
    """For each row whether it says of itself that it is not final.

    Raises:
        MalformedPage: a row has no word on it.
    """
    assert spec.rows.closed is not None, "for exchanges whose rows say so"
    key, word = spec.rows.closed
    column = _column(rows, key, spec)
    if column.count(word) == len(column):
        return np.zeros(len(column), np.bool_)
    return np.array([value != word for value in column], np.bool_)


def decode_markets(payload: object, spec: ExchangeSpec) -> list[Market]:
    """The pairs of a list of symbols, ordered by unified name; rows that name no pair are left out.

    Raises:
        MalformedPage: there is no list (or object of objects) where it should be.
    """
    form = spec.market_rows
    found = _find(payload, form.path)
    rows = list(found.values()) if isinstance(found, dict) else found
    if not isinstance(rows, list):
        _refuse(spec, f"no list of symbols at {form.path or 'the top'}: {_excerpt(payload)}")
    markets: dict[str, Market] = {}
    for row in rows:
        market = _decode_market({form.id_key: row, form.pair_key: row} if isinstance(row, str) else row, spec)
        # Where two pairs have the same unified name, the one that trades is meant.
        if market is not None and (market.is_active or market.symbol not in markets):
            markets[market.symbol] = market
    return sorted(markets.values(), key=lambda market: market.symbol)


def _decode_market(row: Any, spec: ExchangeSpec) -> Market | None:
    form = spec.market_rows
    if not isinstance(row, dict) or any(row.get(key) != value for key, value in form.only.items()):
        return None
    exchange_symbol = row.get(form.id_key)
    if not isinstance(exchange_symbol, str) or (form.id_pattern and not re.fullmatch(form.id_pattern, exchange_symbol)):
        return None
    base, quote, settle = row.get(form.base_key), row.get(form.quote_key) or form.quote, row.get(form.settle_key)
    if form.pair_pattern:
        match = re.fullmatch(form.pair_pattern, str(row.get(form.pair_key, "")))
        base, quote = (match["base"], match["quote"]) if match else (None, None)
        settle = match.groupdict().get("settle") if match else None
    settle = settle or form.settle
    if not (isinstance(base, str) and isinstance(quote, str) and isinstance(settle, str) and base and quote):
        return None
    is_active = all(row.get(key, value) == value for key, value in form.active.items())
    unified = [spec.symbol_form.unify(currency) for currency in (base, quote, *((settle,) if settle else ()))]
    return Market("/".join(unified[:2]) + "".join(f":{currency}" for currency in unified[2:]), exchange_symbol, is_active)


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


def _zip_columns(found: Any, spec: ExchangeSpec) -> list[list[Any]]:
    """Parallel arrays as rows; the column order is (time, open, high, low, close, volume) afterwards."""
    form = spec.rows
    columns = [_find(found, (key,)) for key in (form.time, form.open, form.high, form.low, form.close, form.volume)]
    if any(type(column) is not list for column in columns) or len({len(column) for column in columns}) != 1:
        _refuse(spec, f"no columns of one length: {_excerpt(found)}")
    return [list(row) for row in zip(*columns, strict=True)]


def _value_keys(form: RowForm) -> tuple[int | str, ...]:
    """Where open, high, low, close and volume are in a row."""
    if form.kind is RowKind.COLUMNS:
        return (1, 2, 3, 4, 5)
    return (form.open, form.high, form.low, form.close, form.volume)


def _value_columns(rows: Rows, spec: ExchangeSpec, kept: IntArray) -> list[Sequence[Any]]:
    """Open, high, low, close and volume of all rows, each as a column."""
    keys = _value_keys(spec.rows)
    if spec.rows.kind is not RowKind.OBJECTS:
        # As many columns as the shortest row has.
        columns = list(zip(*rows, strict=False))
        if len(columns) > max(int(key) for key in keys):
            return [columns[int(key)] for key in keys]
    return [_column(rows, key, spec, kept) for key in keys]


def _column(rows: Rows, key: int | str, spec: ExchangeSpec, kept: IntArray | None = None) -> list[Any]:
    """One value of each row. `kept` are the rows' indices in the answer, for the message."""
    try:
        return list(map(itemgetter(key), rows))
    except (IndexError, KeyError):
        short = next(
            index for index, row in enumerate(rows) if not (key in row if isinstance(row, dict) else len(row) > int(key))
        )
        _refuse(spec, f"row {short if kept is None else kept[short]} has nothing at {key!r}: {_excerpt(rows[short])}")


def _parse_times(column: list[Any], spec: ExchangeSpec, key: int | str) -> IntArray:
    """Times in UTC ms; what lies outside int64 or is no whole number is refused here, the rest by the caller."""
    parse = _parse_iso if spec.rows.time_form is TimeForm.ISO else _parse_whole
    unit_ms = 1_000 if spec.rows.time_form is TimeForm.SECONDS else 1
    if set(map(type, column)) != {int} or parse is _parse_iso:
        column = _parse_written_times(column, parse) or [
            _parse_one(parse, value, spec, index, key) for index, value in enumerate(column)
        ]
    try:
        times = np.fromiter(column, np.int64, len(column))
    except OverflowError:
        index = next(index for index, value in enumerate(column) if abs(value) > OPEN_MS_MAX)
        _refuse(spec, f"row {index}: open time {_excerpt(column[index])} is no time of a candle, perhaps in a wrong unit")
    if unit_ms == 1:
        return times
    # Clipped before the product, so that an absurd time stays absurd instead of overflowing into a sensible one.
    clipped: IntArray = np.clip(times, -OPEN_MS_MAX, OPEN_MS_MAX + 1) * unit_ms
    return clipped


def _parse_written_times(column: list[Any], parse: Callable[[Any], int]) -> list[int]:
    """Times that are all written in one plain way, at once; none if they are not."""
    if set(map(type, column)) != {str}:
        return []
    if parse is _parse_whole:
        text = "".join(column)
        with suppress(ValueError):
            return list(_WHOLE_NUMBERS.validate_python(column)) if text.isascii() and text.isdigit() else []
        return []
    # 2024-01-31T23:59:00, in UTC.
    if set(map(len, column)) != {ISO_CHARS} or not ISO_LETTERS.issuperset("".join(column)):
        return []
    try:
        seconds = np.array(column, dtype="datetime64[s]").astype(np.int64)
    except ValueError:
        return []
    return [second * 1_000 for second in seconds.tolist()]


def _parse_numbers(column: Sequence[Any], key: int | str, spec: ExchangeSpec, kept: IntArray) -> FloatArray:
    """Values as doubles. JSON numbers, or strings that hold nothing but a number."""
    try:
        if _is_plain("".join(column)):
            numbers = _NUMBERS.validate_python(column)
            # Half the time of numpy's own way through an iterator.
            return np.frombuffer(struct.pack(f"{len(numbers)}d", *numbers))
    except TypeError:
        # Not all of them are strings.
        if set(map(type, column)) <= {int, float}:
            with suppress(OverflowError):
                return np.fromiter(column, np.float64, len(column))
    except ValueError:
        pass
    # Looked at one by one, to name the row.
    return np.array([_parse_one(_parse_float, value, spec, int(at), key) for at, value in zip(kept, column, strict=True)])


def _parse_one(parse: Callable[[Any], _T], value: Any, spec: ExchangeSpec, index: int, key: int | str) -> _T:
    try:
        return parse(value)
    except (ValueError, TypeError, OverflowError):
        _refuse(spec, f"row {index}: {_excerpt(value)} at {key!r} is not a {'time' if parse is not _parse_float else 'number'}")


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


def _is_plain(text: str) -> bool:
    """Whether a parser can find numbers in the text in JSON's way only: they also take `1_000`, blanks and other digits."""
    return text.isascii() and not any(letter in text for letter in NOT_IN_NUMBERS)


def _check_values(columns: list[FloatArray], spec: ExchangeSpec, kept: IntArray) -> None:
    open_, high, low, close, volume = columns
    # One pass for the usual case: comparisons with NaN are false, and what is below an infinite high still has to be finite.
    is_good = (low > 0) & (low <= open_) & (low <= close) & (high >= open_) & (high >= close) & (volume >= 0)
    is_good &= np.isfinite(high) & np.isfinite(volume)
    if is_good.all():
        return
    first = int((~is_good).argmax())
    row = dict(zip(PRICE_COLUMNS, (float(column[first]) for column in columns), strict=True))
    if not all(np.isfinite(list(row.values()))):
        problem = "a value is not finite"
    elif min(row["open"], row["high"], row["low"], row["close"]) <= 0:
        problem = "a price is not above zero"
    elif row["volume"] < 0:
        problem = "the volume is negative"
    else:
        problem = "high and low do not enclose open and close"
    _refuse(spec, f"row {kept[first]}: {problem}: {row}")


def _unique_order(opens_ms: IntArray, columns: list[FloatArray], spec: ExchangeSpec, kept: IntArray) -> IntArray:
    """Indices that sort the candles and leave one of each open time."""
    order = np.argsort(opens_ms, kind="stable")
    is_repeat = np.diff(opens_ms[order]) == 0
    differs = np.zeros(len(is_repeat), np.bool_)
    for column in columns:
        differs |= np.diff(column[order]) != 0
    if (is_repeat & differs).any():
        at = int((is_repeat & differs).argmax())
        first, second = sorted((int(kept[order[at]]), int(kept[order[at + 1]])))
        _refuse(spec, f"rows {first} and {second} disagree about the candle that opens at {opens_ms[order[at]]}")
    unique: NDArray[np.int64] = order[np.concatenate(([True], ~is_repeat))]
    return unique


def _refuse(spec: ExchangeSpec, problem: str) -> NoReturn:
    raise MalformedPage(f"{spec.name}: {problem}", exchange=spec.name)


def _excerpt(value: object) -> str:
    # Numbers of thousands of digits have no repr in Python; nothing else in a parsed answer fails here.
    try:
        text = reprlib.repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= EXCERPT_CHARS else text[:EXCERPT_CHARS] + "..."
