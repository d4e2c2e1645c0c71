"""Candles as an Arrow IPC stream and as Parquet, batch by batch. pyarrow is imported when the first of them is asked for.

Whoever reads a Parquet file that broke off sees that its footer is missing. An Arrow stream ends with a marker, which some
readers do not ask for: there only the broken connection tells.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from shared.domain.arrow_columns import arrow_batch, arrow_schema, require_pyarrow
from shared.domain.candle_columns import CandleColumns, CandleField

# A row group is what a reader reads at once: enough for columns to compress, and some MB here.
ROW_GROUP_ROWS: Final = 100_000


def encode_arrow(
    batches: Iterable[CandleColumns], fields: tuple[CandleField, ...], about: Mapping[str, str], *, is_ms: bool
) -> Iterator[bytes]:
    """The streaming format: the schema, a record batch for each of ours, the end marker. Raises NotInstalled."""
    pa = require_pyarrow()
    schema, sink = arrow_schema(fields, about, is_ms=is_ms), _Outbox()
    with pa.ipc.new_stream(pa.PythonFile(sink, "w"), schema) as writer:
        for batch in batches:
            writer.write_batch(arrow_batch(batch, schema))
            yield sink.take()
    yield sink.take()


def encode_parquet(
    batches: Iterable[CandleColumns], fields: tuple[CandleField, ...], about: Mapping[str, str], *, is_ms: bool
) -> Iterator[bytes]:
    """A file with a row group for about ROW_GROUP_ROWS candles, compressed by zstd. Raises NotInstalled."""
    pa = require_pyarrow()
    from pyarrow import parquet

    schema, sink = arrow_schema(fields, about, is_ms=is_ms), _Outbox()
    with parquet.ParquetWriter(pa.PythonFile(sink, "w"), schema, compression="zstd") as writer:
        group, rows_count = [], 0
        for batch in batches:
            group.append(arrow_batch(batch, schema))
            rows_count += len(batch)
            if rows_count >= ROW_GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(group, schema), row_group_size=rows_count)
                group, rows_count = [], 0
                yield sink.take()
        if group:
            writer.write_table(pa.Table.from_batches(group, schema), row_group_size=rows_count)
    yield sink.take()


class _Outbox:
    """A file to write to, whose bytes are taken out as they come."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        """What was written since the last time."""
        parts, self._parts = self._parts, []
        return b"".join(parts)
