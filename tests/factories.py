"""Makes what tests need on a real database: a platform, connectors and jobs with every field defaulted."""

import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from pymongo.client_session import ClientSession

from shared.deadline import Deadline
from shared.domain.candles import CandleBatch, FloatArray
from shared.domain.indicators import DEFAULT_INDICATORS, resolve_indicators
from shared.domain.jobs import PRIORITIES, JobKind, job_id_of, to_datetime
from shared.exchanges.catalog import load_spec
from shared.settings import load_settings
from shared.stores.candles import Series
from shared.stores.job_leases import Claim, DueJob
from shared.stores.rate_limits import initial_limiter
from shared.usecases.run_job import RunResult
from shared.wiring import Platform

PAGE_ROWS = 20_000
DEFAULT_DOCUMENTS = [spec.to_document() for spec in DEFAULT_INDICATORS]
EPOCHS = itertools.count(1_000)
# Nothing that an exchange could change about it: a run of a series with it fails for good.
NOSUCH = {"name": "NOSUCH", "params": {}, "as": "nosuch"}


def make_platform(mongodb_uri: str, database_name: str, **settings: Any) -> Platform:
    """A platform on a database of its own, with its indexes."""
    platform = Platform(
        load_settings(mongodb_uri=mongodb_uri, database=database_name, candles_database=database_name, **settings)
    )
    platform.prepare()
    return platform


def add_connector(
    platform: Platform,
    exchange: str = "binance",
    *,
    connector_id: str | None = None,
    base_url: str | None = None,
    windows: Sequence[tuple[int, int]] | None = None,
    **fields: Any,
) -> str:
    """Insert a connector; windows are (limit, period_ms), by default those documented. Returns its id."""
    spec = load_spec(exchange)
    limits = windows or [(window.limit, window.period_ms) for window in spec.windows]
    document = {
        "_id": connector_id or exchange,
        "exchange": exchange,
        "status": "active",
        "rate_limit": limits[0][0],
        "rate_limit_period_ms": limits[0][1],
        "extra_rate_limits": [{"rate_limit": limit, "rate_limit_period_ms": period} for limit, period in limits[1:]],
        "rate_limit_usage": 0,
        "period_start_at": None,
        "blocked_until": None,
        "base_url": base_url,
        "settle_delay_ms": spec.settle_delay_ms,
        "publish_grace_ms": spec.publish_grace_ms,
        "revision": 1,
        "created_at": datetime.now(UTC),
        "limiter": initial_limiter(),
        **fields,
    }
    platform.database.transact(lambda session: platform.connectors.insert(document, session))
    return str(document["_id"])


def add_job(
    platform: Platform,
    symbol: str = "BTC/USDT",
    timeframe: str = "1m",
    *,
    connector_id: str = "binance",
    start_ms: int | None = None,
    end_ms: int | None = None,
    indicators: Sequence[Mapping[str, Any]] | None = None,
    **fields: Any,
) -> str:
    """Insert a job that is due; live, or a backfill if it has an end. Returns its id."""
    now = datetime.now(UTC)
    kind = JobKind.LIVE if end_ms is None else JobKind.BACKFILL
    document = {
        "_id": job_id_of(connector_id, symbol, timeframe) + ("" if end_ms is None else f":{start_ms}-{end_ms}"),
        "connector_id": connector_id,
        "exchange": platform.connectors.get(connector_id)["exchange"],
        "symbol": symbol,
        "timeframe": timeframe,
        "kind": kind.value,
        "status": "active",
        "priority": PRIORITIES[kind],
        "start_at": now - timedelta(hours=1) if start_ms is None else to_datetime(start_ms),
        "end_at": None if end_ms is None else to_datetime(end_ms),
        "next_run_at": now - timedelta(seconds=1),
        "cursor": {"last_ts": None},
        "lock": {"fence": 0},
        "abandoned": [],
        "attempt": 0,
        "last_error": None,
        "overlap": 2,
        "totals": {},
        "run_requested": False,
        "history_start_at": None,
        "revision": 1,
        **fields,
    }
    asked = None if indicators is None else [spec.to_document() for spec in resolve_indicators(indicators)]

    def insert(session: ClientSession) -> None:
        platform.jobs.insert(document, session)
        platform.series_upkeep.on_create(document, asked, session)

    platform.database.transact(insert)
    return str(document["_id"])


def put_list(platform: Platform, indicators: Sequence[Mapping[str, Any]]) -> None:
    """Another list for every series, also one that cannot be computed, and nothing of what a change means for its candles."""
    platform.database.collection("series").update_many({}, {"$set": {"indicators": list(indicators)}})
    # Jobs that tests make are all of the same moment: an epoch that none of them has had before.
    platform.database.collection("jobs").update_many({}, {"$inc": {"epoch": next(EPOCHS)}})


def add_candles(platform: Platform, series: Series, candles: CandleBatch, values: Mapping[str, FloatArray]) -> None:
    """Store a series without a run, as its runs would have."""
    platform.candles.ensure_collection(series)
    for first in range(0, len(candles), PAGE_ROWS):
        rows = slice(first, first + PAGE_ROWS)
        columns = {name: column[rows] for name, column in values.items()}
        platform.database.transact(lambda session, r=rows, c=columns: platform.candles.insert(series, candles[r], c, session))


def make_candles(start_ms: int, count: int, step_ms: int = 60_000, seed: int = 1) -> CandleBatch:
    """A walk without holes, its numbers as long as an exchange's."""
    rng = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 1e-4, count))), 2)
    opens = np.concatenate((close[:1], close[:-1]))
    high, low = np.maximum(opens, close) + 0.03, np.minimum(opens, close) - 0.02
    volume = np.round(rng.lognormal(3, 1, count), 5)
    return CandleBatch(start_ms + np.arange(count) * step_ms, opens, np.round(high, 2), np.round(low, 2), close, volume)


def claim(platform: Platform, job_id: str, lease_ms: int = 60_000) -> Claim:
    """Claim a job that is due, as a tick would."""
    (claimed,) = platform.leases.claim([DueJob(job_id)], "test", lease_ms)
    return claimed


def run_once(platform: Platform, job_id: str) -> RunResult:
    """Claim the job, due or not, and run it to the end of one run."""
    platform.database.collection("jobs").update_one({"_id": job_id}, {"$set": {"next_run_at": to_datetime(0)}})
    claimed = claim(platform, job_id)
    return platform.runner.run(claimed.job_id, claimed.fence, "test", Deadline.after(200))


def run_until_caught_up(platform: Platform, job_id: str, runs_max: int = 500) -> int:
    """Run again and again until nothing more is due; returns how many runs that took."""
    for runs_count in range(1, runs_max + 1):
        if run_once(platform, job_id).outcome.value in ("caught_up", "done", "error"):
            return runs_count
    raise AssertionError(f"{job_id} has not caught up after {runs_max} runs")


def run_until_settled(platform: Platform, job_id: str) -> None:
    """The job and those that its series has made for itself, but for repairs, until none has anything to do."""
    run_until_caught_up(platform, job_id)
    series = Series(*(platform.jobs.get(job_id)[name] for name in ("exchange", "symbol", "timeframe")))
    for name in ("history", "enrich"):
        if platform.jobs.count({"_id": f"{series.series_id}:{name}"}):
            run_until_caught_up(platform, f"{series.series_id}:{name}")


def stored_documents(platform: Platform, exchange: str, symbol: str, timeframe: str) -> list[dict[str, Any]]:
    """All candles of a series as they lie in the database, ascending."""
    series = Series(exchange, symbol, timeframe)
    return list(platform.candles.iterate_documents(series, 0, 2**45, 10_000_000))
