"""Beside any number of backfills that want all of a small limit, a live job's request is the next to go.

Time is the limiter's: its clock is moved, so that nothing depends on how fast this machine is.
"""

import random
import threading
from dataclasses import dataclass, field
from typing import Final

from shared.domain.rates import IN_DOUBT_MS, USE_BY_MS, Settlement
from shared.usecases.grants import AHEAD_MS_MAX, ASK_AGAIN_MS, ASK_AGAIN_MS_MAX, Grants, Refused
from shared.usecases.instance_limiter import InstanceLimiter
from shared.wiring import Platform
from tests.factories import add_connector
from tests.limits import limiter_of, make_ask, set_clock, settled
from tests.waiting import wait_until

# Coinbase's: of so few 2 % are nothing, and what is booked ahead is all of it.
LIMIT: Final = (10, 1_000)
BACKFILLS: Final = 8
PATIENCE_MS: Final = 1_500
AHEAD_MS: Final = 4_102_444_800_000
STEP_MS: Final = 20
ANSWER_MS: Final = 30
SCENE_MS: Final = 10_000


@dataclass
class Scene:
    """Backfills that always want a whole limit, and a live job that comes by now and then, on one clock.

    All ask as Grants does: no further ahead than they may, and again while they have patience.
    """

    platform: Platform
    ahead_ms: int
    rng: random.Random
    due_ms: list[int] = field(default_factory=lambda: [0] * BACKFILLS)
    told: list[Settlement] = field(default_factory=list)
    sent: int = 0
    refused: int = 0
    served: int = 0

    def play(self) -> None:
        """Count how often the live job was served, and how often it found no room in time."""
        live_due_ms, live_since_ms, again_ms = SCENE_MS // 4, SCENE_MS // 4, ASK_AGAIN_MS
        for now_ms in range(0, SCENE_MS, STEP_MS):
            self.settle(now_ms)
            for number in range(BACKFILLS):
                if self.due_ms[number] <= now_ms:
                    self.due_ms[number] = now_ms + self.ask(now_ms, LIMIT[0], self.ahead_ms, is_live=False)[1]
            if live_due_ms <= now_ms:
                left_ms = live_since_ms + PATIENCE_MS - now_ms
                granted, wait_ms = self.ask(now_ms, 1, left_ms, is_live=True)
                wait_ms, again_ms = max(wait_ms, again_ms), min(ASK_AGAIN_MS_MAX, 2 * again_ms)
                self.served += granted
                live_due_ms = now_ms + wait_ms
                if granted or wait_ms > left_ms:
                    self.refused += not granted
                    live_due_ms = live_since_ms = now_ms + 300
                    again_ms = ASK_AGAIN_MS

    def settle(self, now_ms: int) -> None:
        """What has been answered by now is told."""
        over = [each for each in self.told if each.arrived_by_ms <= AHEAD_MS + now_ms]
        self.told = [each for each in self.told if each not in over]
        if over:
            set_clock(self.platform, AHEAD_MS + now_ms)
            self.platform.limits.settle("binance", over)

    def ask(self, now_ms: int, want: int, ahead_ms: int, *, is_live: bool) -> tuple[int, int]:
        """What is granted, and when it has gone, or when its asker comes again."""
        set_clock(self.platform, AHEAD_MS + now_ms)
        ask = make_ask(1, want, ahead_ms, USE_BY_MS, IN_DOUBT_MS, is_live=is_live)
        grant = self.platform.limits.reserve("binance", ask)
        if not grant.granted:
            return 0, max(ASK_AGAIN_MS, grant.wait_ms - ahead_ms) + self.rng.randint(1, 10)
        self.told.append(settled(grant, grant.granted, grant.at_ms + ANSWER_MS))
        self.sent += grant.granted
        return grant.granted, grant.wait_ms + ANSWER_MS


def test_a_live_job_is_never_refused_beside_greedy_backfills(platform: Platform) -> None:
    add_connector(platform, windows=[LIMIT])
    scene = Scene(platform, AHEAD_MS_MAX, random.Random(3))
    scene.play()
    assert scene.refused == 0
    assert scene.served >= 5
    # What it does not need they have.
    assert scene.sent > LIMIT[0] * SCENE_MS // LIMIT[1] // 2


def test_backfills_that_booked_as_far_ahead_would_keep_it_waiting(platform: Platform) -> None:
    """So it is that rule that protects it."""
    add_connector(platform, windows=[LIMIT])
    scene = Scene(platform, PATIENCE_MS, random.Random(3))
    scene.play()
    assert scene.refused > 0


def test_a_backfill_books_no_further_ahead_however_long_it_would_wait(platform: Platform) -> None:
    connector_id = add_connector(platform, windows=[(1, 400)])
    connector = platform.connectors.get_connector(connector_id)
    is_over = threading.Event()

    def run(limiter: InstanceLimiter) -> None:
        while not is_over.is_set():
            grants = Grants(limiter, connector, PATIENCE_MS, is_live=False)
            try:
                grants.note_answer(grants.acquire(1, 10))
            except Refused:
                continue
            finally:
                grants.close()

    threads = [threading.Thread(target=run, args=[InstanceLimiter(platform.limits)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    seen: set[int] = set()

    def look() -> bool:
        last = limiter_of(platform).get("last")
        if last is not None and last["granted"]:
            seen.add(last["at_ms"] - last["clock_ms"])
        return len(seen) >= 5

    try:
        wait_until(look)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert max(seen) <= AHEAD_MS_MAX
