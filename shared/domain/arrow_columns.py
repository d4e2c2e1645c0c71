"""Candle columns as Arrow, sharing numpy's memory. pyarrow is optional and large, so it is imported when it is first needed."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Final

from shared.domain.candle_columns import SOURCE_COUNT, CandleColumns, CandleField
from shared.errors import NotInstalled

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema

REQUIREMENTS: Final = "requirements-export.txt"


def arrow_schema(fields: Sequence[CandleField], about: Mapping[str, str], *, is_ms: bool = False) -> "Schema":
    """Columns `open_at` (timestamp in ms, UTC; or `open_ms`, the same as a number) and the fields; `about` as metadata.

    Raises:
        NotInstalled: pyarrow is not there.
    """
    pa = require_pyarrow()
    times = pa.field("open_ms", pa.int64(), False) if is_ms else pa.field("open_at", pa.timestamp("ms", tz="UTC"), False)
    columns = [pa.field(field.column, pa.int64() if field.name == SOURCE_COUNT else pa.float64()) for field in fields]
    return pa.schema([times, *columns], dict(about))


def arrow_batch(columns: CandleColumns, schema: "Schema") -> "RecordBatch":
    """The columns under a schema of `arrow_schema`; values that are absent are nulls."""
    pa = require_pyarrow()
    times = pa.array(columns.open_ms).cast(schema.field(0).type)
    return pa.record_batch([times, *(pa.array(column, from_pandas=True) for column in columns.values)], schema=schema)


def require_pyarrow() -> ModuleType:
    """pyarrow, or NotInstalled."""
    try:
        return import_module("pyarrow")
    except ImportError as exc:
        raise NotInstalled(f"Arrow and Parquet need pyarrow, which is not installed here: install {REQUIREMENTS}") from exc
