"""The scheduler with many jobs and many connectors on a real mongod: what a pass reads, whom it serves first, and only once."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import pytest

from shared.domain.jobs import PRIORITIES, JobKind, to_datetime
from shared.stores.job_leases import Claim
from shared.usecases.dispatch_due_jobs import WAIT_MS_MAX
from shared.usecases.open_calls import OTHERS_EVERY, OpenCalls
from shared.wiring import Platform
from tests.factories import add_connector, add_job, make_platform
from tests.waiting import HANG_S

QUIET: Final = tuple(f"quiet{number}" for number in range(9))
WIDE: Final = [(1_000_000, 60_000)]
PLACES: Final = 64
BACKFILL: Final = {"kind": JobKind.BACKFILL.value, "priority": PRIORITIES[JobKind.BACKFILL]}
MINUTE_MS: Final = 60_000


def fill(platform: Platform, connector_id: str, count: int, *, due_ms: int = 1_000_000, **fields: Any) -> None:
    """That many jobs at once; they are due (since 1970), the first for longest, unless `due_ms` says otherwise."""
    jobs = platform.database.collection("jobs")
    template_id = add_job(platform, "TEMPLATE/USDT", connector_id=connector_id, **fields)
    template = jobs.find_one_and_delete({"_id": template_id})
    assert template is not None
    tag = fields.get("kind", "live")[0].upper()
    documents = [
        {
            **template,
            "_id": f"{connector_id}:{tag}{number:05}",
            "symbol": f"{connector_id.upper()}{tag}{number:05}/USDT",
            "next_run_at": to_datetime(due_ms + number),
        }
        for number in range(count)
    ]
    jobs.insert_many(documents, ordered=False)


def claim_pass(platform: Platform, places: OpenCalls, after_ms: int = 0) -> list[Claim]:
    """One pass of a tick, `after_ms` from now."""
    return platform.dispatcher.claim_due(platform.database.server_now_ms() + after_ms, places)


def end_calls(places: OpenCalls, claims: Sequence[Claim]) -> None:
    for claim in claims:
        places.release(claim)


def mine(claims: Sequence[Claim], *connector_ids: str) -> list[Claim]:
    return [claim for claim in claims if claim.connector_id in connector_ids]


@pytest.fixture
def tick(mongodb_uri: str, database_name: str) -> Iterator[Platform]:
    """An instance of the tick whose passes take up to 64 jobs."""
    made = make_platform(mongodb_uri, database_name, tick_starts_max=200, tick_calls_max=PLACES)
    yield made
    made.close()


@contextmanager
def profiled(platform: Platform) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the server has done on behalf of the block, as its profiler tells it, in order."""
    database = platform.database.client.get_database(platform.settings.database)
    names = [f"{platform.settings.database}.{name}" for name in ("jobs", "connectors")]
    database.drop_collection("system.profile")
    database.command("profile", 2)
    try:
        yield lambda: list(database["system.profile"].find({"ns": {"$in": names}}).sort("$natural", 1))
    finally:
        database.command("profile", 0)


def name_of(entry: dict[str, Any]) -> str:
    command = entry["command"]
    return next((name for name in ("find", "aggregate", "update") if name in command), str(entry["op"]))


# --- what a pass reads


@pytest.mark.parametrize("connectors_count", [1, 10, 60])
def test_a_pass_takes_as_many_commands_for_sixty_connectors_as_for_one(tick: Platform, connectors_count: int) -> None:
    for number in range(connectors_count):
        add_connector(tick, connector_id=f"c{number}", windows=WIDE)
        fill(tick, f"c{number}", 70)
    with profiled(tick) as entries:
        assert tick.leases.has_due(to_datetime(MINUTE_MS * 100))
        assert len(claim_pass(tick, OpenCalls(PLACES))) in (32, PLACES)
        done = [name_of(entry) for entry in entries()]
    # Anything due, connectors, claims not begun; and the claim proper: due jobs of all connectors, write, read back.
    assert done == ["find", "find", "aggregate", "aggregate", "update", "find"]


def test_a_pass_examines_what_it_claims_and_not_what_there_is(tick: Platform) -> None:
    for connector_id in QUIET:
        add_connector(tick, connector_id=connector_id, windows=WIDE)
        # The same moment for many, more due ones than places, others later, others of lower priority.
        fill(tick, connector_id, 300)
        fill(tick, connector_id, 300, **BACKFILL)
    later_ms = tick.database.server_now_ms() + MINUTE_MS * 60
    fill(tick, "quiet0", 2_000, due_ms=later_ms, kind="repair", priority=1)
    # Runs on their way, with leases; and a few claims that no worker has begun.
    jobs = tick.database.collection("jobs")
    running = {"run_id": "run", "fence": 5, "claim_id": "c", "expires_at": to_datetime(later_ms)}
    jobs.update_many({"connector_id": "quiet8"}, {"$set": {"lock": running, "next_run_at": to_datetime(later_ms)}})
    waiting = {**running, "run_id": None}
    jobs.update_many({"_id": {"$in": [f"quiet8:L{n:05}" for n in range(5)]}}, {"$set": {"lock": waiting}})
    with profiled(tick) as entries:
        assert tick.leases.has_due(to_datetime(MINUTE_MS * 100))
        assert tick.leases.count_unbegun() == {"quiet8": 5}
        listed = tick.leases.list_due_by_connector(dict.fromkeys(QUIET, 20), to_datetime(MINUTE_MS * 100))
        due = [job for jobs in listed.values() for job in jobs]
        assert len(due) == 20 * 8
        assert len(tick.leases.claim(due, "test", MINUTE_MS)) == len(due)
        has_due, unbegun, search, *claim = entries()
    assert has_due["docsExamined"] == 0
    assert has_due["keysExamined"] <= 5
    assert unbegun["docsExamined"] <= 5
    # Fetchless: the index holds all that is asked for. A few keys more, where one connector's due jobs end.
    assert search["docsExamined"] == 0
    assert search["keysExamined"] <= len(due) + 5 * len(QUIET)
    assert [name_of(entry) for entry in claim if "docsExamined" in entry][-1] == "find"
    for entry in claim:
        assert entry["docsExamined"] <= len(due)
        assert entry["keysExamined"] <= 2 * len(due)
        assert entry["planSummary"].startswith("IXSCAN { _id: 1 }")


def test_the_search_costs_the_same_among_ten_times_as_many_jobs(tick: Platform) -> None:
    for connector_id, count in (("small", 500), ("large", 5_000)):
        add_connector(tick, connector_id=connector_id, windows=WIDE)
        fill(tick, connector_id, count)
    with profiled(tick) as entries:
        for connector_id in ("small", "large"):
            assert len(tick.leases.list_due(connector_id, to_datetime(MINUTE_MS * 100), 200)) == 200
        small, large = ((entry["keysExamined"], entry["docsExamined"]) for entry in entries())
    assert small == large == (200, 0)


# --- whom it serves first


@pytest.mark.parametrize("kind", ["live", "backfill"])
def test_nine_quiet_connectors_start_within_two_ticks_beside_a_crowd_of_ten_thousand(tick: Platform, kind: str) -> None:
    fields = BACKFILL if kind == "backfill" else {}
    # By name, and by the time for which its jobs are due, the crowd comes first.
    add_connector(tick, connector_id="crowd", windows=WIDE)
    fill(tick, "crowd", 10_000, due_ms=0, **fields)
    for connector_id in QUIET:
        add_connector(tick, connector_id=connector_id, windows=WIDE)
        fill(tick, connector_id, 10, **fields)
    started: Counter[int] = Counter()
    for number in (1, 2):
        # One pass each: a tick has two hundred of them.
        claims = claim_pass(tick, OpenCalls(PLACES))
        started[number] = len(mine(claims, *QUIET))
        assert mine(claims, "crowd")
    assert started.total() >= 0.95 * 10 * len(QUIET)


def test_where_places_are_short_live_jobs_go_before_the_backfills_of_all_connectors(tick: Platform) -> None:
    for connector_id in ("a", "b", "c"):
        add_connector(tick, connector_id=connector_id, windows=WIDE)
    fill(tick, "a", 30, due_ms=0, **BACKFILL)
    fill(tick, "b", 4)
    fill(tick, "c", 30, **BACKFILL)
    fill(tick, "c", 4)
    places = OpenCalls(9)
    claims = claim_pass(tick, places)
    assert [claim.priority for claim in claims] == [0] * 8 + [2]
    assert Counter(claim.connector_id for claim in claims if claim.priority == 0) == {"b": 4, "c": 4}


def test_backfills_leave_a_quarter_of_the_places_to_live_jobs_that_come_later(tick: Platform) -> None:
    for connector_id in ("a", "b"):
        add_connector(tick, connector_id=connector_id, windows=WIDE)
    fill(tick, "a", 100, **BACKFILL)
    places = OpenCalls(20)
    assert len(claim_pass(tick, places)) == 15
    # They hold their places for minutes. A live job that falls due now need not wait for one of them.
    assert claim_pass(tick, places) == []
    fill(tick, "b", 3)
    assert [claim.connector_id for claim in claim_pass(tick, places)] == ["b"] * 3


def test_a_backfill_does_not_starve_however_many_live_jobs_are_due(tick: Platform) -> None:
    for connector_id in ("a", "b"):
        add_connector(tick, connector_id=connector_id, windows=WIDE)
        fill(tick, connector_id, 200)
    fill(tick, "b", 5, **BACKFILL)
    places = OpenCalls(2)
    kinds: list[int] = []
    for _ in range(3 * OTHERS_EVERY):
        claims = claim_pass(tick, places)
        assert len(claims) == 2
        kinds += [claim.priority for claim in claims]
        end_calls(places, claims)
    assert kinds.count(PRIORITIES[JobKind.BACKFILL]) == 3
    # The first of them came after no more live jobs than that.
    assert kinds.index(PRIORITIES[JobKind.BACKFILL]) <= 2 * OTHERS_EVERY


def test_a_connector_gets_no_more_jobs_than_its_limit_has_room_for_even_when_a_backfill_goes_first(tick: Platform) -> None:
    # A page of Binance weighs 2: three of them.
    add_connector(tick, connector_id="narrow", windows=[(6, MINUTE_MS)])
    fill(tick, "narrow", 10)
    fill(tick, "narrow", 10, **BACKFILL)
    places = OpenCalls(PLACES)
    for _ in range(OTHERS_EVERY - 1):
        places.is_turn_of_others()
    claims = claim_pass(tick, places)
    assert [claim.priority for claim in claims] == [2, 0, 0]
    # These are not begun, so they count though they have booked nothing.
    assert claim_pass(tick, places) == []


# --- a ban


def test_a_ban_on_one_connector_starts_none_of_its_jobs_and_disturbs_no_other(tick: Platform) -> None:
    for connector_id in ("banned", *QUIET):
        add_connector(tick, connector_id=connector_id, windows=WIDE)
    fill(tick, "banned", 500, due_ms=0)
    for connector_id in QUIET:
        fill(tick, connector_id, 14)
    # Some of its jobs are at work when the ban comes.
    before = claim_pass(tick, OpenCalls(10))
    assert len(mine(before, "banned")) == 1
    blocked_ms = 10 * MINUTE_MS
    tick.limits.block("banned", blocked_ms, "told to stay away")
    blocked_until_ms = tick.database.server_now_ms() + blocked_ms
    claims: list[Claim] = []
    for _ in range(4):
        # All places go to the others, as if it did not exist.
        claims += claim_pass(tick, OpenCalls(PLACES))
    assert mine(claims, "banned") == []
    assert len(mine(claims, *QUIET)) == 9 * 14 - 9
    # No worker is started just to wait: none until shortly before the end, on whatever pass.
    for left_ms in (blocked_ms // 2, 10_000, 3 * WAIT_MS_MAX):
        assert tick.dispatcher.claim_due(blocked_until_ms - left_ms, OpenCalls(PLACES)) == []
    assert mine(claim_pass(tick, OpenCalls(PLACES), blocked_ms), "banned")


# --- once


def claim_all_at_once(uri: str, database_name: str, ticks_count: int, jobs_count: int, starts_max: int) -> list[Claim]:
    """What that many ticks at once claim, each over and over until nothing is due."""
    platforms = [
        make_platform(uri, database_name, tick_starts_max=starts_max, tick_calls_max=starts_max, mongodb_pool_size=ticks_count)
        for _ in range(min(5, ticks_count))
    ]
    barrier = threading.Barrier(ticks_count)

    def work(number: int) -> list[Claim]:
        platform = platforms[number % len(platforms)]
        barrier.wait(HANG_S)
        claimed: list[Claim] = []
        # A limit, in case they are never all claimed.
        for _ in range(jobs_count):
            if not platform.leases.has_due(to_datetime(platform.database.server_now_ms())):
                return claimed
            claimed += claim_pass(platform, OpenCalls(starts_max))
        raise AssertionError("jobs are due for ever")

    try:
        with ThreadPoolExecutor(ticks_count) as pool:
            return [claim for claims in pool.map(work, range(ticks_count)) for claim in claims]
    finally:
        for platform in platforms:
            platform.close()


def check_each_once(platform: Platform, claims: Sequence[Claim], jobs_count: int) -> None:
    assert len(claims) == len({claim.job_id for claim in claims}) == jobs_count
    assert {claim.fence for claim in claims} == {1}
    assert platform.jobs.count({"lock.fence": 1, "lock.claim_id": {"$exists": True}}) == jobs_count


def test_eight_ticks_at_once_claim_each_of_a_thousand_jobs_once(tick: Platform, mongodb_uri: str, database_name: str) -> None:
    for connector_id in QUIET[:4]:
        add_connector(tick, connector_id=connector_id, windows=WIDE)
        fill(tick, connector_id, 250)
    check_each_once(tick, claim_all_at_once(mongodb_uri, database_name, 8, 1_000, 100), 1_000)


@pytest.mark.soak
def test_fifty_ticks_at_once_claim_each_of_ten_thousand_jobs_once(tick: Platform, mongodb_uri: str, database_name: str) -> None:
    for connector_id in (*QUIET, "tenth"):
        add_connector(tick, connector_id=connector_id, windows=WIDE)
        fill(tick, connector_id, 1_000)
    check_each_once(tick, claim_all_at_once(mongodb_uri, database_name, 50, 10_000, 200), 10_000)
