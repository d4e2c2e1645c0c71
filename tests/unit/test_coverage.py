"""The ledger's arithmetic, against a model that knows every interval one by one."""

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.coverage import (
    BUCKET,
    TRIES_MAX,
    Asked,
    Code,
    CodeArray,
    IntervalState,
    Run,
    count_states,
    decode_codes,
    encode_codes,
    ends_dispute,
    group_spans,
    mark_present,
    merge_spans,
    plan_runs,
    read_runs,
    repair_spans,
    set_apart,
    settle,
)

# So that what is played crosses the edges of buckets.
BASE = 3 * BUCKET - 40
LENGTH = 120
SPANS = st.tuples(st.integers(0, LENGTH - 1), st.integers(1, LENGTH)).map(
    lambda pair: (BASE + min(pair), BASE + max(pair[0] + 1, pair[1]))
)
NUMBERS = st.sets(st.integers(BASE, BASE + LENGTH))


def array(numbers: set[int]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.array(sorted(numbers), np.int64)


@given(codes=st.lists(st.sampled_from([0, 1, 2, 17, 18, 33, 35]), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_a_bucket_survives_its_line(codes: list[int], seed: int) -> None:
    lengths = np.random.default_rng(seed).multinomial(BUCKET, np.ones(len(codes)) / len(codes))
    whole = np.repeat(np.array(codes, np.uint8), lengths)
    assert (decode_codes(encode_codes(whole)) == whole).all()


@pytest.mark.parametrize(
    "line", [b"", b"\x00", b"\x00\x00", b"\x01\x00\x00", b"\x00\x00\x00\x00\x01\x01", b"\x00\x00\x00\x08\x01\x01"]
)
def test_a_line_that_is_not_one_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not the line"):
        decode_codes(line)


def runs_of(known: Mapping[int, CodeArray]) -> list[Run]:
    return read_runs({bucket: encode_codes(codes) for bucket, codes in known.items()})


class Model:
    """Every interval by itself: how often it was asked for in vain, what is stored, what is believed."""

    def __init__(self) -> None:
        self.asked: set[int] = set()
        self.stored: set[int] = set()
        self.tries: dict[int, int] = {}
        self.disputes: dict[int, int] = {}
        self.beyond: set[int] = set()

    def page(self, first: int, end: int, present: set[int], disputed: set[int], *, is_repair: bool, begins: int | None) -> None:
        self.asked |= set(range(first, end))
        self.stored |= present
        for number in range(first, end):
            if number in self.stored:
                self.tries.pop(number, None)
                self.disputes.pop(number, None)
                self.beyond.discard(number)
            elif begins is not None and number < begins:
                self.tries.pop(number, None)
                self.disputes.pop(number, None)
                self.beyond.add(number)
            elif number in disputed or number in self.disputes:
                self.tries.pop(number, None)
                self.beyond.discard(number)
                tries = self.disputes.get(number, 0)
                self.disputes[number] = max(1, min(TRIES_MAX, tries + is_repair))
            elif number in self.beyond:
                pass
            elif number not in self.tries:
                self.tries[number] = 1
            elif is_repair:
                self.tries[number] = min(TRIES_MAX, self.tries[number] + 1)

    def state(self, number: int, begins: int) -> IntervalState:
        if number in self.disputes:
            return IntervalState.DISPUTED
        if number in self.tries:
            return IntervalState.NO_TRADES if self.tries[number] >= TRIES_MAX else IntervalState.MISSING
        if number in self.beyond:
            return IntervalState.BEYOND_HISTORY
        if number in self.asked:
            return IntervalState.STORED
        return IntervalState.BEYOND_HISTORY if number < begins else IntervalState.PENDING

    def wanted(self, first: int, end: int) -> set[int]:
        """What a repair asks for again."""
        missing = {number for number, tries in self.tries.items() if tries < TRIES_MAX}
        return {n for n in missing | {n for n, tries in self.disputes.items() if tries < TRIES_MAX} if first <= n < end}


PAGES = st.lists(st.tuples(SPANS, NUMBERS, NUMBERS, st.booleans(), st.none() | st.integers(BASE, BASE + LENGTH)), max_size=8)


@settings(max_examples=300, deadline=None)
@given(pages=PAGES, wanted=SPANS, begins=st.integers(BASE - 5, BASE + LENGTH))
def test_the_ledger_says_of_each_interval_what_became_of_it(
    pages: list[tuple[tuple[int, int], set[int], set[int], bool, int | None]], wanted: tuple[int, int], begins: int
) -> None:
    model, known, spans = Model(), dict[int, CodeArray](), list[tuple[int, int]]()
    for (first, end), drawn, contested, is_repair, history in pages:
        present = {number for number in drawn if first <= number < end}
        disputed = {number for number in contested - present if first <= number < end}
        disputed_before = set(model.disputes)
        model.page(first, end, present, disputed, is_repair=is_repair, begins=history)
        touched = {bucket: codes for bucket, codes in known.items() if first // BUCKET <= bucket <= (end - 1) // BUCKET}
        asked = Asked(first, end, array(present), history, array(disputed))
        changed = settle(asked, touched, array(model.stored), is_repair=is_repair)
        assert ends_dispute(touched, changed) == bool(disputed_before - set(model.disputes))
        assert all((codes != known.get(bucket, np.zeros(BUCKET, np.uint8))).any() for bucket, codes in changed.items())
        known = {bucket: codes for bucket, codes in {**known, **changed}.items() if codes.any()}
        spans.append((first, end))
    runs = plan_runs(wanted, spans, runs_of(known), begins)
    told = {number: run.state for run in runs for number in range(run.first, run.end)}
    assert told == {number: model.state(number, begins) for number in range(*wanted)}
    assert [run.first for run in runs[1:]] == [run.end for run in runs[:-1]]
    assert all(one.state != two.state for one, two in itertools.pairwise(runs))
    assert sum(count_states(runs).values()) == wanted[1] - wanted[0]
    again = repair_spans({bucket: encode_codes(codes) for bucket, codes in known.items()})
    assert {n for spans in again for span in spans for n in range(*span)} == model.wanted(0, BASE + 2 * BUCKET)
    assert not {n for span in again[0] for n in range(*span)} & set(model.disputes)


def test_what_stays_absent_is_believed_after_three_tries() -> None:
    known: dict[int, CodeArray] = {}
    states = []
    for number in range(TRIES_MAX):
        asked = Asked(BASE, BASE + 2, array({BASE}))
        known.update(settle(asked, known, array(set()), is_repair=number > 0))
        states.append([run.state.value for run in plan_runs((BASE, BASE + 2), [(BASE, BASE + 2)], runs_of(known), 0)])
    assert states == [["stored", "missing"], ["stored", "missing"], ["stored", "no_trades"]]
    # What comes after all has its candle, whatever was believed.
    known.update(mark_present(array({BASE + 1}), known))
    assert not known[BASE // BUCKET].any()


@given(spans=st.lists(SPANS, max_size=6))
def test_merged_spans_hold_the_same_intervals(spans: list[tuple[int, int]]) -> None:
    merged = merge_spans(spans)
    numbers = [number for span in merged for number in range(*span)]
    assert sorted({number for span in spans for number in range(*span)}) == numbers
    assert all(one[1] < two[0] for one, two in itertools.pairwise(merged))


@given(spans=st.lists(SPANS, max_size=6), page=st.integers(1, 40))
def test_windows_hold_all_that_is_missing_and_fit_into_pages(spans: list[tuple[int, int]], page: int) -> None:
    merged = merge_spans(spans)
    windows = group_spans(merged, page)
    covered = {number for window in windows for number in range(*window)}
    wanted = {number for span in merged for number in range(*span)}
    assert covered >= wanted
    assert all(0 < end - first <= page for first, end in windows)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(windows))
    assert all(first in wanted and end - 1 in wanted for first, end in windows)
    # None could be left out: each begins at the first interval that is in none before, and goes as far as a page does.
    greedy, rest = 0, sorted(wanted)
    while rest:
        greedy, rest = greedy + 1, [number for number in rest if number >= rest[0] + page]
    assert len(windows) == greedy


@given(spans=st.lists(SPANS, max_size=4).map(merge_spans), apart=NUMBERS)
def test_what_is_set_apart_stands_by_itself(spans: list[tuple[int, int]], apart: set[int]) -> None:
    found = set_apart(spans, sorted(apart))
    numbers = [number for span in found for number in range(*span)]
    assert numbers == sorted({n for span in spans for n in range(*span)} | apart)
    assert all((number, number + 1) in found for number in apart)


def test_a_run_of_missing_intervals_goes_on_across_buckets() -> None:
    edge = 4 * BUCKET
    known = settle(Asked(edge - 5, edge + 5, array(set())), {}, array(set()), is_repair=False)
    assert runs_of(known) == [Run(edge - 5, edge + 5, IntervalState.MISSING)]
    assert set(np.concatenate(list(known.values())).tolist()) == {Code.NONE, Code.MISSING + 1}
