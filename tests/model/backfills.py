"""The protocol of a backfill as the code has it: who orders, pauses, resumes and cancels it, its workers, and who dies when.

A decision is one write to the backfill's document. Then whoever made it reads the document, tells the jobs of the parts,
settles what is left in one transaction, and answers. A tick reads a decision that is not carried out and goes on in the
same way. Each of them may stand still for any time, or die, between any two of these steps. A worker holds a page that it
has fetched, for any time, and lands it in a transaction that reads its job. Claims, leases and fences are not here but in
leases.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.model.search import Move

# Of the backfill, and of a part; a part is never cancelled but gone.
ACTIVE, PAUSED, DONE, CANCELLED, GONE = range(5)
# What somebody who decides, or a tick, is about to do.
IDLE, READ, TELL, SETTLE, ANSWER = range(5)
# What a worker is about to do.
FREE, LAND, END = range(3)

LANDED: Final = "no page lands after a pause or a cancel was answered"
AGREE: Final = "once a decision is carried out all parts follow it"


class Backfill(NamedTuple):
    """Its document, and what history the laws need: `answered` is the newest revision that somebody was told of."""

    status: int = ACTIVE
    revision: int = 1
    is_carried_out: bool = True
    answered: int = 0


class Part(NamedTuple):
    """A part's job: `follows` is the revision it follows, `left` how many pages it has not stored."""

    status: int = ACTIVE
    follows: int = 1
    left: int = 1


class Decider(NamedTuple):
    """Somebody who decides, or a tick. `made`: the revision that is to be answered (0: nobody waits); then what was read."""

    phase: int = IDLE
    made: int = 0
    status: int = ACTIVE
    revision: int = 0


class Worker(NamedTuple):
    """`sees_end`: all other parts were done when it looked."""

    phase: int = FREE
    sees_end: bool = False


State = tuple[Backfill, tuple[tuple[Part, Worker], ...], tuple[Decider, ...], int]


@dataclass(frozen=True, slots=True)
class Backfills:
    """The model: `decisions` bounds the search. `bugs` are names of rules that are switched off."""

    parts: int = 2
    pages: int = 1
    deciders: int = 2
    decisions: int = 3
    bugs: frozenset[str] = frozenset()

    def initial(self) -> State:
        """Ordered, and nothing stored."""
        parts = ((Part(left=self.pages), Worker()),) * self.parts
        return Backfill(), parts, (Decider(),) * self.deciders, self.decisions

    def is_goal(self, state: State) -> bool:
        """What was decided is carried out, and one whose parts are all done knows it."""
        backfill, parts, _, _ = state
        is_over = all(part.status == DONE for part, _ in parts)
        return backfill.is_carried_out and (backfill.status != ACTIVE or not is_over)

    def broken_law(self, state: State) -> str | None:
        """Once carried out, the parts agree with the document."""
        backfill, parts, _, _ = state
        wrong = {
            ACTIVE: (PAUSED, GONE),
            PAUSED: (ACTIVE, GONE),
            DONE: (ACTIVE, PAUSED, GONE),
            CANCELLED: (ACTIVE, PAUSED, DONE),
        }
        if backfill.is_carried_out and any(part.status in wrong[backfill.status] for part, _ in parts):
            return AGREE
        return None

    def moves(self, state: State) -> Iterator[Move[State]]:
        """Everything that can happen next; parts are alike, and so are those who decide."""
        for label, (backfill, parts, deciders, left), broken in self.raw_moves(state):
            yield label, (backfill, tuple(sorted(parts)), tuple(sorted(deciders)), left), broken

    def raw_moves(self, state: State) -> Iterator[Move[State]]:
        """As `moves`, all in their places."""
        backfill, parts, deciders, left = state
        for place, decider in enumerate(deciders):
            for label, after, new_backfill, new_parts, cost in self._decides(decider, backfill, parts):
                if cost <= left:
                    others = (*deciders[:place], after, *deciders[place + 1 :])
                    yield label, (new_backfill, new_parts, others, left - cost), None
        for place, (part, worker) in enumerate(parts):
            for label, new_backfill, pair, broken in self._works(part, worker, backfill, parts, place):
                yield label, (new_backfill, (*parts[:place], pair, *parts[place + 1 :]), deciders, left), broken

    def _decides(
        self, decider: Decider, backfill: Backfill, parts: tuple[tuple[Part, Worker], ...]
    ) -> Iterator[tuple[str, Decider, Backfill, tuple[tuple[Part, Worker], ...], int]]:
        if decider.phase == IDLE:
            for label, status in (("pause", PAUSED), ("resume", ACTIVE), ("cancel", CANCELLED)):
                if backfill.status in (ACTIVE, PAUSED) and status != backfill.status:
                    decided = Backfill(status, backfill.revision + 1, False, backfill.answered)
                    yield label, Decider(READ, decided.revision), decided, parts, 1
            if not backfill.is_carried_out and "nobody carries out what is left" not in self.bugs:
                yield "tick", Decider(READ), backfill, parts, 0
            return
        yield "die", Decider(), backfill, parts, 0
        if decider.phase == READ:
            read = decider._replace(phase=TELL, status=backfill.status, revision=backfill.revision)
            if backfill.is_carried_out:
                read = Decider(ANSWER, decider.made)
            elif "answered before the parts are told" in self.bugs and decider.made:
                backfill = backfill._replace(answered=max(backfill.answered, decider.made))
            yield "read", read, backfill, parts, 0
        elif decider.phase == TELL:
            told = tuple((self._told(part, decider), worker) for part, worker in parts)
            yield "tell", decider._replace(phase=SETTLE), backfill, told, 0
        elif decider.phase == SETTLE:
            is_newest = backfill.revision == decider.revision or "settled whatever is decided" in self.bugs
            settled, after = backfill, parts
            if is_newest and not backfill.is_carried_out:
                settled = backfill._replace(is_carried_out=True)
                if decider.status == CANCELLED:
                    after = tuple((part._replace(status=GONE, left=0), worker) for part, worker in parts)
            yield "settle", Decider(ANSWER, decider.made), settled, after, 0
        else:
            yield "answer", Decider(), backfill._replace(answered=max(backfill.answered, decider.made)), parts, 0

    def _told(self, part: Part, decider: Decider) -> Part:
        """The part follows the decision that was read, unless it follows a newer one."""
        is_late = part.follows >= decider.revision and "an older decision counts" not in self.bugs
        if part.status in (DONE, GONE) or is_late:
            return part
        return part._replace(status=ACTIVE if decider.status == ACTIVE else PAUSED, follows=decider.revision)

    def _works(
        self, part: Part, worker: Worker, backfill: Backfill, parts: tuple[tuple[Part, Worker], ...], place: int
    ) -> Iterator[tuple[str, Backfill, tuple[Part, Worker], str | None]]:
        if worker.phase == FREE:
            if part.status == ACTIVE and part.left:
                yield "fetch", backfill, (part, Worker(LAND)), None
            return
        yield "die", backfill, (part, Worker()), None
        if worker.phase == END:
            ended = self._ended(backfill) if worker.sees_end else backfill
            yield "end", ended, (part._replace(status=DONE), Worker()), None
            return
        is_stopped = part.status != ACTIVE and "the page at hand lands" not in self.bugs
        if is_stopped or part.status == GONE:
            yield "drop", backfill, (part, Worker()), None
            return
        stored = part._replace(left=part.left - 1)
        is_stopping = backfill.status in (PAUSED, CANCELLED) and backfill.answered == backfill.revision
        broken = LANDED if is_stopping else None
        if stored.left:
            yield "land", backfill, (stored, Worker()), broken
            return
        sees_end = all(other.status == DONE for other, _ in (*parts[:place], *parts[place + 1 :]))
        if "ends take no turns" in self.bugs:
            yield "look", backfill, (part, Worker(END, sees_end)), broken
        else:
            yield "last", self._ended(backfill) if sees_end else backfill, (stored._replace(status=DONE), Worker()), broken

    def _ended(self, backfill: Backfill) -> Backfill:
        """All its parts are done; one that was cancelled stays that."""
        if backfill.status in (DONE, CANCELLED):
            return backfill
        return backfill._replace(status=DONE, revision=backfill.revision + 1, is_carried_out=True)
