"""Candles as BSON documents, written column-wise.

All documents of a page have the same layout but for the indicator values that do not exist yet, so the bytes of a whole page
are laid out by numpy at once: a template per set of fields, with the times and doubles filled in. Encoding a thousand dicts
one by one costs as much as the server needs to store them; this costs next to nothing. Format: https://bsonspec.org.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from bson.raw_bson import RawBSONDocument
from numpy.typing import NDArray

from shared.domain.candles import PRICE_COLUMNS, CandleBatch, FloatArray

INDICATORS_FIELD: Final = "ind"
_DOUBLE: Final = b"\x01"
_DOCUMENT: Final = b"\x03"
_DATE: Final = b"\x09"
_END: Final = b"\x00"
_EMPTY_VALUE: Final = bytes(8)


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
