"""Claims per second of the scheduler, what a claim costs at 10,000 and at 1,000,000 jobs, and what others do.

    python -m benchmarks.claims [--quick] [--json]

Ten connectors, all jobs due, 200 places. A round is one claim of 200 jobs (search, write, read-back), or one whole pass of the
tick (before it: is anything due, connectors, claims not begun); then, not timed, the runs begin and end. Rounds at 10,000 and
at 1,000,000 jobs take turns. Peers, in the same run and on the same mongod, claim from 10,000 due jobs: `findOneAndUpdate` one
at a time as queues on MongoDB do it, and APScheduler's MongoDBJobStore as its scheduler uses it (get_due_jobs, then update_job
of each).

The last line is one JSON object: `claims_per_s` and `claims_per_s_10k` (medians of claims at 1,000,000 and 10,000 jobs),
`claims_per_s_whole_pass` (of whole passes at 1,000,000); `growth_10k_to_1m`, the ratio of passes' times at both sizes, where
jobs fall due in the order in which they were made, as after a bulk creation; `growth_scattered`, the same for jobs from all
over the collection, in no cache; `commands_per_200` (of one claim of 200) and `commands_per_pass`; `examined_per_200` (keys
and documents of the search at 1,000,000 jobs); `peers` (claims per second).
"""

import argparse
import contextlib
import json
import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import bson
from apscheduler.job import Job
from apscheduler.jobstores.mongodb import MongoDBJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, WriteConcern, monitoring
from pymongo.collection import Collection

from local_emulator.mongod import start_mongod
from shared.domain.jobs import to_datetime
from shared.stores.job_leases import Claim
from shared.usecases.open_calls import OpenCalls
from shared.wiring import Platform
from tests.factories import add_connector, add_job, make_platform

Documents = Collection[dict[str, Any]]
CONNECTORS: Final = tuple(f"venue{number}" for number in range(10))
SMALL: Final = 10_000
LARGE: Final = 1_000_000
PLACES: Final = 200
LEASE_MS: Final = 60_000
QUICK_ROUNDS: Final = 30
FULL_ROUNDS: Final = 120
# The first passes meet a cold cache and new connections.
WARM_UP_ROUNDS: Final = 5
PEER_CLAIMS: Final = 600
APSCHEDULER_JOBS: Final = 1_000
LOAD_BATCH: Final = 50_000
# Neither holds anything back: this measures the claim.
WIDE: Final = [(10_000_000, 60_000)]
WIREDTIGER_CACHE: Final = "cache_size=2G"
# Stand in the template for what differs between jobs.
SLOT: Final = "SLOT000"
SLOT_MS: Final = 2**40 + 7
# Coprime to both counts, so that it visits jobs in an order that has nothing to do with the one they lie in.
STRIDE: Final = 7_919
SCATTERED_ROUNDS: Final = 12


class CommandCounter(monitoring.CommandListener):
    """Names of the commands that were sent while `names` was a list."""

    def __init__(self) -> None:
        self.names: list[str] | None = None

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Note it."""
        if self.names is not None:
            self.names.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to note."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to note."""


def load_jobs(platform: Platform, count: int, connectors: Sequence[str]) -> None:
    """That many due live jobs, as bytes laid out once for each connector, and the indexes after them. Replaces all jobs."""
    jobs: Documents = platform.database.collection("jobs").with_options(write_concern=WriteConcern(w=1, j=False))
    marks = (SLOT.encode(), struct.pack("<q", SLOT_MS))
    pieces: list[list[bytes]] = []
    for connector_id in connectors:
        add_job(
            platform, f"{SLOT}/USDT", connector_id=connector_id, next_run_at=to_datetime(SLOT_MS), created_at=datetime.now(UTC)
        )
        raw = bson.encode(jobs.find_one_and_delete({"connector_id": connector_id}) or {})
        head, symbol, rest = raw.split(marks[0])
        pieces.append([head, symbol, *rest.split(marks[1])])
    jobs.drop_indexes()
    due_ms = int(time.time() * 1000) - 3_600_000 - count
    for first in range(0, count, LOAD_BATCH):
        batch: list[Any] = []
        for number in range(first, min(first + LOAD_BATCH, count)):
            head, symbol, before, after = pieces[number % len(pieces)]
            slot = b"%07d" % number
            at = struct.pack("<q", due_ms + number)
            batch.append(RawBSONDocument(head + slot + symbol + slot + before + at + after))
        jobs.insert_many(batch, ordered=False)
    platform.jobs.ensure_indexes()


def run_pass(platform: Platform) -> list[Claim]:
    """One pass of a tick that has all its places free, without the worker calls."""
    now_ms = platform.database.server_now_ms()
    if not platform.leases.has_due(to_datetime(now_ms)):
        return []
    return platform.dispatcher.claim_due(now_ms, OpenCalls(PLACES))


def run_claim(platform: Platform) -> list[Claim]:
    """Only the claim of such a pass: search, write and read-back, with an equal part for each connector."""
    # The server is on this machine: its clock is ours.
    now = to_datetime(int(time.time() * 1000))
    due = platform.leases.list_due_by_connector(dict.fromkeys(CONNECTORS, PLACES // len(CONNECTORS)), now)
    return platform.leases.claim([job for jobs in due.values() for job in jobs], "benchmark", LEASE_MS)


def end_runs(platform: Platform, claims: Sequence[Claim]) -> None:
    """What begun and ended runs leave: free locks, due again behind all others."""
    jobs = platform.database.collection("jobs")
    chosen = {"_id": {"$in": [claim.job_id for claim in claims]}}
    jobs.update_many(chosen, [{"$set": {"lock.run_id": "run"}}], hint="_id_")
    free = {"$mergeObjects": [{"fence": "$lock.fence"}]}
    jobs.update_many(chosen, [{"$set": {"lock": free, "next_run_at": "$$NOW"}}], hint="_id_")


def scatter(platform: Platform, count: int) -> None:
    """Make jobs from all over the collection due before all others, enough for the rounds that follow."""
    jobs = platform.database.collection("jobs")
    chosen = [number * STRIDE % count for number in range(PLACES * (SCATTERED_ROUNDS + 2))]
    ids = [f"{CONNECTORS[number % len(CONNECTORS)]}:{number:07d}-USDT:1m" for number in chosen]
    if jobs.update_many({"_id": {"$in": ids}}, {"$set": {"next_run_at": to_datetime(0)}}, hint="_id_").matched_count != len(
        ids
    ):
        raise SystemExit("the jobs to scatter are not all there")


def explain_search(platform: Platform) -> dict[str, int]:
    """Keys and documents that the search for 200 due jobs of one connector examines."""
    database = platform.database.client.get_database(platform.settings.database)
    database.command("profile", 2)
    platform.leases.list_due(CONNECTORS[0], to_datetime(platform.database.server_now_ms()), PLACES)
    database.command("profile", 0)
    entry = database["system.profile"].find_one({"command.aggregate": "jobs"}) or {}
    return {"keys": entry["keysExamined"], "documents": entry["docsExamined"]}


@dataclass
class Measured:
    """Seconds of passes at one size."""

    platform: Platform
    seconds: list[float]


def time_rounds(work: Callable[[Platform], list[Claim]], sizes: dict[int, Measured], rounds: int) -> dict[int, float]:
    """Rounds at both sizes by turns: median seconds at each."""
    for measured in sizes.values():
        measured.seconds.clear()
    for number in range(-WARM_UP_ROUNDS if rounds > SCATTERED_ROUNDS else 0, rounds):
        for count in sorted(sizes, reverse=bool(number % 2)):
            began = time.perf_counter()
            claims = work(sizes[count].platform)
            seconds = time.perf_counter() - began
            if len(claims) != PLACES:
                raise SystemExit(f"a round claimed {len(claims)} of {PLACES}")
            end_runs(sizes[count].platform, claims)
            if number >= 0:
                sizes[count].seconds.append(seconds)
    return {count: statistics.median(measured.seconds) for count, measured in sizes.items()}


def run_ours(uri: str, rounds: int, counter: CommandCounter, is_quiet: bool) -> dict[str, Any]:
    """Passes at both sizes by turns."""
    sizes: dict[int, Measured] = {}
    with contextlib.ExitStack() as stack:
        for count in (SMALL, LARGE):
            platform = make_platform(
                uri, f"claims_{count}", tick_starts_max=PLACES, tick_calls_max=PLACES, lease_ms=LEASE_MS, mongodb_pool_size=4
            )
            stack.callback(platform.close)
            for connector_id in CONNECTORS:
                add_connector(platform, connector_id=connector_id, windows=WIDE)
            began = time.perf_counter()
            load_jobs(platform, count, CONNECTORS)
            if not is_quiet:
                print(f"{count:,} jobs loaded and indexed in {time.perf_counter() - began:.1f} s")
            sizes[count] = Measured(platform, [])
        # Else the checkpoint of what was loaded would be written while the passes are timed.
        platform.database.client.admin.command("fsync")
        medians = time_rounds(run_pass, sizes, rounds)
        claims = time_rounds(run_claim, sizes, rounds)
        for count, measured in sizes.items():
            scatter(measured.platform, count)
        scattered = time_rounds(run_pass, sizes, SCATTERED_ROUNDS)
        if not is_quiet:
            print({f"{count:,} jobs": f"{seconds * 1000:.1f} ms for {PLACES}" for count, seconds in medians.items()})
        counter.names = names = []
        run_pass(sizes[LARGE].platform)
        counter.names = None
        examined = explain_search(sizes[LARGE].platform)
    # The server's clock is asked for once a tick, not once a pass.
    names.remove("hello")
    return {
        "claims_per_s": round(PLACES / claims[LARGE]),
        "claims_per_s_10k": round(PLACES / claims[SMALL]),
        "claims_per_s_whole_pass": round(PLACES / medians[LARGE]),
        # The first three look whether anything is due, at the connectors, and at what is claimed and not begun.
        "commands_per_200": len(names) - 3,
        "commands_per_pass": len(names),
        "growth_10k_to_1m": round(medians[LARGE] / medians[SMALL], 2),
        "growth_scattered": round(scattered[LARGE] / scattered[SMALL], 2),
        "examined_per_200": examined,
    }


@contextlib.contextmanager
def peer_jobs(client: "MongoClient[dict[str, Any]]") -> Iterator[Documents]:
    """10,000 due jobs of the same size in a collection with the index that such a queue has."""
    source = client[f"claims_{SMALL}"]["jobs"]
    source.aggregate([{"$set": {"next_run_at": "$$NOW", "lock": {"fence": 1}}}, {"$out": "queue"}])
    queue = client[f"claims_{SMALL}"]["queue"]
    queue.create_index([("status", 1), ("priority", 1), ("next_run_at", 1)])
    yield queue
    queue.drop()


def claim_one_by_one(client: "MongoClient[dict[str, Any]]") -> float:
    """Claims per second of `findOneAndUpdate`: the first due one in order of priority, until there are enough."""
    with peer_jobs(client) as queue:
        began = time.perf_counter()
        for _ in range(PEER_CLAIMS):
            now = datetime.now(UTC)
            claimed = queue.find_one_and_update(
                {"status": "active", "next_run_at": {"$lte": now}},
                {
                    "$set": {"lock.holder": "peer", "lock.expires_at": now + timedelta(seconds=60)},
                    "$inc": {"lock.fence": 1},
                    "$max": {"next_run_at": now + timedelta(seconds=60)},
                },
                sort=[("priority", 1), ("next_run_at", 1)],
            )
            if claimed is None:
                raise SystemExit("the queue is empty")
        return PEER_CLAIMS / (time.perf_counter() - began)


def nothing() -> None:
    """What APScheduler's jobs would run."""


def claim_by_apscheduler(client: "MongoClient[dict[str, Any]]") -> float:
    """Jobs per second that its store hands out and moves on, as `BaseScheduler._process_jobs` does it; nothing is run."""
    store = MongoDBJobStore(database=f"claims_{SMALL}", collection="apscheduler", client=client)
    scheduler = BackgroundScheduler(timezone=UTC)
    store.start(scheduler, "default")
    past = datetime.now(UTC) - timedelta(seconds=30)
    for number in range(APSCHEDULER_JOBS):
        fixed = {"func": nothing, "args": (), "kwargs": {}, "executor": "default", "name": "peer"}
        policy = {"misfire_grace_time": 60, "coalesce": True, "max_instances": 1, "next_run_time": past}
        store.add_job(Job(scheduler, id=f"job{number}", trigger=IntervalTrigger(minutes=1, timezone=UTC), **fixed, **policy))
    began = time.perf_counter()
    now = datetime.now(UTC)
    jobs = store.get_due_jobs(now)
    for job in jobs:
        run_times = job._get_run_times(now)
        job._modify(next_run_time=job.trigger.get_next_fire_time(run_times[-1], now))
        store.update_job(job)
    seconds = time.perf_counter() - began
    if len(jobs) != APSCHEDULER_JOBS:
        raise SystemExit(f"APScheduler found {len(jobs)} of {APSCHEDULER_JOBS} jobs")
    return APSCHEDULER_JOBS / seconds


def main() -> None:
    """Ours at both sizes, then the peers; the result on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 50 seconds")
    parser.add_argument("--json", action="store_true", help="nothing but the last line")
    arguments = parser.parse_args()
    counter = CommandCounter()
    monitoring.register(counter)
    # The million has to be loaded anew each time, so it never goes to a database that somebody else uses.
    os.environ.pop("MONGODB_URI", None)
    with tempfile.TemporaryDirectory() as folder:
        mongod = start_mongod(Path(folder))
        try:
            with MongoClient[dict[str, Any]](mongod.uri, w="majority", tz_aware=True) as client:
                client.admin.command("setParameter", 1, wiredTigerEngineRuntimeConfig=WIREDTIGER_CACHE)
                result = run_ours(mongod.uri, QUICK_ROUNDS if arguments.quick else FULL_ROUNDS, counter, arguments.json)
                result["peers"] = {
                    "find_one_and_update": round(claim_one_by_one(client)),
                    "apscheduler": round(claim_by_apscheduler(client)),
                }
        finally:
            mongod.stop()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
