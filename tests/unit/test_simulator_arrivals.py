"""The counting of arrivals against a count by hand, in whatever order they are read, and how an exchange punishes."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from local_emulator.simulator.arrivals import OUT_OF_ORDER_NS_MAX, Arrivals, Limit, Punishment, Window

SECOND_NS = 1_000_000_000
MS_NS = 1_000_000


def worst_by_hand(arrivals: list[tuple[int, int]], period_ns: int) -> int:
    """The heaviest half-open window; one that ends with an arrival is among the heaviest."""
    return max(sum(weight for at, weight in arrivals if end - period_ns < at <= end) for end, _ in arrivals)


def usages_by_hand(arrivals: list[tuple[int, int]], period_ns: int) -> list[int]:
    """The weight in the period that ends with each arrival, in the order of their times; equal times as they are given."""
    ordered = sorted(arrivals, key=lambda arrival: arrival[0])
    return [
        sum(weight for at, weight in ordered[: place + 1] if end - period_ns < at) for place, (end, _) in enumerate(ordered)
    ]


@given(
    gaps=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), min_size=1, max_size=80),
    limit=st.integers(1, 40),
    period_ms=st.integers(1, 100),
)
def test_the_worst_window_and_the_breaches_are_exact(gaps: list[tuple[int, int]], limit: int, period_ms: int) -> None:
    door = Arrivals((Limit(limit, period_ms), Limit(10, 7)), Punishment(), punish=False)
    at_ns, logged, over = 0, [], 0
    for gap_ms, weight in gaps:
        at_ns += gap_ms * MS_NS
        logged.append((at_ns, weight))
        assert door.arrive(at_ns, weight).status == "accepted"
        over += sum(w for at, w in logged if at_ns - period_ms * MS_NS < at) > limit
    window = door.windows[0]
    assert window.worst == worst_by_hand(logged, period_ms * MS_NS)
    assert window.over_limit == over
    assert window.total == door.weight_total == sum(weight for _, weight in logged)
    assert door.windows[1].worst == worst_by_hand(logged, 7 * MS_NS)


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 5)), min_size=1, max_size=60),
    limit=st.integers(1, 40),
    period_ms=st.integers(1, 120),
)
@example(arrivals=[(5, 2), (0, 1)], limit=1, period_ms=5)
@example(arrivals=[(5, 1), (3, 2), (5, 1), (4, 1)], limit=3, period_ms=2)
def test_arrivals_read_out_of_order_count_as_in_order(arrivals: list[tuple[int, int]], limit: int, period_ms: int) -> None:
    read, ordered = (Arrivals((Limit(limit, period_ms),), Punishment(), punish=False) for _ in range(2))
    logged = [(at_ms * MS_NS, weight) for at_ms, weight in arrivals]
    for at_ns, weight in logged:
        read.arrive(at_ns, weight)
    for at_ns, weight in sorted(logged, key=lambda arrival: arrival[0]):
        ordered.arrive(at_ns, weight)
    window, usages = read.windows[0], usages_by_hand(logged, period_ms * MS_NS)
    assert (window.worst, window.over_limit) == (max(usages), sum(usage > limit for usage in usages))
    last_ns = max(at for at, _ in logged)
    grid_ns = last_ns - last_ns % (period_ms * MS_NS)
    assert (window.usage, window.grid_usage) == (usages[-1], sum(weight for at, weight in logged if at >= grid_ns))
    assert read.report(last_ns, 100) == ordered.report(last_ns, 100)


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 60_000), st.integers(1, 5)), min_size=80, max_size=120),
    limit=st.integers(1, 40),
    period_ms=st.integers(1, 90_000),
)
def test_what_the_log_forgets_was_not_needed_any_more(arrivals: list[tuple[int, int, int]], limit: int, period_ms: int) -> None:
    window, newest_ns, logged = Window(Limit(limit, period_ms)), 0, []
    for ahead_ms, back_ms, weight in arrivals:
        # Every arrival lies up to a minute before the newest one there can be by now.
        newest_ns += ahead_ms * MS_NS
        logged.append((newest_ns - back_ms * MS_NS, weight))
        window.add(*logged[-1])
    usages = usages_by_hand(logged, period_ms * MS_NS)
    assert (window.worst, window.over_limit) == (max(usages), sum(usage > limit for usage in usages))
    assert window.total == sum(weight for _, weight in logged)


def test_the_log_is_bounded() -> None:
    window = Window(Limit(10, 1_000))
    for second in range(1_000):
        window.add(second * SECOND_NS, 1)
        assert len(window._times) == len(window._sums) < 2 * 62
    assert (window.usage, window.total) == (1, 1_000)


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), max_size=40),
    at_ms=st.integers(0, 60),
    weight=st.integers(0, 5),
    limit=st.integers(5, 30),
    period_ms=st.integers(1, 40),
)
def test_the_wait_is_told_by_what_came_before(
    arrivals: list[tuple[int, int]], at_ms: int, weight: int, limit: int, period_ms: int
) -> None:
    window = Window(Limit(limit, period_ms))
    for logged_ms, logged in arrivals:
        window.add(logged_ms * MS_NS, logged)
    before = [(logged_ms, logged) for logged_ms, logged in arrivals if logged_ms <= at_ms]

    def fits_at(moment_ms: int) -> bool:
        return sum(logged for logged_ms, logged in before if logged_ms > moment_ms - period_ms) + weight <= limit

    assert window.wait_ms(at_ms * MS_NS, weight) == next(wait for wait in range(period_ms + 1) if fits_at(at_ms + wait))


def test_an_arrival_older_than_the_windows_remember_is_counted_where_they_begin() -> None:
    door = Arrivals((Limit(1, 1_000),), Punishment(), punish=False)
    newest_ns = 2 * OUT_OF_ORDER_NS_MAX
    for at_ns in (newest_ns, newest_ns - OUT_OF_ORDER_NS_MAX, 0):
        door.arrive(at_ns, 1)
    assert (door.first_ns, door.last_ns) == (newest_ns - OUT_OF_ORDER_NS_MAX, newest_ns)
    assert (door.windows[0].worst, door.windows[0].over_limit) == (2, 1)


def test_two_arrivals_one_period_apart_share_no_window() -> None:
    door = Arrivals((Limit(1, 1_000),), Punishment())
    assert [door.arrive(at * SECOND_NS, 1).status for at in range(5)] == ["accepted"] * 5
    assert door.arrive(5 * SECOND_NS - 1, 1).status == "throttled"


@given(gaps_ms=st.lists(st.integers(0, 400), min_size=1, max_size=60))
def test_who_comes_back_when_told_is_let_in(gaps_ms: list[int]) -> None:
    for counts_refused in (True, False):
        door = Arrivals((Limit(3, 1_000), Limit(5, 2_500)), Punishment(counts_refused=counts_refused))
        at_ns = 0
        for gap_ms in gaps_ms:
            at_ns += gap_ms * MS_NS
            verdict = door.arrive(at_ns, 1)
            if verdict.status == "throttled":
                at_ns += verdict.retry_after_ms * MS_NS
                assert door.arrive(at_ns, 1).status == "accepted"


def test_refused_requests_count_only_where_the_exchange_counts_them() -> None:
    counting, lazy = (Arrivals((Limit(2, 1_000),), Punishment(counts_refused=counts)) for counts in (True, False))
    for door in (counting, lazy):
        assert [door.arrive(at * 100 * MS_NS, 1).status for at in range(4)] == ["accepted"] * 2 + ["throttled"] * 2
    assert counting.arrive(1_050 * MS_NS, 1).status == "throttled"
    assert lazy.arrive(1_050 * MS_NS, 1).status == "accepted"


def test_going_on_after_a_refusal_brings_a_ban_that_doubles() -> None:
    door = Arrivals((Limit(1, 1_000),), Punishment(ban_after=3, ban_ms=2_000, ban_ms_max=3_000))
    statuses = [door.arrive(at * MS_NS, 1).status for at in range(6)]
    assert statuses == ["accepted", "throttled", "throttled", "throttled", "banned", "banned"]
    assert door.bans == 1
    assert door.arrive(2_003 * MS_NS, 1).status == "banned"
    late_ns = 10_000 * MS_NS
    verdicts = [door.arrive(late_ns + at * MS_NS, 1) for at in range(5)]
    assert (verdicts[-1].status, verdicts[-1].retry_after_ms) == ("banned", 3_000)


def test_where_breaking_a_limit_is_a_ban_all_are_refused_until_it_ends() -> None:
    door = Arrivals((Limit(1, 1_000),), Punishment(bans_at_once=True, ban_ms=5_000, ban_ms_max=5_000))
    assert door.arrive(0, 1).status == "accepted"
    for at_ms in (1, 4_000, 5_000):
        verdict = door.arrive(at_ms * MS_NS, 1)
        assert (verdict.status, verdict.retry_after_ms) == ("banned", 5_001 - at_ms)
    assert door.arrive(6_500 * MS_NS, 1).status == "accepted"
    assert door.bans == 1


def test_an_arrival_is_judged_by_what_came_before_it_though_more_was_read() -> None:
    door = Arrivals((Limit(2, 1_000),), Punishment())
    later = [door.arrive((5_000 + at_ms) * MS_NS, 1).status for at_ms in range(3)]
    assert later == ["accepted", "accepted", "throttled"]
    assert [door.arrive(4_500 * MS_NS, 1).status for _ in range(3)] == ["accepted", "accepted", "throttled"]
    assert door.arrive(5_003 * MS_NS, 1).status == "throttled"
    assert (door.windows[0].worst, door.windows[0].over_limit) == (7, 5)


def test_what_was_sent_before_a_refusal_does_not_ignore_it() -> None:
    door = Arrivals((Limit(1, 1_000),), Punishment(ban_after=1, ban_ms=60_000))
    assert [door.arrive(at_ms * MS_NS, 1).status for at_ms in (5_000, 5_500)] == ["accepted", "throttled"]
    assert [door.arrive(at_ms * MS_NS, 1).status for at_ms in (5_400, 5_300)] == ["throttled", "throttled"]
    assert (door.arrive(5_450 * MS_NS, 1).status, door.bans) == ("banned", 1)


def test_what_was_sent_before_a_ban_is_not_banned() -> None:
    door = Arrivals((Limit(1, 1_000),), Punishment(bans_at_once=True, ban_ms=60_000))
    assert [door.arrive(at_ms * MS_NS, 1).status for at_ms in (5_000, 5_500)] == ["accepted", "banned"]
    assert door.arrive(3_900 * MS_NS, 1).status == "accepted"
    # This one breaks the limit before the one that was read earlier did: one offence, and one ban.
    verdict = door.arrive(5_400 * MS_NS, 1)
    assert (verdict.status, verdict.retry_after_ms, door.bans) == ("banned", 60_100, 1)
    assert door.arrive(5_450 * MS_NS, 1).status == "banned"


def test_a_patient_client_is_never_banned() -> None:
    door = Arrivals((Limit(1, 1_000),), Punishment(ban_after=1, ban_ms=2_000))
    at_ns = 0
    for _ in range(20):
        verdict = door.arrive(at_ns, 1)
        at_ns += max(1, verdict.retry_after_ms) * MS_NS
    assert door.bans == 0


def test_the_weight_of_the_last_while_is_told() -> None:
    door = Arrivals((Limit(10, 1_000),), Punishment(), punish=False)
    for second in range(10):
        door.arrive(second * SECOND_NS, 2)
    assert door.weight_recent(9 * SECOND_NS, 3_000) == 8
    assert door.report(9 * SECOND_NS, 10_000)["weight_recent"] == 20


def test_the_report_says_how_late_the_simulator_read() -> None:
    door = Arrivals((), Punishment())
    for lateness_ns in (None, 3 * MS_NS, 50 * MS_NS, 51 * MS_NS, None):
        door.arrive(SECOND_NS, 1, lateness_ns)
    report = door.report(SECOND_NS, 1_000)
    assert (report["stamped_total"], report["read_late_total"], report["lateness_ms_max"]) == (3, 1, 51.0)


# The same door with others at it, and an exchange that changes its mind


def door(limit: int = 3, **punishment: Any) -> Arrivals:
    return Arrivals((Limit(limit, 1_000),), Punishment(**punishment))


def at_ms(ms: int) -> int:
    return 100 * 1_000_000_000 + ms * 1_000_000


def test_what_a_stranger_sends_is_counted_by_the_exchange_and_not_in_the_report() -> None:
    arrivals = door()
    arrivals.arrive(at_ms(0), 1)
    assert [arrivals.arrive_strange(at_ms(ms), 1).status for ms in (1, 2)] == ["accepted", "accepted"]
    assert arrivals.arrive(at_ms(3), 1).status == "throttled"
    assert [window.usage for window in arrivals.counted] == [4]
    (window,) = arrivals.windows
    assert (window.total, window.worst, window.over_limit) == (2, 2, 0)
    # What was refused to one is nothing to the other where refused requests do not count.
    apart = door(counts_refused=False)
    assert [apart.arrive_strange(at_ms(ms), 1).status for ms in range(4)] == ["accepted"] * 3 + ["throttled"]
    assert apart.arrive(at_ms(1_000), 1).status == "accepted"


def test_a_limit_that_the_exchange_lowers_holds_for_what_has_arrived_before() -> None:
    arrivals = door(4)
    for ms in range(3):
        arrivals.arrive(at_ms(ms), 1)
    arrivals.change_limits((Limit(2, 1_000),))
    assert arrivals.arrive(at_ms(10), 1).status == "throttled"
    (window,) = arrivals.windows
    assert (window.rule.limit, window.worst) == (2, 4)
    with pytest.raises(ValueError, match="periods"):
        arrivals.change_limits((Limit(2, 2_000),))


def test_a_history_counts_as_if_it_had_arrived() -> None:
    arrivals = door()
    arrivals.set_limits((Limit(3, 1_000),), True, [(at_ms(-100), 1), (at_ms(-900), 2)])
    assert arrivals.arrive(at_ms(0), 1).status == "throttled"
    # Two of it have left the window by then.
    assert arrivals.arrive(at_ms(100), 1).status == "accepted"
