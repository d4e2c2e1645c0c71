"""A stored series straight into numpy, Arrow or pandas, for notebooks and scripts: no function, no token, only MongoDB.

    from shared.load_series import load_pandas

    frame = load_pandas("mongodb://host/?replicaSet=rs0", "binance", "BTC/USDT", "1m", "2024-01-01", "2024-02-01",
                        fields=["close", "ema_20"])

All three take the same arguments and read the same way: raw replies, decoded column by column (docs/decisions/0023).

`start` and `end`: start <= open time < end; a datetime, a text in ISO 8601, or ms since 1970; without a zone it is UTC; None is
no bound. `fields`: prices (`open` ... `volume`) and indicators by their field (`ema_20`), in the order of the columns; the
prices by default. `resample_to`: put together to that higher timeframe; prices only, and `source_count`, of how many candles
each is made. `candles_database`: as the setting CHANDLER_CANDLES_DATABASE; may hold `{exchange}`.

All three raise NotFound (no such series), InvalidRequest (an argument, or an indicator that no candle of the range has),
StorageUnavailable and ConfigurationError (the URI).
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.domain.arrow_columns import arrow_batch, arrow_schema, require_pyarrow
from shared.domain.candle_columns import PRICE_FIELDS, CandleColumns, CandleField
from shared.domain.candles import PRICE_COLUMNS
from shared.domain.job_ranges import LOOKS_LIKE_SECONDS
from shared.domain.jobs import to_ms
from shared.domain.timeframes import TIMEFRAMES
from shared.errors import InvalidRequest, NotFound, NotInstalled
from shared.settings import load_settings
from shared.stores.candles import ONE_REPLY_MAX, CandleStore, Series
from shared.stores.database import Database, storage_errors
from shared.usecases.read_candles import LATEST_MS, RESAMPLED_FIELDS, SeriesRange, iterate_series

if TYPE_CHECKING:
    from pandas import DataFrame
    from pyarrow import Table

Moment: TypeAlias = datetime | str | int | None

# What it takes is mostly the server's work, which it does on a core for each connection.
READERS: Final = 4
CANDLES_DATABASE: Final = "chandler"
# Of the series that there are so many are named to who asks for one that is not.
SERIES_SHOWN_MAX: Final = 20


def load_numpy(
    uri: str,
    exchange: str,
    symbol: str,
    timeframe: str,
    start: Moment = None,
    end: Moment = None,
    *,
    fields: Sequence[str] | None = None,
    resample_to: str | None = None,
    candles_database: str = CANDLES_DATABASE,
) -> dict[str, NDArray[Any]]:
    """Columns by name: `open_at` (datetime64[ms], UTC), then the fields as doubles, NaN where a candle has no value."""
    with _opened(uri, candles_database) as store:
        asked = _range_of(store, Series(exchange, symbol, timeframe), start, end, fields, resample_to)
        columns = CandleColumns.joined(_parts_of(store, asked, candles_database), asked.fields)
    named = {field.column: values for field, values in zip(asked.fields, columns.values, strict=True)}
    return {"open_at": columns.open_ms.astype("datetime64[ms]"), **named}


def load_arrow(
    uri: str,
    exchange: str,
    symbol: str,
    timeframe: str,
    start: Moment = None,
    end: Moment = None,
    *,
    fields: Sequence[str] | None = None,
    resample_to: str | None = None,
    candles_database: str = CANDLES_DATABASE,
) -> "Table":
    """A table: `open_at` (timestamp[ms, UTC]), then the fields as doubles, null where a candle has no value.

    Its chunks share the memory of the decoded replies: nothing is copied. Raises NotInstalled without pyarrow.
    """
    pa = require_pyarrow()
    with _opened(uri, candles_database) as store:
        asked = _range_of(store, Series(exchange, symbol, timeframe), start, end, fields, resample_to)
        schema = arrow_schema(asked.fields, {"exchange": exchange, "symbol": symbol, "timeframe": asked.timeframe})
        return pa.Table.from_batches([arrow_batch(part, schema) for part in _parts_of(store, asked, candles_database)], schema)


def load_pandas(
    uri: str,
    exchange: str,
    symbol: str,
    timeframe: str,
    start: Moment = None,
    end: Moment = None,
    *,
    fields: Sequence[str] | None = None,
    resample_to: str | None = None,
    candles_database: str = CANDLES_DATABASE,
) -> "DataFrame":
    """A frame of the fields, indexed by `open_at` (UTC); NaN where a candle has no value. NotInstalled without pandas."""
    try:
        import pandas as pd
    except ImportError as exc:
        raise NotInstalled("load_pandas needs pandas, which is not installed here: pip install pandas") from exc
    columns = load_numpy(
        uri, exchange, symbol, timeframe, start, end, fields=fields, resample_to=resample_to, candles_database=candles_database
    )
    times = pd.DatetimeIndex(columns.pop("open_at"), name="open_at").tz_localize("UTC")
    return pd.DataFrame(columns, index=times)


@contextmanager
def _opened(uri: str, candles_database: str) -> Iterator[CandleStore]:
    database = Database.connect(load_settings(mongodb_uri=uri, candles_database=candles_database))
    try:
        with storage_errors():
            yield CandleStore(database)
    finally:
        database.close()


def _range_of(
    store: CandleStore, series: Series, start: Moment, end: Moment, names: Sequence[str] | None, resample_to: str | None
) -> SeriesRange:
    grid = TIMEFRAMES.get(series.timeframe)
    target = None if resample_to is None else TIMEFRAMES.get(resample_to)
    if grid is None:
        raise InvalidRequest.for_field("timeframe", f"there is no {series.timeframe!r}; there are {', '.join(TIMEFRAMES)}")
    if resample_to is not None and (target is None or not target.is_made_of(grid)):
        raise InvalidRequest.for_field("resample_to", f"{resample_to!r} is not made of whole intervals of {grid.name}")
    start_ms, end_ms = _moment_ms("start", start, 0), _moment_ms("end", end, LATEST_MS)
    if start_ms >= end_ms:
        raise InvalidRequest.for_field("start", "has to be before end")
    # No job says here up to where the candles are known; a later candle does.
    bucket_end_ms = end_ms if target is None else min(LATEST_MS, target.ceil(end_ms))
    known_end_ms = bucket_end_ms if target is not None and store.has_any(series, bucket_end_ms, LATEST_MS) else 0
    return SeriesRange(series, start_ms, end_ms, _fields_of(names, is_resampled=target is not None), target, known_end_ms)


def _fields_of(names: Sequence[str] | None, *, is_resampled: bool) -> tuple[CandleField, ...]:
    if names is None:
        return RESAMPLED_FIELDS if is_resampled else PRICE_FIELDS
    known = {field.column: field for field in (RESAMPLED_FIELDS if is_resampled else PRICE_FIELDS)}
    unknown = [name for name in names if name not in known]
    if is_resampled and unknown:
        raise InvalidRequest.for_field("fields", f"{', '.join(unknown)}: put together are {', '.join(known)}")
    return tuple(known.get(name) or CandleField(name, is_indicator=True) for name in dict.fromkeys(names))


def _parts_of(store: CandleStore, asked: SeriesRange, candles_database: str) -> list[CandleColumns]:
    """Everything that there is. Raises NotFound and InvalidRequest where that is nothing because of a wrong name."""
    with ThreadPoolExecutor(READERS) as threads:
        stretches = threads.map(lambda stretch: list(iterate_series(store, stretch)), _stretches_of(store, asked))
        parts = [part for stretch in stretches for part in stretch]
    if not parts and not store.has_any(asked.series, 0, LATEST_MS):
        there = store.list_series(asked.series, SERIES_SHOWN_MAX)
        known = f"; there are {', '.join(there)}" if there else ""
        where = f"(database {candles_database!r})"
        raise NotFound(f"no candles of {asked.series.exchange} {asked.series.symbol} {asked.series.timeframe} {where}{known}")
    for place, field in enumerate(asked.fields):
        if field.is_indicator and parts and all(bool(np.isnan(part.values[place]).all()) for part in parts):
            there = [*PRICE_COLUMNS, *store.list_fields(asked.series)]
            raise InvalidRequest.for_field(
                "fields", f"no candle of the range has {field.name}; the newest has {', '.join(there)}"
            )
    return parts


def _stretches_of(store: CandleStore, asked: SeriesRange) -> list[SeriesRange]:
    """The range cut by time, in order, for the server to work at several of them at once; what is put together stays whole."""
    bounds = store.find_bounds(asked.series, asked.start_ms, asked.end_ms) if asked.target is None else None
    grid = TIMEFRAMES[asked.series.timeframe]
    if bounds is None or grid.count(bounds[0], bounds[1]) < READERS * ONE_REPLY_MAX:
        return [asked]
    first_ms, last_ms = bounds
    cuts = [first_ms + (last_ms - first_ms) * number // READERS for number in range(1, READERS)]
    return [replace(asked, start_ms=start, end_ms=end) for start, end in pairwise([asked.start_ms, *cuts, asked.end_ms])]


def _moment_ms(name: str, value: Moment, default_ms: int) -> int:
    if value is None:
        return default_ms
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as exc:
        raise InvalidRequest.for_field(name, f"{value!r} is no time in ISO 8601") from exc
    if isinstance(at, int) and at in LOOKS_LIKE_SECONDS:
        raise InvalidRequest.for_field(name, f"{at} looks like seconds; numbers are ms")
    at_ms = at if isinstance(at, int) else to_ms(at if at.tzinfo else at.replace(tzinfo=UTC))
    if not 0 <= at_ms <= LATEST_MS:
        raise InvalidRequest.for_field(name, "lies before 1970 or after 9999")
    return at_ms
