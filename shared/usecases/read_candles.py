"""Read the stored candles of a job: as documents, as columns with chosen fields, or put together to a higher timeframe."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from shared.domain.candle_columns import PRICE_FIELDS, SOURCE_COUNT, CandleColumns, CandleField
from shared.domain.candles import PRICE_COLUMNS
from shared.domain.jobs import Job, to_ms
from shared.domain.resample import Buckets, Resampler
from shared.domain.timeframes import TIMEFRAMES, Timeframe
from shared.errors import InvalidRequest
from shared.stores.candles import ONE_REPLY_MAX, CandleStore, Series
from shared.stores.database import Document
from shared.stores.jobs import JobStore
from shared.usecases.resolve_specs import SeriesSpecs, Specs

# The end of the year 9999, which is as far as dates go.
LATEST_MS = 253_402_300_799_999
RESAMPLED_FIELDS: Final = (*PRICE_FIELDS, CandleField(SOURCE_COUNT))


@dataclass(frozen=True, slots=True)
class CandlePage:
    """Candle documents in order of time; `next_start_ms` (UTC) is where the next page begins, None: that was all."""

    documents: list[Document]
    next_start_ms: int | None


@dataclass(frozen=True, slots=True)
class ColumnsPage:
    """The same as columns."""

    columns: CandleColumns
    next_start_ms: int | None


@dataclass(frozen=True, slots=True)
class CandleRequest:
    """start <= open time < end, by default all that is stored; `fields` and `timeframe` None: all, and the job's own."""

    start_ms: int | None = None
    end_ms: int | None = None
    fields: tuple[str, ...] | None = None
    timeframe: str | None = None

    def __post_init__(self) -> None:
        """Raises InvalidRequest: the start is not before the end."""
        if self.start_ms is not None and self.end_ms is not None and self.start_ms >= self.end_ms:
            raise InvalidRequest.for_field("start", "has to be before end")


@dataclass(frozen=True, slots=True)
class SeriesRange:
    """A stretch of a series, and what of it is wanted. `target` None: as it is stored.

    `known_end_ms`: up to there it is known which candles there are, so a bucket that ends by then is closed.
    """

    series: Series
    start_ms: int
    end_ms: int
    fields: tuple[CandleField, ...]
    target: Timeframe | None = None
    known_end_ms: int = 0

    @property
    def timeframe(self) -> str:
        """That of the candles that come out."""
        return self.series.timeframe if self.target is None else self.target.name


@dataclass(frozen=True, slots=True)
class CandleReader:
    """Reads by job."""

    jobs: JobStore
    candles: CandleStore
    specs: SeriesSpecs

    def read(self, job_id: str, request: CandleRequest, limit: int) -> CandlePage:
        """Documents as they are stored, whatever jobs have put into them; `fields` and `timeframe` are not heeded.

        Raises:
            NotFound: no such job.
        """
        asked = _range_of(Job.from_document(self.jobs.get(job_id)), request, ())
        # One more than asked for says whether there are more.
        found = list(self.candles.iterate_documents(asked.series, asked.start_ms, asked.end_ms, limit + 1))
        next_start_ms = to_ms(found[limit]["_id"]) if len(found) > limit else None
        return CandlePage(found[:limit], next_start_ms)

    def plan(self, job_id: str, request: CandleRequest) -> SeriesRange:
        """What of which series a request means.

        Raises:
            NotFound: no such job.
            InvalidRequest: a field that the series does not have, or a timeframe that is not made of its intervals.
        """
        job = Job.from_document(self.jobs.get(job_id))
        target = _target_of(job, request.timeframe)
        if request.start_ms is None:
            # The answer says where it begins, in a file's name too.
            first_ms = self.candles.find_next_open(Series.of(job), -1) or 0
            request = replace(request, start_ms=first_ms if target is None else target.floor(first_ms))
        fields = _fields_of(self.specs.read(Series.of(job))) if target is None else RESAMPLED_FIELDS
        return _range_of(job, request, _chosen(fields, request.fields, target), target)

    def iterate(self, asked: SeriesRange) -> Iterator[CandleColumns]:
        """All of it in batches, in order of time, with no more than one batch in memory."""
        return iterate_series(self.candles, asked)

    def read_columns(self, asked: SeriesRange, limit: int) -> ColumnsPage:
        """The first `limit` candles of it."""
        parts, count = [], 0
        # One more than asked for says whether there are more.
        for part in iterate_series(self.candles, asked, limit + 1):
            parts.append(part)
            count += len(part)
            if count > limit:
                break
        found = CandleColumns.joined(parts, asked.fields)
        return ColumnsPage(found.first(limit), int(found.open_ms[limit]) if count > limit else None)


def iterate_series(candles: CandleStore, asked: SeriesRange, rows_max: int = ONE_REPLY_MAX) -> Iterator[CandleColumns]:
    """The candles of a range in batches, none of them empty, in order of time.

    Put together to a higher timeframe: its intervals that open in the range, with all the candles that the series has in them,
    those behind the range's end too. One without candles is left out, and so is the last one while it is not closed.
    """
    if asked.target is None:
        yield from candles.iterate_columns(asked.series, asked.start_ms, asked.end_ms, asked.fields, rows_max)
        return
    resampler = Resampler(TIMEFRAMES[asked.series.timeframe], asked.target)
    start_ms, end_ms = asked.target.ceil(asked.start_ms), min(LATEST_MS, asked.target.ceil(asked.end_ms))
    for part in candles.iterate_columns(asked.series, start_ms, end_ms, PRICE_FIELDS):
        buckets = _columns_of(resampler.feed(part.to_batch()), asked.fields)
        if len(buckets):
            yield buckets
    buckets = _columns_of(resampler.finish(asked.known_end_ms), asked.fields)
    if len(buckets):
        yield buckets


def _columns_of(buckets: Buckets, fields: tuple[CandleField, ...]) -> CandleColumns:
    columns = {SOURCE_COUNT: buckets.source_count, **{name: getattr(buckets.candles, name) for name in PRICE_COLUMNS}}
    return CandleColumns(buckets.candles.open_ms, fields, tuple(columns[field.name] for field in fields))


def _range_of(
    job: Job, request: CandleRequest, fields: tuple[CandleField, ...], target: Timeframe | None = None
) -> SeriesRange:
    start_ms = 0 if request.start_ms is None else request.start_ms
    end_ms = LATEST_MS if request.end_ms is None else request.end_ms
    known_end_ms = 0 if job.cursor_ms is None else job.timeframe.close(job.cursor_ms)
    return SeriesRange(Series.of(job), start_ms, end_ms, fields, target, known_end_ms)


def _target_of(job: Job, timeframe: str | None) -> Timeframe | None:
    """None: the job's own. Raises InvalidRequest, naming those that there are."""
    if timeframe is None or timeframe == job.timeframe.name:
        return None
    target = TIMEFRAMES.get(timeframe)
    if target is None or not target.is_made_of(job.timeframe):
        possible = [grid.name for grid in TIMEFRAMES.values() if grid.is_made_of(job.timeframe)]
        message = (
            f"is not made of whole intervals of {job.timeframe.name}; there are {', '.join([job.timeframe.name, *possible])}"
        )
        raise InvalidRequest.for_field("timeframe", message)
    return target


def _fields_of(specs: Specs) -> tuple[CandleField, ...]:
    indicators = (name for spec in specs for name in spec.fields)
    return (*PRICE_FIELDS, *(CandleField(name, is_indicator=True) for name in indicators))


def _chosen(fields: Sequence[CandleField], names: tuple[str, ...] | None, target: Timeframe | None) -> tuple[CandleField, ...]:
    """The named ones in the order of the names, without names all. Raises InvalidRequest, naming those that there are."""
    if names is None:
        return tuple(fields)
    known = {field.column: field for field in fields}
    unknown = [name for name in dict.fromkeys(names) if name not in known]
    if unknown:
        which = "field here" if target is None else f"field of candles put together to {target.name}"
        said = f"{', '.join(unknown)}: no {which}; there are {', '.join(known)}"
        raise InvalidRequest.for_field("fields", said)
    return tuple(known[name] for name in dict.fromkeys(names))
