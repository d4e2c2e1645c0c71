"""What one pass of the scheduler may claim: never more than the limit serves, and every connector its share."""

from dataclasses import dataclass
from operator import attrgetter

from hypothesis import given
from hypothesis import strategies as st

from shared.domain.rates import BookedWindow, OpenWeight, RateWindow
from shared.domain.shares import LISTED_MIN, listed_count, places_for_others, servable_count, share_fairly

MINUTE_MS = 60_000
windows = st.builds(RateWindow, st.integers(1, 10_000), st.integers(1_000, 86_400_000))


@dataclass(frozen=True)
class Due:
    """A due job: of which connector, its place in that connector's order, its priority."""

    connector: int
    number: int
    priority: int = 0


def as_listed(priorities: list[list[int]]) -> list[list[Due]]:
    """Jobs of each connector as a search gives them: smaller priority first."""
    return [
        [Due(connector, number, priority) for number, priority in enumerate(sorted(kinds))]
        for connector, kinds in enumerate(priorities)
    ]


due_jobs = st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=6).map(as_listed)


def share(due: list[list[Due]], places: int, for_others: int | None = None) -> list[Due]:
    return share_fairly(due, places, places if for_others is None else for_others, attrgetter("priority"))


def booked(limit: int, period_ms: int, *entries: tuple[int, int]) -> BookedWindow:
    return BookedWindow(RateWindow(limit, period_ms), entries)


def test_the_worked_examples() -> None:
    assert servable_count([booked(6_000, MINUTE_MS)], 2, 0, 0) == 3_000
    assert servable_count([booked(6_000, MINUTE_MS)], 2, 0, 2_999) == 1
    assert servable_count([booked(6_000, MINUTE_MS)], 2, 0, 3_500) == 0
    # One request in 1.2 s, booked at 10 s: there is room for the next one at 11.2 s and not before.
    kraken = [booked(1, 1_200, (10_000, 1))]
    assert servable_count(kraken, 1, 11_199, 0) == 0
    assert servable_count(kraken, 1, 11_200, 0) == 1
    # The narrowest window decides.
    assert servable_count([booked(100, MINUTE_MS), booked(100, 1_000, (10_000, 97))], 1, 10_500, 0) == 3


def test_what_is_booked_for_later_is_not_used_yet_and_counts_until_it_cannot_arrive_any_more() -> None:
    later = OpenWeight(at_ms=5_600, charged_ms=9_000, weight=3)
    log = BookedWindow(RateWindow(10, 1_000), [(5_000, 4)], [later])
    assert [log.used_at(at_ms) for at_ms in (5_599, 5_600, 6_000, 9_999, 10_000)] == [4, 7, 3, 3, 0]
    # For planning it is taken to arrive when it is expected.
    assert [log.free_at(at_ms) for at_ms in (5_999, 6_000, 6_849, 6_850)] == [3, 7, 7, 10]


def test_room_is_foretold_for_when_what_is_under_way_is_expected_to_have_left() -> None:
    under_way = OpenWeight(at_ms=5_000, charged_ms=21_000, weight=3)
    log = BookedWindow(RateWindow(10, 1_000), [(4_500, 4), (4_600, 2)], [under_way])
    assert [log.expected_room_ms(need, 5_000) for need in (1, 2, 5, 6, 8, 10)] == [5_000, 5_500, 5_500, 5_600, 6_250, 6_250]
    # It should have left and nobody has heard of it: it is looked for a period later, or when it cannot arrive any more.
    assert log.expected_room_ms(8, 6_250) == 7_250
    assert log.expected_room_ms(7, 6_250) == 6_250
    assert log.expected_room_ms(8, 21_600) == 22_000


@given(
    st.lists(st.tuples(windows, st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 500)), max_size=8)), min_size=1),
    st.integers(1, 50),
    st.integers(0, 200_000),
    st.integers(0, 500),
)
def test_no_window_is_asked_for_more_than_is_free_in_it(
    limits: list[tuple[RateWindow, list[tuple[int, int]]]], weight: int, at_ms: int, unbooked: int
) -> None:
    logs = [BookedWindow(window, entries) for window, entries in limits]
    count = servable_count(logs, weight, at_ms, unbooked)
    assert count >= 0
    assert count == 0 or all((count + unbooked) * weight <= log.free_at(at_ms) for log in logs)
    assert servable_count(logs, weight, at_ms + 1_000, unbooked) >= count
    assert servable_count(logs, weight, at_ms, unbooked + 1) <= count


@given(due_jobs, st.integers(0, 40), st.integers(0, 40))
def test_places_are_shared_by_kind_and_within_a_kind_in_rounds(due: list[list[Due]], places: int, for_others: int) -> None:
    for_others = min(places, for_others)
    shared = share(due, places, for_others)
    everything = [job for jobs in due for job in jobs]
    live, others = (sum(1 for job in everything if bool(job.priority) is is_other) for is_other in (False, True))
    taken_live = min(places, live)
    # Nothing is left empty that anybody may have.
    assert len(shared) == taken_live + min(others, for_others, places - taken_live)
    assert len(set(shared)) == len(shared)
    assert [job.priority for job in shared] == sorted(job.priority for job in shared)
    for priority in (0, 1, 2):
        taken = [[job for job in shared if job in jobs and job.priority == priority] for jobs in due]
        wanted = [[job for job in jobs if job.priority == priority] for jobs in due]
        for mine, all_mine in zip(taken, wanted, strict=True):
            # Its own order is kept: those due longest go first.
            assert mine == all_mine[: len(mine)]
            # Who left with jobs undone has at most one less than anybody else.
            if len(mine) < len(all_mine):
                assert len(mine) >= max(len(others) for others in taken) - 1


def test_a_crowd_leaves_the_quiet_ones_their_places() -> None:
    due = as_listed([[0] * 300, *([0] for _ in range(9))])
    shared = share(due, 20)
    assert sorted(job.connector for job in shared if job.connector) == list(range(1, 10))
    assert len(shared) == 20


def test_a_backfill_takes_no_place_that_a_live_job_of_another_connector_wants() -> None:
    due = as_listed([[2] * 10, [0, 0, 0], [0, 1, 2]])
    assert [(job.connector, job.priority) for job in share(due, 4)] == [(1, 0), (2, 0), (1, 0), (1, 0)]
    assert [(job.connector, job.priority) for job in share(due, 7)][4:] == [(2, 1), (0, 2), (2, 2)]
    # Free places are left empty if only repairs and backfills want them and these have all that they may have.
    assert [job.priority for job in share(due, 9, 2)] == [0] * 4 + [1, 2]


@given(st.integers(1, 1_000))
def test_live_jobs_keep_about_a_quarter_and_others_never_have_none(places: int) -> None:
    assert 1 <= places_for_others(places) <= places
    assert abs(places - places_for_others(places) - places / 4) < 1


@given(st.integers(0, 10_000), st.integers(1, 1_000), st.integers(1, 500))
def test_what_is_listed_fills_all_places_if_all_connectors_have_jobs_and_is_no_more_than_there_is_room_for(
    room: int, places: int, connectors: int
) -> None:
    count = listed_count(room, places, connectors)
    assert count <= min(room, places)
    assert count == room or count * connectors >= places
    assert count * connectors <= 2 * places + (LISTED_MIN + 1) * connectors
