"""Candles as BSON documents, written and read column-wise.

All documents of a page have the same layout but for the indicator values that do not exist yet, so the bytes of a whole page
are laid out by numpy at once: a template per set of fields, with the times and doubles filled in. Encoding a thousand dicts
one by one costs as much as the server needs to store them; this costs next to nothing. Reading goes the same way back, and
document by document only where one is laid out otherwise. Format: https://bsonspec.org.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import bson
import numpy as np
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from numpy.typing import NDArray

from shared.domain.candles import PRICE_COLUMNS, CandleBatch, FloatArray
from shared.domain.jobs import to_ms
from shared.domain.timeframes import IntArray

INDICATORS_FIELD: Final = "ind"
_DOUBLE: Final = b"\x01"
_DOCUMENT: Final = b"\x03"
_DATE: Final = b"\x09"
_END: Final = b"\x00"
_EMPTY_VALUE: Final = bytes(8)
_AWARE: Final[CodecOptions[dict[str, Any]]] = CodecOptions(tz_aware=True)


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


def decode_candles(raw: bytes, fields: Sequence[str]) -> tuple[CandleBatch, dict[str, FloatArray]]:
    """Candles from documents one after the other, as bytes and in the order of their times, ascending or descending.

    Returns them ascending, with the columns of `fields`: NaN where a document has no such value.
    """
    opens, columns = _decode_rows(raw, fields) or _decode_one_by_one(raw, fields)
    if len(opens) > 1 and opens[0] > opens[-1]:
        opens, columns = opens[::-1], [column[::-1] for column in columns]
    prices, values = columns[: len(PRICE_COLUMNS)], columns[len(PRICE_COLUMNS) :]
    return CandleBatch(opens, *prices), dict(zip(fields, values, strict=True))


def _decode_rows(raw: bytes, fields: Sequence[str]) -> tuple[IntArray, list[FloatArray]] | None:
    """Times, and columns of prices and values, of documents that all are as `encode_candles` lays them out; else None."""
    template, offsets = _template(fields)
    if not raw or len(raw) % len(template):
        return None
    rows = np.frombuffer(raw, np.uint8).reshape(-1, len(template))
    is_name = np.ones(len(template), np.bool_)
    for offset in offsets:
        is_name[offset : offset + 8] = False
    if not bool((rows[:, is_name] == np.frombuffer(template, np.uint8)[is_name]).all()):
        return None
    first, *others = (np.ascontiguousarray(rows[:, offset : offset + 8]).reshape(-1) for offset in offsets)
    return first.view("<i8").astype(np.int64), [column.view("<f8").astype(np.float64) for column in others]


def _decode_one_by_one(raw: bytes, fields: Sequence[str]) -> tuple[IntArray, list[FloatArray]]:
    documents = bson.decode_all(raw, _AWARE)
    absent: dict[str, Any] = {}
    opens = np.array([to_ms(document["_id"]) for document in documents], np.int64)
    prices = [np.array([document[name] for document in documents], np.float64) for name in PRICE_COLUMNS]
    indicators = [document.get(INDICATORS_FIELD, absent) for document in documents]
    return opens, prices + [np.array([values.get(field, np.nan) for values in indicators], np.float64) for field in fields]


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
    template, offsets = _template(fields)
    page = np.empty((len(rows), len(template)), np.uint8)
    page[:] = np.frombuffer(template, np.uint8)
    columns = [candles.open_ms.astype("<i8")] + [getattr(candles, name).astype("<f8") for name in PRICE_COLUMNS]
    for offset, column in zip(offsets, columns, strict=False):
        page[:, offset : offset + 8] = column[rows].view(np.uint8).reshape(-1, 8)
    for index, offset in enumerate(offsets[len(columns) :]):
        page[:, offset : offset + 8] = np.ascontiguousarray(values[rows, index], "<f8").view(np.uint8).reshape(-1, 8)
    raw, size = page.tobytes(), len(template)
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def _template(fields: Sequence[str]) -> tuple[bytes, list[int]]:
    """A document with zero values, and the offset of each value: time, prices, volume, then the indicators."""
    parts = bytearray(4)
    offsets = []

    def append(kind: bytes, name: str) -> None:
        parts.extend(kind + name.encode() + _END)
        offsets.append(len(parts))
        parts.extend(_EMPTY_VALUE)

    append(_DATE, "_id")
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
