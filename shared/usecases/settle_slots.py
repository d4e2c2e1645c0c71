"""Account for a live job's slots when one of its runs ends, in the transaction that ends it."""

from dataclasses import dataclass

from pymongo.client_session import ClientSession

from shared.domain.connectors import Connector
from shared.domain.jobs import JobKind, JobStatus, RunOutcome, to_ms
from shared.domain.slots import (
    FOREVER_MS,
    REASONS,
    SlotClass,
    SlotLedger,
    Stretch,
    counts_view,
    ledger_of,
    stretches_until_now,
)
from shared.domain.timeframes import TIMEFRAMES
from shared.stores.database import Document
from shared.stores.job_leases import JobLeases


@dataclass(frozen=True, slots=True)
class PlannedSlots:
    """`ledgers`: the job's as it was read (None: there was none) and as it is to be. `counts`: for the run's document."""

    ledgers: tuple[Document | None, Document]
    counts: Document


@dataclass(frozen=True, slots=True)
class RunSlots:
    """What the end of a run means for its job's slots. `job` is the document as it was when the run began.

    `connector` None: the run ended before it was read. `asked_end_ms`: up to which close everything has been asked for, None
    if the run did not get there. `now_ms`: when it ended.
    """

    job: Document
    connector: Connector | None
    outcome: RunOutcome
    asked_end_ms: int | None
    now_ms: int

    def plan(self) -> PlannedSlots | None:
        """What to write if nobody has edited the job since the run began. None: it is no live job, and has no slots.

        A job from before there were ledgers has slots from the begin of its next run on.
        """
        if self.job["kind"] != JobKind.LIVE:
            return None
        ledger = ledger_of(self.job) or SlotLedger.opened(to_ms(self.job["lock"]["started_at"]))
        ended, counts = self._end(ledger, None)
        return PlannedSlots((self.job.get("slot_ledger"), ended), counts)

    def settle(self, planned: PlannedSlots, after: Document, leases: JobLeases, fence: int, session: ClientSession) -> Document:
        """The run's counts once its end is written; `after` is {status, slot_ledger} as that write has left them.

        A pause or resume during the run has moved the ledger, and the end's write has left it alone: it goes on from there
        now. In nearly every run nothing of the kind happened, and nothing is written here.
        """
        ledger = planned.ledgers[1]
        if after["slot_ledger"] == ledger:
            return planned.counts
        ledger, counts = self._end(SlotLedger.from_document(after["slot_ledger"]), after["status"])
        leases.amend_slot_ledger(self.job["_id"], fence, ledger, session)
        return counts

    def _end(self, ledger: SlotLedger, status: str | None) -> tuple[Document, Document]:
        own = REASONS.get(self.outcome, SlotClass.COALESCED)
        ended, counts = ledger.end_run(
            TIMEFRAMES[self.job["timeframe"]],
            asked_end_ms=self.asked_end_ms,
            now_ms=self.now_ms,
            stretches=self._stretches(ledger, own),
            reason=SlotClass.PAUSED if status == JobStatus.PAUSED else own,
        )
        return ended.to_document(), counts_view(counts)

    def _stretches(self, ledger: SlotLedger, own: SlotClass) -> list[Stretch]:
        """What there was before the run began, the wait for it, and the run's own time."""
        began_ms = to_ms(self.job["lock"]["started_at"])
        before = stretches_until_now(self.job, ledger, self.connector)
        bounded = [(min(end_ms, began_ms), slot_class) for end_ms, slot_class in before]
        return [*bounded, (began_ms, SlotClass.COALESCED), (FOREVER_MS, own)]
