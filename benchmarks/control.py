"""How long a pause, a resume and a cancellation of a backfill take while four workers are at it at full speed.

    python -m benchmarks.control [--quick] [--json]

The admin function runs as deployed, in a process of functions-framework, and is asked over HTTP. Four processes run the four
parts of a backfill of eight years of minutes one run after the other, from a simulated exchange without a limit. Ten times: the
backfill is paused, resumed and cancelled, each when candles are coming in again.

The last line is one JSON object: `pause_ms`, `resume_ms`, `cancel_ms` (each `median` and `max`), `get_ms` beside them (a
plain GET of the live job at the same time), and `stored_after`: candles that were stored after a pause or a cancellation
was answered, which must be none. `candles_per_s` while nobody steered.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import requests

from local_emulator.mongod import start_mongod
from local_emulator.processes import HOST, Service, Supervisor, free_port
from local_emulator.simulator.process import start_simulator
from local_emulator.tokens import admin_token
from shared.deadline import Deadline
from shared.domain.jobs import to_datetime
from shared.errors import LeaseLost, StorageUnavailable
from shared.settings import load_settings
from shared.stores.database import Document
from shared.wiring import Platform
from tests.factories import add_connector, add_job, make_platform

REPOSITORY: Final = Path(__file__).resolve().parent.parent
SECRET: Final = "a secret of the benchmark, longer than 32 bytes"
LIVE_ID: Final = "binance:BTC-USDT:1m"
ORDER: Final = {"from": "2018-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z", "workers": 4}
WORKERS: Final = 4
# When the live job is due.
NEVER_MS: Final = 2**42
WIDE: Final = [(1_000_000, 60_000)]
ROUNDS: Final = 10
# Candles that have to come in before somebody steers.
FLOW: Final = 5_000
START_S_MAX: Final = 60.0
FLOW_S_MAX: Final = 60.0
POLL_S: Final = 0.02
# To see whether anything is stored that should not be.
LOOK_S: Final = 0.2


def work(uri: str, database: str) -> None:
    """A worker process, and the tick that starts it: claims what is due, one job at a time, and runs it."""
    platform = Platform(load_settings(mongodb_uri=uri, database=database, candles_database=database))
    # Its log would be among the figures.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    while True:
        try:
            due = platform.leases.list_due("binance", to_datetime(platform.database.server_now_ms()), WORKERS)
            claims = next((claims for job in due if (claims := platform.leases.claim([job], "bench", 60_000))), [])
            for claim in claims:
                platform.runner.run(claim.job_id, claim.fence, "bench", Deadline.after(60))
        except (LeaseLost, StorageUnavailable):
            continue
        if not claims:
            time.sleep(POLL_S)


@dataclass
class Stage:
    """Everything that runs."""

    platform: Platform
    admin_url: str
    session: requests.Session
    took_ms: dict[str, list[float]] = field(default_factory=dict)

    def call(self, name: str, method: str, path: str, body: Document | None = None) -> Any:
        """Ask the admin function, and keep how long that took under the name."""
        began = time.perf_counter()
        response = self.session.request(method, self.admin_url + path, json=body, timeout=START_S_MAX)
        self.took_ms.setdefault(name, []).append((time.perf_counter() - began) * 1000)
        if not response.ok:
            raise SystemExit(f"{method} {path}: {response.status_code} {response.text}")
        return response.json() if response.content else None

    def count(self) -> int:
        """Candles that are stored."""
        # From the collection's metadata, which is exact as long as mongod does not crash: a scan would be what is measured.
        return self.platform.database.candles_collection("binance", "candles_binance_BTC-USDT_1m").estimated_document_count()

    def wait_for_flow(self) -> None:
        """Until candles come in at full speed."""
        before, deadline = self.count(), time.monotonic() + FLOW_S_MAX
        while self.count() < before + FLOW:
            if time.monotonic() > deadline:
                raise SystemExit("no candles come in")
            time.sleep(POLL_S)


@contextlib.contextmanager
def start_all() -> Iterator[Stage]:
    """mongod, the exchange, the admin function, four workers, and the live job of a series that nothing is due for."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mongod = start_mongod(folder / "db")
        stack.callback(mongod.stop)
        name = f"bench_{os.getpid()}"
        platform = make_platform(mongod.uri, name)
        stack.callback(platform.close)
        simulator = stack.enter_context(start_simulator(seed=1))
        simulator.configure("binance", WIDE)
        add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)
        add_job(platform, next_run_at=to_datetime(NEVER_MS))
        port = free_port()
        script = Path(sys.executable).with_name("functions-framework")
        argv = (sys.executable, str(script), "--source", "main.py", "--target", "admin", "--host", HOST, "--port", str(port))
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("CHANDLER_")},
            "MONGODB_URI": mongod.uri,
            "CHANDLER_DATABASE": name,
            "CHANDLER_CANDLES_DATABASE": name,
            "CHANDLER_JWT_SECRET": SECRET,
            "CHANDLER_HOSTS_ALLOWED": HOST,
            "THREADS": "4",
        }
        supervisor = Supervisor()
        stack.callback(supervisor.stop)
        supervisor.start([Service("admin", argv, port, environment, folder / "admin.log", REPOSITORY)], START_S_MAX)
        context = multiprocessing.get_context("spawn")
        for _ in range(WORKERS):
            worker = context.Process(target=work, args=(mongod.uri, name), daemon=True)
            worker.start()
            stack.callback(worker.terminate)
        session = stack.enter_context(requests.Session())
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {admin_token(SECRET, 'admin')}"
        yield Stage(platform, f"http://{HOST}:{port}", session)


def stored_after(stage: Stage, act: Callable[[], object]) -> int:
    """How many candles are stored after the answer."""
    act()
    count = stage.count()
    time.sleep(LOOK_S)
    return stage.count() - count


def measure(stage: Stage, rounds: int) -> dict[str, Any]:
    """Pause, resume, cancel, and order again, each in the middle of full speed."""
    after, rates = 0, []
    for _ in range(rounds):
        path = f"/v1/backfills/{stage.call('order', 'POST', f'/v1/jobs/{LIVE_ID}/backfill', ORDER)['id']}"
        stage.wait_for_flow()
        began, before = time.perf_counter(), stage.count()
        stage.wait_for_flow()
        rates.append((stage.count() - before) / (time.perf_counter() - began))
        stage.call("get", "GET", f"/v1/jobs/{LIVE_ID}")
        after += stored_after(stage, lambda path=path: stage.call("pause", "POST", f"{path}/pause"))  # type: ignore[misc]
        stage.call("resume", "POST", f"{path}/resume")
        stage.wait_for_flow()
        stage.call("get", "GET", f"/v1/jobs/{LIVE_ID}")
        after += stored_after(stage, lambda path=path: stage.call("cancel", "DELETE", path))  # type: ignore[misc]
    took = {
        f"{name}_ms": {"median": round(statistics.median(stage.took_ms[name]), 1), "max": round(max(stage.took_ms[name]), 1)}
        for name in ("pause", "resume", "cancel", "get")
    }
    return {**took, "stored_after": after, "candles_per_s": round(statistics.median(rates)), "rounds": rounds}


def main() -> None:
    """The result on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 50 seconds: that is how long it takes anyway")
    parser.add_argument("--json", action="store_true", help="nothing but the last line")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    with start_all() as stage:
        print(json.dumps(measure(stage, arguments.rounds)))


if __name__ == "__main__":
    main()
