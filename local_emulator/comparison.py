"""What landed in MongoDB against what the simulated exchange had, candle by candle."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pymongo.database import Database as MongoDatabase

from local_emulator.simulator.truth import true_candles
from shared.domain.candles import PRICE_COLUMNS, CandleBatch
from shared.domain.jobs import symbol_slug, to_datetime, to_ms
from shared.domain.timeframes import TIMEFRAMES

# More than any demo job starts back; a bound on what is read at once.
CANDLES_MAX: Final = 2_000_000

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SeriesComparison:
    """Candles of one job between its start and its cursor: missing here, unknown to the exchange, and with other values."""

    candles_count: int
    missing_count: int
    extra_count: int
    wrong_count: int


def compare_job(database: "MongoDatabase[dict[str, Any]]", job: Document, seed: int) -> SeriesComparison:
    """Compare what a job has stored up to its cursor with the simulated market. The cursor has to be read before."""
    timeframe = TIMEFRAMES[job["timeframe"]]
    cursor_at = job["cursor"]["last_ts"]
    start_ms = timeframe.ceil(to_ms(job["start_at"]))
    end_ms = start_ms if cursor_at is None else timeframe.close(to_ms(cursor_at))
    name = f"candles_{job['exchange']}_{symbol_slug(job['symbol'])}_{job['timeframe']}"
    condition = {"_id": {"$gte": to_datetime(start_ms), "$lt": to_datetime(end_ms)}}
    rows = [
        (to_ms(document["_id"]), *(document[column] for column in PRICE_COLUMNS))
        for document in database[name].find(condition).sort("_id", 1).limit(CANDLES_MAX)
    ]
    stored = CandleBatch.from_rows(rows)
    truth = true_candles(seed, job["exchange"], job["symbol"], job["timeframe"], start_ms, end_ms)
    return compare_candles(stored, truth)


def compare_candles(stored: CandleBatch, truth: CandleBatch) -> SeriesComparison:
    """Two batches of the same range; values have to be exactly equal."""
    common, stored_rows, true_rows = np.intersect1d(stored.open_ms, truth.open_ms, assume_unique=True, return_indices=True)
    is_wrong = np.zeros(len(common), np.bool_)
    for column in PRICE_COLUMNS:
        is_wrong |= getattr(stored, column)[stored_rows] != getattr(truth, column)[true_rows]
    return SeriesComparison(len(stored), len(truth) - len(common), len(stored) - len(common), int(is_wrong.sum()))
