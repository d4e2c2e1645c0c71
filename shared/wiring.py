"""The one composition root: settings -> a Platform with everything wired, made once an instance, each part at first use.

Functions take from it what they need. Nothing else in the house builds stores, clients or use cases.
"""

import atexit
import os
import random
import socket
import sys
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Final

import requests

from shared.domain.connectors import Connector
from shared.domain.rates import ANSWER_MS_MAX
from shared.exchanges.catalog import BRIDGE_PREFIX, load_spec
from shared.exchanges.client import ExchangeClient
from shared.exchanges.http_session import open_session
from shared.senders.alert_posts import AlertPosts
from shared.senders.worker_calls import MetadataTokens, WorkerCalls
from shared.settings import Settings
from shared.stores.database import storage_errors
from shared.stores.instance import Stores
from shared.usecases.adopt_backfills import adopt_backfills
from shared.usecases.adopt_series import adopt_series
from shared.usecases.ask_exchange import ExchangeDesk
from shared.usecases.authorize import IdentityTokens, UserTokens
from shared.usecases.collect_metrics import MetricsCollector
from shared.usecases.dispatch_due_jobs import Dispatcher, TickLimits
from shared.usecases.enrich_series import SeriesEnricher
from shared.usecases.instance_limiter import InstanceLimiter
from shared.usecases.keep_ledger import SeriesLedger
from shared.usecases.manage_connectors import ConnectorManager
from shared.usecases.manage_jobs import JobManager
from shared.usecases.order_backfills import BackfillManager
from shared.usecases.plan_backfills import BackfillPlanner
from shared.usecases.plan_run import RunPlanner
from shared.usecases.raise_alerts import AlertSender
from shared.usecases.read_candles import CandleReader
from shared.usecases.read_coverage import CoverageReader
from shared.usecases.renew_values import ValuesRenewal
from shared.usecases.resolve_alert import AlertResolver
from shared.usecases.resolve_specs import SeriesSpecs, SpecLists
from shared.usecases.run_endings import RunLimits
from shared.usecases.run_job import JobRunner
from shared.usecases.send_requests import RequestSenders
from shared.usecases.series_jobs import SeriesHelpers
from shared.usecases.series_upkeep import SeriesUpkeep
from shared.usecases.steer_backfills import BackfillSteering
from shared.usecases.verify_series import SeriesVerifier

if TYPE_CHECKING:
    from shared.exchanges.ccxt_peers import BridgePeers

# To connect, and to wait for each part of an answer. One slow answer has to fit into the reserve that a run keeps
# (usecases/send_requests.py).
EXCHANGE_TIMEOUT_S: Final = (3.05, ANSWER_MS_MAX / 1000)
SWITCH_INTERVAL_S: Final = 0.0005


class Platform(Stores):
    """Everything one instance works with."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.holder = f"{settings.revision}@{socket.gethostname()}:{os.getpid()}"

    def prepare(self) -> None:
        """Make the indexes, and note of a database without jobs that nothing in it is old; does nothing where that is done."""
        with storage_errors():
            self.ensure_indexes()
            self.values_renewal.begin()
            adopt_series(self.old_series, self.upgrade_store)
            adopt_backfills(self.backfill_store, self.jobs)

    def close(self) -> None:
        """Tell the limiter what is left to be told, and close the connections that were opened."""
        if "limiter" in self.__dict__:
            atexit.unregister(self.limiter.close)
            self.limiter.close()
        if "database" in self.__dict__:
            self.database.close()
        for name in ("exchange_session", "call_session"):
            if name in self.__dict__:
                self.__dict__[name].close()

    @cached_property
    def is_prepared(self) -> bool:
        """True once the indexes are made: asked of the server once an instance, and again if that failed."""
        self.prepare()
        return True

    @cached_property
    def limiter(self) -> InstanceLimiter:
        """The limiter as this instance uses it. An instance that is ended in good order reports what it still holds."""
        limiter = InstanceLimiter(self.limits)
        atexit.register(limiter.close)
        return limiter

    @cached_property
    def ledger(self) -> SeriesLedger:
        """The ledger of completeness of all series."""
        return SeriesLedger(self.coverage, self.series_store, self.series_jobs, self.alerts)

    @cached_property
    def helpers(self) -> SeriesHelpers:
        """What wakes the jobs that a series makes for itself."""
        return SeriesHelpers(self.series_jobs, self.candles, self.series_store, self.backfill_store)

    @cached_property
    def specs(self) -> SeriesSpecs:
        """What the candles of each series have values of."""
        return SeriesSpecs(self.series_store, SpecLists())

    @cached_property
    def exchange_session(self) -> requests.Session:
        """Pooled connections to exchanges."""
        return open_session()

    @cached_property
    def call_session(self) -> requests.Session:
        """Pooled connections to our own functions and to webhooks."""
        session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=self.settings.tick_calls_max, max_retries=0)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def open_exchange(self, connector: Connector, now_ms: Callable[[], int]) -> ExchangeClient:
        """A client of the connector's exchange; `now_ms` is the database's clock."""
        spec = load_spec(connector.exchange)
        session, base_url = self.exchange_session, connector.base_url
        if connector.exchange.startswith(BRIDGE_PREFIX):
            from shared.exchanges.ccxt_bridge import BridgedClient

            return BridgedClient(
                spec, self.bridge_peers, session=session, now_ms=now_ms, base_url=base_url, timeout_s=EXCHANGE_TIMEOUT_S
            )
        return ExchangeClient(spec, session=session, now_ms=now_ms, base_url=base_url, timeout_s=EXCHANGE_TIMEOUT_S)

    @cached_property
    def bridge_peers(self) -> "BridgePeers":
        """ccxt's clients, for connectors that name one."""
        from shared.exchanges.ccxt_peers import BridgePeers

        return BridgePeers(self.exchange_session)

    @cached_property
    def alert_sender(self) -> AlertSender:
        """The use case that sends alerts."""
        posts = AlertPosts(self.settings.alert_webhook_url.get_secret_value(), self.call_session)
        return AlertSender(self.alerts, posts, self.settings.hosts_allowed)

    @cached_property
    def runner(self) -> JobRunner:
        """The worker's use case."""
        # A run's one thread decodes while the other waits for MongoDB, and would then wait for the decoding too: up to 5 ms
        # at each of a page's commands by Python's default, which is a tenth of the throughput (benchmarks/ingest.py).
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        settings = self.settings
        return JobRunner(
            database=self.database,
            connectors=self.connectors,
            leases=self.leases,
            senders=RequestSenders(self.limiter, self.open_exchange, settings.worker_wait_ms_max, random.Random()),
            candles=self.candles,
            ledger=self.ledger,
            helpers=self.helpers,
            planner=RunPlanner(self.database, self.leases, self.ledger, self.helpers, settings.lease_ms),
            enricher=SeriesEnricher(
                self.database,
                self.series_store,
                self.series_jobs,
                self.connectors,
                self.leases,
                self.candles,
                self.specs.lists,
                settings.lease_ms,
            ),
            revisions=self.revisions,
            runs=self.runs,
            alerts=self.alerts,
            run_limits=RunLimits(
                settings.lease_ms, settings.worker_pages_max, settings.worker_wait_ms_max, settings.attempts_max
            ),
            rng=random.Random(),
            specs=self.specs,
        )

    @cached_property
    def dispatcher(self) -> Dispatcher:
        """The tick's use case."""
        settings = self.settings
        tokens = MetadataTokens(settings.metadata_host, settings.worker_audience or settings.worker_url, self.call_session)
        return Dispatcher(
            database=self.database,
            connectors=self.connectors,
            leases=self.leases,
            calls=WorkerCalls(settings.worker_url, tokens, self.call_session),
            alerts=self.alert_sender,
            weight_of=lambda exchange: load_spec(exchange).live_weight,
            limits=TickLimits(settings.tick_budget_s, settings.lease_ms, settings.tick_starts_max, settings.tick_calls_max),
            holder=self.holder,
        )

    @cached_property
    def values_renewal(self) -> ValuesRenewal:
        """The use case that has values of earlier versions computed again."""
        return ValuesRenewal(self.database, self.upgrade_store, self.jobs, self.candles, self.helpers)

    @cached_property
    def metrics(self) -> MetricsCollector:
        """The metrics function's use case."""
        summaries, retired = self.job_summaries, self.retired_totals
        return MetricsCollector(self.database, self.connectors, summaries, retired, self.runs, self.alerts, self.helpers)

    @cached_property
    def exchange_desk(self) -> ExchangeDesk:
        """What the admin function asks of exchanges; keeps symbol lists for a while."""
        return ExchangeDesk(self.limiter, self.open_exchange)

    @cached_property
    def alert_resolver(self) -> AlertResolver:
        """The use case of who has seen to an alert."""
        return AlertResolver(self.database, self.alerts, self.audit_log)

    @cached_property
    def connector_manager(self) -> ConnectorManager:
        """The use case of the connectors' edits."""
        return ConnectorManager(
            self.database, self.connectors, self.connector_holds, self.jobs, self.audit_log, self.settings.hosts_allowed
        )

    @cached_property
    def job_manager(self) -> JobManager:
        """The use case of the jobs' edits."""
        return JobManager(
            self.database,
            self.connectors,
            self.connector_holds,
            self.jobs,
            self.candles,
            self.alerts,
            self.audit_log,
            self.series_upkeep,
            self.exchange_desk,
            self.backfill_steering,
        )

    @cached_property
    def series_upkeep(self) -> SeriesUpkeep:
        """What edits of jobs mean for their series."""
        return SeriesUpkeep(self.ledger, self.helpers, self.revisions, self.backfill_store)

    @cached_property
    def backfill_steering(self) -> BackfillSteering:
        """The use case of what is decided of backfills."""
        return BackfillSteering(self.database, self.backfill_store, self.series_upkeep, self.alerts, self.audit_log)

    @cached_property
    def backfills(self) -> BackfillManager:
        """The use case of ordered backfills."""
        return BackfillManager(
            self.database,
            self.connectors,
            self.jobs,
            self.backfill_store,
            self.ledger,
            self.job_manager,
            BackfillPlanner(
                self.database,
                self.connectors,
                self.jobs,
                self.ledger,
                self.candles,
                self.job_summaries,
                self.open_exchange,
                self.specs,
            ),
            self.backfill_steering,
            self.settings.lease_ms,
        )

    @cached_property
    def candle_reader(self) -> CandleReader:
        """The use case that reads candles."""
        return CandleReader(self.jobs, self.candles, self.specs)

    @cached_property
    def coverage_reader(self) -> CoverageReader:
        """The use case that reads the ledger of completeness."""
        return CoverageReader(self.database, self.jobs, self.candles, self.ledger, load_spec)

    @cached_property
    def series_verifier(self) -> SeriesVerifier:
        """The use case that holds ledger and values against the candles."""
        return SeriesVerifier(self.jobs, self.candles, self.coverage_reader, self.specs, self.helpers.count_stale)

    @cached_property
    def user_tokens(self) -> UserTokens:
        """Verifier for admin and metrics."""
        return UserTokens(self.settings)

    @cached_property
    def tick_tokens(self) -> IdentityTokens:
        """Verifier for tick."""
        settings = self.settings
        return IdentityTokens(
            settings, audience=settings.tick_audience, callers=settings.tick_callers, setting_prefix="CHANDLER_TICK"
        )

    @cached_property
    def worker_tokens(self) -> IdentityTokens:
        """Verifier for worker."""
        settings = self.settings
        return IdentityTokens(
            settings, audience=settings.worker_audience, callers=settings.worker_callers, setting_prefix="CHANDLER_WORKER"
        )
