"""What the tests of docs/state_machine.md share: its diagrams and tables as data, and one job that they move about."""

import re
from pathlib import Path
from typing import Any, Final

from bson.binary import UUID_SUBTYPE, Binary

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.jobs import job_id_of, run_id_of, to_datetime
from shared.domain.rates import Reservation
from shared.domain.timeframes import MINUTE_MS
from shared.errors import LeaseLost
from shared.stores.job_leases import Claim, DueJob
from shared.wiring import Platform
from tests.factories import add_connector, add_job
from tests.limits import make_ask

DOCUMENT: Final = (Path(__file__).parents[2] / "docs" / "state_machine.md").read_text()
NOW_MS: Final = 1_760_000_042_000
CLOSED_MS: Final = NOW_MS // MINUTE_MS * MINUTE_MS
START_MS: Final = CLOSED_MS - 50 * MINUTE_MS
WIDE: Final = [(100_000, 60_000)]
JOB_ID: Final = job_id_of("binance", "BTC/USDT", "1m")
ABSENT: Final = "[*]"
# A run that has no transactions needs no session to be ended.
NO_SESSION: Final = Binary(bytes(16), UUID_SUBTYPE)
LEASE_MS: Final = 60_000
# So long that no grant is late before a test has looked at it.
USE_BY_MS: Final = 30_000
Transitions = dict[tuple[str, str], str]


def section(heading: str) -> str:
    """The text under a heading of the second level."""
    (text,) = [part for part in re.split(r"^## ", DOCUMENT, flags=re.M) if part.startswith(heading)]
    return text


def transitions(heading: str) -> Transitions:
    """(state, move) -> state, from the section's diagram. A move is its label up to a comma."""
    (diagram,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", section(heading), flags=re.S)
    drawn = {}
    for line in diagram.strip().splitlines():
        found = re.fullmatch(r"\s*(\S+) --> (\S+?)(?:: (.+))?", line)
        assert found is not None, line
        before, after, label = found.groups()
        drawn[before, (label or "").split(",")[0]] = after
    return drawn


def rows(heading: str, first_column: str) -> list[list[str]]:
    """The cells of the section's table whose first column is called so."""
    lines = section(heading).splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith(f"| {first_column} |"))
    found = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def reset(platform: Platform, simulator: SimulatorProcess) -> None:
    """Leave nothing but a connector, at a simulator without faults."""
    simulator.set_faults()
    simulator.configure("binance", WIDE)
    for name in ("connectors", "jobs", "job_runs", "alerts"):
        platform.database.collection(name).delete_many({})
    add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)


def job_of(platform: Platform, job_id: str = JOB_ID) -> dict[str, Any] | None:
    return platform.database.collection("jobs").find_one({"_id": job_id})


def update(platform: Platform, **fields: Any) -> None:
    platform.database.collection("jobs").update_one({"_id": JOB_ID}, {"$set": fields})


def expire(platform: Platform) -> None:
    update(platform, **{"lock.expires_at": to_datetime(0), "next_run_at": to_datetime(0)})


def try_claim(platform: Platform) -> Claim:
    """Raises LeaseLost where there is nothing to be had, so that a refusal looks the same everywhere."""
    claims = platform.leases.claim([DueJob(JOB_ID)], "test", LEASE_MS)
    if not claims:
        raise LeaseLost("not claimed")
    return claims[0]


def begin(platform: Platform, fence: int) -> None:
    platform.leases.begin(JOB_ID, fence, run_id_of(JOB_ID, fence), LEASE_MS, NO_SESSION)


def record_page(platform: Platform, fence: int) -> None:
    platform.database.transact(
        lambda session: platform.leases.record_page(
            JOB_ID, fence, cursor=to_datetime(START_MS), added={}, lease_ms=LEASE_MS, session=session
        )
    )


def finish(platform: Platform, fence: int, status: str | None = None) -> None:
    end_at = (job_of(platform) or {}).get("end_at")
    platform.database.transact(
        lambda session: platform.leases.finish(
            JOB_ID, fence, status=status, end_at=end_at, next_run_at=to_datetime(2**41), attempt=0, last_error=None,
            cursor=None, added={}, facts={}, session=session,
        )
    )  # fmt: skip


def make_job(platform: Platform, status: str) -> None:
    if status != ABSENT:
        # A backfill, so that its end can be moved; under the id that `create` would give a live job.
        add_job(platform, start_ms=START_MS, end_ms=CLOSED_MS, status=status, indicators=[], _id=JOB_ID)


def reserve(platform: Platform, wait_ms_max: int = 0, want: int = 1) -> Reservation:
    return platform.limits.reserve("binance", make_ask(1, want, wait_ms_max, USE_BY_MS))
