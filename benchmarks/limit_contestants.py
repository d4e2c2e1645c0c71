"""Who competes in benchmarks/limits.py: our limiter, the package `limits`, ccxt's throttle; and the door each of them has."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import ccxt
from limits import RateLimitItemPerSecond
from limits.storage import MongoDBStorage
from limits.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.rates import Ask, Reservation, Settlement, batch_ms
from shared.domain.timeframes import MINUTE_MS
from shared.errors import StorageUnavailable
from shared.exchanges.catalog import load_spec
from shared.exchanges.gated_http import Passage
from shared.settings import load_settings
from shared.stores.database import Database
from shared.stores.rate_limits import RateLimitStore
from shared.usecases.grants import Grants, NoRoom, Refused
from shared.usecases.instance_limiter import InstanceLimiter
from shared.wiring import Platform

SYMBOL: Final = "BTC/USDT"
NOW_MS: Final = 1_760_000_042_000
START_MS: Final = NOW_MS // MINUTE_MS * MINUTE_MS - 10 * MINUTE_MS
DATABASE: Final = "bench_limits"
WEIGHT: Final = load_spec("binance").candles_weight
# ccxt's own unit: what its adapter says that a page of one candle costs.
CCXT_COST: Final = 0.4
# As the worker's setting worker_wait_ms_max.
WAIT_MS_MAX: Final = 1_500
# A denied worker comes back this part of the longest wait before its moment (docs/decisions/0011).
COME_BACK_EARLY: Final = (0.25, 0.75)
PAGE_MS_GUESS: Final = 50.0
# A peer that was refused asks again when its window ends, and at least as often as this.
PEER_PAUSE_S: Final = (0.05, 0.25)
MS: Final = 1_000


@dataclass(frozen=True)
class Contest:
    """One limit, measured over so many periods."""

    limit: int
    period_ms: int
    periods: int


class Tally:
    """What one process did so far, in memory that all share. Only its own process writes to it."""

    NAMES: Final = ("commands", "reservations", "granted", "returned", "requests")

    def __init__(self, shared: Any, number: int) -> None:
        self._shared, self._first = shared, number * len(self.NAMES)

    def add(self, name: str, count: int = 1) -> None:
        """So much more of one of NAMES."""
        self._shared[self._first + self.NAMES.index(name)] += count


@dataclass(frozen=True)
class Door:
    """One contestant's exchange; its connector is `name`."""

    name: str
    simulator: SimulatorProcess
    contest: Contest
    mongodb_uri: str

    @property
    def base_url(self) -> str:
        """Of this door."""
        return self.simulator.base_url("binance")

    def open(self, punish: bool) -> None:
        """From now on it counts, from nothing."""
        self.simulator.configure("binance", [(self.contest.limit, self.contest.period_ms)], punish)

    def report(self) -> dict[str, Any]:
        """Of its one window, and `refused`."""
        told = self.simulator.report()["binance"]
        return {**told["windows"][0], "refused": told["throttled"]}


def open_platform(door: Door) -> Platform:
    """One process's own; the indexes are there."""
    settings = load_settings(mongodb_uri=door.mongodb_uri, database=DATABASE, candles_database=DATABASE)
    return Platform(settings)


# A contestant is a generator: it sets itself up until the first `yield`, and then each `next` is one attempt to fetch a page.
Attempts = Iterator[None]


class CountingStore(RateLimitStore):
    """The limiter's store; tells what was asked, what was granted, and what was given back."""

    def __init__(self, database: Database, tally: Tally) -> None:
        super().__init__(database)
        self._tally = tally

    def reserve(
        self, connector_id: str, ask: Ask, settlements: Sequence[Settlement] = (), reservation_id: str | None = None
    ) -> Reservation:
        """See RateLimitStore."""
        self._note(settlements)
        reservation = super().reserve(connector_id, ask, settlements, reservation_id)
        self._tally.add("reservations")
        self._tally.add("granted", reservation.granted)
        return reservation

    def settle(self, connector_id: str, settlements: Sequence[Settlement]) -> None:
        """See RateLimitStore."""
        self._note(settlements)
        super().settle(connector_id, settlements)

    def _note(self, settlements: Sequence[Settlement]) -> None:
        for each in settlements:
            if each.before is not None:
                self._tally.add("returned", each.before - each.after - each.arrived)


class ChandlerWorker:
    """Asks for pages as the platform's runs do, one run after the other: each ends when there is no room."""

    def __init__(self, platform: Platform, door: Door, tally: Tally) -> None:
        self.limiter, self._tally = InstanceLimiter(CountingStore(platform.database, tally)), tally
        self._connector = platform.connectors.get_connector(door.name)
        self._client = platform.open_exchange(self._connector, lambda: NOW_MS)
        self._page_ms = PAGE_MS_GUESS
        self._grants = self._begin_run()

    def attempt(self) -> None:
        """One page, or a pause until asking again makes sense."""
        try:
            self._fetch()
        except Refused as exc:
            if not isinstance(exc.refusal, NoRoom):
                raise
            self._end_run()
            early_ms = WAIT_MS_MAX * random.uniform(*COME_BACK_EARLY)
            time.sleep(max(0.0, exc.refusal.wait_ms - early_ms) / MS)
        except StorageUnavailable:
            # Three grants in a row came too late: the run has failed, and the job is due again.
            self._end_run()

    def _begin_run(self) -> Grants:
        return Grants(self.limiter, self._connector, WAIT_MS_MAX)

    def _end_run(self) -> None:
        self._grants.close()
        self._grants = self._begin_run()

    def _fetch(self) -> None:
        began = 0.0

        def before_send() -> Passage:
            nonlocal began
            pages = max(1, int(batch_ms(self._connector.windows) / max(1.0, self._page_ms)))
            permit = self._grants.acquire(WEIGHT, WEIGHT * pages)
            began = time.monotonic()
            self._tally.add("requests")
            return Passage(partial(self._grants.note_answer, permit), partial(self._grants.note_unsent, permit))

        self._client.fetch_ohlcv(SYMBOL, "1m", START_MS, START_MS + MINUTE_MS, before_send=before_send)
        self._page_ms = 0.5 * self._page_ms + 0.5 * (time.monotonic() - began) * MS


def run_chandler(door: Door, tally: Tally) -> Attempts:
    """One process of ours."""
    platform = open_platform(door)
    worker = ChandlerWorker(platform, door, tally)
    try:
        while True:
            yield
            worker.attempt()
    finally:
        worker.limiter.close()
        platform.close()


def run_limits(strategy: Callable[[Any], RateLimiter], door: Door, tally: Tally) -> Attempts:
    """One process with the package `limits`: hit, and if refused sleep until the window ends."""
    limiter = strategy(MongoDBStorage(door.mongodb_uri, database_name=f"{DATABASE}_{door.name}"))
    item = RateLimitItemPerSecond(door.contest.limit, door.contest.period_ms // MS)
    platform = open_platform(door)
    client = platform.open_exchange(platform.connectors.get_connector(door.name), lambda: NOW_MS)
    limiter.test(item, "warm-up")
    try:
        while True:
            yield
            if limiter.hit(item, "door", cost=WEIGHT):
                client.fetch_ohlcv(SYMBOL, "1m", START_MS, START_MS + MINUTE_MS)
                tally.add("requests")
            else:
                pause_s = limiter.get_window_stats(item, "door").reset_time - time.time()
                time.sleep(min(max(pause_s, PEER_PAUSE_S[0]), PEER_PAUSE_S[1]))
    finally:
        platform.close()


def run_ccxt(door: Door, tally: Tally) -> Attempts:
    """One process with a ccxt script: its throttle is told the whole limit."""
    exchange = ccxt.binance(
        {
            "enableRateLimit": True,
            "rateLimit": door.contest.period_ms * WEIGHT / door.contest.limit / CCXT_COST,
            "options": {"fetchMarkets": ["spot"], "fetchCurrencies": False},
        }
    )
    exchange.urls["api"] = {
        name: url.replace("https://api.binance.com", door.base_url) if isinstance(url, str) else url
        for name, url in exchange.urls["api"].items()
    }
    exchange.load_markets()
    while True:
        yield
        exchange.fetch_ohlcv(SYMBOL, "1m", since=START_MS, limit=1)
        tally.add("requests")


CONTESTANTS: Final[dict[str, Callable[[Door, Tally], Attempts]]] = {
    "chandler": run_chandler,
    "limits_fixed_window": lambda door, tally: run_limits(FixedWindowRateLimiter, door, tally),
    "limits_moving_window": lambda door, tally: run_limits(MovingWindowRateLimiter, door, tally),
    "limits_sliding_counter": lambda door, tally: run_limits(SlidingWindowCounterRateLimiter, door, tally),
    "ccxt_throttle": run_ccxt,
}
