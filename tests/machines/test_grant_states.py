"""docs/state_machine.md, "Grant": every move in every state, on a real mongod, and what counts in each."""

from collections.abc import Callable
from typing import Any, Final

import pytest

from shared.domain.rates import GRAINS_PER_WINDOW, Reservation, Settlement
from shared.domain.timeframes import MINUTE_MS
from shared.stores.limiter_pipeline import UNSETTLED_MAX
from shared.stores.rate_limits import RateLimitStore
from shared.wiring import Platform
from tests.factories import add_connector
from tests.machines.state_scene import ABSENT, WIDE, reserve, rows, transitions

GRANT: Final = transitions("Grant: ")
GRAIN_MS: Final = MINUTE_MS // GRAINS_PER_WINDOW
GRANTED: Final = 7_000
SENT: Final = 3_000


@pytest.fixture
def scene(shared_platform: Platform) -> Platform:
    shared_platform.database.collection("connectors").delete_many({})
    add_connector(shared_platform, windows=WIDE)
    return shared_platform


def limiter_of(platform: Platform) -> dict[str, Any]:
    document = platform.database.collection("connectors").find_one({"_id": "binance"})
    assert document is not None
    return dict(document["limiter"])


def grant_state(platform: Platform, grant: Reservation) -> str:
    """By what the document holds of it; nobody else's grants weigh so much."""
    limiter = limiter_of(platform)
    if grant.reservation_id in [unsettled["reservation_id"] for unsettled in limiter["unsettled"]]:
        return "unsettled"
    logged = sum(entry["w"] for entry in limiter["logs"][0]["entries"])
    return ABSENT if logged < SENT else "settled" if logged < GRANTED else "charged"


def pass_to(platform: Platform, moment_ms: int) -> None:
    """As if the server's clock had come so far when somebody reserves."""
    ahead = {"$set": {"limiter.clock_ms": moment_ms}}
    platform.database.collection("connectors").update_one({"_id": "binance"}, ahead)
    book_one(platform)


def book_one(platform: Platform, store: RateLimitStore | None = None, use_by_ms: int = 100) -> Reservation:
    return (store or RateLimitStore(platform.database)).reserve(
        "binance", need=1, want=1, wait_ms_max=100_000, use_by_ms=use_by_ms, transit_ms=100
    )


def tell(platform: Platform, grant: Reservation, used: int = SENT) -> Reservation:
    store = RateLimitStore(platform.database)
    store.settle("binance", Settlement(grant.reservation_id, used, grant.at_ms))
    return book_one(platform, store)


def pass_newer(platform: Platform) -> None:
    store = RateLimitStore(platform.database)
    for _ in range(UNSETTLED_MAX + 1):
        # However long this takes, none of them is past its charged moment before the last one is booked.
        book_one(platform, store, use_by_ms=MINUTE_MS)


GRANT_MOVES: Final[dict[str, Callable[[Platform, Reservation], object]]] = {
    "its note is told": tell,
    "its charged moment passes": lambda platform, grant: pass_to(platform, grant.charged_ms),
    f"it is behind {UNSETTLED_MAX} newer ones": lambda platform, _: pass_newer(platform),
    # A minute's window, as WIDE has it. Merging may have put the grant under a moment up to a grain later.
    "its period passes": lambda platform, grant: pass_to(platform, grant.charged_ms + MINUTE_MS + GRAIN_MS),
}
GRANT_STATES: Final = ("unsettled", "settled", "charged")


def grant_in(platform: Platform, state: str) -> Reservation:
    grant = reserve(platform, want=GRANTED)
    if state == "settled":
        tell(platform, grant)
    if state == "charged":
        pass_to(platform, grant.charged_ms)
    assert (grant.granted, grant_state(platform, grant)) == (GRANTED, state)
    return grant


def test_the_drawn_grant_has_the_moves_that_are_tried() -> None:
    assert {state for (before, _), after in GRANT.items() for state in (before, after)} == {ABSENT, *GRANT_STATES}
    assert {move for _, move in GRANT} == {"booked", *GRANT_MOVES}
    assert tuple(row[0] for row in rows("Grant: ", "State")) == GRANT_STATES


@pytest.mark.parametrize("move", GRANT_MOVES)
@pytest.mark.parametrize("state", GRANT_STATES)
def test_a_grant_moves_as_drawn_and_in_no_other_way(scene: Platform, state: str, move: str) -> None:
    grant = grant_in(scene, state)
    GRANT_MOVES[move](scene, grant)
    after = GRANT.get((state, move), state)
    assert grant_state(scene, grant) == after
    tell(scene, grant, used=0)
    assert grant_state(scene, grant) == (ABSENT if after == "unsettled" else after), "a late note moves nothing"


@pytest.mark.parametrize("state", GRANT_STATES)
def test_a_grant_counts_as_the_table_says(scene: Platform, state: str) -> None:
    grant = grant_in(scene, state)
    _, kept_in, weight, since = next(row for row in rows("Grant: ", "State") if row[0] == state)
    limiter = limiter_of(scene)
    kept = {"`limiter.unsettled`": limiter["unsettled"], "`limiter.logs`": limiter["logs"][0]["entries"]}
    entry = next(entry for entry in kept[kept_in.split(",")[0]] if entry["w"] >= SENT)
    assert entry["w"] // 1_000 * 1_000 == {"what was granted": GRANTED, "what was sent": SENT}[weight]
    assert entry["t"] == {"its charged moment": grant.charged_ms, "the last answer": grant.at_ms}[since.split(";")[0]]
