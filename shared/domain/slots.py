"""Slots: a live job has one at every close of its timeframe, and each ends in exactly one class.

A slot is `ran` if a run has asked for everything closed by then before the next close came. Every other one is counted under
what held the job when the next close came; its candle is not lost, as the next run asks for all that is missing. So at every
moment: closes after `since_ms` and up to `until_ms` = the sum of `totals`. The newest close stays open until it has run or the
next one comes. No cost grows with the number of slots.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, TypeAlias

from shared.domain.connectors import Connector, ConnectorStatus
from shared.domain.jobs import JobStatus, RunOutcome, to_datetime, to_ms
from shared.domain.timeframes import TIMEFRAMES, Timeframe

# Later than any slot.
FOREVER_MS: Final = 2**47


class SlotClass(StrEnum):
    """What became of a slot; from `error` on: why it was skipped."""

    RAN = "ran"
    COALESCED = "coalesced"  # only late: a run was still at work, or none had been started yet
    PAUSED = "paused"
    ERROR = "error"
    CONNECTOR_PAUSED = "connector_paused"
    BLOCKED = "blocked"  # no run was started, as the exchange had refused the connector
    THROTTLED = "throttled"  # the exchange refused this job's own run
    WAITING = "waiting"  # our limit had no room
    FAILED = "failed"
    LOST = "lost"  # the worker died
    NOT_STARTED = "not_started"  # claimed, but no worker began


# What every count is shown with; the others are the reasons under `skipped`.
SHOWN_ALWAYS: Final = (SlotClass.RAN, SlotClass.COALESCED, SlotClass.PAUSED)
# Under what a slot is counted that passes between a run with this outcome and the moment for which it set the next one.
REASONS: Final[Mapping[RunOutcome, SlotClass]] = {
    RunOutcome.WAITING: SlotClass.WAITING,
    RunOutcome.THROTTLED: SlotClass.THROTTLED,
    RunOutcome.PAUSED: SlotClass.CONNECTOR_PAUSED,
    RunOutcome.FAILED: SlotClass.FAILED,
    RunOutcome.ERROR: SlotClass.ERROR,
}

SlotCounts: TypeAlias = Mapping[str, int]
# (end_ms, class): what held the job until then, after the stretch before.
Stretch: TypeAlias = tuple[int, SlotClass]


@dataclass(frozen=True, slots=True)
class SlotLedger:
    """A job's account of its slots: those after `since_ms` and up to `until_ms` are counted, each once, in `totals`.

    `reason` is the class of slots that pass until the job is due. `carried` is the part of `totals` that stands in no run's
    document yet: what a pause or resume has counted.
    """

    since_ms: int
    until_ms: int
    reason: SlotClass
    carried: SlotCounts
    totals: SlotCounts

    @classmethod
    def opened(cls, since_ms: int, *, is_paused: bool = False) -> "SlotLedger":
        """Of a job whose first slot is the first close after that moment."""
        return cls(since_ms, since_ms, SlotClass.PAUSED if is_paused else SlotClass.COALESCED, {}, {})

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "SlotLedger":
        """From `slot_ledger` of a job."""
        return cls(
            since_ms=to_ms(document["since"]),
            until_ms=to_ms(document["until"]),
            reason=SlotClass(document["reason"]),
            carried=document["carried"],
            totals=document["totals"],
        )

    def to_document(self) -> dict[str, Any]:
        """As the job keeps it."""
        return {
            "since": to_datetime(self.since_ms),
            "until": to_datetime(self.until_ms),
            "reason": self.reason.value,
            "carried": dict(self.carried),
            "totals": dict(self.totals),
        }

    def pending(self, timeframe: Timeframe, now_ms: int) -> int:
        """How many slots have come and are not counted yet."""
        return count_closes(timeframe, self.until_ms, now_ms)

    def end_run(
        self, timeframe: Timeframe, *, asked_end_ms: int | None, now_ms: int, stretches: Sequence[Stretch], reason: SlotClass
    ) -> tuple["SlotLedger", SlotCounts]:
        """A run has ended: the ledger as it then is, and what the run's document counts, with what was carried.

        `asked_end_ms`: the newest close up to which a run that caught up has asked for everything; None if it did not.
        """
        if asked_end_ms is None:
            counts, until_ms = self._count_passed(timeframe, now_ms, stretches)
        elif asked_end_ms > self.until_ms:
            late_end_ms = last_passed_ms(timeframe, asked_end_ms)
            counts = Counter(classify(timeframe, self.until_ms, late_end_ms, stretches))
            counts[SlotClass.RAN.value] += 1
            until_ms = asked_end_ms
        else:
            counts, until_ms = Counter(), self.until_ms
        ended = replace(self, until_ms=until_ms, reason=reason, carried={}, totals=_added(self.totals, counts))
        return ended, _added(self.carried, counts)

    def edit(self, timeframe: Timeframe, *, now_ms: int, stretches: Sequence[Stretch], reason: SlotClass) -> "SlotLedger":
        """A pause or resume: slots that have passed are counted under what held until now, later ones under `reason`."""
        counts, until_ms = self._count_passed(timeframe, now_ms, stretches)
        return replace(
            self,
            until_ms=until_ms,
            reason=reason,
            carried=_added(self.carried, counts),
            totals=_added(self.totals, counts),
        )

    def _count_passed(self, timeframe: Timeframe, now_ms: int, stretches: Sequence[Stretch]) -> tuple[Counter[str], int]:
        """Slots after which another close has come: nothing can make them run any more."""
        passed_ms = last_passed_ms(timeframe, now_ms)
        return Counter(classify(timeframe, self.until_ms, passed_ms, stretches)), max(self.until_ms, passed_ms)


def count_closes(timeframe: Timeframe, after_ms: int, until_ms: int) -> int:
    """How many closes lie in (after_ms, until_ms]."""
    return timeframe.count(after_ms + 1, until_ms + 1)


def last_passed_ms(timeframe: Timeframe, now_ms: int) -> int:
    """The newest close after which another one has come."""
    return timeframe.shift(timeframe.closed_end(now_ms), -1)


def classify(timeframe: Timeframe, after_ms: int, until_ms: int, stretches: Sequence[Stretch]) -> SlotCounts:
    """The closes in (after_ms, until_ms], each in the first stretch that lasts to the next close, else as coalesced."""
    counts: Counter[str] = Counter()
    begin_ms = after_ms
    for end_ms, slot_class in (*stretches, (FOREVER_MS, SlotClass.COALESCED)):
        bounded_ms = min(last_passed_ms(timeframe, end_ms), until_ms)
        if bounded_ms > begin_ms:
            counts[slot_class.value] += count_closes(timeframe, begin_ms, bounded_ms)
            begin_ms = bounded_ms
    return +counts


def open_ledger(timeframe: Timeframe, created_ms: int, start_ms: int, *, is_paused: bool) -> SlotLedger:
    """Of a new job: no slot before it was made, and none before the first interval that it wants has closed."""
    return SlotLedger.opened(max(created_ms, timeframe.ceil(start_ms)), is_paused=is_paused)


def ledger_of(job: Mapping[str, Any]) -> SlotLedger | None:
    """A job's ledger; None if it has none: it is no live one, or was made before there were ledgers and has not run since."""
    document = job.get("slot_ledger")
    return None if document is None else SlotLedger.from_document(document)


def pause_ledger(job: Mapping[str, Any], connector: Connector, now_ms: int) -> dict[str, Any]:
    """The fields that a pause changes; `job` is the document before it."""
    ledger = ledger_of(job)
    if ledger is None:
        return {}
    lock = job["lock"]
    has_run_out = "claim_id" in lock and to_ms(lock["expires_at"]) <= now_ms
    stretches = stretches_until_now(job, ledger, connector, [_lease_of(lock)] if has_run_out else [])
    edited = ledger.edit(TIMEFRAMES[job["timeframe"]], now_ms=now_ms, stretches=stretches, reason=SlotClass.PAUSED)
    return {"slot_ledger": edited.to_document()}


def resume_ledger(job: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """The fields that a resume changes: all that has passed was paused, or in error."""
    ledger = ledger_of(job)
    if ledger is None:
        return {}
    was = SlotClass.ERROR if job["status"] == JobStatus.ERROR else SlotClass.PAUSED
    edited = ledger.edit(TIMEFRAMES[job["timeframe"]], now_ms=now_ms, stretches=[(FOREVER_MS, was)], reason=was)
    return {"slot_ledger": edited.to_document()}


def stretches_until_now(
    job: Mapping[str, Any], ledger: SlotLedger, connector: Connector | None, leases: Sequence[Mapping[str, Any]] = ()
) -> list[Stretch]:
    """What kept the job from running since its last run: the reason until it was due, leases that ran out, its connector.

    `leases`: those that ran out beside the ones in `abandoned`.
    """
    lock = job["lock"]
    due_at = lock["scheduled_at"] if "claim_id" in lock else job["next_run_at"]
    stretches: list[Stretch] = [(to_ms(due_at), ledger.reason)]
    for lease in (*job.get("abandoned", ()), *leases):
        stretches.append((to_ms(lease["claimed_at"]), SlotClass.COALESCED))
        stretches.append((to_ms(lease["expired_at"]), SlotClass.LOST if lease["run_id"] else SlotClass.NOT_STARTED))
    if connector is not None:
        is_paused = connector.status is ConnectorStatus.PAUSED
        paused_ms = FOREVER_MS if is_paused else connector.paused_until_ms
        held = [(connector.blocked_until_ms, SlotClass.BLOCKED), (paused_ms, SlotClass.CONNECTOR_PAUSED)]
        stretches.extend(sorted(held, key=lambda stretch: stretch[0]))
    return stretches


def counts_view(counts: SlotCounts) -> dict[str, Any]:
    """{ran, coalesced, paused, skipped: {reason: count}}, as runs keep it and the API shows it."""
    reasons = {name: count for name, count in sorted(counts.items()) if name not in SHOWN_ALWAYS}
    return {**{name.value: counts.get(name.value, 0) for name in SHOWN_ALWAYS}, "skipped": reasons}


def _lease_of(lock: Mapping[str, Any]) -> dict[str, Any]:
    return {"claimed_at": lock["claimed_at"], "expired_at": lock["expires_at"], "run_id": lock.get("run_id")}


def _added(counts: SlotCounts, more: SlotCounts) -> dict[str, int]:
    return dict(sorted((Counter(counts) + Counter(more)).items()))
