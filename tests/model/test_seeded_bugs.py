"""A table of bugs, each of which switches off one rule of the protocol: the search has to find the law that it breaks.

The same rules switched off in the code itself, on the real mongod: test_seeded_code.py.
"""

from typing import Any

import pytest

from tests.model.backfills import AGREE, LANDED, Backfills
from tests.model.leases import CANDLES, RECORD, STALE, TAKEN, TWICE, Leases
from tests.model.limiter import KNOWN, OVER, Limiter
from tests.model.search import NO_WAY_ON, Model, search
from tests.model.series import BACKFILL, REPAIR, VALUE, SeriesModel

JOBS: Any = {"slots": 3, "jobs": 1, "pages": 2, "faults": 2, "deletes": True}
ONE: Any = {"slots": 2, "limit": 1}
BATCH: Any = {"slots": 2, "limit": 2, "period": 2, "wait_max": 0}
# The way is longer than everything else.
FAR: Any = {"slots": 2, "limit": 1, "way": 2, "wait_max": 0}
LATE: Any = {"slots": 2, "limit": 1, "period": 2, "wait_max": 0, "late": True, "back": 0}
GRAINS: Any = {"slots": 2, "limit": 2, "period": 4, "grain": 2, "want_max": 1, "wait_max": 0, "use_by": 0, "back": 0}


def jobs(bug: str) -> Leases:
    return Leases(**JOBS, bugs=frozenset({bug}))


def limiter(bug: str, size: Any = ONE) -> Limiter:
    return Limiter(**size, bugs=frozenset({bug}))


def backfill(bug: str) -> Backfills:
    return Backfills(bugs=frozenset({bug}))


def series(bug: str, kind: int = REPAIR) -> SeriesModel:
    return SeriesModel(kind=kind, bugs=frozenset({bug}))


SEEDED: list[tuple[Model[Any], str]] = [
    (jobs("no fence in the write"), STALE),
    (jobs("fence checked before"), STALE),
    (jobs("fence not raised"), RECORD),
    (jobs("fence begins anew"), TWICE),
    (jobs("begin twice"), TWICE),
    (jobs("expiry not checked"), TAKEN),
    (jobs("leases never run out"), NO_WAY_ON),
    (jobs("sessions not ended"), NO_WAY_ON),
    (jobs("release by id only"), RECORD),
    (jobs("give back what has begun"), RECORD),
    (jobs("abandoned not noted"), RECORD),
    (jobs("finish without record"), RECORD),
    (jobs("cursor before candles"), CANDLES),
    (jobs("cursor in another transaction"), CANDLES),
    (jobs("unknown commit written anew"), CANDLES),
    (jobs("cursor goes back"), CANDLES),
    (jobs("no majority"), CANDLES),
    (limiter("no majority"), OVER),
    (limiter("clock may go back"), OVER),
    (limiter("no use-by"), OVER),
    (limiter("use-by counts from the reply"), OVER),
    (limiter("its moment not waited for"), OVER),
    (limiter("nothing for the way"), OVER),
    # What was so in version 0.1.0: the answer that proved a later arrival came to a grant that was charged for good.
    (limiter("an allowance for the way"), OVER),
    (limiter("an allowance for the way", FAR), OVER),
    (limiter("late word dropped", LATE), KNOWN),
    (limiter("booked at its moment"), OVER),
    (limiter("dropped too early"), OVER),
    (limiter("read, then booked"), OVER),
    (limiter("unsettled forgotten"), OVER),
    (limiter("settled before the answer"), OVER),
    (limiter("sent after settling", BATCH), OVER),
    (limiter("settled twice", BATCH), OVER),
    (limiter("arrival counts from the reply"), OVER),
    (limiter("arrived when booked"), OVER),
    (limiter("arrived when sent"), OVER),
    (limiter("rounded down", GRAINS), OVER),
    (backfill("the page at hand lands"), LANDED),
    (backfill("answered before the parts are told"), LANDED),
    (backfill("an older decision counts"), AGREE),
    (backfill("settled whatever is decided"), AGREE),
    (backfill("ends take no turns"), AGREE),
    (backfill("nobody carries out what is left"), NO_WAY_ON),
    (series("a new list makes nothing stale"), VALUE),
    (series("a backfill is not told of a new list", BACKFILL), VALUE),
    (series("what came before it was told stays", BACKFILL), VALUE),
    (series("told of any list", BACKFILL), VALUE),
    (series("computed again with the list it had"), VALUE),
    (series("the epoch is compared before"), VALUE),
    (series("the list is read before the epoch"), VALUE),
    (series("the list is known whatever the epoch"), VALUE),
    (series("lands whatever has changed"), VALUE),
    (series("candles stored meanwhile are not looked for"), VALUE),
    (series("nobody is told of what was computed again"), VALUE),
]


def name_of(row: tuple[Any, str]) -> str:
    (bug,) = row[0].bugs
    far = ", far" if getattr(row[0], "way", 1) > 1 else ""
    return f"{bug} ({type(row[0]).__name__}{far})"


@pytest.mark.parametrize(("model", "law"), SEEDED, ids=map(name_of, SEEDED))
def test_each_bug_is_found_by_the_law_it_breaks(model: Model[Any], law: str) -> None:
    found = search(model, states_max=400_000)
    print(f"{found.states:,} states; {' > '.join(found.trace)}")
    assert found.broken == law
    assert found.trace


def test_a_settled_grant_that_stays_in_the_list_wastes_weight_but_lets_nothing_through() -> None:
    """It counts twice, so it is never too little. What it breaks in the code is the law that unsent weight is free again."""
    assert search(limiter("settled grants stay in the list")).broken is None


@pytest.mark.parametrize(
    "model",
    [Leases(**JOBS), *(Limiter(**size) for size in (ONE, FAR, LATE, GRAINS))],
    ids=["jobs", "one", "far", "late", "grains"],
)
def test_without_a_bug_the_same_worlds_break_no_law(model: Model[Any]) -> None:
    assert search(model).broken is None
