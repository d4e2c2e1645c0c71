"""Candles as text: JSON, NDJSON and CSV, batch by batch. Numbers are the shortest that read back as the same double.

JSON and NDJSON show a candle as `GET …/candles` always has: `{"open_at", "open", …, "ind": {"ema_20": …}}`, without what is
absent. CSV (RFC 4180) has a column a field, empty where the value is absent.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
from pydantic_core import to_json

from shared.domain.candle_columns import CandleColumns, CandleField

Fields = tuple[CandleField, ...]
_ABSENT: Final = b"null"
_LINE_END: Final = b"\r\n"


def encode_csv(batches: Iterable[CandleColumns], fields: Fields, *, is_ms: bool) -> Iterator[bytes]:
    """A line of column names, then one a candle; nothing needs quotes, since names and values hold no commas."""
    yield ",".join([_time_name(is_ms), *(field.column for field in fields)]).encode() + _LINE_END
    for batch in batches:
        columns = [_times(batch, is_ms), *(column.tolist() for column in batch.values)]
        # One pass over all rows as an array of arrays, whose punctuation then becomes CSV's.
        text = to_json(list(zip(*columns, strict=True)), inf_nan_mode="null")[2:-2]
        yield text.replace(b"],[", _LINE_END).replace(_ABSENT, b"").replace(b'"', b"") + _LINE_END


def encode_ndjson(batches: Iterable[CandleColumns], fields: Fields, *, is_ms: bool) -> Iterator[bytes]:
    """A candle a line."""
    for batch in batches:
        yield b"\n".join(_items(batch, is_ms)) + b"\n"


def encode_json(batches: Iterable[CandleColumns], fields: Fields, *, is_ms: bool) -> Iterator[bytes]:
    """One object `{"items": [...]}`, the candles in it a line each."""
    separator = b'{"items": [\n'
    for batch in batches:
        yield separator + b",\n".join(_items(batch, is_ms))
        separator = b",\n"
    yield b"\n]}\n" if separator == b",\n" else b'{"items": []}\n'


def item_views(batch: CandleColumns, *, is_ms: bool) -> list[dict[str, Any]]:
    """The candles of a batch as JSON objects."""
    prices = [(field.name, column.tolist()) for field, column in _pairs(batch) if not field.is_indicator]
    indicators = [(field.name, column.tolist()) for field, column in _pairs(batch) if field.is_indicator]
    views: list[dict[str, Any]] = []
    for row, time in enumerate(_times(batch, is_ms)):
        view = {_time_name(is_ms): time, **{name: column[row] for name, column in prices}}
        # NaN is the only value that is not itself.
        values = {name: column[row] for name, column in indicators if column[row] == column[row]}
        views.append({**view, "ind": values} if values else view)
    return views


def _items(batch: CandleColumns, is_ms: bool) -> list[bytes]:
    """Each candle as a JSON object. Where all have the same fields, as nearly always, by a template."""
    present = [(field, column) for field, column in _pairs(batch) if not bool(np.isnan(column).all())]
    if any(bool(np.isnan(column).any()) for _, column in present):
        return [to_json(view, inf_nan_mode="null") for view in item_views(batch, is_ms=is_ms)]
    prices = [f'"{field.name}":%b' for field, _ in present if not field.is_indicator]
    indicators = [f'"{field.name}":%b' for field, _ in present if field.is_indicator]
    nested = [f'"ind":{{{",".join(indicators)}}}'] if indicators else []
    template = ("{" + ",".join([f'"{_time_name(is_ms)}":%b', *prices, *nested]) + "}").encode()
    # As in the template: the indicators last.
    ordered = sorted(present, key=lambda pair: pair[0].is_indicator)
    cells = [_cells(_times(batch, is_ms)), *(_cells(column.tolist()) for _, column in ordered)]
    return [template % row for row in zip(*cells, strict=True)]


def _cells(values: list[Any]) -> list[bytes]:
    return to_json(values, inf_nan_mode="null")[1:-1].split(b",")


def _pairs(batch: CandleColumns) -> Iterable[tuple[CandleField, Any]]:
    return zip(batch.fields, batch.values, strict=True)


def _times(batch: CandleColumns, is_ms: bool) -> list[Any]:
    if is_ms:
        return list(batch.open_ms.tolist())
    texts: list[str] = np.datetime_as_string(batch.open_ms.astype("datetime64[ms]"), timezone="UTC").tolist()
    return texts


def _time_name(is_ms: bool) -> str:
    return "open_ms" if is_ms else "open_at"
