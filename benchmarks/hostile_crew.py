"""Sixteen processes that ask exchanges for pages while somebody stops and kills them: the crew of benchmarks/limits_hostile.py.

Each process serves all cases, a thread each, as an instance serves several connectors. What they note they note in memory that
all share, so that it outlives them.
"""

import gc
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any, Final

from benchmarks.limit_contestants import COME_BACK_EARLY, MS, NOW_MS, START_MS, SYMBOL, WAIT_MS_MAX
from shared.deadline import elapsed_s
from shared.domain.rates import Reservation, batch_ms
from shared.domain.timeframes import MINUTE_MS
from shared.errors import ExchangeThrottled, PlatformError, StorageUnavailable
from shared.exchanges.catalog import load_spec
from shared.exchanges.gated_http import Passage
from shared.settings import load_settings
from shared.stores.database import storage_errors
from shared.usecases.grants import Grants, NoRoom, Permit, Refused
from shared.usecases.instance_limiter import InstanceLimiter
from shared.wiring import Platform

PROCESSES: Final = 16
# Take the places of those that are killed.
SPARES: Final = 12
START_S_MAX: Final = 40.0
# Of the requests of one case in one process.
NOTES_MAX: Final = 4_000
REFUSALS_MAX: Final = 200
# One request in so many has its process stopped between the grant and the sending, for up to STOP_S_MAX.
STOPPED_SHARE: Final = 0.02
STOP_S_MAX: Final = 2.0
LOOK_S: Final = 0.02
KILL_EVERY_S: Final = 4.0
# What a grant was charged for after its moment in version 0.1.0: use-by and an allowance for the way, parts of the window.
FORMER_USE_BY: Final = (100, 100, 1_000)
FORMER_TRANSIT: Final = (40, 150, 1_000)


@dataclass(frozen=True)
class Case:
    """One connector under its own conditions. `delay_ms`: how long a request is on its way, least and most.

    `change`: what happens at the exchange in the middle: "lowered" or "quartered" limit, or a "stranger" on the same address.
    """

    name: str
    exchange: str
    limit: int
    period_ms: int
    delay_ms: tuple[int, int]
    change: str = ""

    @property
    def former_charge_ms(self) -> int:
        """How long after its moment a grant counted at the most in version 0.1.0."""
        return sum(min(most, max(least, self.period_ms // part)) for part, least, most in (FORMER_USE_BY, FORMER_TRANSIT))


class Notes:
    """What one process has seen of one case. Only that process writes."""

    SIZE: Final = 3 + NOTES_MAX + 2 * REFUSALS_MAX

    def __init__(self, shared: Any, number: int) -> None:
        self._shared, self._first = shared, number * self.SIZE

    def add_sent(self) -> None:
        """A request leaves now."""
        count = int(self._shared[self._first])
        self._shared[self._first + 3 + count % NOTES_MAX] = time.monotonic()
        self._shared[self._first] = count + 1

    def add_answer(self, is_late: bool) -> None:
        """A request has been answered, later than was once allowed for or not."""
        self._shared[self._first + 1] += 1 + (1 << 20) * is_late

    def add_refusal(self, wait_ms: int) -> None:
        """The exchange refuses, for so long from now on."""
        count = int(self._shared[self._first + 2])
        place = self._first + 3 + NOTES_MAX + 2 * (count % REFUSALS_MAX)
        now = time.monotonic()
        self._shared[place : place + 2] = [now, now + wait_ms / MS]
        self._shared[self._first + 2] = count + 1

    @property
    def sent(self) -> list[float]:
        """When requests left."""
        count = min(NOTES_MAX, int(self._shared[self._first]))
        return list(self._shared[self._first + 3 : self._first + 3 + count])

    @property
    def answers(self) -> tuple[int, int]:
        """How many answers there were, and how many of them late."""
        late, count = divmod(int(self._shared[self._first + 1]), 1 << 20)
        return count, late

    @property
    def refusals(self) -> list[tuple[float, float]]:
        """From when to when the exchange was not to be asked."""
        count = min(REFUSALS_MAX, int(self._shared[self._first + 2]))
        first = self._first + 3 + NOTES_MAX
        return [tuple(self._shared[first + 2 * index : first + 2 * index + 2]) for index in range(count)]


class Worker:
    """One case in one process: runs one after the other, each until there is no room, as the platform's do."""

    def __init__(self, limiter: InstanceLimiter, platform: Platform, case: Case, notes: Notes, rng: random.Random) -> None:
        self._limiter, self._case, self._notes, self._rng = limiter, case, notes, rng
        self._connector = platform.connectors.get_connector(case.name)
        self._client = platform.open_exchange(self._connector, lambda: NOW_MS)
        self._weight = load_spec(case.exchange).candles_weight
        self._page_ms = float(case.delay_ms[1])
        self._grants = Grants(limiter, self._connector, WAIT_MS_MAX)

    def attempt(self) -> None:
        """One page, or a pause until asking again makes sense."""
        try:
            with storage_errors():
                self._fetch()
            return
        except Refused as exc:
            wait_ms = exc.refusal.wait_ms if isinstance(exc.refusal, NoRoom) else 0
            pause_ms = wait_ms - WAIT_MS_MAX * self._rng.uniform(*COME_BACK_EARLY)
        except ExchangeThrottled as exc:
            pause_ms = exc.wait_ms
        except (StorageUnavailable, PlatformError):
            pause_ms = self._rng.uniform(50, 500)
        self._grants.close()
        self._grants = Grants(self._limiter, self._connector, WAIT_MS_MAX)
        time.sleep(max(0.0, pause_ms) / MS)

    def _fetch(self) -> None:
        began, sent_ms = 0.0, 0

        def before_send() -> Passage:
            nonlocal began, sent_ms
            pages = max(1, int(batch_ms(self._connector.windows) / max(1.0, self._page_ms)))
            permit = self._grants.acquire(self._weight, self._weight * pages)
            began, sent_ms = time.monotonic(), permit.reservation.latest_ms(elapsed_s())
            if self._rng.random() < STOPPED_SHARE:
                os.kill(os.getpid(), signal.SIGSTOP)
            self._notes.add_sent()
            return Passage(partial(self._note_answer, permit), partial(self._grants.note_unsent, permit))

        try:
            self._client.fetch_ohlcv(SYMBOL, "1m", START_MS, START_MS + MINUTE_MS, before_send=before_send)
        except ExchangeThrottled as exc:
            self._notes.add_refusal(exc.wait_ms)
            self._limiter.block(self._case.name, exc.wait_ms, exc.message, sent_ms)
            raise
        self._page_ms = 0.5 * self._page_ms + 0.5 * (time.monotonic() - began) * MS

    def _note_answer(self, permit: Permit) -> None:
        self._grants.note_answer(permit)
        reservation: Reservation = permit.reservation
        taken_ms = reservation.latest_ms(elapsed_s()) - reservation.at_ms
        self._notes.add_answer(taken_ms > self._case.former_charge_ms)


class Crew:
    """The processes: forked at once, so that none has to import everything again. They wait for `begin`."""

    def __init__(self, mongodb_uri: str, database: str, cases: Sequence[Case], seed: int) -> None:
        # A client that is collected in the middle of a fork makes pymongo complain.
        gc.collect()
        context = multiprocessing.get_context("fork")
        self._uri, self._database, self._cases, self._rng = mongodb_uri, database, cases, random.Random(seed)
        self._shared = context.RawArray("d", (PROCESSES + SPARES) * len(cases) * Notes.SIZE)
        self._ready = context.Semaphore(0)
        self._turns = [context.Event() for _ in range(PROCESSES + SPARES)]
        self._processes: list[BaseProcess] = []
        for number in range(PROCESSES + SPARES):
            process = context.Process(target=self._work, args=(number, seed + number), daemon=True)
            process.start()
            self._processes.append(process)
        self._next_spare = PROCESSES
        self._live = list(range(PROCESSES))
        self._is_over = threading.Event()
        self.killed = self.stopped = 0
        for _ in self._processes:
            if not self._ready.acquire(timeout=START_S_MAX):
                raise SystemExit("the crew did not start")

    def begin(self) -> None:
        """Let sixteen of them work, and begin to stop and to kill them."""
        for number in self._live:
            self._turns[number].set()
        self._harassers = [threading.Thread(target=each) for each in (self._let_go_on, self._kill)]
        for each in self._harassers:
            each.start()

    def end(self) -> None:
        """Kill them all."""
        self._is_over.set()
        for each in self._harassers:
            each.join()
        for process in self._processes:
            process.kill()
            process.join()

    def notes_of(self, case: Case) -> list[Notes]:
        """What each process, the dead ones among them, has seen of a case."""
        index = self._cases.index(case)
        return [Notes(self._shared, number * len(self._cases) + index) for number in range(len(self._processes))]

    def _kill(self) -> None:
        """One after the other, while there are others to take their places."""
        while not self._is_over.wait(KILL_EVERY_S) and self._next_spare < len(self._processes):
            place = self._rng.randrange(len(self._live))
            self._processes[self._live[place]].kill()
            self.killed += 1
            self._live[place] = self._next_spare
            self._turns[self._next_spare].set()
            self._next_spare += 1

    def _let_go_on(self) -> None:
        """Processes stop themselves; each goes on after a random time."""
        until: dict[int, float] = {}
        while not self._is_over.wait(LOOK_S):
            for number in list(self._live):
                pid = self._processes[number].pid or 0
                if _is_stopped(pid) and number not in until:
                    until[number] = time.monotonic() + self._rng.uniform(0, STOP_S_MAX)
                    self.stopped += 1
                if number in until and time.monotonic() >= until[number]:
                    del until[number]
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)

    def _work(self, number: int, seed: int) -> None:
        # What the platform logs must not stand among the figures.
        sys.stdout = sys.stderr
        settings = load_settings(
            mongodb_uri=self._uri, database=self._database, candles_database=self._database, mongodb_pool_size=40
        )
        platform = Platform(settings)
        limiter = InstanceLimiter(platform.limits)
        workers = [
            Worker(limiter, platform, case, Notes(self._shared, number * len(self._cases) + index), random.Random(seed + index))
            for index, case in enumerate(self._cases)
        ]
        platform.database.server_now_ms()
        self._ready.release()
        self._turns[number].wait()
        threads = [threading.Thread(target=_repeat, args=(worker.attempt,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _repeat(attempt: Callable[[], None]) -> None:
    while True:
        attempt()


def _is_stopped(pid: int) -> bool:
    """By /proc/PID/stat (proc(5)): the first field after the name in brackets."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
