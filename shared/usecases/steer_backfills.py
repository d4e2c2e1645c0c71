"""Decide on a backfill (pause, resume, cancel), and let the jobs of its parts follow.

A decision is one write, to the backfill's own document, which no worker writes to but at its very end: it is never refused
because the backfill is at full speed. Then the parts are told, all at once. When that has returned no page lands that does
not know of it. What is left (values behind a part that has stopped, the jobs of a cancelled one) is one transaction.
Whoever dies in between leaves the rest to the next tick, and two at once do no harm: the parts follow the newest decision
only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pymongo.client_session import ClientSession

from shared.deadline import Deadline
from shared.domain.backfills import BackfillStatus
from shared.domain.jobs import JobStatus, to_datetime
from shared.errors import Conflict, NotFound, PlatformError, StorageUnavailable
from shared.stores.alerts import AlertStore
from shared.stores.audit_log import AuditLog
from shared.stores.backfills import BackfillStore, summarize_part
from shared.stores.database import TRANSACTION_TRIES_MAX, Database, Document, storage_errors
from shared.telemetry import event
from shared.usecases.record_changes import Author, record_change
from shared.usecases.series_upkeep import SeriesUpkeep

# A decision that is not carried out after this long was somebody's who is gone.
LEFT_MS: Final = 10_000
# Of these so many at each tick, for so long.
LEFT_MAX: Final = 20
LEFT_S_MAX: Final = 3.0
# The last step of a pause wakes the job that computes values again, which may be at work: nobody waits for that.
SETTLE_TRIES: Final = 2
VERBS: Final[Mapping[BackfillStatus, str]] = {
    BackfillStatus.PAUSED: "pause",
    BackfillStatus.ACTIVE: "resume",
    BackfillStatus.CANCELLED: "cancel",
}


@dataclass(frozen=True, slots=True)
class BackfillSteering:
    """Decisions, and what follows from them."""

    database: Database
    backfills: BackfillStore
    upkeep: SeriesUpkeep
    alerts: AlertStore
    audit_log: AuditLog

    def decide(self, backfill_id: str, status: BackfillStatus, author: Author) -> None:
        """Decide, and carry it out. Nothing happens where it is so already.

        Raises:
            Conflict: it has ended.
            NotFound: there is none.
        """

        def write(session: ClientSession) -> None:
            before = self.backfills.find(backfill_id, session)
            if before is None:
                raise NotFound(f"backfill {backfill_id} does not exist")
            # One that was paused with its live job is now paused by itself.
            is_anew = before["is_paused_with_job"] or self._may_resume(before, session)
            if before["status"] == status and not is_anew:
                return
            after = self.backfills.decide(backfill_id, status, session)
            record_change(
                self.audit_log,
                author,
                f"backfill.{VERBS[status]}",
                f"backfills/{backfill_id}",
                before=before,
                after=after,
                session=session,
            )

        self.database.transact(write)
        self.follow(backfill_id)

    def follow(self, backfill_id: str) -> None:
        """Let its parts follow what was decided just now: none of them stores anything against it once this has returned.

        Raises:
            PyMongoError, StorageUnavailable: that could not be done; a tick does it.
        """
        document = self._tell(backfill_id)
        if document is None:
            return
        # One that is cancelled may be ordered again once this has returned.
        is_awaited = document["status"] == BackfillStatus.CANCELLED
        try:
            self._settle(document, TRANSACTION_TRIES_MAX if is_awaited else SETTLE_TRIES)
        except StorageUnavailable as exc:
            # The decision stands and the parts know of it; the rest a tick does.
            event("backfill_not_settled", "NOTICE", backfill_id=backfill_id, error=exc.message)

    def forget(self, backfill_id: str, author: Author) -> None:
        """Remove what is kept of one that has ended. Its candles stay, and what it had asked for stays known.

        Raises:
            Conflict: it has not ended.
            NotFound: there is none.
        """

        def write(session: ClientSession) -> None:
            before = self.backfills.find(backfill_id, session)
            if before is None:
                raise NotFound(f"backfill {backfill_id} does not exist")
            if before["status"] not in (BackfillStatus.DONE, BackfillStatus.CANCELLED):
                raise Conflict(f"backfill {backfill_id} is {before['status']}")
            self.upkeep.remove_parts(self.backfills.list_parts(backfill_id, session), session)
            self.backfills.delete([backfill_id], session)
            target = f"backfills/{backfill_id}"
            record_change(self.audit_log, author, "backfill.forget", target, before=before, after=None, session=session)

        self.database.transact(write)

    def carry_out_left(self) -> int:
        """What others have decided and not carried out, as much as there is time for. Returns how many there were."""
        before = to_datetime(self.database.server_now_ms() - LEFT_MS)
        deadline = Deadline.after(LEFT_S_MAX)
        found = self.backfills.list_not_carried_out(before, LEFT_MAX)
        for document in found:
            if deadline.remaining_ms() <= 0:
                break
            facts = {"backfill_id": document["_id"], "status": document["status"]}
            try:
                with storage_errors():
                    told = self._tell(document["_id"])
                    if told is not None:
                        self._settle(told, TRANSACTION_TRIES_MAX)
            except PlatformError as exc:
                # The next tick comes by again.
                event("backfill_not_carried_out", "WARNING", error=exc.message, **facts)
            else:
                event("backfill_carried_out", "NOTICE", **facts)
        return len(found)

    def _tell(self, backfill_id: str) -> Document | None:
        """Tell the parts; returns the document that they follow, None where nothing is left to be done."""
        document = self.backfills.find(backfill_id)
        if document is None or document["is_carried_out"]:
            return None
        self.backfills.tell_parts(document)
        return document

    def _settle(self, document: Document, tries_max: int) -> None:
        """What follows for the series, once the parts know. Raises StorageUnavailable."""
        self.database.transact(lambda session: self._settle_within(document, session), tries_max=tries_max)

    def _may_resume(self, document: Document, session: ClientSession) -> bool:
        """An active one may have parts that have failed, or that version 0.1.0 had paused alone: they go on."""
        if document["status"] != BackfillStatus.ACTIVE:
            return False
        stand_still = (JobStatus.ERROR, JobStatus.PAUSED)
        return any(part["status"] in stand_still for part in self.backfills.list_parts(document["_id"], session))

    def _settle_within(self, document: Document, session: ClientSession) -> None:
        current = self.backfills.find(document["_id"], session)
        if current is None or current["revision"] != document["revision"]:
            return
        parts = self.backfills.list_parts(document["_id"], session)
        if document["status"] == BackfillStatus.CANCELLED:
            summaries = [summarize_part(part, self.upkeep.ledger.count_left(part)) for part in parts]
            self.backfills.end(document["_id"], BackfillStatus.CANCELLED, summaries, session)
            self.upkeep.remove_parts(parts, session)
            return
        if parts and all(part["status"] == JobStatus.DONE for part in parts):
            # A worker of version 0.1.0 has ended the last one.
            self.backfills.end(document["_id"], BackfillStatus.DONE, [summarize_part(part, 0) for part in parts], session)
            return
        for part in parts:
            if document["status"] == BackfillStatus.PAUSED:
                self.upkeep.leave(part, session)
            else:
                self.alerts.resolve(f"jobs/{part['_id']}", session)
        self.backfills.note_carried_out(document, session)
