"""Tick and worker as they are deployed, each a process of its own, with identity tokens between them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import requests

from local_emulator.identity import IdentityProvider
from local_emulator.processes import HOST, Service, Supervisor, free_port
from tests.faults.wrong_clock import Clock
from tests.waiting import HANG_S

ROOT: Final = Path(__file__).resolve().parents[1]
SCHEDULER: Final = "scheduler@test.iam.gserviceaccount.com"
TICK: Final = "tick@test.iam.gserviceaccount.com"
RIGHT: Final = Clock(0)


def start_functions(
    supervisor: Supervisor,
    provider: IdentityProvider,
    uri: str,
    database: str,
    folder: Path,
    tick: Clock = RIGHT,
    worker: Clock = RIGHT,
    **settings: str,
) -> tuple[Service, Service]:
    """Both functions, each with its own clock. The scheduler's calls, of one second each, are the caller's to make."""
    ports = {"tick": free_port(), "worker": free_port()}
    urls = {name: f"http://{HOST}:{port}" for name, port in ports.items()}
    common = {
        "MONGODB_URI": uri,
        "CHANDLER_DATABASE": database,
        "CHANDLER_CANDLES_DATABASE": database,
        "CHANDLER_IDENTITY_ISSUER": provider.issuer,
        "CHANDLER_IDENTITY_JWKS_URL": provider.jwks_url,
        "CHANDLER_TICK_AUDIENCE": urls["tick"],
        "CHANDLER_TICK_CALLERS": SCHEDULER,
        "CHANDLER_WORKER_AUDIENCE": urls["worker"],
        "CHANDLER_WORKER_CALLERS": TICK,
        "CHANDLER_WORKER_URL": urls["worker"],
        "CHANDLER_TICK_BUDGET_S": "1",
        "GCE_METADATA_HOST": provider.metadata_host(TICK),
        "THREADS": "8",
        **settings,
    }
    services = []
    for name, clock in (("tick", tick), ("worker", worker)):
        arguments = ("--target", name, "--host", HOST, "--port", str(ports[name]))
        argv = tuple(clock.command("functions_framework", arguments))
        environment = {**clock.environment(), **common}
        services.append(Service(name, argv, ports[name], environment, folder / f"{name}.log", ROOT))
    supervisor.start(services, HANG_S)
    return services[0], services[1]


@contextmanager
def tick_caller(provider: IdentityProvider, tick: Service) -> Iterator[Callable[[], dict[str, Any]]]:
    """What calls the tick once, as the scheduler does, and gives what it has done."""
    with requests.Session() as session:
        session.trust_env = False

        def call() -> dict[str, Any]:
            headers = {"Authorization": f"Bearer {provider.token(SCHEDULER, tick.url)}"}
            response = session.post(tick.url, headers=headers, timeout=HANG_S)
            assert response.status_code == 200, response.text
            report: dict[str, Any] = response.json()
            return report

        yield call
