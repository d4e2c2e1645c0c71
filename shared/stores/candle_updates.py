"""Update statements that put values into stored candles: many candles each, and not one statement a candle.

A statement of its own costs the server a plan and the driver a look at it, twice what the write itself costs. So candles that
lie close to each other share one: the values go along as arrays, and each candle takes the element that its time stands for.
It stays an update. What else a candle has is not touched, one that is not there does not come into being, and the oplog holds
what has changed and no more.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import bson
import numpy as np
from bson.raw_bson import RawBSONDocument

from shared.domain.candles import FloatArray
from shared.domain.timeframes import IntArray
from shared.stores.candle_documents import INDICATORS_FIELD, TIME_FIELD
from shared.stores.database import Document

# The server takes commands of 16 MiB.
COMMAND_BYTES_MAX: Final = 8 * 1024 * 1024
# Positions without a candle that a statement rather carries along than ends at: they cost less than another statement.
GAP_MAX: Final = 32
# Fewer candles than these cost less as statements of their own.
SHARED_FROM: Final = 8
# A double in an array: its type, its index as up to six digits and a zero, and eight bytes.
_ELEMENT_BYTES: Final = 16


def value_updates(opens_ms: IntArray, values: Mapping[str, FloatArray]) -> list[RawBSONDocument]:
    """Statements of an `update` command that put indicator values (columns as long as `opens_ms`, which ascend) into candles.

    Where a value is NaN the field is removed. None is larger than COMMAND_BYTES_MAX.
    """
    step_ms = int(np.gcd.reduce(np.diff(opens_ms))) or 1
    positions = (opens_ms - opens_ms[:1]) // step_ms
    positions_max = max(1, COMMAND_BYTES_MAX // (_ELEMENT_BYTES * (len(values) + 2)))
    is_cut = (np.diff(positions) > GAP_MAX) | (np.diff(positions // positions_max) > 0)
    edges = [0, *(np.flatnonzero(is_cut) + 1).tolist(), len(opens_ms)]
    statements: list[Document] = []
    for first, end in itertools.pairwise(edges):
        columns = {name: column[first:end] for name, column in values.items()}
        if end - first < SHARED_FROM:
            statements.extend(_single(opens_ms[first:end], columns))
        else:
            statements.append(_shared(opens_ms[first:end], step_ms, columns))
    return [RawBSONDocument(bson.encode(statement)) for statement in statements]


def update_of(prices: Document, values: Mapping[str, Any], fields: Iterable[str]) -> Document:
    """Sets prices and indicator values, and takes away those of `fields` that are not among them."""
    present = {**prices, **{f"{INDICATORS_FIELD}.{field}": value for field, value in values.items()}}
    absent = {f"{INDICATORS_FIELD}.{field}": "" for field in fields if field not in values}
    return {**({"$set": present} if present else {}), **({"$unset": absent} if absent else {})}


def _single(opens_ms: IntArray, columns: Mapping[str, FloatArray]) -> Iterable[Document]:
    for row, at in enumerate(_dates(opens_ms)):
        present = {name: float(column[row]) for name, column in columns.items() if not math.isnan(column[row])}
        yield {"q": {TIME_FIELD: at}, "u": update_of({}, present, columns)}


def _shared(opens_ms: IntArray, step_ms: int, columns: Mapping[str, FloatArray]) -> Document:
    dates, places = _dates(opens_ms), (opens_ms - opens_ms[0]) // step_ms
    place = {"$divide": [{"$subtract": [f"${TIME_FIELD}", dates[0]]}, step_ms]}
    sets: Document = {}
    arrays: dict[str, list[float]] = {}
    for number, (name, column) in enumerate(columns.items()):
        by_place = np.zeros(int(places[-1]) + 1)
        by_place[places] = column
        arrays[f"v{number}"] = by_place.tolist()
        value: Document = {"$arrayElemAt": [f"$$v{number}", place]}
        if bool(np.isnan(column).any()):
            value = {"$cond": [{"$eq": [value, math.nan]}, "$$REMOVE", value]}
        sets[f"{INDICATORS_FIELD}.{name}"] = value
    # The bounds beside the list: of a list alone a server of 6.0 makes a scan of the whole collection.
    condition = {TIME_FIELD: {"$gte": dates[0], "$lte": dates[-1], "$in": dates}}
    return {"q": condition, "u": [{"$set": sets}], "c": arrays, "multi": True}


def _dates(opens_ms: IntArray) -> list[Any]:
    """For BSON, where a naive datetime is UTC; numpy makes them in a thirtieth of the time of `to_datetime`."""
    dates: list[Any] = opens_ms.astype("datetime64[ms]").tolist()
    return dates
