"""Several windows asked for at once: answers in order, weight in order, nothing sent behind one that had no room."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES
from shared.domain.windows import GapPlan, Window
from shared.errors import ExchangeUnavailable
from shared.exchanges.pages import empty_page
from shared.usecases.grants import NoRoom
from shared.usecases.send_requests import Answer, TimeIsUp
from shared.usecases.windows_ahead import AHEAD_MAX, IN_FLIGHT_FIRST, IN_FLIGHT_MAX, WindowsAhead
from tests.waiting import HANG_S, wait_until

GRID = TIMEFRAMES["1m"]
PAGE_MS = 10 * MINUTE_MS


class ScriptedSender:
    """Answers as told by window number: after `delay_s`, with what `outcome` gives (an Exception is raised)."""

    def __init__(self, delay_s: Callable[[int], float], outcome: Callable[[int], Any]) -> None:
        self.delay_s, self.outcome = delay_s, outcome
        self.in_flight_max = 1
        self.asked: list[int] = []
        self.open_count = self.open_most = 0
        self.lock = threading.Lock()

    def fetch(self, window: Window, pages_left: int, in_turn: Callable[[], AbstractContextManager[None]]) -> Any:
        number = window.new_ms // PAGE_MS
        with self.lock:
            self.open_count += 1
            self.open_most = max(self.open_most, self.open_count)
        try:
            found = self.outcome(number)
            if isinstance(found, TimeIsUp):
                return found
            # Connections come up in any order.
            time.sleep(random.uniform(0, 0.003))
            with in_turn():
                self.asked.append(number)
                if isinstance(found, NoRoom):
                    return found
            time.sleep(self.delay_s(number))
            if isinstance(found, Exception):
                raise found
            return found
        finally:
            with self.lock:
                self.open_count -= 1


def answer(number: int) -> Answer:
    return Answer(empty_page(number * PAGE_MS, (number + 1) * PAGE_MS, None), number)


def windows_of(count: int) -> list[Window]:
    return [Window(n * PAGE_MS, n * PAGE_MS, (n + 1) * PAGE_MS, 10**15) for n in range(count)]


def take_all(ahead: WindowsAhead, count: int) -> Iterator[Any]:
    """As a run asks: the rest of the gap, of which the next window is found."""
    for number in range(count):
        rest = Window(number * PAGE_MS, number * PAGE_MS, count * PAGE_MS, 10**15)
        yield ahead.take(ahead.find(rest))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_answers_come_in_order_whichever_is_first(delays: list[int]) -> None:
    sender = ScriptedSender(lambda number: delays[number] / 1000, answer)
    with WindowsAhead(sender, windows_of(len(delays))) as ahead:  # type: ignore[arg-type]
        ahead.hurry()
        ahead.hurry()
        taken = [each.sent_ms for each in take_all(ahead, len(delays))]
    assert taken == sender.asked == list(range(len(delays)))
    assert sender.open_most <= IN_FLIGHT_MAX
    assert sender.open_count == 0


def test_no_more_is_under_way_or_in_hand_than_agreed() -> None:
    wanted, ahead_most = 0, 0

    def note_ahead(_number: int) -> float:
        nonlocal ahead_most
        ahead_most = max(ahead_most, len(sender.asked) - wanted)
        return 0.0

    sender = ScriptedSender(note_ahead, answer)
    with WindowsAhead(sender, windows_of(100)) as ahead:  # type: ignore[arg-type]
        wait_until(lambda: len(sender.asked) >= AHEAD_MAX)
        taken = take_all(ahead, 100)
        for wanted in range(1, 101):  # noqa: B007 - it is looked at meanwhile
            next(taken)
    assert ahead_most == AHEAD_MAX
    assert sender.asked == list(range(100))


def test_more_are_under_way_only_where_somebody_waits_for_them() -> None:
    release = threading.Event()
    sender = ScriptedSender(lambda _: float(not release.wait(HANG_S)), answer)

    def hurry(times: int, count: int) -> None:
        """After which that many are under way, and are all that may be."""
        for _ in range(times):
            ahead.hurry()
        wait_until(lambda: sender.open_count >= count)
        assert sender.open_count == sender.open_most == sender.in_flight_max == count

    with WindowsAhead(sender, windows_of(40)) as ahead:  # type: ignore[arg-type]
        hurry(0, IN_FLIGHT_FIRST)
        hurry(1, 2 * IN_FLIGHT_FIRST)
        hurry(5, IN_FLIGHT_MAX)
        release.set()
        assert [each.sent_ms for each in take_all(ahead, 40)] == list(range(40))
        assert sender.open_most == IN_FLIGHT_MAX


@pytest.mark.parametrize("stop", [NoRoom(0, 5_000), TimeIsUp(), ExchangeUnavailable("gone")])
@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 5, 6, 7, 20])
def test_what_ends_the_asking_comes_after_all_answers_before_it(stop: Any, at: int) -> None:
    """The earlier ones are slow: they are still under way when the asking ends, and are not thrown away."""
    sender = ScriptedSender(lambda number: 0.05 if number < at else 0.0, lambda n: stop if n == at else answer(n))
    with WindowsAhead(sender, windows_of(40)) as ahead:  # type: ignore[arg-type]
        taken = take_all(ahead, 40)
        assert [next(taken).sent_ms for _ in range(at)] == list(range(at))
        if isinstance(stop, Exception):
            with pytest.raises(ExchangeUnavailable):
                next(taken)
        else:
            assert next(taken) == stop
    # Without room nothing is sent behind it; after a failure at most what was under way already.
    behind = [number for number in sender.asked if number > at]
    assert behind == [] if isinstance(stop, NoRoom) else len(behind) <= IN_FLIGHT_MAX
    assert sender.open_count == 0


def test_leaving_waits_for_what_is_under_way_and_ends_a_taker() -> None:
    release = threading.Event()
    sender = ScriptedSender(lambda _: float(not release.wait(HANG_S)), answer)
    ahead = WindowsAhead(sender, windows_of(20))  # type: ignore[arg-type]
    with ahead:
        taker_got: list[Any] = []
        taker = threading.Thread(target=lambda: taker_got.extend(take_all(ahead, 1)))
        taker.start()
        wait_until(lambda: sender.asked)
        leaver = threading.Thread(target=ahead.__exit__, args=(None, None, None))
        leaver.start()
        taker.join(HANG_S)
        assert taker_got == [TimeIsUp()]
        assert leaver.is_alive()
        release.set()
        leaver.join(HANG_S)
        assert not leaver.is_alive()
    assert sender.open_count == 0


def test_a_taker_is_not_left_waiting_for_a_window_that_a_stop_kept_from_being_asked() -> None:
    """A run that is paused, or has lost its lease, first stops the asking and waits for its taker, and only then leaves."""
    connected = threading.Event()

    class Connecting(ScriptedSender):
        def fetch(self, window: Window, pages_left: int, in_turn: Callable[[], AbstractContextManager[None]]) -> Any:
            connected.wait(HANG_S)
            return super().fetch(window, pages_left, in_turn)

    sender = Connecting(lambda _: 0.0, answer)
    with WindowsAhead(sender, windows_of(40)) as ahead:  # type: ignore[arg-type]
        taker_got: list[Any] = []
        taker = threading.Thread(target=lambda: taker_got.extend(take_all(ahead, 1)), daemon=True)
        taker.start()
        ahead.stop()
        connected.set()
        taker.join(HANG_S)
        assert taker_got == [TimeIsUp()]
        # Nor for one that nobody has begun.
        assert ahead.take(ahead.find(Window(30 * PAGE_MS, 30 * PAGE_MS, 40 * PAGE_MS, 10**15))) == TimeIsUp()
    assert sender.asked == []


def test_a_window_that_turned_out_shorter_is_completed_before_the_next() -> None:
    sender = ScriptedSender(lambda _: 0.0, answer)
    with WindowsAhead(sender, windows_of(3)) as ahead:  # type: ignore[arg-type]
        first = ahead.find(Window(0, 0, 3 * PAGE_MS, 10**15))
        assert ahead.take(first).sent_ms == 0  # type: ignore[union-attr]
        rest = ahead.find(Window(4 * MINUTE_MS, 4 * MINUTE_MS, 3 * PAGE_MS, 10**15))
        assert (rest.new_ms, rest.end_ms) == (4 * MINUTE_MS, PAGE_MS)
        # It is not one of those ahead: whoever wants it asks for it.
        assert ahead.take(rest) is None
        second = ahead.find(Window(PAGE_MS, PAGE_MS, 3 * PAGE_MS, 10**15))
        assert ahead.take(second).sent_ms == 1  # type: ignore[union-attr]
        # One that was passed over is left out.
        third = ahead.find(Window(2 * PAGE_MS, 2 * PAGE_MS, 3 * PAGE_MS, 10**15))
        assert ahead.take(third).sent_ms == 2  # type: ignore[union-attr]


# --- which windows those are


stretches = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 60)), min_size=1, max_size=6)


@given(stretches, st.integers(1, 25), st.integers(-1, 400))
def test_windows_ahead_hold_what_is_behind_the_cursor_and_the_cursor_passes_what_is_known(
    steps: list[tuple[int, int]], page_max: int, cursor: int
) -> None:
    gaps, at = [], 0
    for distance, length in steps:
        gaps.append(((at + distance) * MINUTE_MS, (at + distance + length) * MINUTE_MS))
        at += distance + length
    end_ms = (at + 5) * MINUTE_MS
    plan = GapPlan(GRID, gaps, (0, end_ms))
    cursor_ms = None if cursor < 0 else cursor * MINUTE_MS
    next_ms = 0 if cursor_ms is None else cursor_ms + MINUTE_MS
    wanted = [open_ms for start, end in gaps for open_ms in range(start, end, MINUTE_MS) if open_ms >= next_ms]
    windows = list(plan.windows_ahead(cursor_ms, lambda _: page_max, 10**12))
    assert [open_ms for each in windows for open_ms in range(each.new_ms, each.end_ms, MINUTE_MS)] == wanted
    assert all(each.end_ms - each.new_ms <= page_max * MINUTE_MS for each in windows)
    assert plan.has_more(cursor_ms) == bool(wanted)
    passed_ms = plan.pass_known(cursor_ms)
    expected_ms = (wanted[0] if wanted else max(end_ms, next_ms)) - MINUTE_MS
    if cursor_ms is None:
        assert passed_ms == (expected_ms if expected_ms >= 0 else None)
    else:
        assert passed_ms == max(expected_ms, cursor_ms)
    # Where nothing is said of what lies between, it is not passed.
    assert GapPlan(GRID, gaps).pass_known(cursor_ms) == cursor_ms
