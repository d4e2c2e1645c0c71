"""Metrics, computed from MongoDB at every scrape: so every instance answers the same, and none has counters to lose.

Counters are sums over the jobs' totals, those of deleted jobs among them (`retired_totals`), so that none ever falls.
Names and units: https://prometheus.io/docs/practices/naming/.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shared.domain.connectors import Caution
from shared.domain.jobs import JobKind, JobStatus, lag_ms, to_datetime, to_ms
from shared.domain.rates import SHARE_PERMILLE_ALL
from shared.domain.slots import SlotClass
from shared.stores.alerts import AlertStore
from shared.stores.connectors import ConnectorStore
from shared.stores.database import Database
from shared.stores.job_summaries import TOTALS, JobSummaries
from shared.stores.retired_totals import RetiredTotals
from shared.stores.runs import RunStore
from shared.usecases.series_jobs import SeriesHelpers

# More series than this would cost Prometheus more than they tell; `chandler_lag_seconds_max` is over all jobs.
JOB_SERIES_MAX: Final = 1_000
# Long enough for five scrapes a minute apart, short enough to be read in a fraction of a second.
RECENT_MS: Final = 5 * 60_000
RECENT_RUNS_MAX: Final = 100_000
# Of more series it is only told that they are stale: how many candles that are is four reads each.
STALE_SERIES_MAX: Final = 50

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MetricsCollector:
    """A collector as `prometheus_client` takes them; reads eight times whatever the number of jobs, and four

    times for each of the first series that are stale.
    """

    database: Database
    connectors: ConnectorStore
    job_summaries: JobSummaries
    retired: RetiredTotals
    runs: RunStore
    alerts: AlertStore
    helpers: SeriesHelpers

    def collect(self) -> Iterable[Metric]:
        """All metric families, as of one moment on the database's clock."""
        began = time.monotonic()
        now_ms = self.database.server_now_ms()
        # As of one moment: a job that is deleted in between would count in both, or in neither.
        rows, retired = self.database.read_snapshot(
            lambda session: (self.job_summaries.summarise(to_datetime(now_ms), session), self.retired.list_(session))
        )
        connectors = self.connectors.list_usage(now_ms)
        families = [
            *_job_families(rows, now_ms),
            *_total_families([*rows, *_retired_of(retired, {connector["_id"] for connector in connectors})]),
            _job_lag_family(self.job_summaries.list_followers(JOB_SERIES_MAX), now_ms),
            *_connector_families(connectors, now_ms),
            _recent_family(self.runs.count_recent(to_datetime(now_ms - RECENT_MS), RECENT_RUNS_MAX)),
            *_stale_families(self.helpers.series.count_stale_series(), self.helpers.count_stale_by_exchange(STALE_SERIES_MAX)),
            GaugeMetricFamily("chandler_alerts_open", "Alerts that nobody has resolved.", value=self.alerts.count_open()),
        ]
        duration = GaugeMetricFamily("chandler_scrape_duration_seconds", "How long this answer took to compute.")
        duration.add_metric((), time.monotonic() - began)
        return [*families, duration]


def _retired_of(retired: Sequence[Row], connector_ids: Set[str]) -> list[Row]:
    """What deleted jobs of connectors that are still there had counted; those of others are no series any more."""
    zeros = dict.fromkeys((*TOTALS, *(f"slots_{name}" for name in SlotClass)), 0)
    return [{**zeros, **row} for row in retired if row["connector_id"] in connector_ids]


def _job_families(rows: Sequence[Row], now_ms: int) -> list[Metric]:
    jobs = GaugeMetricFamily("chandler_jobs", "Jobs.", labels=("connector", "status", "kind"))
    due = GaugeMetricFamily("chandler_jobs_due", "Active jobs that wait for a tick to claim them.", labels=("connector",))
    leased = GaugeMetricFamily("chandler_jobs_leased", "Jobs under a lease.", labels=("connector",))
    overdue = GaugeMetricFamily(
        "chandler_due_seconds_max", "How long the job that is due longest has been due; 0 if none.", labels=("connector",)
    )
    lag = GaugeMetricFamily(
        "chandler_lag_seconds_max",
        "Time since the close of the oldest interval that is missing, over all active live jobs.",
        labels=("connector",),
    )
    overdue_ms: Counter[str] = Counter()
    lags_ms: Counter[str] = Counter()
    for row in rows:
        connector = row["connector_id"]
        if row["due_at_min"] is not None:
            overdue_ms[connector] = max(overdue_ms[connector], now_ms - to_ms(row["due_at_min"]))
        if row["status"] == JobStatus.ACTIVE and row["kind"] == JobKind.LIVE:
            lags_ms[connector] = max(lags_ms[connector], _row_lag_ms(row, now_ms))
    for key, count in sorted(_sums(rows, "count", ("connector_id", "status", "kind")).items()):
        jobs.add_metric(key, count)
    for key, count in sorted(_sums(rows, "due").items()):
        due.add_metric(key, count)
        overdue.add_metric(key, overdue_ms[key[0]] / 1000)
    for key, count in sorted(_sums(rows, "leased").items()):
        leased.add_metric(key, count)
    for connector in sorted(lags_ms):
        lag.add_metric((connector,), lags_ms[connector] / 1000)
    return [jobs, due, leased, overdue, lag]


def _row_lag_ms(row: Row, now_ms: int) -> int:
    """The largest lag of a group with one timeframe: that of its earliest cursor, or earliest start without one."""
    lags = [0]
    if row["cursor_at_min"] is not None:
        lags.append(lag_ms(row["timeframe"], row["cursor_at_min"], row["cursor_at_min"], now_ms))
    if row["start_at_min"] is not None:
        lags.append(lag_ms(row["timeframe"], None, row["start_at_min"], now_ms))
    return max(lags)


def _total_families(rows: Sequence[Row]) -> list[Metric]:
    runs = CounterMetricFamily(
        "chandler_runs", "Runs that workers ended: failed, or ok for every other end.", labels=("connector", "outcome")
    )
    failures = _sums(rows, "failures")
    for (connector,), count in sorted(_sums(rows, "runs").items()):
        failed = failures[(connector,)]
        runs.add_metric((connector, "failed"), failed)
        runs.add_metric((connector, "ok"), count - failed)
    families: list[Metric] = [runs]
    for name, field, text in (
        ("chandler_candles_stored", "candles", "Candles stored."),
        ("chandler_candles_revised", "revisions", "Stored candles that the exchange has corrected."),
        ("chandler_requests", "requests", "Requests for candles sent to the exchange."),
        ("chandler_request_weight", "weight", "Weight of these requests, in the exchange's unit."),
    ):
        family = CounterMetricFamily(name, text, labels=("connector",))
        for key, total in sorted(_sums(rows, field).items()):
            family.add_metric(key, total)
        families.append(family)
    return [*families, _slot_family(rows)]


def _slot_family(rows: Sequence[Row]) -> Metric:
    family = CounterMetricFamily(
        "chandler_slots",
        "Closes of live jobs, by what became of them; see docs/state_machine.md.",
        labels=("connector", "class"),
    )
    for name in SlotClass:
        for (connector,), count in sorted(_sums(rows, f"slots_{name}").items()):
            family.add_metric((connector, name.value), count)
    return family


def _job_lag_family(followers: Sequence[Row], now_ms: int) -> Metric:
    family = GaugeMetricFamily(
        "chandler_job_lag_seconds",
        f"Time since the close of the job's oldest missing interval; of the first {JOB_SERIES_MAX} active live jobs by id.",
        labels=("connector", "job"),
    )
    for job in followers:
        lag = lag_ms(job["timeframe"], job["cursor"]["last_ts"], job["start_at"], now_ms)
        family.add_metric((job["connector_id"], job["_id"]), lag / 1000)
    return family


def _stale_families(series_counts: Mapping[str, int], candle_counts: Mapping[str, int]) -> list[Metric]:
    series = GaugeMetricFamily(
        "chandler_series_stale", "Series with values that are still to be computed.", labels=("exchange",)
    )
    candles = GaugeMetricFamily(
        "chandler_stale_candles",
        f"Candles whose values are still to be computed, at most; of the first {STALE_SERIES_MAX} such series.",
        labels=("exchange",),
    )
    for family, counts in ((series, series_counts), (candles, candle_counts)):
        for exchange, count in sorted(counts.items()):
            family.add_metric((exchange,), count)
    return [series, candles]


def _connector_families(connectors: Sequence[Row], now_ms: int) -> list[Metric]:
    active = GaugeMetricFamily("chandler_connector_active", "1 if the connector is not paused.", labels=("connector",))
    blocked = GaugeMetricFamily(
        "chandler_connector_blocked_seconds", "How long the exchange is not asked any more.", labels=("connector",)
    )
    share = GaugeMetricFamily(
        "chandler_rate_limit_share", "Share of the limits that is used: less than 1 after a refusal.", labels=("connector",)
    )
    refused = CounterMetricFamily(
        "chandler_requests_refused", "Requests that the exchange has refused for speed.", labels=("connector",)
    )
    after = CounterMetricFamily(
        "chandler_requests_refused_after",
        "Of these, requests that had left after the exchange had told of an earlier refusal.",
        labels=("connector",),
    )
    limit = GaugeMetricFamily("chandler_rate_limit", "Weight allowed in the window.", labels=("connector", "period_ms"))
    usage = GaugeMetricFamily("chandler_rate_limit_usage", "Weight now in the window.", labels=("connector", "period_ms"))
    for connector in connectors:
        until_at = connector["blocked_until"]
        active.add_metric((connector["_id"],), int(connector["status"] == "active"))
        blocked.add_metric((connector["_id"],), 0 if until_at is None else max(0, to_ms(until_at) - now_ms) / 1000)
        caution: Caution = connector["caution"]
        share.add_metric((connector["_id"],), caution.share_permille / SHARE_PERMILLE_ALL)
        refused.add_metric((connector["_id"],), caution.refused_total)
        after.add_metric((connector["_id"],), caution.after_total)
        # Two windows of one length are one series: the stricter limit.
        by_period = {window["rate_limit_period_ms"]: window for window in _strictest_last(connector["windows"])}
        for period_ms, window in sorted(by_period.items()):
            limit.add_metric((connector["_id"], str(period_ms)), window["rate_limit"])
            usage.add_metric((connector["_id"], str(period_ms)), window["used"])
    return [active, blocked, share, refused, after, limit, usage]


def _strictest_last(windows: Iterable[Row]) -> list[Row]:
    return sorted(windows, key=lambda window: int(window["rate_limit"]), reverse=True)


def _recent_family(counted: Sequence[Row]) -> Metric:
    family = GaugeMetricFamily(
        "chandler_runs_recent",
        f"Runs that ended within the last {RECENT_MS // 1000} seconds, by their exact outcome.",
        labels=("connector", "outcome"),
    )
    for row in sorted(counted, key=lambda row: (str(row["connector_id"]), str(row["outcome"]))):
        family.add_metric((row["connector_id"], row["outcome"]), row["count"])
    return family


def _sums(rows: Iterable[Row], field: str, by: Sequence[str] = ("connector_id",)) -> Counter[tuple[str, ...]]:
    """The sum of a field per combination of the fields in `by`; those with 0 are there too."""
    sums: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        sums[tuple(row[name] for name in by)] += row[field]
    return sums
