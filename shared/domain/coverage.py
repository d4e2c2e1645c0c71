"""The ledger of completeness: what is known of every interval of a series. Pure; intervals are their numbers on the grid.

Nearly every interval that was asked for has its candle, so only the others are written down: in buckets of BUCKET intervals,
each a line of codes. An interval without a code is stored if it lies in a span that was asked for, else pending. So the ledger
costs nothing where all is well, and a look at it grows with the holes and not with the candles.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.domain.timeframes import IntArray

CodeArray: TypeAlias = NDArray[np.uint8]
# [first, end) in numbers of intervals.
Span: TypeAlias = tuple[int, int]

# Intervals of one bucket. In the worst case (every other one is missing) its line is 6 KB, to be written again at each page
# that has a hole in it; with a thousand holes far apart a look reads a thousand lines of 6 bytes.
BUCKET: Final = 2_048
# Missing intervals are asked for so often in all before they are believed to have had no trades, disputed ones before they are
# left as they are.
TRIES_MAX: Final = 3


class IntervalState(StrEnum):
    """What is known of an interval.

    STORED: its candle is. NO_TRADES: the exchange had none whenever it was asked. PENDING: not asked for yet, or so new that
    its candle may still come. MISSING: asked for in vain, and asked for again. DISPUTED: the exchange gave candles for it that
    disagree, so none is stored; asked for again, TRIES_MAX times in all. BEYOND_HISTORY: older than what the exchange has.
    """

    STORED = "stored"
    NO_TRADES = "no_trades"
    PENDING = "pending"
    MISSING = "missing"
    DISPUTED = "disputed"
    BEYOND_HISTORY = "beyond_history"


class Code(IntEnum):
    """What a bucket says of an interval. MISSING + n and DISPUTED + n: asked for n times."""

    NONE = 0
    NO_TRADES = 1
    BEYOND_HISTORY = 2
    MISSING = 16
    DISPUTED = 32


_STATES: Final = tuple(IntervalState)
_NUMBER_OF_STATE: Final = {state: number for number, state in enumerate(_STATES)}
_STATE_OF_CODE: Final[Mapping[int, IntervalState]] = {
    Code.NO_TRADES: IntervalState.NO_TRADES,
    Code.BEYOND_HISTORY: IntervalState.BEYOND_HISTORY,
    Code.MISSING: IntervalState.MISSING,
    Code.DISPUTED: IntervalState.DISPUTED,
}


@dataclass(frozen=True, slots=True)
class Run:
    """Intervals [first, end) that follow each other and are in the same state."""

    first: int
    end: int
    state: IntervalState


@dataclass(frozen=True, slots=True)
class Asked:
    """What a group of pages has settled: all of [first, end) was asked for, and the exchange has those in `present`.

    `begins`: the exchange has nothing before it, None if it did not tell. `disputed`: numbers for which it gave candles that
    disagree.
    """

    first: int
    end: int
    present: IntArray
    begins: int | None = None
    disputed: IntArray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def is_whole(self) -> bool:
        """Whether each of the intervals has its candle."""
        return len(self.present) == self.end - self.first

    def then(self, later: "Asked") -> "Asked | None":
        """Both as one, where the later one begins where this one ends and neither tells where history begins; else None."""
        if self.end != later.first or self.begins is not None or later.begins is not None:
            return None
        present, disputed = ((self.present, later.present), (self.disputed, later.disputed))
        return Asked(self.first, later.end, np.concatenate(present), disputed=np.concatenate(disputed))


def encode_codes(codes: CodeArray) -> bytes:
    """A bucket's line: (where it begins as uint16, code as uint8) of each run of equal codes, all begins first."""
    starts = np.flatnonzero(np.diff(codes, prepend=np.uint8(255)))
    return starts.astype("<u2").tobytes() + codes[starts].tobytes()


def decode_codes(line: bytes) -> CodeArray:
    """The codes of a bucket's BUCKET intervals. Raises ValueError on what `encode_codes` has not made."""
    count, rest = divmod(len(line), 3)
    starts = np.frombuffer(line, "<u2", count).astype(np.int64)
    codes = np.frombuffer(line, np.uint8, offset=2 * count)[:count]
    lengths = np.diff(starts, append=BUCKET)
    if rest or not count or starts[0] != 0 or bool((lengths <= 0).any()):
        raise ValueError("not the line of a bucket")
    return np.repeat(codes, lengths)


def buckets_of(first: int, end: int) -> range:
    """The buckets that [first, end) touches."""
    return range(first // BUCKET, -(-end // BUCKET))


def settle(asked: Asked, known: Mapping[int, CodeArray], stored: IntArray, *, is_repair: bool) -> dict[int, CodeArray]:
    """The buckets that change: what is there has no code; what is not is missing, disputed, or older than the exchange has.

    `known`: the buckets there are among those that `asked` touches. `stored`: numbers of candles in the database. What had
    been settled as without trades stays so while it is absent, and what is disputed stays so until its candle is there; only a
    repair counts as another try.
    """
    changed: dict[int, CodeArray] = {}
    there = np.concatenate((asked.present, stored))
    for bucket in buckets_of(asked.first, asked.end):
        origin = bucket * BUCKET
        old = known.get(bucket)
        codes = np.zeros(BUCKET, np.uint8) if old is None else old
        window = slice(max(asked.first, origin) - origin, min(asked.end, origin + BUCKET) - origin)
        is_there, is_disputed = _marked(there, origin), _marked(asked.disputed, origin)
        settled = codes.copy()
        settled[window] = _settled(codes[window], is_there[window], is_disputed[window], is_repair=is_repair)
        if asked.begins is not None:
            is_beyond = np.arange(origin, origin + BUCKET)[window] < asked.begins
            settled[window] = np.where(is_beyond & ~is_there[window], Code.BEYOND_HISTORY, settled[window])
        if bool((settled != codes).any()):
            changed[bucket] = settled
    return changed


def _marked(numbers: IntArray, origin: int) -> NDArray[np.bool_]:
    """Of each interval of the bucket that begins at `origin`, whether it is among the numbers."""
    is_marked = np.zeros(BUCKET, np.bool_)
    is_marked[numbers[(numbers >= origin) & (numbers < origin + BUCKET)] - origin] = True
    return is_marked


def _settled(codes: CodeArray, is_there: NDArray[np.bool_], is_disputed: NDArray[np.bool_], *, is_repair: bool) -> CodeArray:
    was_disputed = codes >= Code.DISPUTED
    was_missing = (codes >= Code.MISSING) & ~was_disputed
    tried = np.where(codes + 1 >= Code.MISSING + TRIES_MAX, Code.NO_TRADES, codes + 1) if is_repair else codes
    absent = np.where(was_missing, tried, np.where(codes == Code.NONE, Code.MISSING + 1, codes))
    # An interval that candles were given for has had trades: that it is absent later does not end the dispute.
    disputed = np.where(was_disputed, np.minimum(codes + is_repair, Code.DISPUTED + TRIES_MAX), Code.DISPUTED + 1)
    return np.where(is_there, Code.NONE, np.where(is_disputed | was_disputed, disputed, absent)).astype(np.uint8)


def mark_present(numbers: IntArray, known: Mapping[int, CodeArray]) -> dict[int, CodeArray]:
    """The buckets that change when these intervals turn out to have their candles."""
    changed: dict[int, CodeArray] = {}
    for bucket, codes in known.items():
        inside = numbers[(numbers >= bucket * BUCKET) & (numbers < (bucket + 1) * BUCKET)] - bucket * BUCKET
        if bool(codes[inside].any()):
            changed[bucket] = codes.copy()
            changed[bucket][inside] = Code.NONE
    return changed


def read_runs(lines: Mapping[int, bytes]) -> list[Run]:
    """All runs with a code in buckets' lines, ascending; one that goes on across buckets is one.

    What a look at the ledger reads: no interval is unfolded, so that it costs what the runs cost.
    """
    firsts, ends, codes = _coded(lines)
    states = np.where(codes >= Code.DISPUTED, np.uint8(Code.DISPUTED), np.minimum(codes, np.uint8(Code.MISSING)))
    return [Run(first, end, _STATE_OF_CODE[state]) for first, end, state in _joined(firsts, ends, states)]


def repair_spans(lines: Mapping[int, bytes]) -> tuple[list[Span], list[Span]]:
    """What a repair asks for again: what is missing, and what is disputed; each ascending and merged."""
    firsts, ends, codes = _coded(lines)
    is_wanted, is_disputed = wants_repair(codes), codes >= Code.DISPUTED
    missing, disputed = (
        merge_spans(zip(firsts[rows].tolist(), ends[rows].tolist(), strict=True))
        for rows in (is_wanted & ~is_disputed, is_wanted & is_disputed)
    )
    return missing, disputed


def wants_repair(codes: CodeArray) -> NDArray[np.bool_]:
    """Of each code whether its interval is asked for again: it is missing, or disputed and has tries left."""
    return (codes >= Code.MISSING) & (codes < Code.DISPUTED + TRIES_MAX)


def ends_dispute(known: Mapping[int, CodeArray], changed: Mapping[int, CodeArray]) -> bool:
    """Whether an interval that is disputed in the buckets as they were is so no more where they change."""
    return any(
        bool(((known[bucket] >= Code.DISPUTED) & (codes < Code.DISPUTED)).any())
        for bucket, codes in changed.items()
        if bucket in known
    )


def _coded(lines: Mapping[int, bytes]) -> tuple[IntArray, IntArray, CodeArray]:
    """Where runs of equal codes begin and end, and the codes: those of each line by itself, ascending, none of Code.NONE."""
    if not lines:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8)
    buckets = sorted(lines)
    counts = np.array([len(lines[bucket]) // 3 for bucket in buckets])
    starts = np.frombuffer(b"".join(lines[bucket][: len(lines[bucket]) // 3 * 2] for bucket in buckets), "<u2")
    codes = np.frombuffer(b"".join(lines[bucket][len(lines[bucket]) // 3 * 2 :] for bucket in buckets), np.uint8)
    firsts = np.repeat(np.array(buckets, np.int64) * BUCKET, counts) + starts
    # A line begins where its bucket does, so each run ends where the next one begins, or with its bucket.
    ends = np.minimum(np.append(firsts[1:], np.int64(2**62)), (firsts // BUCKET + 1) * BUCKET)
    is_said = codes != Code.NONE
    return firsts[is_said], ends[is_said], codes[is_said]


def _joined(firsts: IntArray, ends: IntArray, states: CodeArray) -> Iterable[tuple[int, int, int]]:
    """(first, end, state) of runs, those that touch in the same state as one."""
    is_new = np.ones(len(firsts), np.bool_)
    is_new[1:] = (firsts[1:] != ends[:-1]) | (states[1:] != states[:-1])
    begins_at = np.flatnonzero(is_new)
    lasts = np.append(begins_at[1:], len(firsts)) - 1
    return zip(
        firsts[begins_at].tolist(), ends[lasts].tolist() if len(begins_at) else [], states[begins_at].tolist(), strict=True
    )


def merge_spans(spans: Iterable[Span]) -> list[Span]:
    """The same intervals as spans that neither overlap nor touch, ascending; empty ones are left out."""
    merged: list[Span] = []
    for first, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((first, end))
    return merged


def group_spans(spans: Sequence[Span], intervals_max: int) -> list[Span]:
    """Spans as windows of at most `intervals_max`, each from the first interval that is not in one before, ascending.

    What lies between two spans is asked for with them where that costs no request more.
    """
    windows: list[Span] = []
    for first, end in spans:
        if windows and end <= windows[-1][0] + intervals_max:
            windows[-1] = (windows[-1][0], end)
            continue
        if windows and first < windows[-1][0] + intervals_max:
            # The span goes on beyond what one page holds: the part that fits goes with those before.
            windows[-1] = (windows[-1][0], windows[-1][0] + intervals_max)
            first = windows[-1][1]
        for start in range(first, end, intervals_max):
            windows.append((start, min(end, start + intervals_max)))
    return windows


def set_apart(spans: Sequence[Span], apart: Sequence[int]) -> list[Span]:
    """The spans and each number of `apart` by itself, whether it lies in a span or not; both ascending, as is the result."""
    found = [(number, number + 1) for number in apart]
    for first, end in spans:
        for number in apart[bisect_left(apart, first) : bisect_left(apart, end)]:
            found.append((first, number))
            first = number + 1
        found.append((first, end))
    return sorted(span for span in found if span[0] < span[1])


def plan_runs(wanted: Span, asked: Sequence[Span], coded: Sequence[Run], begins: int) -> list[Run]:
    """Every interval of `wanted` in its state, as runs that neither overlap nor touch in the same state, ascending.

    `asked`: spans that were asked for. `coded`: what the buckets say, ascending. `begins`: the exchange has nothing older, or
    no more.
    """
    base = _base_runs(wanted, asked, begins)
    edges = np.unique(np.clip([number for run in (*coded, *base) for number in (run.first, run.end)], *wanted))
    if len(edges) < 2:
        return []
    states = np.empty(len(edges) - 1, np.int8)
    # What a bucket says goes over what the spans say, so it is laid on last.
    for runs in (base, coded):
        firsts = np.searchsorted(edges, np.clip([run.first for run in runs], *wanted))
        ends = np.searchsorted(edges, np.clip([run.end for run in runs], *wanted))
        for run, low, high in zip(runs, firsts.tolist(), ends.tolist(), strict=True):
            states[low:high] = _NUMBER_OF_STATE[run.state]
    begins_at = np.flatnonzero(np.diff(states, prepend=np.int8(-1)))
    bounds = [*edges[begins_at].tolist(), int(edges[-1])]
    return [
        Run(first, end, _STATES[state])
        for first, end, state in zip(bounds[:-1], bounds[1:], states[begins_at].tolist(), strict=True)
    ]


def count_states(runs: Iterable[Run]) -> dict[IntervalState, int]:
    """How many intervals are in each state."""
    counts = dict.fromkeys(IntervalState, 0)
    for run in runs:
        counts[run.state] += run.end - run.first
    return counts


def _base_runs(wanted: Span, asked: Sequence[Span], begins: int) -> list[Run]:
    """What the spans say: stored where they are; elsewhere pending, or beyond history."""
    runs = [Run(first, end, IntervalState.STORED) for first, end in merge_spans(asked)]
    gaps = zip([wanted[0], *(run.end for run in runs)], [*(run.first for run in runs), wanted[1]], strict=True)
    for first, end in gaps:
        if first < min(end, begins):
            runs.append(Run(first, min(end, begins), IntervalState.BEYOND_HISTORY))
        if max(first, begins) < end:
            runs.append(Run(max(first, begins), end, IntervalState.PENDING))
    return runs
