"""The limiter's protocol as the code has it: ask, decide on the server, reply, wait, send in time, arrive, settle, tell.

Time has no end here. All server times are kept against the limiter's clock (`lag` is how far the server's clock is ahead of
it), all real ones against now, and what is too old to matter is cut off where it makes no difference. So the search visits
every state that any number of calls, crashes, lost replies, long pauses and backward steps of the clock can lead to. A process
that crashes, or whose reply is lost, just forgets what it holds: that may happen at any time and costs nothing.

A decision may be made with an old `$$NOW`: as old as the call itself (it waited for another write), or older right behind a
call that has stamped the present. A backward step may put the server's clock behind the limiter's by `back` at most. A forward
step beyond all that has been seen is the one thing that the limiter does not stand (docs/limits.md); `forward` permits it.

A request arrives at any time up to `way` after the last moment at which it may be sent: the longest pause of a process and the
longest answer together. A grant is charged for all of that.

Settling: a holder may at any time give back what it has not sent, and say of what has arrived that it has and by when. What is
said stands as a part of its own beside the rest of the grant in `Log.unsettled`, and any later call, or none, tells it to the
server: that covers notes of another run of the same process, lost ones, and calls that were carried out but not answered. A
part is known by its moment and weight, as two that are alike in both are settled alike.

With `late` one request in a history may take longer than `way`, for as long as it likes. It breaks what nobody can enforce, so
it is not counted among the arrivals; but once it is told, nothing more may be granted as if it had not come.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

from tests.model.search import Move

IDLE, ASKING, READ, ANSWERED, HOLDING = range(5)
NOT_YET, UNDER_WAY, UNTOLD, TOLD, FORGOTTEN = range(5)
OVER: Final = "arrivals in every sliding window stay within the limit"
KNOWN: Final = "nothing is granted into a window that is full by what has been told, however late it arrived"
# `used` of a part of which nothing is said, `last` of a grant of which nothing more may be sent.
UNSAID: Final = -1
NEVER: Final = -1

Entries = tuple[tuple[int, int], ...]
# (t, weight, used, arrived by)
Unsettled = tuple[tuple[int, int, int, int], ...]
Times = tuple[int, ...]


class Slot(NamedTuple):
    """A process. `age`: since it asked. ANSWERED: `wait` and `granted` are in the reply. HOLDING: send in [first, last].

    `t`: where the server keeps the grant unsettled, 0 if no longer. `flying`: time left to its requests on their way.
    """

    phase: int = IDLE
    age: int = 0
    wait: int = 0
    granted: int = 0
    sent: int = 0
    first: int = 0
    last: int = 0
    t: int = 0
    flying: Times = ()
    sent_age: int = 0


class Log(NamedTuple):
    """The connector's document: entries (t, weight), what is unsettled and the newest booking, against its clock.

    `lag`: of that clock behind the server's; `phase`: where in its grain it is. `late`: what has become of the one request that
    takes too long, and for how long it has been there.
    """

    entries: Entries = ()
    unsettled: Unsettled = ()
    last_at: int = 0
    lag: int = 0
    phase: int = 0
    late: tuple[int, int] = (0, 0)


class Step(NamedTuple):
    """What one slot does. `adrift`: requests that have lost their holder; `passed`: how far the limiter's clock has moved."""

    label: str
    slot: Slot
    log: Log
    adrift: Times = ()
    passed: int = 0
    is_sending: bool = False
    broken: str | None = None


State = tuple[tuple[Slot, ...], Log, Times, Times]
IDLE_SLOT: Final = Slot()


@dataclass(frozen=True, slots=True)
class Limiter:
    """The model: `limit` in every `period`; a state is (slots, log, time left to requests adrift, ages of arrivals)."""

    slots: int = 2
    limit: int = 2
    period: int = 3
    use_by: int = 1
    way: int = 1
    wait_max: int = 1
    want_max: int = 2
    grain: int = 1
    back: int = 1
    forward: bool = False
    late: bool = False
    bugs: frozenset[str] = frozenset()

    def initial(self) -> State:
        """Nobody has asked yet."""
        return (IDLE_SLOT,) * self.slots, Log(), (), ()

    def is_goal(self, state: State) -> bool:
        """A request has just arrived."""
        return 0 in state[3]

    def broken_law(self, state: State) -> str | None:
        """Arrivals that are less than a period old lie in one window of that length."""
        return OVER if len(state[3]) > self.limit else None

    def moves(self, state: State) -> Iterator[Move[State]]:
        """Everything that can happen next, canonical."""
        for label, (slots, log, adrift, arrivals), broken in self.raw_moves(state):
            yield label, (tuple(sorted(slots)), log, adrift, arrivals), broken

    def raw_moves(self, state: State) -> Iterator[Move[State]]:
        """As `moves`, with the slots in their places."""
        slots, log, adrift, arrivals = state
        yield from self.world(state)
        for place, slot in enumerate(slots):
            if slot in slots[:place]:
                continue
            for step in self.steps(slot, log):
                new_slots, lost = self.taken(step, slots, place)
                yield step.label, (new_slots, step.log, _joined(adrift, lost), arrivals), step.broken

    def taken(self, step: Step, slots: tuple[Slot, ...], place: int) -> tuple[tuple[Slot, ...], Times]:
        """All slots after one of them has taken the step, and the requests that are adrift by it."""
        if not step.passed:
            return (*slots[:place], step.slot, *slots[place + 1 :]), step.adrift
        new_slots, lost = [], step.adrift
        for index, slot in enumerate(slots):
            after, more = (step.slot, ()) if index == place else self._passed(slot, step.passed)
            new_slots.append(after)
            lost += more
        return tuple(new_slots), lost

    def world(self, state: State) -> Iterator[Move[State]]:
        """What happens without anybody doing it."""
        slots, log, adrift, arrivals = state
        if 0 not in adrift and not any(0 in slot.flying for slot in slots):
            # Time passes once everything has arrived that can be on its way no longer.
            olders = [self._older(slot) for slot in slots]
            later = tuple(slot for slot, _ in olders)
            left = _joined(tuple(rest - 1 for rest in adrift), tuple(rest for _, lost in olders for rest in lost))
            kept = tuple(age + 1 for age in arrivals if age + 1 < self.period)
            yield "tick", (later, self._lagging(log, log.lag + 1), left, kept), None
        for rest in set(adrift):
            yield "arrive", (slots, log, _less(adrift, rest), (0, *arrivals)), None
            if self.late and log.late[0] == NOT_YET and rest == 0:
                yield "held up", (slots, log._replace(late=(UNDER_WAY, 0)), _less(adrift, rest), arrivals), None
        if log.late[0] == UNDER_WAY:
            yield "arrive late", (slots, log._replace(late=(UNTOLD, 0)), adrift, arrivals), None
        for place, slot in enumerate(slots):
            for rest in set(slot.flying):
                arrived = slot._replace(flying=_less(slot.flying, rest))
                yield "arrive", ((*slots[:place], arrived, *slots[place + 1 :]), log, adrift, (0, *arrivals)), None
        if log.lag > -self.back:
            yield "clock back", (slots, log._replace(lag=log.lag - 1), adrift, arrivals), None
        if self.forward:
            yield "clock ahead", (slots, self._lagging(log, log.lag + 1), adrift, arrivals), None
        if "no majority" in self.bugs and log.unsettled:
            yield "failover", (slots, log._replace(unsettled=log.unsettled[:-1]), adrift, arrivals), None

    def _older(self, slot: Slot) -> tuple[Slot, Times]:
        """A tick later. How old a hopeless call is makes no difference."""
        if slot.phase == IDLE:
            return slot, ()
        if slot.phase != HOLDING:
            return slot._replace(age=min(slot.age + 1, self.use_by + self.wait_max + 1)), ()
        last = slot.last if "no use-by" in self.bugs else max(NEVER, slot.last - 1)
        flying = tuple(rest - 1 for rest in slot.flying)
        older = slot._replace(first=max(0, slot.first - 1), last=last, flying=flying)
        # A bound beyond the charged moment would keep it only longer.
        if not slot.t or slot.age >= slot.wait + self.use_by + self.way:
            return _unlinked(older)
        return older._replace(age=slot.age + 1), ()

    def _passed(self, slot: Slot, clock: int) -> tuple[Slot, Times]:
        """The limiter's clock has moved on by so much."""
        if not slot.t or not clock:
            return slot, ()
        return (slot._replace(t=slot.t - clock), ()) if slot.t > clock else _unlinked(slot)

    def _lagging(self, log: Log, lag: int) -> Log:
        """Further behind than the last entry lives, all lags are the same: a call at any of them finds an empty log.

        What came late has left every window when it is a period old.
        """
        late, age = log.late
        if late in (UNTOLD, TOLD):
            late, age = (late, age + 1) if age + 1 < self.period else (FORGOTTEN, 0)
        return log._replace(lag=min(lag, self.wait_max + self.use_by + self.way + self.period), late=(late, age))

    def steps(self, slot: Slot, log: Log) -> Iterator[Step]:
        """All that a process may do."""
        if slot.phase == IDLE:
            yield Step("ask", Slot(ASKING), log)
            return
        yield Step("crash", IDLE_SLOT, log, slot.flying)
        if slot.phase == ASKING:
            yield from self._decisions(slot, log)
        elif slot.phase == READ:
            booked = self._booked(log, slot.wait, slot.granted)
            yield Step("book", slot._replace(phase=ANSWERED, t=slot.wait + self._charge()), booked)
        elif slot.phase == ANSWERED:
            yield Step("reply", self._received(slot), log)
        else:
            yield from self._uses(slot, log)

    def _uses(self, slot: Slot, log: Log) -> Iterator[Step]:
        """Of a grant: send, say what has arrived, or give back what will not be sent."""
        is_open = slot.sent < slot.granted
        if is_open and slot.first == 0 and slot.last >= 0:
            after, lost = _sent(slot, self.way, slot.age if "arrived when sent" in self.bugs else 0)
            yield Step("send", after, log, lost, is_sending=True)
        if not slot.t:
            return
        arrived = slot.sent if "settled before the answer" in self.bugs else slot.sent - len(slot.flying)
        if arrived:
            noted = self._noted(log, slot, arrived, arrived, self._arrived_by(slot))
            after, lost = _without(slot, arrived, arrived)
            yield Step("settle what has arrived", after, noted, lost)
        if is_open:
            noted = self._noted(log, slot, slot.granted - slot.sent, 0, 0)
            after, lost = _without(slot, slot.granted - slot.sent, 0)
            yield Step("give back", after, noted, lost)
            if "sent after settling" in self.bugs:
                yield Step("give back and go on", _unlinked(slot)[0], noted, slot.flying)

    def _arrived_by(self, slot: Slot) -> int:
        """The server's clock at the decision, and all time since before it was asked."""
        decided = slot.t - self._charge() - slot.wait
        if "arrived when booked" in self.bugs:
            return decided + slot.wait
        return decided + (slot.sent_age if "arrived when sent" in self.bugs else slot.age)

    def _noted(self, log: Log, slot: Slot, part: int, used: int, arrived_by: int) -> Log:
        """Beside what is left of the grant stands what its holder has said. (After a failover that forgets it is not there.)"""
        silent = (slot.t, slot.granted, UNSAID, 0)
        if silent not in log.unsettled:
            return log
        rest = [(slot.t, slot.granted - part, UNSAID, 0)] if part < slot.granted else []
        said = (slot.t, part, used, max(-self.period, arrived_by) if used else 0)
        return log._replace(unsettled=tuple(sorted((*_less(log.unsettled, silent), *rest, said))))

    def _received(self, slot: Slot) -> Slot:
        """The grant as its holder may use it."""
        age = 0 if "use-by counts from the reply" in self.bugs else slot.age
        first = 0 if "its moment not waited for" in self.bugs else slot.wait
        last = slot.wait + self.use_by - age
        if "no use-by" in self.bugs:
            last = max(last, 0)
        if last < 0 and not slot.t:
            return IDLE_SLOT
        known = Slot(HOLDING, slot.age, slot.wait, slot.granted, 0, first, max(last, NEVER), slot.t)
        if "arrival counts from the reply" in self.bugs:
            known = known._replace(age=0)
        return known if slot.t else _unlinked(known)[0]

    def _decisions(self, slot: Slot, log: Log) -> Iterator[Step]:
        """The update on the server, with any `$$NOW` that it may see, and with anything told that has been said."""
        olds = slot.age if log.lag else max(slot.age, self.back)
        said = [grant for grant in log.unsettled if grant[2] != UNSAID]
        tellings = {told for count in range(len(said) + 1) for told in combinations(said, count)}
        clocks = {log.lag - old if "clock may go back" in self.bugs else max(0, log.lag - old) for old in range(olds + 1)}
        for clock in clocks:
            for told in tellings:
                opened = self._opened(log, clock, told)
                yield from self._answers(slot, opened, clock)
                if log.late[0] == UNTOLD:
                    yield from self._answers(slot, self._told_late(opened), clock)

    def _told_late(self, opened: Log) -> Log:
        """With the word of what came late: it is entered, for its own charge ends too early or has ended."""
        told = opened._replace(late=(TOLD, opened.late[1]))
        if "late word dropped" in self.bugs:
            return told
        entries = list(opened.entries)
        self._insert(entries, max(0, opened.lag) - opened.late[1], 1, opened.phase)
        return told._replace(entries=tuple(entries))

    def _answers(self, slot: Slot, opened: Log, clock: int) -> Iterator[Step]:
        booked = sorted((*opened.entries, *(grant[:2] for grant in opened.unsettled)))
        at = self._moment(booked, opened.last_at)
        if at > self.wait_max:
            yield Step("refuse", IDLE_SLOT, opened, (), clock)
            return
        free = self.limit - sum(weight for t, weight in booked if t + self.period > at)
        late, age = opened.late
        is_late_live = late == TOLD and age + at < self.period
        for granted in range(1, min(self.want_max, free) + 1):
            broken = KNOWN if is_late_live and granted + 1 > self.limit else None
            if "read, then booked" in self.bugs:
                yield Step("decide", Slot(READ, slot.age, at, granted), opened, (), clock)
            else:
                decided = Slot(ANSWERED, slot.age, at, granted, t=at + self._charge())
                yield Step("decide", decided, self._booked(opened, at, granted), (), clock, broken=broken)

    def _opened(self, log: Log, clock: int, told: Unsettled) -> Log:
        """The log at its new clock (against the old one): settled what is told, folded in what no longer can be."""
        unsettled, phase = list(log.unsettled), (log.phase + clock) % self.grain
        entries = [(t - clock, weight) for t, weight in log.entries]
        for grant in told:
            if grant not in unsettled:
                continue
            unsettled.remove(grant)
            t, weight, used, arrived_by = grant
            if "settled grants stay in the list" in self.bugs:
                unsettled.append((t, weight, UNSAID, 0))
            if used:
                self._insert(entries, arrived_by - clock, used, phase)
            twin = next((other for other in unsettled if other[:2] == grant[:2]), None)
            if "settled twice" in self.bugs and twin:
                unsettled.remove(twin)
        for t, weight, _, _ in unsettled:
            if t <= clock and "unsettled forgotten" not in self.bugs:
                self._insert(entries, t - clock, weight, phase)
        early = 1 if "dropped too early" in self.bugs else 0
        live = tuple(entry for entry in entries if entry[0] + self.period - early > 0)
        kept = ((t - clock, weight, used, by) for t, weight, used, by in unsettled if t > clock)
        open_still = tuple(sorted((*grant[:3], max(-self.period, grant[3] - clock) if grant[2] > 0 else 0) for grant in kept))
        return Log(live, open_still, max(log.last_at - clock, -self.back), log.lag - clock, phase, log.late)

    def _insert(self, entries: list[tuple[int, int]], t: int, weight: int, phase: int) -> None:
        """Counting to the end of its grain; merged with the one of that grain, if there is one."""
        over = (t + phase) % self.grain
        t -= over if "rounded down" in self.bugs or not over else over - self.grain
        for index, (other, more) in enumerate(entries):
            if other == t:
                entries[index] = (t, more + weight)
                return
        entries.append((t, weight))
        entries.sort()

    def _moment(self, booked: list[tuple[int, int]], last_at: int) -> int:
        """When one more fits, not before the newest booking."""
        at = 0
        excess = sum(weight for _, weight in booked) + 1 - self.limit
        for t, weight in booked:
            if excess <= 0:
                break
            excess -= weight
            at = max(at, t + self.period)
        return max(at, last_at)

    def _charge(self) -> int:
        if "booked at its moment" in self.bugs:
            return 0
        if "an allowance for the way" in self.bugs:
            return self.use_by + self.way - 1
        return self.use_by if "nothing for the way" in self.bugs else self.use_by + self.way

    def _booked(self, log: Log, at: int, granted: int) -> Log:
        grant = (at + self._charge(), granted, UNSAID, 0)
        return log._replace(unsettled=tuple(sorted((*log.unsettled, grant))), last_at=max(log.last_at, at))


def _without(slot: Slot, granted: int, sent: int) -> tuple[Slot, Times]:
    """A grant of which a part is done with, and the requests that are adrift by it."""
    left = slot._replace(granted=slot.granted - granted, sent=slot.sent - sent)
    if not left.granted:
        return IDLE_SLOT, slot.flying
    return (left if left.sent < left.granted else left._replace(last=NEVER, first=0)), ()


def _sent(slot: Slot, way: int, age: int) -> tuple[Slot, Times]:
    """One request more is on its way."""
    if not slot.t:
        return _unlinked(slot._replace(sent=slot.sent + 1, flying=(*slot.flying, way)))
    last = slot.last if slot.sent + 1 < slot.granted else NEVER
    return slot._replace(sent=slot.sent + 1, last=last, flying=_joined(slot.flying, (way,)), sent_age=age), ()


def _unlinked(slot: Slot) -> tuple[Slot, Times]:
    """Nothing can be settled any more: all that matters is what may still be sent, and what is on its way."""
    if slot.phase == ANSWERED:
        return slot._replace(t=0), ()
    left = slot.granted - slot.sent
    return (Slot(HOLDING, 0, 0, left, 0, slot.first, slot.last) if left and slot.last >= 0 else IDLE_SLOT), slot.flying


def _joined(times: Times, more: Times) -> Times:
    return tuple(sorted((*times, *more))) if more else times


def _less(values: tuple, value: object) -> tuple:  # type: ignore[type-arg]
    place = values.index(value)
    return (*values[:place], *values[place + 1 :])
