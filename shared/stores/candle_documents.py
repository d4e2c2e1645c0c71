"""Candles as BSON documents, written and read column-wise.

All documents of a page have the same layout but for the indicator values that do not exist yet, so the bytes of a whole page
are laid out by numpy at once: a template per set of fields, with the times and doubles filled in. Encoding a thousand dicts
one by one costs as much as the server needs to store them; this costs next to nothing. Reading goes the same way back, and
document by document only where one is laid out otherwise. Format: https://bsonspec.org.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import bson
import numpy as np
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from numpy.typing import NDArray

from shared.domain.candles import PRICE_COLUMNS, CandleBatch, FloatArray
from shared.domain.jobs import to_ms
from shared.domain.timeframes import IntArray

TIME_FIELD: Final = "_id"
INDICATORS_FIELD: Final = "ind"
# A page has one layout, or a few where a series begins or its job's indicators were changed. More are read one by one.
LAYOUTS_MAX: Final = 32
_DOUBLE: Final = b"\x01"
_DOCUMENT: Final = b"\x03"
_DATE: Final = b"\x09"
_END: Final = b"\x00"
_EMPTY_VALUE: Final = bytes(8)
Bytes: TypeAlias = NDArray[np.uint8]
_AWARE: Final[CodecOptions[Mapping[str, Any]]] = CodecOptions(tz_aware=True)


def encode_candles(candles: CandleBatch, values: Mapping[str, FloatArray]) -> list[RawBSONDocument]:
    """Documents {_id, open, high, low, close, volume, ind: {field: value}}, one per candle, in order.

    `values` are columns as long as `candles`; where one is NaN the document has no such field, and no `ind` if it has none.
    """
    names = tuple(values)
    columns = np.empty((len(candles), len(names)))
    for index, name in enumerate(names):
        columns[:, index] = values[name]
    is_present = ~np.isnan(columns)
    documents: list[RawBSONDocument | None] = [None] * len(candles)
    for pattern, rows in _rows_by_pattern(is_present):
        fields = [name for name, is_there in zip(names, pattern, strict=True) if is_there]
        for row, raw in zip(rows, _encode_rows(candles, rows, fields, columns[:, pattern]), strict=True):
            documents[row] = RawBSONDocument(raw)
    return [document for document in documents if document is not None]


class DocumentRun(RawBSONDocument):
    """Documents end to end, for a command's list of documents, where the driver writes them as if they were one.

    In a message such a list is nothing but documents one after the other (OP_MSG, section of kind 1). An object a document
    costs the driver and us more than laying out all of them does, and that with Python's lock held.
    """

    __slots__ = ("_run", "count")

    def __init__(self, run: bytes, count: int) -> None:
        super().__init__(run[: struct.unpack_from("<i", run)[0]])
        self._run = run
        self.count = count

    @property
    def raw(self) -> bytes:
        """What the driver writes: all of them."""
        return self._run


def encode_runs(candles: CandleBatch, values: Mapping[str, FloatArray], bytes_max: int) -> list[DocumentRun]:
    """The documents of `encode_candles` end to end, in runs of at most `bytes_max` where one document is not larger."""
    names = tuple(values)
    columns = np.column_stack([values[name] for name in names]) if names else np.empty((len(candles), 0))
    if not len(candles):
        return []
    if bool(np.isnan(columns).any()):
        documents = [document.raw for document in encode_candles(candles, values)]
        lot = max(1, bytes_max // max(map(len, documents)))
        lots = (documents[first : first + lot] for first in range(0, len(documents), lot))
        return [DocumentRun(b"".join(each), len(each)) for each in lots]
    page = _lay_out(candles, np.arange(len(candles)), names, columns)
    lot = max(1, bytes_max // page.shape[1])
    return [
        DocumentRun(page[first : first + lot].tobytes(), len(page[first : first + lot])) for first in range(0, len(page), lot)
    ]


def decode_candles(raw: bytes, fields: Sequence[str]) -> tuple[CandleBatch, dict[str, FloatArray]]:
    """Candles from documents one after the other, as bytes and in the order of their times, ascending or descending.

    Returns them ascending, with the columns of `fields`: NaN where a document has no such value.
    """
    opens, columns = decode_columns(raw, PRICE_COLUMNS, fields)
    prices, values = columns[: len(PRICE_COLUMNS)], columns[len(PRICE_COLUMNS) :]
    return CandleBatch(opens, *prices), dict(zip(fields, values, strict=True))


def decode_columns(raw: bytes, prices: Sequence[str], fields: Sequence[str]) -> tuple[IntArray, list[FloatArray]]:
    """Open times and the columns of `prices` and `fields` from documents as `decode_candles` takes them, ascending.

    Documents that are laid out alike are read at once, whatever that layout is; what is no time and no double, one by one.

    Raises:
        KeyError: a document without one of the prices.
    """
    paths = [*prices, *(f"{INDICATORS_FIELD}.{field}" for field in fields)]
    buffer = np.frombuffer(raw, np.uint8)
    starts, sizes = _bounds(raw)
    opens = np.empty(len(starts), np.int64)
    columns = list(np.full((len(paths), len(starts)), np.nan))
    left, odd = np.arange(len(starts)), []
    for _ in range(LAYOUTS_MAX):
        if not len(left):
            break
        layout = _layout_of(raw[starts[left[0]] : starts[left[0]] + sizes[left[0]]])
        if layout is None or not layout.keys() >= {TIME_FIELD, *prices}:
            odd.append(int(left[0]))
            left = left[1:]
            continue
        alike, pages = _alike(buffer, starts, sizes, left, layout)
        rows: slice | IntArray = slice(None) if len(alike) == len(starts) else alike
        opens[rows] = _values_at(pages, layout[TIME_FIELD], "<i8")
        for path, column in zip(paths, columns, strict=True):
            if path in layout:
                column[rows] = _values_at(pages, layout[path], "<f8")
        left = left[:0] if len(alike) == len(left) else np.setdiff1d(left, alike, assume_unique=True)
    for row in (*odd, *left.tolist()):
        _decode_one(bson.decode(raw[starts[row] : starts[row] + sizes[row]], _AWARE), row, opens, columns, prices, fields)
    if len(opens) > 1 and opens[0] > opens[-1]:
        opens, columns = opens[::-1], [column[::-1] for column in columns]
    return opens, columns


def _bounds(raw: bytes) -> tuple[IntArray, IntArray]:
    """Where each document begins, and its size."""
    if not raw:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    (size,) = struct.unpack_from("<i", raw)
    if len(raw) % size == 0:
        heads = np.frombuffer(raw, np.uint8).reshape(-1, size)[:, :4]
        if bool((heads == heads[0]).all()):
            return np.arange(0, len(raw), size), np.full(len(heads), size)
    starts, at = [], 0
    while at < len(raw):
        starts.append(at)
        at += struct.unpack_from("<i", raw, at)[0]
    found = np.array(starts, np.int64)
    return found, np.diff(found, append=len(raw))


def _layout_of(document: bytes) -> dict[str, int] | None:
    """Where each time and double of a document lies, by its name (`open`, `ind.ema_20`); None if it holds anything else."""
    layout: dict[str, int] = {}
    at, prefix = 4, ""
    while at < len(document) - 1:
        kind = document[at : at + 1]
        if kind == _END and prefix:
            at, prefix = at + 1, ""
            continue
        name_end = document.index(_END, at + 1)
        name, at = document[at + 1 : name_end].decode(), name_end + 1
        if kind == _DOCUMENT and name == INDICATORS_FIELD and not prefix:
            at, prefix = at + 4, f"{INDICATORS_FIELD}."
        elif kind == _DOUBLE or (kind == _DATE and name == TIME_FIELD):
            layout[prefix + name] = at
            at += 8
        else:
            return None
    return layout


def _alike(
    buffer: Bytes, starts: IntArray, sizes: IntArray, rows: IntArray, layout: Mapping[str, int]
) -> tuple[IntArray, Bytes]:
    """Those of `rows` that are laid out as the first of them, and their bytes, a document a row."""
    size = int(sizes[rows[0]])
    of_size = rows[sizes[rows] == size]
    is_whole = len(of_size) == len(starts)
    pages = buffer.reshape(-1, size) if is_whole else buffer[starts[of_size][:, None] + np.arange(size)]
    is_name = np.ones(size, np.bool_)
    for offset in layout.values():
        is_name[offset : offset + 8] = False
    is_alike = (pages[:, is_name] == pages[0][is_name]).all(axis=1)
    return (of_size, pages) if bool(is_alike.all()) else (of_size[is_alike], pages[is_alike])


def _values_at(pages: Bytes, offset: int, kind: str) -> NDArray[Any]:
    return np.ascontiguousarray(pages[:, offset : offset + 8]).reshape(-1).view(kind)


def _decode_one(
    document: Mapping[str, Any],
    row: int,
    opens: IntArray,
    columns: Sequence[FloatArray],
    prices: Sequence[str],
    fields: Sequence[str],
) -> None:
    opens[row] = to_ms(document[TIME_FIELD])
    values: Mapping[str, Any] = document.get(INDICATORS_FIELD, {})
    found = [document[name] for name in prices] + [values.get(field, np.nan) for field in fields]
    for column, value in zip(columns, found, strict=True):
        column[row] = value


def _rows_by_pattern(is_present: NDArray[np.bool_]) -> list[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
    """Rows grouped by which values they have. Nearly always one group; a few where a series begins."""
    if not len(is_present):
        return []
    if is_present.shape[1] == 0 or bool(is_present.all()):
        return [(np.ones(is_present.shape[1], np.bool_), np.arange(len(is_present)))]
    patterns, group_of_row = np.unique(is_present, axis=0, return_inverse=True)
    groups = group_of_row.reshape(-1)
    return [(pattern, np.flatnonzero(groups == index)) for index, pattern in enumerate(patterns)]


def _encode_rows(candles: CandleBatch, rows: NDArray[np.int64], fields: Sequence[str], values: FloatArray) -> list[bytes]:
    page = _lay_out(candles, rows, fields, values)
    raw, size = page.tobytes(), page.shape[1]
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def _lay_out(candles: CandleBatch, rows: NDArray[np.int64], fields: Sequence[str], values: FloatArray) -> Bytes:
    """Their bytes, a document a row."""
    template, offsets = _template(fields)
    page = np.empty((len(rows), len(template)), np.uint8)
    page[:] = np.frombuffer(template, np.uint8)
    columns = [candles.open_ms.astype("<i8")] + [getattr(candles, name).astype("<f8") for name in PRICE_COLUMNS]
    for offset, column in zip(offsets, columns, strict=False):
        page[:, offset : offset + 8] = column[rows].view(np.uint8).reshape(-1, 8)
    for index, offset in enumerate(offsets[len(columns) :]):
        page[:, offset : offset + 8] = np.ascontiguousarray(values[rows, index], "<f8").view(np.uint8).reshape(-1, 8)
    return page


def _template(fields: Sequence[str]) -> tuple[bytes, list[int]]:
    """A document with zero values, and the offset of each value: time, prices, volume, then the indicators."""
    parts = bytearray(4)
    offsets = []

    def append(kind: bytes, name: str) -> None:
        parts.extend(kind + name.encode() + _END)
        offsets.append(len(parts))
        parts.extend(_EMPTY_VALUE)

    append(_DATE, TIME_FIELD)
    for name in PRICE_COLUMNS:
        append(_DOUBLE, name)
    if fields:
        parts.extend(_DOCUMENT + INDICATORS_FIELD.encode() + _END)
        inner_at = len(parts)
        parts.extend(bytes(4))
        for name in fields:
            append(_DOUBLE, name)
        parts.extend(_END)
        struct.pack_into("<i", parts, inner_at, len(parts) - inner_at)
    parts.extend(_END)
    struct.pack_into("<i", parts, 0, len(parts))
    return bytes(parts), offsets
