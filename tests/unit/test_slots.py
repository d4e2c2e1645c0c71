"""Slots: every close of a live job in exactly one class, whatever happens to the job and to the clock."""

from collections import Counter
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.connectors import Connector, ConnectorStatus
from shared.domain.jobs import RunOutcome, to_datetime, to_ms
from shared.domain.slots import (
    REASONS,
    SlotClass,
    SlotLedger,
    Stretch,
    classify,
    count_closes,
    counts_view,
    open_ledger,
    pause_ledger,
    resume_ledger,
    stretches_until_now,
)
from shared.domain.timeframes import DAY_MS, MINUTE_MS, TIMEFRAMES, Timeframe

NOON_MS: Final = 1_760_011_200_000
assert NOON_MS % DAY_MS == DAY_MS // 2

frames = st.sampled_from(sorted(TIMEFRAMES)).map(TIMEFRAMES.__getitem__)
moments = st.integers(0, 4_102_444_800_000)
steps = st.integers(-30, 60)
classes = st.sampled_from(SlotClass)


def minute(count: float) -> int:
    return NOON_MS + round(count * MINUTE_MS)


def ledger_at(until_ms: int, reason: SlotClass = SlotClass.COALESCED) -> SlotLedger:
    return SlotLedger(until_ms, until_ms, reason, {}, {})


def job(**fields: Any) -> dict[str, Any]:
    """A live one-minute job that has its slots counted up to noon and was due one second later."""
    ledger = ledger_at(NOON_MS).to_document()
    return {
        "timeframe": "1m",
        "status": "active",
        "next_run_at": to_datetime(minute(1) + 1_000),
        "lock": {"fence": 7},
        "abandoned": [],
        "slot_ledger": ledger,
        **fields,
    }


def connector(**fields: Any) -> Connector:
    return Connector("binance", "binance", fields.pop("status", ConnectorStatus.ACTIVE), (), None, 0, 0, "1", **fields)


# --- the arithmetic


@given(frames, moments, steps, st.lists(st.tuples(steps, st.integers(-2, 2), classes), max_size=8))
def test_every_close_is_in_the_first_stretch_that_lasts_to_the_next_one(
    frame: Timeframe, after_ms: int, count: int, parts: list[tuple[int, int, SlotClass]]
) -> None:
    floor_ms = frame.floor(after_ms)
    until_ms = frame.shift(floor_ms, count)
    # In any order, on the grid, a little beside it, and outside of what is counted.
    stretches: list[Stretch] = [(frame.shift(floor_ms, step) + beside, name) for step, beside, name in parts]
    closes = [close_ms for step in range(-2, count + 1) if after_ms < (close_ms := frame.shift(floor_ms, step)) <= until_ms]
    expected = Counter(
        next((name.value for end_ms, name in stretches if end_ms >= frame.close(close_ms)), SlotClass.COALESCED.value)
        for close_ms in closes
    )
    assert classify(frame, after_ms, until_ms, stretches) == expected
    assert count_closes(frame, after_ms, until_ms) == len(closes)


@given(
    frames,
    moments.map(lambda at_ms: at_ms + DAY_MS * 365),
    st.lists(
        st.tuples(
            st.sampled_from(["asked", "behind", "ended", "edited"]),
            st.integers(-3, 9),
            st.floats(0, 0.999),
            st.lists(st.tuples(st.integers(-9, 3), classes), max_size=3),
            classes,
        ),
        max_size=25,
    ),
)
def test_no_slot_is_counted_twice_or_left_out_even_if_the_clock_goes_back(
    frame: Timeframe, since_ms: int, events: list[tuple[str, int, float, list[tuple[int, SlotClass]], SlotClass]]
) -> None:
    ledger, grid_ms = SlotLedger.opened(since_ms), frame.floor(since_ms)
    in_runs: Counter[str] = Counter()
    for kind, step, share, parts, reason in events:
        grid_ms = frame.shift(grid_ms, step)
        now_ms = grid_ms + int(share * (frame.close(grid_ms) - grid_ms))
        stretches = [(frame.shift(grid_ms, shift), name) for shift, name in parts]
        before = ledger
        if kind == "edited":
            ledger = ledger.edit(frame, now_ms=now_ms, stretches=stretches, reason=reason)
        else:
            asked_end_ms = {"asked": grid_ms, "behind": frame.shift(grid_ms, -2), "ended": None}[kind]
            ledger, counts = ledger.end_run(frame, asked_end_ms=asked_end_ms, now_ms=now_ms, stretches=stretches, reason=reason)
            in_runs.update(counts)
            assert not ledger.carried
            if asked_end_ms is not None:
                assert ledger.until_ms == max(before.until_ms, asked_end_ms)
        if kind in ("edited", "ended"):
            assert ledger.pending(frame, now_ms) <= 1
        assert ledger.until_ms >= before.until_ms
        assert sum(ledger.totals.values()) == count_closes(frame, since_ms, ledger.until_ms)
        assert Counter(ledger.totals) == in_runs + Counter(ledger.carried)
        assert all(count > 0 for count in ledger.totals.values())
        assert SlotLedger.from_document(ledger.to_document()) == ledger


@given(frames, moments, st.integers(-40, 40), st.booleans())
def test_the_first_slot_is_the_first_close_of_a_wanted_interval_after_the_job_was_made(
    frame: Timeframe, created_ms: int, step: int, is_paused: bool
) -> None:
    start_ms = max(0, frame.shift(frame.floor(created_ms), step) + 7)
    ledger = open_ledger(frame, created_ms, start_ms, is_paused=is_paused)
    first_wanted_close_ms = frame.close(frame.ceil(start_ms))
    first_ms = frame.close(frame.floor(ledger.since_ms))
    assert first_ms == max(first_wanted_close_ms, frame.close(frame.floor(created_ms)))
    assert ledger.reason is (SlotClass.PAUSED if is_paused else SlotClass.COALESCED)


# --- what it means


def test_a_slot_that_is_asked_for_before_the_next_close_ran_and_older_ones_are_coalesced() -> None:
    ended, counts = ledger_at(NOON_MS).end_run(
        TIMEFRAMES["1m"], asked_end_ms=minute(4), now_ms=minute(4.1), stretches=[], reason=SlotClass.COALESCED
    )
    assert counts == {"ran": 1, "coalesced": 3}
    assert counts_view(counts) == {"ran": 1, "coalesced": 3, "paused": 0, "skipped": {}}
    assert ended.pending(TIMEFRAMES["1m"], minute(6.5)) == 2


def test_a_run_that_got_nowhere_leaves_the_newest_slot_to_the_next_one() -> None:
    failed, counts = ledger_at(NOON_MS).end_run(
        TIMEFRAMES["1m"], asked_end_ms=None, now_ms=minute(1.1), stretches=[], reason=SlotClass.FAILED
    )
    assert counts == {}
    again, counts = failed.end_run(
        TIMEFRAMES["1m"], asked_end_ms=minute(1), now_ms=minute(1.2), stretches=[], reason=SlotClass.COALESCED
    )
    assert counts == {"ran": 1}
    assert again.totals == {"ran": 1}


@pytest.mark.parametrize("year_month", ["2024-02", "2025-12"])
def test_a_month_is_one_slot_however_long_it_is(year_month: str) -> None:
    first_ms = int(np.datetime64(year_month, "ms").astype(int))
    frame = TIMEFRAMES["1M"]
    assert count_closes(frame, first_ms, frame.shift(first_ms, 5)) == 5
    assert count_closes(frame, first_ms + 1, frame.shift(first_ms, 5) - 1) == 4


def test_what_kept_a_job_from_running_is_told_apart_in_order() -> None:
    lease = {"claimed_at": to_datetime(minute(5)), "expired_at": to_datetime(minute(8)), "run_id": "r"}
    unbegun = {"claimed_at": to_datetime(minute(9)), "expired_at": to_datetime(minute(11)), "run_id": None}
    document = job(lock={"fence": 9, "claim_id": "c", "scheduled_at": to_datetime(minute(3))}, abandoned=[lease, unbegun])
    held = connector(blocked_until_ms=minute(14), paused_until_ms=minute(18))
    stretches = stretches_until_now(document, ledger_at(NOON_MS, SlotClass.THROTTLED), held)
    counts = classify(TIMEFRAMES["1m"], NOON_MS, minute(20), stretches)
    assert counts == {
        "throttled": 2,
        "coalesced": 2 + 1 + 3,
        "lost": 3,
        "not_started": 2,
        "blocked": 3,
        "connector_paused": 4,
    }


def test_a_pause_counts_what_was_late_before_it_and_a_resume_what_was_paused() -> None:
    paused = pause_ledger(job(), connector(), minute(3.5))["slot_ledger"]
    assert (paused["totals"], paused["carried"], paused["reason"]) == ({"coalesced": 2}, {"coalesced": 2}, "paused")
    resumed = resume_ledger(job(slot_ledger=paused, status="paused"), minute(9.5))["slot_ledger"]
    assert resumed["totals"] == {"coalesced": 2, "paused": 6}
    # The newest, that of minute 9, can still run; if it does not, it was paused.
    assert to_ms(resumed["until"]) == minute(8)
    assert resumed["reason"] == "paused"


def test_a_pause_sees_the_lease_of_a_worker_that_died_and_the_pause_of_the_connector() -> None:
    lock = {
        "fence": 8,
        "claim_id": "c",
        "run_id": "r",
        "scheduled_at": to_datetime(minute(1)),
        "claimed_at": to_datetime(minute(1)),
        "expires_at": to_datetime(minute(4)),
    }
    stopped = connector(status=ConnectorStatus.PAUSED)
    paused = pause_ledger(job(lock=lock), stopped, minute(7.5))["slot_ledger"]
    assert paused["totals"] == {"lost": 3, "connector_paused": 3}
    # One that is still under its lease is at work.
    alive = {**lock, "expires_at": to_datetime(minute(8))}
    assert pause_ledger(job(lock=alive), connector(), minute(7.5))["slot_ledger"]["totals"] == {"coalesced": 6}


def test_the_end_of_an_error_counts_what_passed_in_it() -> None:
    resumed = resume_ledger(job(status="error"), minute(5.5))["slot_ledger"]
    assert (resumed["totals"], resumed["reason"]) == ({"error": 4}, "error")


def test_jobs_without_slots_stay_without() -> None:
    assert pause_ledger(job(slot_ledger=None), connector(), minute(5)) == {}
    assert resume_ledger(job(slot_ledger=None), minute(5)) == {}


def test_every_outcome_that_can_hold_a_job_back_has_its_reason() -> None:
    others = {RunOutcome.CAUGHT_UP, RunOutcome.MORE, RunOutcome.DONE, RunOutcome.LOST, RunOutcome.NOT_STARTED}
    assert set(REASONS) == set(RunOutcome) - others
