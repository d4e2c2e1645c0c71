"""Beside any number of backfills that want all of a small limit, a live job's request is the next to go."""

import threading
import time
from collections.abc import Iterator

import pytest

from shared.domain.connectors import Connector
from shared.stores.rate_limits import RateLimitStore
from shared.usecases.grants import Grants, Refused
from shared.wiring import Platform
from tests.factories import add_connector

# Coinbase's: of so few 2 % are nothing, and what is booked ahead is all of it.
LIMIT = (10, 1_000)
BACKFILLS = 8
PATIENCE_MS = 1_500


@pytest.fixture
def connector(platform: Platform) -> Connector:
    return platform.connectors.get_connector(add_connector(platform, "coinbase", windows=[LIMIT]))


@pytest.fixture
def greedy(platform: Platform, connector: Connector) -> Iterator[list[int]]:
    """Backfills of as many processes, each of which always wants a whole limit; how much each has been granted."""
    is_over, sent = threading.Event(), [0] * BACKFILLS

    def run(number: int, limits: RateLimitStore) -> None:
        grants = Grants(limits, connector, PATIENCE_MS, is_live=False)
        while not is_over.is_set():
            try:
                grants.note_answer(grants.acquire(1, LIMIT[0]))
            except Refused:
                time.sleep(0.01)
                continue
            sent[number] += 1

    # Each has the notes of a process of its own.
    stores = [RateLimitStore(platform.database) for _ in range(BACKFILLS)]
    threads = [threading.Thread(target=run, args=each) for each in enumerate(stores)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    yield sent
    is_over.set()
    for thread in threads:
        thread.join()


def test_a_live_job_is_never_refused_beside_greedy_backfills(
    platform: Platform, connector: Connector, greedy: list[int]
) -> None:
    limits = RateLimitStore(platform.database)
    before, began = sum(greedy), time.monotonic()
    for _ in range(8):
        # A run of its own each time; Refused fails the test.
        grants = Grants(limits, connector, PATIENCE_MS)
        grants.note_answer(grants.acquire(1, 1))
        grants.close()
        time.sleep(0.2)
    # What it does not need they have: half of the limit at least, as so small a window goes.
    assert sum(greedy) - before >= 0.5 * LIMIT[0] * (time.monotonic() - began) - LIMIT[0]
