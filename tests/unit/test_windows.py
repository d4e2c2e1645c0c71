"""What is asked next and how far the cursor goes: never back, never past what nobody asked for, and always on in the end."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.timeframes import DAY_MS, MINUTE_MS, TIMEFRAMES, Timeframe
from shared.domain.windows import PENDING_RETRY_FACTOR, Window, decide_advance, plan_next_run_ms, plan_window

NOW_MS = 1_760_000_042_000
MINUTE = TIMEFRAMES["1m"]
OPEN_MS = MINUTE.floor(NOW_MS)  # of the running candle
GRACE_MS = 30_000
# A page has to hold more than what is read again; the real ones are 15 times as large as any overlap, or more.
OVERLAP_MAX = 4
frames = st.sampled_from(["1m", "5m", "1h", "1w", "1M"]).map(TIMEFRAMES.__getitem__)
moments = st.integers(0, 2_000_000_000_000)


# --- plan_window


@given(frames, moments, st.none() | st.integers(-50, 300), st.none() | moments, st.integers(0, 20), moments)
def test_a_window_begins_after_the_cursor_and_ends_with_what_has_closed(
    frame: Timeframe, first_ms: int, passed: int | None, end_ms: int | None, overlap: int, now_ms: int
) -> None:
    cursor_ms = None if passed is None or passed < 0 else frame.shift(frame.ceil(first_ms), passed)
    window = plan_window(frame, first_ms=first_ms, cursor_ms=cursor_ms, end_ms=end_ms, overlap=overlap, now_ms=now_ms)
    next_ms = frame.ceil(first_ms) if cursor_ms is None else frame.close(cursor_ms)
    limit_ms = frame.floor(now_ms) if end_ms is None else min(frame.floor(now_ms), frame.ceil(end_ms))
    if window is None:
        # Only where there is nothing: no closed interval of the range is after the cursor.
        assert frame.count(next_ms, limit_ms) == 0
        return
    assert window.new_ms == next_ms
    assert window.end_ms == limit_ms > next_ms
    assert frame.close(frame.shift(window.end_ms, -1)) <= now_ms
    assert window.start_ms >= frame.ceil(first_ms)
    assert 0 <= frame.count(window.start_ms, window.new_ms) <= overlap
    assert window.start_ms == frame.ceil(first_ms) or frame.count(window.start_ms, window.new_ms) == overlap


# --- decide_advance


@dataclass(frozen=True)
class Answer:
    """A window as it was planned, and what came for it."""

    frame: Timeframe
    window: Window
    cursor_ms: int | None
    last_given_ms: int | None
    covered_end_ms: int
    now_ms: int
    grace_ms: int


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    frame = draw(frames)
    first_ms = frame.floor(draw(st.integers(DAY_MS * 400, 2_000_000_000_000)))
    width, asked = draw(st.integers(1, 60)), draw(st.integers(0, 60))
    window = Window(frame.shift(first_ms, -2), first_ms, frame.shift(first_ms, width), frame.shift(first_ms, width))
    covered_end_ms = min(window.end_ms, frame.shift(first_ms, asked))
    covered = frame.count(window.start_ms, covered_end_ms)
    last = draw(st.none() | st.integers(0, max(0, covered - 1)))
    # The exchange's clock may be behind the one that the window was planned with.
    now_ms = frame.shift(window.end_ms, -draw(st.integers(0, 3))) + draw(st.integers(0, frame.step_ms - 1))
    last_ms = None if last is None or not covered else frame.shift(window.start_ms, last)
    if last_ms is not None and frame.close(last_ms) > now_ms:
        last_ms = None
    cursor_ms = draw(st.sampled_from([None, frame.shift(first_ms, -1)]))
    grace_ms = draw(st.sampled_from([0, 1_000, GRACE_MS, 10 * MINUTE_MS]))
    return Answer(frame, window, cursor_ms, last_ms, max(window.start_ms, covered_end_ms), now_ms, grace_ms)


@given(answers())
@settings(max_examples=400)
def test_the_cursor_never_goes_back_nor_past_what_is_unasked_unsettled_or_unclosed(answer: Answer) -> None:
    frame, window = answer.frame, answer.window
    advance = decide_advance(
        frame,
        window,
        cursor_ms=answer.cursor_ms,
        last_given_ms=answer.last_given_ms,
        covered_end_ms=answer.covered_end_ms,
        now_ms=answer.now_ms,
        grace_ms=answer.grace_ms,
    )
    if advance.cursor_ms == answer.cursor_ms:
        return
    assert advance.cursor_ms is not None
    assert frame.floor(advance.cursor_ms) == advance.cursor_ms
    assert advance.cursor_ms >= window.new_ms
    passed_end_ms = frame.close(advance.cursor_ms)
    assert passed_end_ms <= answer.covered_end_ms, "an interval was passed that nobody asked for"
    assert passed_end_ms <= answer.now_ms, "an interval was passed that has not closed"
    if answer.last_given_ms is None or advance.cursor_ms > answer.last_given_ms:
        # Nothing was there for the newest interval passed: only its age allows that.
        assert passed_end_ms <= answer.now_ms - answer.grace_ms


@given(answers())
def test_a_candle_that_came_is_passed(answer: Answer) -> None:
    advance = decide_advance(
        answer.frame,
        answer.window,
        cursor_ms=answer.cursor_ms,
        last_given_ms=answer.last_given_ms,
        covered_end_ms=answer.covered_end_ms,
        now_ms=answer.now_ms,
        grace_ms=answer.grace_ms,
    )
    if answer.last_given_ms is not None and answer.last_given_ms >= answer.window.new_ms:
        assert advance.cursor_ms is not None
        assert advance.cursor_ms >= answer.last_given_ms
    if advance.is_pending:
        assert advance.is_caught_up


@given(
    st.lists(st.booleans(), min_size=1, max_size=80),
    st.integers(OVERLAP_MAX + 1, 20),
    st.sampled_from([0, 500, 20_000, 5 * MINUTE_MS]),
    st.integers(0, OVERLAP_MAX),
    st.integers(0, MINUTE_MS - 1),
    st.integers(0, 3 * MINUTE_MS),
    st.integers(0, 3_000),
    st.sampled_from([0, 300, 20_000, 90_000]),
)
@settings(max_examples=200)
def test_an_exchange_with_holes_that_publishes_late_is_read_to_the_end_and_nothing_is_missed(
    traded: list[bool],
    page: int,
    latency_ms: int,
    overlap: int,
    phase_ms: int,
    grace_over_ms: int,
    settle_ms: int,
    took_ms: int,
) -> None:
    """Jobs driven by plan_window, decide_advance and plan_next_run_ms against a model of an exchange, on a clock of numbers."""
    start_ms = OPEN_MS
    had = [MINUTE.shift(start_ms, index) for index, is_traded in enumerate(traded) if is_traded]
    end_ms = MINUTE.shift(start_ms, len(traded))
    grace_ms = latency_ms + grace_over_ms
    cursor_ms: int | None = None
    stored: set[int] = set()
    now_ms = start_ms + phase_ms
    for _ in range(40 * len(traded) + 200):
        if cursor_ms is not None and MINUTE.close(cursor_ms) >= end_ms:
            break
        window = plan_window(MINUTE, first_ms=start_ms, cursor_ms=cursor_ms, end_ms=end_ms, overlap=overlap, now_ms=now_ms)
        if window is None:
            now_ms = plan_next_run_ms(
                MINUTE, closed_end_ms=MINUTE.floor(now_ms), is_pending=False, now_ms=now_ms, settle_delay_ms=settle_ms
            )
            continue
        published = [t for t in had if MINUTE.close(t) + latency_ms <= now_ms and window.start_ms <= t < window.end_ms]
        got = published[:page]
        # The answer shows how things stood when it was asked for, however late it comes.
        asked_ms, now_ms = now_ms, now_ms + took_ms
        stored.update(got)
        covered_end_ms = MINUTE.close(got[-1]) if len(published) > page else window.end_ms
        advance = decide_advance(
            MINUTE, window, cursor_ms=cursor_ms, last_given_ms=got[-1] if got else None,
            covered_end_ms=covered_end_ms, now_ms=asked_ms, grace_ms=grace_ms,
        )  # fmt: skip
        assert cursor_ms is None or (advance.cursor_ms is not None and advance.cursor_ms >= cursor_ms)
        if advance.is_caught_up or advance.cursor_ms == cursor_ms:
            next_ms = plan_next_run_ms(
                MINUTE,
                closed_end_ms=advance.closed_end_ms,
                is_pending=advance.is_pending,
                now_ms=asked_ms,
                settle_delay_ms=settle_ms,
            )
            assert next_ms > asked_ms
            now_ms = max(now_ms, next_ms)
        cursor_ms = advance.cursor_ms
        overlap = max(overlap, 0)
    else:
        raise AssertionError("the job does not come to its end")
    assert stored == set(had)


@pytest.mark.parametrize(
    ("age_ms", "has_later", "is_passed"),
    [(0, False, False), (GRACE_MS - 1, False, False), (GRACE_MS, False, True), (0, True, True)],
)
def test_an_empty_newest_interval_waits_for_its_grace_or_a_later_candle(age_ms: int, has_later: bool, is_passed: bool) -> None:
    empty_ms = MINUTE.shift(OPEN_MS, -2)
    end_ms = OPEN_MS if has_later else MINUTE.shift(OPEN_MS, -1)
    advance = decide_advance(
        MINUTE,
        Window(empty_ms, empty_ms, end_ms, end_ms),
        cursor_ms=MINUTE.shift(empty_ms, -1),
        last_given_ms=MINUTE.close(empty_ms) if has_later else None,
        covered_end_ms=end_ms,
        now_ms=end_ms + age_ms,
        grace_ms=GRACE_MS,
    )
    assert (advance.cursor_ms is not None and advance.cursor_ms >= empty_ms) == is_passed
    assert advance.is_pending == (not is_passed)


# --- plan_next_run_ms


@given(frames, moments, st.integers(0, 30_000))
def test_the_next_run_is_after_the_next_close_and_its_settle_delay(frame: Timeframe, now_ms: int, settle_ms: int) -> None:
    closed_end_ms = frame.floor(now_ms)
    next_ms = plan_next_run_ms(frame, closed_end_ms=closed_end_ms, is_pending=False, now_ms=now_ms, settle_delay_ms=settle_ms)
    assert next_ms - settle_ms > now_ms
    assert frame.floor(next_ms - settle_ms) == next_ms - settle_ms
    assert frame.count(now_ms + 1, next_ms - settle_ms) == 0


@given(frames, moments, st.integers(0, 30_000))
def test_what_is_waited_for_is_asked_for_sooner_but_not_at_once(frame: Timeframe, now_ms: int, settle_ms: int) -> None:
    closed_end_ms = frame.floor(now_ms)
    next_ms = plan_next_run_ms(frame, closed_end_ms=closed_end_ms, is_pending=True, now_ms=now_ms, settle_delay_ms=settle_ms)
    plain_ms = plan_next_run_ms(frame, closed_end_ms=closed_end_ms, is_pending=False, now_ms=now_ms, settle_delay_ms=settle_ms)
    assert now_ms < next_ms <= plain_ms
    age_ms = now_ms - closed_end_ms
    assert next_ms == plain_ms or next_ms - now_ms >= (PENDING_RETRY_FACTOR - 1) * age_ms


@given(frames, moments, st.integers(0, 3 * MINUTE_MS), st.booleans(), st.integers(0, 30_000))
def test_an_interval_that_closes_while_the_answer_is_on_its_way_is_not_left_for_the_one_after(
    frame: Timeframe, planned_ms: int, took_ms: int, is_pending: bool, settle_ms: int
) -> None:
    closed_end_ms = frame.closed_end(planned_ms)
    next_ms = plan_next_run_ms(
        frame, closed_end_ms=closed_end_ms, is_pending=is_pending, now_ms=planned_ms + took_ms, settle_delay_ms=settle_ms
    )
    assert next_ms <= frame.close(closed_end_ms) + settle_ms
