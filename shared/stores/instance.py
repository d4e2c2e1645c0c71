"""The stores of one instance on one database, each made at first use."""

from functools import cached_property

from shared.settings import Settings
from shared.stores.alerts import AlertStore
from shared.stores.audit_log import AuditLog
from shared.stores.backfills import BackfillStore
from shared.stores.candles import CandleStore
from shared.stores.connector_holds import ConnectorHolds
from shared.stores.connectors import ConnectorStore
from shared.stores.coverage import CoverageStore
from shared.stores.database import Database
from shared.stores.job_leases import JobLeases
from shared.stores.job_summaries import JobSummaries
from shared.stores.jobs import JobStore
from shared.stores.old_series import OldSeries
from shared.stores.rate_limits import RateLimitStore
from shared.stores.retired_totals import RetiredTotals
from shared.stores.revisions import RevisionStore
from shared.stores.runs import RunStore
from shared.stores.series import SeriesStore
from shared.stores.series_jobs import SeriesJobs
from shared.stores.upgrades import UpgradeStore


class Stores:
    """All that is kept in MongoDB."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def ensure_indexes(self) -> None:
        """Those of all collections; does nothing where they are there."""
        keepers = (self.connectors, self.connector_holds, self.jobs, self.series_store, self.backfill_store)
        for store in (*keepers, self.runs, self.revisions, self.alerts, self.audit_log):
            store.ensure_indexes()

    @cached_property
    def database(self) -> Database:
        """Connected lazily, checked at once: no function works on a server it cannot be right on."""
        database = Database.connect(self.settings)
        database.check()
        return database

    @cached_property
    def connectors(self) -> ConnectorStore:
        """The collection `connectors`."""
        return ConnectorStore(self.database)

    @cached_property
    def connector_holds(self) -> ConnectorHolds:
        """The collection `connector_holds`."""
        return ConnectorHolds(self.database)

    @cached_property
    def jobs(self) -> JobStore:
        """The collection `jobs`."""
        return JobStore(self.database)

    @cached_property
    def leases(self) -> JobLeases:
        """Claims and the writes of runs."""
        return JobLeases(self.database)

    @cached_property
    def limits(self) -> RateLimitStore:
        """The limiter's part of the collection `connectors`."""
        return RateLimitStore(self.database)

    @cached_property
    def candles(self) -> CandleStore:
        """All candle collections."""
        return CandleStore(self.database)

    @cached_property
    def series_jobs(self) -> SeriesJobs:
        """The collection `jobs`, by series."""
        return SeriesJobs(self.database)

    @cached_property
    def backfill_store(self) -> BackfillStore:
        """The collection `backfills`."""
        return BackfillStore(self.database)

    @cached_property
    def runs(self) -> RunStore:
        """The collection `job_runs`."""
        return RunStore(self.database, self.settings.run_ttl_days)

    @cached_property
    def revisions(self) -> RevisionStore:
        """The collection `revisions`."""
        return RevisionStore(self.database, self.settings.run_ttl_days)

    @cached_property
    def alerts(self) -> AlertStore:
        """The collection `alerts`."""
        return AlertStore(self.database)

    @cached_property
    def upgrade_store(self) -> UpgradeStore:
        """The collection `upgrades`."""
        return UpgradeStore(self.database)

    @cached_property
    def audit_log(self) -> AuditLog:
        """The collection `audit_log`."""
        return AuditLog(self.database)

    @cached_property
    def series_store(self) -> SeriesStore:
        """The collection `series`."""
        return SeriesStore(self.database)

    @cached_property
    def old_series(self) -> OldSeries:
        """What version 0.1.0 has kept of series at their jobs."""
        return OldSeries(self.database)

    @cached_property
    def coverage(self) -> CoverageStore:
        """The collection `coverage`."""
        return CoverageStore(self.database)

    @cached_property
    def job_summaries(self) -> JobSummaries:
        """Sums over the collection `jobs`."""
        return JobSummaries(self.database)

    @cached_property
    def retired_totals(self) -> RetiredTotals:
        """What jobs that are gone have counted."""
        return RetiredTotals(self.database)
