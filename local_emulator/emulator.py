"""The whole platform on this machine: mongod, identity provider, simulator, the four functions, the scheduler's clock."""

import contextlib
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import requests
from pymongo import MongoClient

from local_emulator.demo_jobs import DEMO_JOBS, EXCHANGES, AdminClient
from local_emulator.identity import IdentityProvider
from local_emulator.mongod import RunningMongod, start_mongod
from local_emulator.processes import HOST, Service, StartFailed, Supervisor, free_port
from local_emulator.scheduler import SchedulerClock, SchedulerOptions
from local_emulator.state import StateDirectory
from local_emulator.tokens import AUDIENCE, ISSUER, admin_token
from shared.errors import ConfigurationError

REPOSITORY: Final = Path(__file__).resolve().parent.parent
FUNCTIONS: Final = ("admin", "tick", "worker", "metrics")
ACCOUNT_DOMAIN: Final = "chandler-local.iam.gserviceaccount.com"
SEED_DEFAULT: Final = 1
# Four Python processes that import pymongo and numpy, on a busy machine with two cores.
START_LIMIT_S: Final = 60.0
REPORT_TIMEOUT_S: Final = 5.0
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Requests at the same time in one instance, as `THREADS` and `--concurrency` of a deployment.
THREADS: Final[Mapping[str, int]] = {"admin": 4, "tick": 4, "worker": 8, "metrics": 2}


@dataclass(frozen=True, slots=True)
class EmulatorOptions:
    """What to run. `is_temporary`: in an external MongoDB a database of its own is used and dropped at the end."""

    state: StateDirectory
    seed: int | None = None
    admin_port: int = 0
    is_live: bool = False
    is_temporary: bool = False
    with_jobs: bool = True
    scheduler: SchedulerOptions = field(default_factory=SchedulerOptions)


class Emulator:
    """A context: everything runs inside the block, nothing after it.

    Raises (on entry):
        ConfigurationError: something here has to be changed first; the message says what.
        StartFailed: a part did not come up; everything that had been started is stopped again.
    """

    def __init__(self, options: EmulatorOptions) -> None:
        self.options = options
        self.state = options.state
        self.started_s = time.time()
        # In a MongoDB that is somebody's already, never the database that a deployment has by default: its connectors would be
        # pointed at the simulator, and generated candles stored among real ones.
        is_external = bool(os.environ.get("MONGODB_URI"))
        self.database = os.environ.get("CHANDLER_DATABASE") or ("chandler_emulator" if is_external else "chandler")
        if options.is_temporary:
            self.database = f"chandler_{uuid.uuid4().hex[:10]}"
        self._stack = contextlib.ExitStack()
        self.mongod: RunningMongod
        self.client: MongoClient[dict[str, Any]]
        self.supervisor: Supervisor
        self.scheduler: SchedulerClock
        self.urls: dict[str, str] = {}
        self.seed = SEED_DEFAULT

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._close()

    @property
    def simulator_url(self) -> str | None:
        """The exchange simulator, or None with live exchanges."""
        return self.urls.get("simulator")

    def token(self, role: str = "admin", ttl_s: int = 24 * 3600) -> str:
        """An admin token."""
        return admin_token(self.state.jwt_secret(), role, ttl_s)

    def environment(self) -> dict[str, str]:
        """What a command needs to use this emulator, as environment variables."""
        variables = {
            "CHANDLER_ADMIN_URL": self.urls["admin"],
            "CHANDLER_METRICS_URL": self.urls["metrics"],
            "CHANDLER_TOKEN": self.token(),
            "CHANDLER_DATABASE": self.database,
            "MONGODB_URI": self.mongod.uri,
        }
        return variables if self.simulator_url is None else {**variables, "CHANDLER_SIMULATOR_URL": self.simulator_url}

    def simulator_report(self) -> dict[str, Any]:
        """The simulator's count of what arrived, per exchange. Raises StartFailed if it does not answer."""
        with requests.Session() as session:
            session.trust_env = False
            try:
                answer = session.get(f"{self.simulator_url}/_simulator/report", timeout=REPORT_TIMEOUT_S)
                answer.raise_for_status()
            except requests.RequestException as exc:
                raise StartFailed(f"the simulator gives no report ({type(exc).__name__})") from exc
            report: dict[str, Any] = answer.json()
            return report

    def _start(self) -> None:
        options = self.options
        self._stack.enter_context(self.state.owned())
        self.seed = self.state.settle_origin(options.seed, SEED_DEFAULT, options.is_live)
        self.mongod = start_mongod(self.state.mongod)
        self._stack.callback(self.mongod.stop)
        self.client = self._stack.enter_context(MongoClient[dict[str, Any]](self.mongod.uri, tz_aware=True))
        if options.is_temporary and self.mongod.pid is None:
            self._stack.callback(self._drop_database)
        identity = IdentityProvider([_account(name) for name in ("scheduler", *FUNCTIONS)])
        self._stack.callback(identity.stop)
        self.supervisor = Supervisor()
        self._stack.callback(self.supervisor.stop)
        self._start_services(identity)
        self._seed()
        self.scheduler = SchedulerClock(
            self.urls["tick"],
            lambda: identity.token(_account("scheduler"), self.urls["tick"]),
            self.note,
            options.scheduler,
        )
        self._stack.callback(self.scheduler.stop)
        self.scheduler.start()

    def note(self, text: str) -> None:
        """Remember something that happened, for the view."""
        self.supervisor.notices.append((time.time(), text))

    def _start_services(self, identity: IdentityProvider) -> None:
        ports = {name: free_port() for name in FUNCTIONS}
        if self.options.admin_port:
            ports["admin"] = self._admin_port()
        self.urls = {name: f"http://{HOST}:{port}" for name, port in ports.items()}
        services = [self._function(name, ports[name], identity) for name in FUNCTIONS]
        if not self.options.is_live:
            # Connectors that people have added name it.
            simulator = self._simulator(free_port(self.state.kept_port("simulator")))
            self.state.keep_port("simulator", simulator.port)
            self.urls["simulator"] = simulator.url
            services.append(simulator)
        self.supervisor.start(services, START_LIMIT_S)

    def _admin_port(self) -> int:
        port = self.options.admin_port
        if free_port(port) != port:
            raise ConfigurationError(f"port {port} is in use; give another --admin-port (0 picks a free one)")
        return port

    def _simulator(self, port: int) -> Service:
        argv = (sys.executable, "-m", "local_emulator.simulator", "--port", str(port), "--seed", str(self.seed))
        log_path = self.state.logs / "simulator.log"
        return Service("simulator", argv, port, dict(os.environ), log_path, REPOSITORY, "/_simulator/report")

    def _function(self, name: str, port: int, identity: IdentityProvider) -> Service:
        script = Path(sys.executable).with_name("functions-framework")
        argv = (sys.executable, str(script), "--source", "main.py", "--target", name, "--host", HOST, "--port", str(port))
        environment = {
            **{key: value for key, value in os.environ.items() if key != "MONGODB_URI"},
            **self._settings(identity),
            "GCE_METADATA_HOST": identity.metadata_host(_account(name)),
            "THREADS": str(THREADS[name]),
            # No more calls than the one worker can take at a time: else repairs and backfills could take all of its threads.
            "CHANDLER_TICK_CALLS_MAX": str(THREADS["worker"]),
            "CHANDLER_MONGODB_POOL_SIZE": str(2 * THREADS[name] + 1),
            # What the platform sets; pymongo looks at the first one too.
            "K_SERVICE": name,
            "K_REVISION": "local",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return Service(name, argv, port, environment, self.state.logs / f"{name}.log", REPOSITORY)

    def _settings(self, identity: IdentityProvider) -> dict[str, str]:
        """The settings that all functions share; see shared/settings.py."""
        no_proxy = ",".join(part for part in (os.environ.get("NO_PROXY", ""), HOST, "localhost") if part)
        return {
            "MONGODB_URI": self.mongod.uri,
            "CHANDLER_DATABASE": self.database,
            "CHANDLER_CANDLES_DATABASE": self.database,
            "CHANDLER_JWT_SECRET": self.state.jwt_secret(),
            "CHANDLER_JWT_ISSUER": ISSUER,
            "CHANDLER_JWT_AUDIENCE": AUDIENCE,
            "CHANDLER_IDENTITY_ISSUER": identity.issuer,
            "CHANDLER_IDENTITY_JWKS_URL": identity.jwks_url,
            "CHANDLER_TICK_AUDIENCE": self.urls["tick"],
            "CHANDLER_TICK_CALLERS": _account("scheduler"),
            "CHANDLER_WORKER_AUDIENCE": self.urls["worker"],
            "CHANDLER_WORKER_CALLERS": _account("tick"),
            "CHANDLER_WORKER_URL": self.urls["worker"],
            "CHANDLER_HOSTS_ALLOWED": HOST,
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
        }

    def _seed(self) -> None:
        admin = AdminClient(self.urls["admin"], self.token())
        try:
            for exchange in EXCHANGES:
                admin.ensure_connector(exchange, None if self.simulator_url is None else f"{self.simulator_url}/{exchange}")
            for job in DEMO_JOBS if self.options.with_jobs else ():
                admin.ensure_job(job)
        finally:
            admin.close()

    def _close(self) -> None:
        """Stop everything. A second Ctrl-C while that goes on would leave processes behind, so signals wait."""
        is_main = threading.current_thread() is threading.main_thread()
        before = [(number, signal.signal(number, signal.SIG_IGN)) for number in (STOP_SIGNALS if is_main else ())]
        try:
            self._stack.close()
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def _drop_database(self) -> None:
        self.client.drop_database(self.database)


def _account(name: str) -> str:
    """The service account of a function, or of the scheduler."""
    return f"{name}@{ACCOUNT_DOMAIN}"
