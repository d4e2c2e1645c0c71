"""The protocol of jobs as the code has it: claim, begin, pages, finish, give back, leases that run out, and who dies when.

One move is one command to MongoDB, one HTTP call, or one event of the world. Processes are slots: an idle one may act as a
tick (claim, read back, call a worker, give back) or take a call and act as the worker. Every slot may stand still for any time
and go on with what it believed: that is what interleaving all moves means.

Time: a lease may run out at any moment (`expire`), which covers every clock and every step of a clock. A lease that some
process still works under costs a fault; one that nobody holds in mind runs out by itself. Crashes, lost or repeated calls,
lost replies, early endings and deletions cost a fault too, so that `faults` bounds the search. A lost reply of a claim or a
begin leaves what a crash right after the command leaves, so it needs no move of its own: neither caller goes on. A failover
forgets nothing that a majority has acknowledged, so it is a move only where that rule is off. Pages are numbered from 0, and
what a page holds is always the same, so a fetched page needs no state but its number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.model.search import Move

FREE, CLAIMED, RUNNING = range(3)
ACTIVE, DONE, DELETED = range(3)
# What a slot is about to do.
IDLE, KILL, READ_BACK, GIVE_BACK, BEGIN, ASK, WORK, COMMIT, RESEND, END, SECOND_WRITE = range(11)
# What a transaction holds: a page, the last page with the end of the run, the end alone.
PAGE, LAST_PAGE, ENDING = range(3)

STALE: Final = "writes only under the current fence"
TWICE: Final = "a claim is run once"
TAKEN: Final = "a lease that has not run out is not taken"
CANDLES: Final = "candles are exactly those up to the cursor"
RECORD: Final = "every begun run ends in job_runs exactly once"


class Job(NamedTuple):
    """A job's document, its candles (two bits a page: how often stored), and what history the laws need.

    `txn`: fence of the run whose open transaction holds the document. `calls`: fences of worker calls on their way. `begun`,
    `recorded`, `abandoned`: sets of fences as bits.
    """

    fence: int = 0
    lock: int = FREE
    is_expired: int = 0
    txn: int = 0
    cursor: int = 0
    candles: int = 0
    status: int = ACTIVE
    calls: int = 0
    begun: int = 0
    recorded: int = 0
    abandoned: int = 0


class Slot(NamedTuple):
    """A process: what it is about to do, and what it believes."""

    phase: int = IDLE
    job: int = 0
    fence: int = 0
    cursor: int = 0
    kind: int = PAGE
    is_applied: int = 0


State = tuple[tuple[Slot, ...], tuple[Job, ...], int, tuple[Job, ...] | None]
IDLE_SLOT: Final = Slot()
HOLDERS: Final = frozenset({READ_BACK, BEGIN, ASK, WORK, COMMIT, RESEND, END, SECOND_WRITE})


@dataclass(frozen=True, slots=True)
class Leases:
    """The model. `bugs` are names of rules that are switched off; `asks`: a page needs a grant of the limiter first."""

    slots: int = 3
    jobs: int = 2
    pages: int = 2
    faults: int = 2
    bugs: frozenset[str] = frozenset()
    asks: bool = False
    deletes: bool = False

    def initial(self) -> State:
        """All idle, nothing stored."""
        return (IDLE_SLOT,) * self.slots, (Job(),) * self.jobs, self.faults, None

    def is_goal(self, state: State) -> bool:
        """Everything is stored and the jobs know it."""
        whole = self._candles_up_to(self.pages)
        return all(job.status == DONE and job.candles == whole for job in state[1])

    def broken_law(self, state: State) -> str | None:
        """Candles against the cursor, and the account of runs."""
        for job in state[1]:
            if job.candles != self._candles_up_to(job.cursor):
                return CANDLES
            held = 1 << job.fence if job.lock == RUNNING else 0
            kept = job.recorded | job.abandoned | held
            if job.recorded & job.abandoned or (job.recorded | job.abandoned) & held or job.begun & ~kept:
                return RECORD
        return None

    def moves(self, state: State) -> Iterator[Move[State]]:
        """Everything that can happen next, canonical."""
        for label, after, broken in self.raw_moves(state):
            yield label, self.canonical(after), broken

    def canonical(self, state: State) -> State:
        """Slots are alike, and so are jobs: of all states that differ by names only, the smallest."""
        slots, jobs, faults, undo = state
        best = tuple(sorted(slots)), jobs, faults, undo
        if self.jobs == 2 and undo is None and jobs[0] != jobs[1]:
            swapped = tuple(sorted(slot if not slot.phase else slot._replace(job=1 - slot.job) for slot in slots))
            return min(best, (swapped, jobs[::-1], faults, undo))
        return best

    def raw_moves(self, state: State) -> Iterator[Move[State]]:
        """As `moves`, slots and jobs in their places."""
        slots, jobs, faults, undo = state
        for place, slot in enumerate(slots):
            if slot in slots[:place]:
                continue
            for label, new_slot, index, new_job, cost, broken in self.steps(slot, jobs):
                if cost > faults:
                    continue
                new_slots = (*slots[:place], new_slot, *slots[place + 1 :])
                new_jobs, kept = jobs, undo
                if new_job is not jobs[index]:
                    new_jobs = (*jobs[:index], new_job, *jobs[index + 1 :])
                    kept = jobs if "no majority" in self.bugs else None
                yield label, (new_slots, new_jobs, faults - cost, kept), broken
            if slot.phase and faults:
                yield "crash", ((*slots[:place], IDLE_SLOT, *slots[place + 1 :]), jobs, faults - 1, undo), None
        for index, job in enumerate(jobs):
            for label, new_job, cost in self.events(index, job, slots):
                if cost <= faults:
                    yield label, (slots, (*jobs[:index], new_job, *jobs[index + 1 :]), faults - cost, None), None
        if undo is not None and faults:
            yield "failover", (slots, undo, faults - 1, None), None

    def events(self, index: int, job: Job, slots: tuple[Slot, ...]) -> Iterator[tuple[str, Job, int]]:
        if job.lock != FREE and not job.is_expired:
            is_held = job.calls >> job.fence & 1 or any(
                slot.phase in HOLDERS and slot.job == index and slot.fence == job.fence for slot in slots
            )
            yield "expire", job._replace(is_expired=1), int(bool(is_held))
        for fence in _bits(job.calls):
            yield "call lost", job._replace(calls=job.calls & ~(1 << fence)), 1
        if self.deletes and job.status != DELETED and not job.txn:
            # Runs that are on their way or noted on the job vanish with it, as they do with the document.
            yield "delete", Job(fence=job.fence, status=DELETED, recorded=job.recorded, begun=job.recorded, calls=job.calls), 1
        if job.status == DELETED:
            fence = 0 if "fence begins anew" in self.bugs else job.fence
            yield "create", job._replace(status=ACTIVE, fence=fence), 0

    def steps(self, slot: Slot, jobs: tuple[Job, ...]) -> Iterator[tuple[str, Slot, int, Job, int, str | None]]:
        """(label, slot after, index of the job, job after, faults it costs, broken law)."""
        if slot.phase == IDLE:
            for index, job in enumerate(jobs):
                yield from self._idle(index, job)
            return
        index, job = slot.job, jobs[slot.job]
        if slot.phase == KILL:
            is_open = job.txn == slot.fence
            yield "kill session", IDLE_SLOT, index, job._replace(txn=0) if is_open else job, 0, None
        elif slot.phase == READ_BACK:
            if job.fence == slot.fence and job.lock != FREE:
                called = job._replace(calls=job.calls | 1 << slot.fence)
                yield "call worker", IDLE_SLOT, index, called, 0, None
                yield "call worker, no answer", slot._replace(phase=GIVE_BACK), index, called, 1, None
            else:
                yield "read back nothing", IDLE_SLOT, index, job, 0, None
        elif slot.phase == GIVE_BACK:
            is_mine = job.fence == slot.fence or "release by id only" in self.bugs
            is_unbegun = job.lock == CLAIMED or (
                job.lock == RUNNING and bool({"give back what has begun", "release by id only"} & self.bugs)
            )
            given = job._replace(lock=FREE, is_expired=0) if is_mine and is_unbegun and job.status != DELETED else job
            yield "give back", IDLE_SLOT, index, given, 0, None
        elif slot.phase == BEGIN:
            yield self._begin(slot, index, job)
        else:
            yield from self._run(slot, index, job)

    def _idle(self, index: int, job: Job) -> Iterator[tuple[str, Slot, int, Job, int, str | None]]:
        may_take = job.lock == FREE or bool(job.is_expired) or "expiry not checked" in self.bugs
        if "leases never run out" in self.bugs:
            may_take = job.lock == FREE
        if job.status == ACTIVE and not job.txn and may_take:
            fence = max(job.fence, 1) if "fence not raised" in self.bugs else job.fence + 1
            abandoned = job.abandoned
            if job.lock != FREE and "abandoned not noted" not in self.bugs:
                abandoned |= 1 << job.fence
            taken = job._replace(fence=fence, lock=CLAIMED, is_expired=0, abandoned=abandoned)
            broken = TAKEN if job.lock != FREE and not job.is_expired else None
            yield "claim", Slot(READ_BACK, index, fence), index, taken, 0, broken
        if job.status == ACTIVE and job.lock == RUNNING and job.is_expired and "sessions not ended" not in self.bugs:
            yield "look", Slot(KILL, index, job.fence), index, job, 0, None
        for fence in _bits(job.calls):
            ordered = Slot(BEGIN, index, fence)
            yield "take call", ordered, index, job._replace(calls=job.calls & ~(1 << fence)), 0, None
            yield "take call that is repeated later", ordered, index, job, 1, None

    def _begin(self, slot: Slot, index: int, job: Job) -> tuple[str, Slot, int, Job, int, str | None]:
        is_open = job.lock == CLAIMED or (job.lock == RUNNING and "begin twice" in self.bugs)
        if job.fence != slot.fence or not is_open:
            return "begin refused", IDLE_SLOT, index, job, 0, None
        bit = 1 << job.fence
        begun = job._replace(lock=RUNNING, is_expired=0, begun=job.begun | bit)
        broken = TWICE if job.begun & bit else None
        phase = ASK if self.asks and job.cursor < self.pages else WORK
        return "begin", slot._replace(phase=phase, cursor=job.cursor), index, begun, 0, broken

    def _run(self, slot: Slot, index: int, job: Job) -> Iterator[tuple[str, Slot, int, Job, int, str | None]]:
        if slot.phase in (ASK, WORK):
            yield "give up", slot._replace(phase=END), index, job, 1, None
        if slot.phase in (WORK, END):
            is_end = slot.phase == END or slot.cursor == self.pages
            kind = ENDING if is_end else (LAST_PAGE if slot.cursor + 1 == self.pages else PAGE)
            yield from self._open(slot._replace(phase=COMMIT, kind=kind, is_applied=0), index, job)
        elif slot.phase == COMMIT:
            is_open = job.txn == slot.fence or "fence checked before" in self.bugs
            if not is_open:
                yield "commit finds it aborted", self._again(slot), index, job, 0, None
                return
            stored, broken = self._apply(slot, job)
            yield "commit", self._after(slot), index, stored, 0, broken
            yield "commit, reply lost", slot._replace(phase=RESEND, is_applied=1), index, stored, 1, broken
            yield "commit lost", slot._replace(phase=RESEND), index, job, 1, None
        elif slot.phase == RESEND:
            yield from self._resend(slot, index, job)
        elif slot.phase == SECOND_WRITE:
            stored = job
            if job.fence == slot.fence and job.lock == RUNNING:
                stored, _ = self._second_write(slot, job)
            yield "second write", self._next_page(slot), index, stored, 0, None

    def _open(self, opening: Slot, index: int, job: Job) -> Iterator[tuple[str, Slot, int, Job, int, str | None]]:
        """The transaction's first command: it checks the fence and holds the document until the end."""
        is_mine = job.fence == opening.fence and job.lock == RUNNING
        if "no fence in the write" in self.bugs:
            is_mine = job.status != DELETED
        if job.txn not in (0, opening.fence):
            return  # a write conflict: it waits
        if not is_mine or job.status == DELETED:
            yield "lease lost", IDLE_SLOT, index, job, 0, None
        elif "fence checked before" in self.bugs:
            yield "check", opening, index, job, 0, None
        else:
            yield "write in transaction", opening, index, job._replace(txn=opening.fence), 0, None

    def _resend(self, slot: Slot, index: int, job: Job) -> Iterator[tuple[str, Slot, int, Job, int, str | None]]:
        if "unknown commit written anew" in self.bugs:
            yield "write anew", self._again(slot), index, job, 0, None
        elif slot.is_applied:
            yield "commit again", self._after(slot), index, job, 0, None
        elif job.txn == slot.fence:
            stored, broken = self._apply(slot, job)
            yield "commit again", self._after(slot), index, stored, 0, broken
        else:
            yield "commit again finds it aborted", self._again(slot), index, job, 0, None
        yield "commit given up", Slot(END, index, slot.fence, slot.cursor), index, job, 0, None

    def _apply(self, slot: Slot, job: Job) -> tuple[Job, str | None]:
        """What a commit does: all of it at once."""
        broken = None if job.fence == slot.fence and job.lock == RUNNING else STALE
        stored = job._replace(txn=0, is_expired=0)
        if slot.kind != ENDING:
            if "cursor before candles" not in self.bugs:
                stored = stored._replace(candles=_stored_once_more(stored.candles, slot.cursor))
            if "cursor in another transaction" not in self.bugs:
                stored = stored._replace(cursor=max(stored.cursor, slot.cursor + 1))
        elif "cursor goes back" in self.bugs:
            stored = stored._replace(cursor=slot.cursor)
        if slot.kind == PAGE:
            return stored, broken
        added = stored.abandoned if "finish without record" in self.bugs else stored.abandoned | 1 << slot.fence
        if added & stored.recorded:
            broken = broken or RECORD
        is_done = slot.kind == LAST_PAGE or slot.cursor == self.pages
        status = DONE if is_done and stored.status == ACTIVE else stored.status
        return stored._replace(recorded=stored.recorded | added, abandoned=0, lock=FREE, status=status), broken

    def _second_write(self, slot: Slot, job: Job) -> tuple[Job, str | None]:
        if "cursor before candles" in self.bugs:
            return job._replace(candles=_stored_once_more(job.candles, slot.cursor)), None
        return job._replace(cursor=max(job.cursor, slot.cursor + 1)), None

    def _after(self, slot: Slot) -> Slot:
        if slot.kind != PAGE:
            return IDLE_SLOT
        if {"cursor before candles", "cursor in another transaction"} & self.bugs:
            return slot._replace(phase=SECOND_WRITE)
        return self._next_page(slot)

    def _next_page(self, slot: Slot) -> Slot:
        return Slot(ASK if self.asks else WORK, slot.job, slot.fence, slot.cursor + 1)

    def _again(self, slot: Slot) -> Slot:
        return Slot(END if slot.kind == ENDING else WORK, slot.job, slot.fence, slot.cursor)

    def _candles_up_to(self, cursor: int) -> int:
        return sum(1 << 2 * page for page in range(cursor))


def _stored_once_more(candles: int, page: int) -> int:
    """Two bits a page; more than three times is three times."""
    return candles + (1 << 2 * page) if candles >> 2 * page & 3 < 3 else candles


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
