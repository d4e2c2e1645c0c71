"""The rate limit where everything is against it, counted at the simulated exchanges' doors.

Sixteen processes beside three busy loops ask for pages as fast as they are let. Each request is up to 2 s on its way. One in
fifty has its process stopped (SIGSTOP) for up to 2 s between grant and request, every few seconds a process is killed, and a
tenth of the limiter's writes is held up by 300 ms on the server. All windows begin full, in the limiter's log as at the door,
as after a period of steady work.

    python -m benchmarks.limits_hostile [--quick] [--json]

The last line is one JSON object. `over_limit`: arrivals with which some sliding window held more than the limit; where the
exchange lowers its limit, more than we had been told. `worst_share`: the fullest sliding window / limit. `utilisation`: weight
that arrived / what the limit allows in that time, the smaller of the cases of 10 s and 60 s (other windows: in `cases`). A
request counts from its grant to its answer, so no more can be had than `possible` = period / (period + way + margin).
`late_share`: of the answers, those that came after all that was charged for in version 0.1.0 (use-by and an allowance for the
way): each of them is an arrival that nobody had counted on. `bans`: how often an exchange has banned the address.
`sent_after_refusal`: requests that left between the moment at which a process was refused and the end of that refusal, all of
them by processes that had not heard of it; of `refused` requests, most were under way with the first.

`cases` with a `change`: the exchange lowers its limit to a half or a quarter without a word, or a stranger uses half of it.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import requests
from pymongo import MongoClient

from benchmarks.hostile_crew import PROCESSES, Case, Crew
from benchmarks.limit_contestants import MS, NOW_MS
from benchmarks.slow_path import slow_paths
from local_emulator.mongod import start_mongod
from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.domain.rates import SKEW_MS
from shared.exchanges.catalog import load_spec
from shared.stores.rate_limits import initial_limiter
from tests.factories import add_connector, make_platform

DATABASE: Final = "bench_limits_hostile"
BUSY_LOOPS: Final = 3
BUSY: Final = "while True: pass"
SLOW_SHARE: Final = 0.1
SLOW_MS: Final = 300
# Until sixteen processes have found their pace.
WARM_S: Final = 3.0
# A change comes after so much of the time.
CHANGE_SHARE: Final = 0.25
STRANGER: Final = {"x-simulator-stranger": "1"}
HISTORY_PARTS: Final = 120
SEED: Final = 11

FAR: Final = (0, 2_000)
PATHS: Final = (
    Case("window_1s", "mexc", 20, 1_000, FAR),
    Case("window_2s", "kucoin", 20, 2_000, FAR),
    Case("okx_like", "okx", 20, 2_000, (100, 300)),
    Case("window_10s", "binance", 240, 10_000, FAR),
    Case("window_60s", "binanceus", 720, 60_000, FAR),
)
# What is under way when the first refusal comes will be refused as well. That it is less than what an exchange bans for (here
# ten) is a matter of pace and path, not of the limiter.
NEAR: Final = (0, 300)
CHANGES: Final = (
    Case("lowered_10s", "binance", 120, 10_000, NEAR, "lowered"),
    Case("stranger_10s", "binanceus", 120, 10_000, NEAR, "stranger"),
    Case("quartered_60s", "mexc", 240, 60_000, FAR, "quartered"),
)
MEASURED_FOR_UTILISATION: Final = (10_000, 60_000)


def run_cases(mongodb_uri: str, cases: Sequence[Case], seconds: float) -> dict[str, dict[str, Any]]:
    """All of them at once; figures by name."""
    with contextlib.ExitStack() as stack:
        simulator = stack.enter_context(start_simulator(seed=5, freeze_at_ms=NOW_MS))
        ports = stack.enter_context(slow_paths(simulator.port, [case.delay_ms for case in cases], SEED))
        platform = make_platform(mongodb_uri, DATABASE)
        stack.callback(_drop, mongodb_uri)
        for case, port in zip(cases, ports, strict=True):
            url = f"http://127.0.0.1:{port}/{case.exchange}"
            add_connector(platform, case.exchange, connector_id=case.name, base_url=url, windows=[(case.limit, case.period_ms)])
        # Before anybody forks: a client's threads do not survive that.
        platform.close()
        crew = Crew(mongodb_uri, DATABASE, cases, SEED)
        stack.enter_context(busy_loops())
        stack.enter_context(slow_writes(mongodb_uri))
        _fill_windows(mongodb_uri, simulator, cases)
        crew.begin()
        began = time.monotonic()
        time.sleep(WARM_S)
        warm, before = time.monotonic(), _totals(simulator, cases)
        time.sleep(max(0.0, began + CHANGE_SHARE * seconds - time.monotonic()))
        with changes(simulator, cases):
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            measured_s, after = time.monotonic() - warm, _totals(simulator, cases)
            report = simulator.report()
        crew.end()
        return {
            case.name: {
                **_door_figures(case, report[case.exchange], after[case.name] - before[case.name], measured_s),
                **_crew_figures(case, crew),
            }
            for case in cases
        } | {"": {"killed": crew.killed, "stopped": crew.stopped}}


def _door_figures(case: Case, door: dict[str, Any], weight: int, measured_s: float) -> dict[str, Any]:
    (window,) = door["windows"]
    mean_ms = sum(case.delay_ms) / 2
    figures = {
        "limit": case.limit,
        "period_ms": case.period_ms,
        "over_limit": max(0, window["worst"] - case.limit) if case.change else window["over_limit"],
        "worst_share": round(window["worst"] / case.limit, 4),
        "utilisation": round(weight * case.period_ms / case.limit / measured_s / MS, 3),
        "possible": round(case.period_ms / (case.period_ms + mean_ms + SKEW_MS), 3),
        "bans": door["bans"],
        "read_late": door["read_late_total"],
    }
    return {**figures, "change": case.change} if case.change else figures


def _crew_figures(case: Case, crew: Crew) -> dict[str, Any]:
    notes = crew.notes_of(case)
    sent = [moment for each in notes for moment in each.sent]
    refusals = [refusal for each in notes for refusal in each.refusals]
    answers, late = (sum(counts) for counts in zip(*(each.answers for each in notes), strict=True))
    return {
        "requests": len(sent),
        "late_share": round(late / max(1, answers), 3),
        "refused": len(refusals),
        "sent_after_refusal": sum(any(begin < moment <= end for begin, end in refusals) for moment in sent),
    }


def _fill_windows(mongodb_uri: str, simulator: SimulatorProcess, cases: Sequence[Case]) -> None:
    """As if the limit had been used evenly for a period."""
    with MongoClient[dict[str, Any]](mongodb_uri) as client:
        for case in cases:
            weight = load_spec(case.exchange).candles_weight
            count = min(HISTORY_PARTS, case.limit // weight)
            ages_ms = [case.period_ms * (index + 1) // (count + 1) for index in range(count)]
            parts = [(age_ms, case.limit // count // weight * weight) for age_ms in ages_ms]
            simulator.configure(case.exchange, [(case.limit, case.period_ms)], history=parts)
            # Read after the door was told, so that nothing counts there for longer than here.
            now_ms = int(client.admin.command("hello")["localTime"].timestamp() * MS) + SKEW_MS
            entries = [{"t": now_ms - age_ms, "w": part} for age_ms, part in parts]
            limiter = {**initial_limiter(), "logs": [{"period_ms": case.period_ms, "entries": entries}]}
            client[DATABASE]["connectors"].update_one({"_id": case.name}, {"$set": {"limiter": limiter}})


def _totals(simulator: SimulatorProcess, cases: Sequence[Case]) -> dict[str, int]:
    report = simulator.report()
    return {case.name: int(report[case.exchange]["windows"][0]["total"]) for case in cases}


@contextlib.contextmanager
def changes(simulator: SimulatorProcess, cases: Sequence[Case]) -> Iterator[None]:
    """What the exchanges do in the middle."""
    is_over = threading.Event()
    strangers = []
    for case in cases:
        if case.change in ("lowered", "quartered"):
            part = 2 if case.change == "lowered" else 4
            simulator.change_limits(case.exchange, [(case.limit // part, case.period_ms)])
        if case.change == "stranger":
            strangers.append(threading.Thread(target=_be_a_stranger, args=(simulator, case, is_over)))
    for each in strangers:
        each.start()
    yield
    is_over.set()
    for each in strangers:
        each.join()


def _be_a_stranger(simulator: SimulatorProcess, case: Case, is_over: threading.Event) -> None:
    """Half of the limit for somebody else on the same address, who does not care for refusals."""
    every_s = case.period_ms / MS / (case.limit / 2 / load_spec(case.exchange).candles_weight)
    url = f"{simulator.base_url(case.exchange)}/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1"
    with requests.Session() as session:
        session.trust_env = False
        while not is_over.wait(every_s):
            session.get(url, headers=STRANGER, timeout=20)


@contextlib.contextmanager
def busy_loops() -> Iterator[None]:
    """Beside everything else."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(BUSY_LOOPS)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def slow_writes(mongodb_uri: str) -> Iterator[None]:
    """A part of the limiter's writes is held up on the server."""
    held = {"failCommands": ["findAndModify"], "namespace": f"{DATABASE}.connectors", "blockConnection": True}
    with MongoClient[dict[str, Any]](mongodb_uri) as client:
        mode = {"activationProbability": SLOW_SHARE}
        client.admin.command("configureFailPoint", "failCommand", mode=mode, data={**held, "blockTimeMS": SLOW_MS})
        try:
            yield
        finally:
            client.admin.command("configureFailPoint", "failCommand", mode="off")


def _drop(mongodb_uri: str) -> None:
    with MongoClient[dict[str, Any]](mongodb_uri) as client:
        client.drop_database(DATABASE)


def main() -> None:
    """Slow paths first, then changes at the exchange; the result on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 50 seconds")
    parser.add_argument("--json", action="store_true", help="nothing but the last line")
    arguments = parser.parse_args()
    paths_s, changes_s = (15.0, 13.0) if arguments.quick else (90.0, 60.0)
    with tempfile.TemporaryDirectory() as folder:
        mongod = start_mongod(Path(folder), set_parameters={"enableTestCommands": 1})
        try:
            found = run_cases(mongod.uri, PATHS, paths_s)
            crew = found.pop("")
            more = run_cases(mongod.uri, CHANGES, changes_s)
            more_crew = more.pop("")
        finally:
            mongod.stop()
    cases = {**found, **more}
    if not arguments.json:
        for name, figures in cases.items():
            print(f"{name:16} {figures}")
    used = [figures["utilisation"] for figures in found.values() if figures["period_ms"] in MEASURED_FOR_UTILISATION]
    answers_late = [figures["late_share"] * figures["requests"] for figures in cases.values()]
    print(
        json.dumps(
            {
                "over_limit": sum(figures["over_limit"] for figures in cases.values()),
                "worst_share": max(figures["worst_share"] for figures in cases.values()),
                "utilisation": min(used),
                "late_share": round(sum(answers_late) / sum(figures["requests"] for figures in cases.values()), 3),
                "sent_after_refusal": sum(figures["sent_after_refusal"] for figures in cases.values()),
                "bans": sum(figures["bans"] for figures in cases.values()),
                "processes": PROCESSES,
                "killed": crew["killed"] + more_crew["killed"],
                "stopped": crew["stopped"] + more_crew["stopped"],
                "cases": cases,
            }
        )
    )


if __name__ == "__main__":
    main()
