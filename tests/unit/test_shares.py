"""What one pass of the scheduler may claim: never more than the limit serves, and every connector its share."""

from hypothesis import given
from hypothesis import strategies as st

from shared.domain.rates import BookedWindow, RateWindow
from shared.domain.shares import servable_count, share_fairly

MINUTE_MS = 60_000
windows = st.builds(RateWindow, st.integers(1, 10_000), st.integers(1_000, 86_400_000))
due_jobs = st.dictionaries(
    st.text("abc", min_size=1, max_size=3), st.lists(st.integers(), max_size=12), min_size=0, max_size=6
).map(lambda due: {name: [f"{name}{index}" for index in range(len(jobs))] for name, jobs in due.items()})


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


def test_what_is_booked_for_later_is_not_used_yet() -> None:
    log = booked(10, 1_000, (5_000, 4), (5_800, 3))
    assert log.used_at(4_800, charge_ms=250) == 4
    assert log.used_at(5_700, charge_ms=250) == 7
    assert log.used_at(6_100, charge_ms=250) == 3


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


@given(due_jobs, st.integers(0, 40))
def test_places_are_shared_in_rounds(due: dict[str, list[str]], places: int) -> None:
    shared = share_fairly(list(due.values()), places)
    assert len(shared) == min(places, sum(len(jobs) for jobs in due.values()))
    assert len(set(shared)) == len(shared)
    taken = {name: [job for job in shared if job in jobs] for name, jobs in due.items()}
    for name, jobs in due.items():
        # Its own order is kept: those due longest go first.
        assert taken[name] == jobs[: len(taken[name])]
        # Who left with jobs undone has at most one less than anybody else.
        if len(taken[name]) < len(jobs):
            assert len(taken[name]) >= max(len(others) for others in taken.values()) - 1


def test_a_crowd_leaves_the_quiet_ones_their_places() -> None:
    due = {"crowd": [f"crowd{index}" for index in range(300)], **{f"quiet{n}": [f"quiet{n}"] for n in range(9)}}
    shared = share_fairly(list(due.values()), 20)
    assert sorted(job for job in shared if job.startswith("quiet")) == [f"quiet{n}" for n in range(9)]
    assert len(shared) == 20
