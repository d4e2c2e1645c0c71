"""Breadth-first search of every reachable state of a small model, with its laws, and whether its goal stays in reach."""

from array import array
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)
# (what happens, the state after it, the law that this very step breaks or None)
Move = tuple[str, S, str | None]


class Model(Protocol[S]):
    """States are hashable, canonical values (equal if and only if they are the same up to symmetry)."""

    def initial(self) -> S:
        """Where the search begins."""
        ...

    def moves(self, state: S) -> Iterable[Move[S]]:
        """Every step that anything may take from here."""
        ...

    def broken_law(self, state: S) -> str | None:
        """A law of states that this one breaks."""
        ...

    def is_goal(self, state: S) -> bool:
        """Whether this is a state that must stay in reach for ever."""
        ...


@dataclass(frozen=True, slots=True)
class Found(Generic[S]):
    """What a search found. `trace`: what happened on a shortest way to `state`; both are empty without a broken law."""

    states: int
    moves: int
    broken: str | None = None
    trace: tuple[str, ...] = ()
    state: S | None = None


NO_WAY_ON = "from every state the work can still be done"


def search(model: Model[S], states_max: int = 5_000_000) -> Found[S]:
    """Visit all states, nearest first, up to the first broken law; then look for states that the goal cannot be reached from.

    Raises:
        OverflowError: there are more than `states_max` states.
    """
    first = model.initial()
    index_of: dict[S, int] = {first: 0}
    states: list[S] = [first]
    parents, labels = array("i", [-1]), [""]
    sources, targets = array("i"), array("i")

    def found(broken: str | None = None, at: int = 0, last: tuple[str, ...] = ()) -> Found[S]:
        trace = []
        state = states[at]
        while broken and at > 0:
            trace.append(labels[at])
            at = parents[at]
        return Found(len(states), len(sources), broken, (*reversed(trace), *last), state if broken else None)

    if broken := model.broken_law(first):
        return found(broken)
    here = 0
    while here < len(states):
        for label, after, broken in model.moves(states[here]):
            if broken:
                return found(broken, here, (label,))
            there = index_of.get(after)
            if there is None:
                there = index_of[after] = len(states)
                states.append(after)
                parents.append(here)
                labels.append(label)
                if broken := model.broken_law(after):
                    return found(broken, there)
                if there >= states_max:
                    raise OverflowError(f"more than {states_max} states")
            sources.append(here)
            targets.append(there)
        here += 1
    stuck = _first_that_cannot_reach(model.is_goal, states, sources, targets)
    return found() if stuck is None else found(NO_WAY_ON, stuck)


def _first_that_cannot_reach(
    is_goal: Callable[[S], bool], states: list[S], sources: "array[int]", targets: "array[int]"
) -> int | None:
    """Walk the moves backwards from all goals; the first state that is not met."""
    count = len(states)
    begins = array("i", bytes(4 * (count + 1)))
    for target in targets:
        begins[target + 1] += 1
    for index in range(count):
        begins[index + 1] += begins[index]
    places, before = array("i", begins), array("i", bytes(4 * len(sources)))
    for source, target in zip(sources, targets, strict=True):
        before[places[target]] = source
        places[target] += 1
    is_met = bytearray(count)
    todo = [index for index in range(count) if is_goal(states[index])]
    for index in todo:
        is_met[index] = 1
    while todo:
        index = todo.pop()
        for source in before[begins[index] : begins[index + 1]]:
            if not is_met[source]:
                is_met[source] = 1
                todo.append(source)
    stuck = is_met.find(0)
    return None if stuck < 0 else stuck
