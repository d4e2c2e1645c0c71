"""The counting of arrivals against a count by hand, and how an exchange punishes."""

from hypothesis import given
from hypothesis import strategies as st

from local_emulator.simulator.arrivals import Arrivals, Limit, Punishment

SECOND_NS = 1_000_000_000
MS_NS = 1_000_000


def worst_by_hand(arrivals: list[tuple[int, int]], period_ns: int) -> int:
    """The heaviest half-open window; one that ends with an arrival is among the heaviest."""
    return max(sum(weight for at, weight in arrivals if end - period_ns < at <= end) for end, _ in arrivals)


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
