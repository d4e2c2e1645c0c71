"""The protocol of a series' list of indicators and of values made again, as the code has it: who changes what meanwhile.

A live job's run reads its `epoch`, the list (or knows it from an earlier run of its instance under the same epoch) and the
candle that its own continues from, and lands its candle in a transaction that reads its `epoch` again. A change of the list
raises the epoch of the live job in its own transaction. A backfill is told by the task, before that computes anything, and from
then on all candles are stale that there are. A job that fills a hole
behind the others (a repair, whose candles are bare, or a backfill, which computes them) and the task that computes again what
is stale do the same with the counters that are theirs. Somebody changes the list at any time. Each may stand still for any
time, or die, between any two steps. Leases are not here but in leases.py: one run at a time.

A value is the list that it is of, and the candles that have gone into it, as of a cumulative indicator: it continues from the
value before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.model.search import Move

# What a run, or the task, is about to do.
IDLE, LIST, TAIL, LAND, WRITE = range(5)
REPAIR, BACKFILL = range(2)
FRESH: Final = 99
BARE: Final = -1

VALUE: Final = "all values that are not stale are those of the series' list and candles"


class Value(NamedTuple):
    """`made_of`: a bit for each candle that has gone into it."""

    listed: int
    made_of: int


class Series(NamedTuple):
    """Its document: `stale` is the first candle to be computed again, FRESH: none is; a backfill may not know of the list."""

    listed: int = 0
    changes: int = 0
    stale: int = FRESH
    is_untold: bool = False


class Run(NamedTuple):
    """Of the live job, or of the one that fills the hole; `value` is what it is to land."""

    phase: int = IDLE
    instance: int = 0
    epoch: int = 0
    listed: int = 0
    value: Value | None = None


class Task(NamedTuple):
    """The task that computes again: what it has read of the series, and then its values in the order of the candles."""

    phase: int = IDLE
    series: Series = Series()
    values: tuple[Value | None, ...] = ()


class World(NamedTuple):
    """`epoch` of the live job; `known`: by instance the epoch and the list that it has read.

    Of the run behind it is only told whether its job's epoch still is the one that it began with (`epoch` 1): how often a
    backfill is told has no end.
    """

    series: Series
    candles: tuple[Value | None, ...]
    epoch: int
    live: Run
    behind: Run
    task: Task
    known: tuple[tuple[int, int] | None, ...]
    edits: int


@dataclass(frozen=True, slots=True)
class SeriesModel:
    """The model: the candle 0 is a hole, 1 is there. `bugs` are names of rules that are switched off."""

    candles: int = 3
    edits: int = 2
    instances: int = 2
    kind: int = REPAIR
    bugs: frozenset[str] = frozenset()

    def initial(self) -> World:
        """A live job has stored a candle behind a hole."""
        candles = (None, Value(0, 0b10), *(None,) * (self.candles - 2))
        return World(Series(), candles, 0, Run(), Run(), Task(), (None,) * self.instances, self.edits)

    def is_goal(self, world: World) -> bool:
        """Everything is stored, and nothing is stale."""
        return all(world.candles) and world.series.stale == FRESH

    def broken_law(self, world: World) -> str | None:
        """In no state is a value wrong and not to be computed again, unless a backfill is still to be told."""
        if world.series.is_untold:
            return None
        made_of = 0
        for place, value in enumerate(world.candles):
            if value is None:
                continue
            made_of |= 1 << place
            if place < world.series.stale and value != Value(world.series.listed, made_of):
                return VALUE
        return None

    def moves(self, world: World) -> Iterator[Move[World]]:
        """Everything that can happen next."""
        for label, after in self._all(world):
            yield label, after, None

    def _all(self, world: World) -> Iterator[tuple[str, World]]:
        if world.edits:
            yield "change the list", self._changed(world)
        yield from self._live(world)
        yield from self._behind(world)
        yield from self._task(world)

    def _changed(self, world: World) -> World:
        series = world.series
        is_stale = "a new list makes nothing stale" not in self.bugs
        first = min(series.stale, _first(world.candles)) if is_stale else series.stale
        is_untold = self.kind == BACKFILL and "a backfill is not told of a new list" not in self.bugs
        epoch = world.epoch + int("a new list raises no epoch" not in self.bugs)
        series = Series(series.listed + 1, series.changes + 1, first, is_untold)
        return world._replace(series=series, epoch=epoch, edits=world.edits - 1)

    def _live(self, world: World) -> Iterator[tuple[str, World]]:
        run, place = world.live, _next(world.candles)
        if run.phase == IDLE:
            if place is not None:
                yield from (("begin", self._begun(world, instance)) for instance in range(self.instances))
            return
        yield "die", world._replace(live=Run())
        if run.phase == LIST:
            yield "read the list", self._listed(world)
        elif run.phase == TAIL:
            assert place is not None
            yield (
                "read the tail",
                world._replace(live=run._replace(phase=LAND, value=_computed(world.candles, place, run.listed))),
            )
        elif run.phase == LAND:
            if run.epoch != world.epoch:
                again = TAIL if "computed again with the list it had" in self.bugs else LIST
                yield "moved", world._replace(live=run._replace(phase=again, epoch=world.epoch))
            elif "the epoch is compared before" in self.bugs:
                yield "compare", world._replace(live=run._replace(phase=WRITE))
            else:
                yield "land", self._landed(world, place)
        else:
            yield "land", self._landed(world, place)

    def _begun(self, world: World, instance: int) -> World:
        epoch, known = world.epoch, world.known[instance]
        run = Run(LIST, instance, epoch)
        if "the list is read before the epoch" in self.bugs:
            # The epoch is read at the end of the next step.
            return world._replace(live=run._replace(listed=world.series.listed))
        is_known = known is not None and (known[0] == epoch or "the list is known whatever the epoch" in self.bugs)
        return world._replace(live=run._replace(phase=TAIL, listed=known[1]) if is_known and known else run)

    def _listed(self, world: World) -> World:
        run = world.live
        if "the list is read before the epoch" in self.bugs:
            return world._replace(live=run._replace(phase=TAIL, epoch=world.epoch))
        listed = world.series.listed
        known = list(world.known)
        known[run.instance] = (run.epoch, listed)
        return world._replace(live=run._replace(phase=TAIL, listed=listed), known=tuple(known))

    def _landed(self, world: World, place: int | None) -> World:
        assert place is not None
        return world._replace(candles=_put(world.candles, place, world.live.value), live=Run())

    def _behind(self, world: World) -> Iterator[tuple[str, World]]:
        run = world.behind
        if world.candles[0] is not None:
            return
        if self.kind == REPAIR:
            # It reads nothing that others change.
            yield "repair", self._filled(world, Value(BARE, 0), 0)
        elif run.phase == IDLE:
            yield "begin behind", world._replace(behind=Run(LIST, epoch=1))
        elif run.phase == LIST:
            value = _computed(world.candles, 0, world.series.listed)
            yield "compute behind", world._replace(behind=run._replace(phase=LAND, value=value))
        elif not run.epoch:
            yield "moved behind", world._replace(behind=Run(LIST, epoch=1))
        else:
            assert run.value is not None
            # What is behind it was computed without it.
            yield "land behind", self._filled(world, run.value, 1)

    def _told(self, world: World) -> World:
        """The backfill knows, unless the list is another one again; what it has stored until then is stale, wherever it is."""
        series, first = world.series, _first(world.candles)
        if series.changes != world.task.series.changes and "told of any list" not in self.bugs:
            return world._replace(task=Task())
        stale = series.stale if "what came before it was told stays" in self.bugs else min(series.stale, first)
        return world._replace(series=Series(series.listed, series.changes + 1, stale, is_untold=False), task=Task())

    def _filled(self, world: World, value: Value, stale_from: int) -> World:
        series = world.series
        series = series._replace(changes=series.changes + 1, stale=min(series.stale, stale_from))
        return world._replace(series=series, candles=_put(world.candles, 0, value), epoch=world.epoch + 1, behind=Run())

    def _task(self, world: World) -> Iterator[tuple[str, World]]:
        task, series = world.task, world.series
        if task.phase == IDLE:
            if series.stale != FRESH:
                yield "read what is stale", world._replace(task=Task(LIST if series.is_untold else TAIL, series))
            return
        yield "task dies", world._replace(task=Task())
        if task.phase == LIST:
            yield "tell", world._replace(behind=world.behind._replace(epoch=0), task=task._replace(phase=WRITE))
            return
        if task.phase == WRITE:
            yield "told", self._told(world)
            return
        if task.phase == TAIL:
            values = _computed_from(world.candles, task.series.stale, task.series.listed)
            yield "compute again", world._replace(task=task._replace(phase=LAND, values=values))
            return
        is_overtaken = series.changes != task.series.changes and "lands whatever has changed" not in self.bugs
        is_other = [each is None for each in world.candles] != [each is None for each in task.values]
        if is_overtaken or (is_other and "candles stored meanwhile are not looked for" not in self.bugs):
            yield "overtaken", world._replace(task=Task())
            return
        first = task.series.stale
        candles = tuple(
            each if place < first or each is None else task.values[place] or each for place, each in enumerate(world.candles)
        )
        epoch = world.epoch + int("nobody is told of what was computed again" not in self.bugs)
        yield "land again", world._replace(series=series._replace(stale=FRESH), candles=candles, epoch=epoch, task=Task())


def _first(candles: tuple[Value | None, ...]) -> int:
    """The first candle that there is."""
    return next(place for place, value in enumerate(candles) if value is not None)


def _next(candles: tuple[Value | None, ...]) -> int | None:
    """The candle that the live job is about to store."""
    return next((place for place in range(1, len(candles)) if candles[place] is None), None)


def _put(candles: tuple[Value | None, ...], place: int, value: Value | None) -> tuple[Value | None, ...]:
    return (*candles[:place], value, *candles[place + 1 :])


def _computed(candles: tuple[Value | None, ...], place: int, listed: int) -> Value:
    """Continued from the value before it, or from the beginning where that is of another list."""
    before = [each for each in candles[:place] if each is not None]
    own = 1 << place
    if not before:
        return Value(listed, own)
    if before[-1].listed == listed:
        return Value(listed, before[-1].made_of | own)
    return Value(listed, own | sum(1 << at for at, each in enumerate(candles[:place]) if each is not None))


def _computed_from(candles: tuple[Value | None, ...], first: int, listed: int) -> tuple[Value | None, ...]:
    """All from there on; those before it as they are."""
    for place in range(first, len(candles)):
        if candles[place] is not None:
            candles = _put(candles, place, _computed(candles, place, listed))
    return candles
