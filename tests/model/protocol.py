"""The whole protocol: workers that run jobs and need a grant of the limiter for each page.

Both halves searched alone (leases.py, limiter.py) let the other half do anything, so their laws hold in every combination;
this one shows that together they also get the work done. A worker asks, holds and sends only while its run needs a page, and
what it holds dies with the run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.model import leases, limiter
from tests.model.leases import Leases
from tests.model.limiter import Limiter, Step
from tests.model.search import Move

Pair = tuple[leases.Slot, limiter.Slot]
State = tuple[tuple[Pair, ...], tuple[leases.Job, ...], int, limiter.Log, tuple[int, ...], tuple[int, ...]]
IDLE_PAIR: Final = (leases.IDLE_SLOT, limiter.IDLE_SLOT)


@dataclass(frozen=True, slots=True)
class Protocol:
    """Both halves as one model. `jobs.asks` has to be set."""

    jobs: Leases
    limit: Limiter

    def initial(self) -> State:
        """All idle, nothing stored, nothing asked for."""
        _, jobs, faults, _ = self.jobs.initial()
        return (IDLE_PAIR,) * self.jobs.slots, jobs, faults, limiter.Log(), (), ()

    def is_goal(self, state: State) -> bool:
        """Everything is stored."""
        return self.jobs.is_goal(self._leases_of(state))

    def broken_law(self, state: State) -> str | None:
        """The laws of both."""
        broken = self.limit.broken_law(((), state[3], state[4], state[5]))
        return broken or self.jobs.broken_law(self._leases_of(state))

    def moves(self, state: State) -> Iterator[Move[State]]:
        """Everything that can happen next, canonical."""
        for label, after, broken in self._raw_moves(state):
            yield label, self._canonical(after), broken

    def _raw_moves(self, state: State) -> Iterator[Move[State]]:
        pairs, jobs, faults, log, adrift, arrivals = state
        slots, grants = tuple(slot for slot, _ in pairs), tuple(grant for _, grant in pairs)
        for place, pair in enumerate(pairs):
            if pair in pairs[:place]:
                continue
            before, behind = slots[:place], slots[place + 1 :]
            for new_slot, new_jobs, cost, step, broken in self._steps(pair, jobs, log):
                if cost > faults:
                    continue
                new_grants, lost = self.limit.taken(step, grants, place)
                new_pairs = tuple(zip((*before, new_slot, *behind), new_grants, strict=True))
                new_adrift = tuple(sorted((*adrift, *lost)))
                yield step.label, (new_pairs, new_jobs, faults - cost, step.log, new_adrift, arrivals), broken
        for index, job in enumerate(jobs):
            for label, new_job, cost in self.jobs.events(index, job, slots):
                if cost <= faults:
                    yield label, (pairs, _replaced(jobs, index, new_job), faults - cost, log, adrift, arrivals), None
        for label, (later, new_log, new_adrift, new_arrivals), broken in self.limit.world((grants, log, adrift, arrivals)):
            new_pairs = tuple(zip(slots, later, strict=True))
            yield label, (new_pairs, jobs, faults, new_log, new_adrift, new_arrivals), broken

    def _steps(
        self, pair: Pair, jobs: tuple[leases.Job, ...], log: limiter.Log
    ) -> Iterator[tuple[leases.Slot, tuple[leases.Job, ...], int, Step, str | None]]:
        slot, grant = pair
        if slot.phase:
            yield leases.IDLE_SLOT, jobs, 1, Step("crash", limiter.IDLE_SLOT, log, grant.flying), None
        for label, new_slot, index, new_job, cost, broken in self.jobs.steps(slot, jobs):
            is_on = new_slot.phase not in (leases.IDLE, leases.END)
            ended = Step(label, limiter.IDLE_SLOT, log, grant.flying)
            yield new_slot, _replaced(jobs, index, new_job), cost, Step(label, grant, log) if is_on else ended, broken
        # What a run holds is settled at any time, and forgotten if it can be used no longer and is not.
        is_over = grant.phase == limiter.HOLDING and grant.last < 0
        for step in self.limit.steps(grant, log):
            is_settling = step.label.startswith(("settle", "give back"))
            if is_settling or (slot.phase == leases.ASK and (step.label != "crash" or is_over)):
                yield slot._replace(phase=leases.WORK) if step.is_sending else slot, jobs, 0, step, None

    def _canonical(self, state: State) -> State:
        pairs, jobs, *rest = state
        best = (tuple(sorted(pairs)), jobs)
        if len(jobs) == 2 and jobs[0] != jobs[1]:
            swapped = ((slot if not slot.phase else slot._replace(job=1 - slot.job), grant) for slot, grant in pairs)
            best = min(best, (tuple(sorted(swapped)), jobs[::-1]))
        return *best, *rest  # type: ignore[return-value]

    def _leases_of(self, state: State) -> leases.State:
        return tuple(slot for slot, _ in state[0]), state[1], state[2], None


def _replaced(jobs: tuple[leases.Job, ...], index: int, job: leases.Job) -> tuple[leases.Job, ...]:
    return (*jobs[:index], job, *jobs[index + 1 :])
