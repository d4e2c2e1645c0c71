"""How much of a rate limit 16 processes use together, and whether they ever break it: counted at the simulated exchange's door.

Each process asks for pages as fast as it is let, through the real limiter and the real client. Beside it, in the same run, on
the same MongoDB and against doors of the same kind, each in 16 processes: the package `limits` (storage: MongoDB) with its
three strategies, and ccxt's own throttle, where each process believes that the whole limit is its own.

    python -m benchmarks.limits [--quick] [--json]

The last line is one JSON object. `utilisation`: weight that arrived over whole periods / (limit x periods), from the middle of
one window's worth to the middle of another, since weight comes in bursts a period apart. `over_limit`: arrivals with which some
sliding window held more than the limit. `losses`: where the rest of the limit goes, as shares of it: `answer`, since a settled
grant counts from its answer on (docs/limits.md), `rest` what was not settled in time, grains, and moments at which nobody
asked. `returned`: share of what was granted that was not
sent and given back.

`peers`: a demand that comes shortly before the end of a period after a quiet one, as after
the close of a candle. `utilisation`: weight arrived in the two periods from then on / twice the limit; `worst_share`: the
fullest sliding window / limit; punished by nobody, so that it shows what is let through.
"""

import argparse
import contextlib
import gc
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from pymongo import MongoClient, monitoring

from benchmarks.limit_contestants import CONTESTANTS, DATABASE, MS, NOW_MS, Contest, Door, Tally
from local_emulator.mongod import start_mongod
from local_emulator.simulator.process import start_simulator
from shared.domain.rates import SKEW_MS
from tests.factories import add_connector, make_platform

PROCESSES: Final = 16
PEERS: Final = [name for name in CONTESTANTS if name != "chandler"]
POLL_S: Final = 0.025
START_S_MAX: Final = 30
# The peers' demand comes when this share of the first period is over.
QUIET_SHARE: Final = 0.85
# So little that ccxt in 16 processes, each with the whole of it, does not take the machine from the others.
PEER_LIMIT: Final = 40
# How long the simulated exchange takes to answer: near ones take that long.
ANSWER_MS: Final = 40
QUICK: Final = (Contest(240, 10_000, 2),)
FULL: Final = (Contest(240, 10_000, 4), Contest(1_440, 60_000, 2))
QUICK_PEERS: Final = Contest(PEER_LIMIT, 3_000, 2)
FULL_PEERS: Final = Contest(PEER_LIMIT, 10_000, 2)


class CommandCounter(monitoring.CommandListener):
    """Counts what the driver sends."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """One more."""
        self._tally.add("commands")

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Counted already."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Counted already."""


class Crew:
    """16 processes for each door. They set themselves up, wait, and work from `begin` to `end`."""

    def __init__(self, doors: Mapping[str, Door]) -> None:
        # Forked, so that none of them has to import everything again: that alone would take half of the time.
        # A client that is collected in the middle of a fork makes pymongo complain.
        gc.collect()
        context = multiprocessing.get_context("fork")
        self._doors = doors
        self._ready = context.Barrier(PROCESSES * len(doors) + 1)
        self._is_begun = context.Event()
        self._begin, self._end, self._quiet_s = (context.Value("d", 0.0) for _ in range(3))
        self._counts = context.Array("q", PROCESSES * len(doors) * len(Tally.NAMES), lock=False)
        self._processes: list[BaseProcess] = []
        for door_number, door in enumerate(doors.values()):
            for number in range(PROCESSES):
                tally = Tally(self._counts, door_number * PROCESSES + number)
                process = context.Process(target=self._compete, args=(door, number, tally), daemon=True)
                process.start()
                self._processes.append(process)

    def begin(self, seconds_max: float, quiet_s: float = 0.0, punish: bool = True) -> float:
        """Open the doors and let them in; with a quiet time one page is fetched at first, and the others after it.

        Returns the moment at which the demand comes.
        """
        self._ready.wait(START_S_MAX)
        for door in self._doors.values():
            door.open(punish)
        self._begin.value = time.monotonic()
        self._quiet_s.value = quiet_s
        self._end.value = self._begin.value + quiet_s + seconds_max
        self._is_begun.set()
        return float(self._begin.value + quiet_s)

    def counts(self) -> dict[str, int]:
        """What all have done so far."""
        size = len(Tally.NAMES)
        return {name: sum(self._counts[index::size]) for index, name in enumerate(Tally.NAMES)}

    def end(self) -> None:
        """Let them stop, and wait for them."""
        self._end.value = 0.0
        for process in self._processes:
            process.join(START_S_MAX)
            if process.exitcode:
                raise SystemExit(f"a contestant ended with {process.exitcode}")

    def _compete(self, door: Door, number: int, tally: Tally) -> None:
        # What the platform logs must not stand among the figures.
        sys.stdout = sys.stderr
        monitoring.register(CommandCounter(tally))
        attempts = CONTESTANTS[door.name](door, tally)
        next(attempts)
        self._ready.wait(START_S_MAX)
        self._is_begun.wait(START_S_MAX)
        if self._quiet_s.value:
            if not number:
                next(attempts)
            sleep_until(self._begin.value + self._quiet_s.value)
        for _ in attempts:
            if time.monotonic() >= self._end.value:
                break


def sleep_until(moment: float) -> None:
    """On the monotonic clock, which all processes of a machine share."""
    time.sleep(max(0.0, moment - time.monotonic()))


def wait_for_weight(door: Door, weight: int, until: float) -> float:
    """The moment at which so much weight had arrived since the door was opened."""
    while door.report()["total"] < weight:
        if time.monotonic() > until:
            raise SystemExit(f"{door.name}: {door.report()} after {until - time.monotonic():.0f} s")
        time.sleep(POLL_S)
    return time.monotonic()


def measure_saturation(mongodb_uri: str, contest: Contest) -> dict[str, Any]:
    """Ours alone, at the limit for whole periods."""
    with doors_for(["chandler"], mongodb_uri, contest) as doors:
        (door,) = doors.values()
        crew = Crew(doors)
        seconds_max = 2 * contest.period_ms / MS * (contest.periods + 1)
        until = crew.begin(seconds_max) + seconds_max
        first = wait_for_weight(door, contest.limit // 2, until)
        before = crew.counts()
        last = wait_for_weight(door, contest.limit // 2 + contest.periods * contest.limit, until)
        did = {name: count - before[name] for name, count in crew.counts().items()}
        report = door.report()
        crew.end()
    utilisation = contest.periods * contest.period_ms / MS / (last - first)
    answer = 1 - contest.period_ms / (contest.period_ms + ANSWER_MS + SKEW_MS)
    return {
        "limit": contest.limit,
        "period_ms": contest.period_ms,
        "periods": contest.periods,
        "utilisation": round(utilisation, 4),
        "over_limit": report["over_limit"],
        "worst": report["worst"],
        "refused": report["refused"],
        "commands_per_reservation": round(did["commands"] / did["reservations"], 3),
        "requests_per_command": round(did["requests"] / did["commands"], 3),
        "returned": round(did["returned"] / did["granted"], 3),
        "losses": {"answer": round(answer, 4), "rest": round(1 - utilisation - answer, 4)},
    }


def measure_peers(mongodb_uri: str, contest: Contest) -> dict[str, Any]:
    """All peers at once, each at a door of its own, under a demand that comes late in a period."""
    period_s = contest.period_ms / MS
    with doors_for(PEERS, mongodb_uri, contest) as doors:
        crew = Crew(doors)
        demand = crew.begin(contest.periods * period_s, QUIET_SHARE * period_s, punish=False)
        sleep_until(demand + contest.periods * period_s)
        reports = {name: door.report() for name, door in doors.items()}
        crew.end()
    return {
        name: {
            "utilisation": round(report["total"] / contest.limit / contest.periods, 3),
            "worst_share": round(report["worst"] / contest.limit, 3),
            "over_limit": report["over_limit"],
        }
        for name, report in reports.items()
    }


@contextlib.contextmanager
def doors_for(names: list[str], mongodb_uri: str, contest: Contest) -> Iterator[dict[str, Door]]:
    """A simulator and a connector for each, on an empty database."""
    with contextlib.ExitStack() as stack:
        with ThreadPoolExecutor(len(names)) as pool:
            starting = [start_simulator(seed=5, freeze_at_ms=NOW_MS) for _ in names]
            simulators = list(pool.map(stack.enter_context, starting))
        platform = make_platform(mongodb_uri, DATABASE)
        doors = {}
        for name, simulator in zip(names, simulators, strict=True):
            simulator.set_faults({"exchange": "binance", "kind": "slow", "delay_ms": ANSWER_MS})
            door = doors[name] = Door(name, simulator, contest, mongodb_uri)
            windows = [(contest.limit, contest.period_ms)]
            add_connector(platform, connector_id=name, base_url=door.base_url, windows=windows)
        # Before anybody forks: a client's threads do not survive that.
        platform.close()
        yield doors
        with MongoClient[dict[str, Any]](mongodb_uri) as client:
            for database in client.list_database_names():
                if database.startswith(DATABASE):
                    client.drop_database(database)


def main() -> None:
    """Ours at saturation, then the peers; the result on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 50 seconds")
    parser.add_argument("--json", action="store_true", help="nothing but the last line")
    arguments = parser.parse_args()
    contests, peers_contest = (QUICK, QUICK_PEERS) if arguments.quick else (FULL, FULL_PEERS)
    with tempfile.TemporaryDirectory() as folder:
        mongod = start_mongod(Path(folder))
        try:
            windows = []
            for contest in contests:
                windows.append(measure_saturation(mongod.uri, contest))
                if not arguments.json:
                    print(windows[-1])
            peers = measure_peers(mongod.uri, peers_contest)
        finally:
            mongod.stop()
    if not arguments.json:
        for name, figures in peers.items():
            print(name, figures)
    longer = {} if len(windows) == 1 else {"longer": windows[1:]}
    print(
        json.dumps(
            {
                **windows[0],
                "processes": PROCESSES,
                **longer,
                "peers_period_ms": peers_contest.period_ms,
                "peers_limit": peers_contest.limit,
                "peers": peers,
            }
        )
    )


if __name__ == "__main__":
    main()
