"""What one pass of the scheduler may claim: never more than the limit serves, and every connector its share."""

from hypothesis import given
from hypothesis import strategies as st

from shared.domain.rates import RateWindow
from shared.domain.shares import servable_count, share_fairly

MINUTE_MS = 60_000
windows = st.builds(RateWindow, st.integers(1, 10_000), st.integers(1_000, 86_400_000))
due_jobs = st.dictionaries(
    st.text("abc", min_size=1, max_size=3), st.lists(st.integers(), max_size=12), min_size=0, max_size=6
).map(lambda due: {name: [f"{name}{index}" for index in range(len(jobs))] for name, jobs in due.items()})


def test_the_worked_examples() -> None:
    binance = [RateWindow(6_000, MINUTE_MS)]
    assert servable_count(binance, 2, MINUTE_MS, 0) == 3_000
    assert servable_count(binance, 2, MINUTE_MS, 2_999) == 1
    assert servable_count(binance, 2, MINUTE_MS, 3_500) == 0
    # One request a second for a lease of a minute; a lease shorter than the window gets the window's limit.
    assert servable_count([RateWindow(1, 1_000)], 1, MINUTE_MS, 0) == 60
    assert servable_count([RateWindow(100, 3_600_000)], 1, MINUTE_MS, 0) == 100


@given(st.lists(windows, min_size=1, max_size=4), st.integers(1, 50), st.integers(30_000, 900_000), st.integers(0, 500))
def test_no_window_is_asked_for_more_than_it_gives_before_the_leases_end(
    limits: list[RateWindow], weight: int, lease_ms: int, leased: int
) -> None:
    count = servable_count(limits, weight, lease_ms, leased)
    assert count >= 0
    for window in limits:
        # A window that just begins gives its limit; after that as much again in each period.
        assert count == 0 or (count + leased) * weight <= window.limit * max(1, lease_ms / window.period_ms)
    assert servable_count(limits[:1], weight, lease_ms, leased) >= count
    assert servable_count(limits, weight, lease_ms, leased + 1) <= count


@given(due_jobs, st.integers(0, 40))
def test_places_are_shared_in_rounds(due: dict[str, list[str]], places: int) -> None:
    shared = share_fairly(due, places)
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
    shared = share_fairly(due, 20)
    assert sorted(job for job in shared if job.startswith("quiet")) == [f"quiet{n}" for n in range(9)]
    assert len(shared) == 20
