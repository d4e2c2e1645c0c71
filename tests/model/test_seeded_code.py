"""Rules of the protocol switched off in the real code, on the real mongod: each law has to fail, and to hold without the bug.

The same rules in the model, and more of them: test_seeded_bugs.py.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from shared.domain.open_grants import OpenGrants
from shared.domain.rates import Reservation
from shared.stores import job_leases, limiter_pipeline, rate_limits
from shared.stores.database import Database
from shared.stores.job_leases import JobLeases
from shared.stores.runs import RunStore
from shared.usecases import grants
from shared.wiring import Platform
from tests.factories import add_connector
from tests.model import code_laws as laws

Law = Callable[[Platform], None]
Break = Callable[[pytest.MonkeyPatch, Platform], None]
# The second window of the connector is the narrower one.
TWO_WINDOWS: Final = [(laws.LIMIT, laws.PERIOD_MS), (laws.LIMIT // 3, 2 * laws.PERIOD_MS)]


class Forgetful:
    """A collection whose updates leave one of their conditions out."""

    def __init__(self, collection: Any, forgotten: str) -> None:
        self._collection = collection
        self._forgotten = forgotten

    def _without(self, condition: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in condition.items() if name != self._forgotten}

    def update_one(self, condition: Mapping[str, Any], *rest: Any, **options: Any) -> Any:
        return self._collection.update_one(self._without(condition), *rest, **options)

    def find_one_and_update(self, condition: Mapping[str, Any], *rest: Any, **options: Any) -> Any:
        return self._collection.find_one_and_update(self._without(condition), *rest, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)


def without_condition(name: str) -> Break:
    def break_it(patch: pytest.MonkeyPatch, platform: Platform) -> None:
        patch.setattr(platform.leases, "_collection", Forgetful(platform.database.collection("jobs"), name))

    return break_it


def replaced(tree: Any, old: Any, new: Any) -> Any:
    """A pipeline with every occurrence of a part replaced."""
    if tree == old:
        return new
    if isinstance(tree, dict):
        return {name: replaced(value, old, new) for name, value in tree.items()}
    return [replaced(part, old, new) for part in tree] if isinstance(tree, list) else tree


def with_part(module: Any, function: str, old: Any, new: Any) -> Break:
    """What the function builds has that part replaced; that it occurs is asserted."""

    def break_it(patch: pytest.MonkeyPatch, _platform: Platform) -> None:
        build = getattr(module, function)

        def broken(*args: Any, **options: Any) -> Any:
            whole = build(*args, **options)
            changed = replaced(whole, old, new)
            assert changed != whole, f"{function} no longer has the part that this bug replaces"
            return changed

        patch.setattr(module, function, broken)

    return break_it


def with_result(module: Any, function: str, change: Callable[[Any], Any]) -> Break:
    """What the function returns goes through `change`."""

    def break_it(patch: pytest.MonkeyPatch, _platform: Platform) -> None:
        build = getattr(module, function)
        patch.setattr(module, function, lambda *args, **options: change(build(*args, **options)))

    return break_it


def fence_not_raised(pipeline: Any) -> Any:
    lock = pipeline[0]["$set"]["lock"]["$mergeObjects"][0]
    fields = {**pipeline[0]["$set"], "lock": {"$mergeObjects": [{**lock, "fence": {"$max": ["$lock.fence", 1]}}]}}
    return [{"$set": fields}]


def abandoned_not_noted(pipeline: Any) -> Any:
    return [{"$set": {**pipeline[0]["$set"], "abandoned": []}}]


def expiry_not_checked(condition: Any) -> Any:
    return {name: value for name, value in condition.items() if name != "$expr"}


def leases_never_run_out(condition: Any) -> Any:
    return {**condition, "lock.claim_id": {"$exists": False}}


def cursor_goes_back(stage: Any) -> Any:
    return {name: value["$max"][1] for name, value in stage.items()}


def lease_not_renewed(patch: pytest.MonkeyPatch, _platform: Platform) -> None:
    write = JobLeases._write_under_lease

    def broken(self: JobLeases, job_id: str, fence: int, fields: Any, session: Any) -> Any:
        kept = {name: value for name, value in fields.items() if name not in ("lock.expires_at", "next_run_at")}
        return write(self, job_id, fence, kept, session)

    patch.setattr(JobLeases, "_write_under_lease", broken)


def cursor_in_another_transaction(patch: pytest.MonkeyPatch, _platform: Platform) -> None:
    write = JobLeases._write_under_lease

    def broken(self: JobLeases, job_id: str, fence: int, fields: Any, _session: Any) -> Any:
        return write(self, job_id, fence, fields, None)  # type: ignore[arg-type]

    patch.setattr(JobLeases, "_write_under_lease", broken)


def sessions_not_ended(patch: pytest.MonkeyPatch, _platform: Platform) -> None:
    patch.setattr(Database, "end_sessions", lambda _self, _ids: None)
    patch.setattr(job_leases, "CLAIM_TIMEOUT_S", 0.5)


def finish_without_record(patch: pytest.MonkeyPatch, _platform: Platform) -> None:
    patch.setattr(RunStore, "append", lambda _self, _documents, _session=None: None)


def clock_may_go_back(patch: pytest.MonkeyPatch, _platform: Platform) -> None:
    patch.setattr(limiter_pipeline, "CLOCK", limiter_pipeline._NOW_MS)
    rate_limits._encoded.cache_clear()


def with_variables(function: str, change: Callable[[Any], Any]) -> Break:
    """The variables of a pipeline go through `change`."""
    return with_result(rate_limits, function, change)


def booked_at(moment: Any) -> Break:
    """A grant is charged under that moment, not under its last one."""
    charged = {"$add": ["$scratch.offer.at_ms", "$$ask.charge_ms"]}
    return with_part(rate_limits, "reserve_pipeline", charged, moment)


def rounded_down(patch: pytest.MonkeyPatch, platform: Platform) -> None:
    def broken(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {"$floor" if name == "$ceil" else name: broken(value) for name, value in tree.items()}
        return [broken(part) for part in tree] if isinstance(tree, list) else tree

    for name in ("reserve_pipeline", "settle_pipeline"):
        with_result(rate_limits, name, broken)(patch, platform)


def told_whatever_was_before(patch: pytest.MonkeyPatch, platform: Platform) -> None:
    """The weight that was open before is not compared."""
    for name in ("reserve_pipeline", "settle_pipeline"):
        with_part(rate_limits, name, {"$in": ["$$each.before", [None, "$$grant.w"]]}, True)(patch, platform)


def told_of_whoever_is_oldest(patch: pytest.MonkeyPatch, platform: Platform) -> None:
    for name in ("reserve_pipeline", "settle_pipeline"):
        same_id = {"$eq": ["$$each.reservation_id", "$$grant.reservation_id"]}
        with_part(rate_limits, name, same_id, True)(patch, platform)


def unsettled_are_forgotten(patch: pytest.MonkeyPatch, platform: Platform) -> None:
    is_past = {"$lte": ["$$grant.t", "$limiter.clock_ms"]}
    with_part(rate_limits, "reserve_pipeline", is_past, False)(patch, platform)


def late_words_are_dropped(variables: Any) -> Any:
    return {**variables, "late": []}


def arrived_when_booked(patch: pytest.MonkeyPatch, _platform: Platform) -> None:
    patch.setattr(Reservation, "latest_ms", lambda self, _monotonic: self.at_ms)


def arrival_counts_from_the_reply(patch: pytest.MonkeyPatch, _platform: Platform) -> None:
    def broken(self: Reservation, monotonic: float) -> int:
        return self.clock_ms + math.ceil((monotonic - self.replied_s) * 1000)

    patch.setattr(Reservation, "latest_ms", broken)


def all_that_was_sent_is_given_back(patch: pytest.MonkeyPatch, _platform: Platform) -> None:
    """Whoever has no answer takes its request for one that was not sent."""
    give_back = grants.Grants._give_back

    def broken(self: Any) -> None:
        self._left = 0 if self._newest is None else self._newest.granted
        give_back(self)

    patch.setattr(grants.Grants, "_give_back", broken)


def a_share_settles_the_whole(patch: pytest.MonkeyPatch, _platform: Platform) -> None:
    note = OpenGrants.note_returned

    def broken(self: OpenGrants, reservation_id: str, _weight: int) -> None:
        note(self, reservation_id, 2**31)

    patch.setattr(OpenGrants, "note_returned", broken)


SEEDED: Final[list[tuple[str, Law, Break]]] = [
    ("no fence in the write", laws.an_old_fence_writes_nothing, without_condition("lock.fence")),
    ("fence not raised", laws.an_old_fence_writes_nothing, with_result(job_leases, "claim_pipeline", fence_not_raised)),
    ("begin twice", laws.a_claim_is_begun_once, without_condition("lock.run_id")),
    ("give back what has begun", laws.a_run_that_goes_on_is_not_given_back, without_condition("lock.run_id")),
    ("release by id only", laws.a_claim_is_given_back_by_its_own_fence_only, without_condition("lock.fence")),
    ("give back what has ended", laws.a_run_that_has_ended_is_not_given_back, without_condition("lock.claim_id")),
    (
        "expiry not checked",
        laws.a_lease_that_has_not_run_out_is_not_taken,
        with_result(job_leases, "still_due", expiry_not_checked),
    ),
    (
        "leases never run out",
        laws.a_lease_that_has_run_out_is_taken,
        with_result(job_leases, "still_due", leases_never_run_out),
    ),
    ("sessions not ended", laws.what_a_dead_worker_left_open_is_ended, sessions_not_ended),
    (
        "abandoned not noted",
        laws.every_begun_run_is_written_down,
        with_result(job_leases, "claim_pipeline", abandoned_not_noted),
    ),
    ("finish without record", laws.every_begun_run_is_written_down, finish_without_record),
    (
        "fence begins anew",
        laws.a_job_made_again_outnumbers_the_old_one,
        with_part(job_leases, "claim_pipeline", "$created_at", 0),
    ),
    ("cursor goes back", laws.the_cursor_only_moves_forward, with_result(job_leases, "cursor_stage", cursor_goes_back)),
    ("lease not renewed", laws.a_page_renews_the_lease, lease_not_renewed),
    (
        "cursor in another transaction",
        laws.the_cursor_stays_where_its_page_does_not_land,
        cursor_in_another_transaction,
    ),
    (
        "dropped too early",
        laws.no_more_is_granted_in_a_period_than_the_limit,
        with_part(rate_limits, "reserve_pipeline", {"$add": ["$$entry.t", "$$window.period_ms"]}, 0),
    ),
    ("booked at its moment", laws.every_grant_counts_to_its_last_moment, booked_at("$scratch.offer.at_ms")),
    (
        "nothing for the way",
        laws.every_grant_counts_to_its_last_moment,
        booked_at({"$add": ["$scratch.offer.at_ms", laws.USE_BY_MS]}),
    ),
    ("rounded down", laws.merging_never_makes_an_entry_leave_earlier, rounded_down),
    (
        "unsettled forgotten",
        laws.a_grant_that_nobody_settles_counts_for_a_period_after_its_last_moment,
        unsettled_are_forgotten,
    ),
    ("told whatever was before", laws.what_is_told_part_by_part_counts_once_however_often_it_is_told, told_whatever_was_before),
    ("told of whoever is oldest", laws.what_is_told_is_told_of_its_own_grant, told_of_whoever_is_oldest),
    (
        "late word dropped",
        laws.an_arrival_that_is_told_late_moves_the_charge,
        with_variables("settlement_variables", late_words_are_dropped),
    ),
    ("arrived when booked", laws.what_was_sent_counts_from_its_arrival_or_later, arrived_when_booked),
    ("arrival counts from the reply", laws.what_was_sent_counts_from_its_arrival_or_later, arrival_counts_from_the_reply),
    ("sent but given back", laws.a_request_without_an_answer_counts_to_its_last_moment, all_that_was_sent_is_given_back),
    ("a share settles the whole", laws.a_share_settles_no_more_than_itself, a_share_settles_the_whole),
    ("clock may go back", laws.the_limiters_clock_never_goes_back, clock_may_go_back),
    (
        "only the first window",
        laws.all_windows_hold_at_once,
        with_part(rate_limits, "reserve_pipeline", {"$ifNull": ["$extra_rate_limits", []]}, []),
    ),
    (
        "block not looked at",
        laws.a_block_stops_every_grant,
        with_part(rate_limits, "reserve_pipeline", {"$ifNull": ["$blocked_until", 0]}, 0),
    ),
]
LAWS: Final = list(dict.fromkeys(law for _, law, _ in SEEDED))


@pytest.fixture
def scene(shared_platform: Platform, law: Law) -> Platform:
    """Nothing but the connector that the law needs; pipelines are built anew, since a bug may have changed them."""
    rate_limits._encoded.cache_clear()
    for name in ("connectors", "jobs", "job_runs", "alerts"):
        shared_platform.database.collection(name).delete_many({})
    add_connector(shared_platform, windows=TWO_WINDOWS if law is laws.all_windows_hold_at_once else TWO_WINDOWS[:1])
    return shared_platform


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_code_as_it_is_keeps_the_law(scene: Platform, law: Law) -> None:
    law(scene)


@pytest.mark.parametrize(("law", "break_it"), [row[1:] for row in SEEDED], ids=[row[0] for row in SEEDED])
def test_each_bug_breaks_its_law(scene: Platform, law: Law, break_it: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(monkeypatch, scene)
    with pytest.raises(AssertionError) as caught:
        law(scene)
    # Not the bug's own check that it has something to break, and not the law's that it can judge.
    assert "no longer has" not in str(caught.value)
    assert "too slow to judge" not in str(caught.value)
