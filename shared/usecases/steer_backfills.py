"""Decide on a backfill (pause, resume, cancel), and let the jobs of its parts follow.

A decision is one write, to the backfill's own document, which no worker writes to: it is never refused because the backfill
is at full speed. Then the parts are told, all at once. When that has returned no page lands that does not know of it. What is
left (values behind a part that has stopped, the jobs of a cancelled one) is one transaction. Whoever dies in between leaves the
rest to the next tick, and two at once do no harm: the parts follow the newest decision only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pymongo.client_session import ClientSession

from shared.domain.backfills import BackfillStatus
from shared.domain.jobs import JobStatus, to_datetime
from shared.errors import Conflict, NotFound, PlatformError, StorageUnavailable
from shared.stores.alerts import AlertStore
from shared.stores.audit_log import AuditLog
from shared.stores.backfills import BackfillStore, summarize_part
from shared.stores.database import TRANSACTION_TRIES_MAX, Database, Document
from shared.telemetry import event
from shared.usecases.record_changes import Author, record_change
from shared.usecases.series_upkeep import SeriesUpkeep

# A decision that is not carried out after this long was somebody's who is gone.
LEFT_MS: Final = 10_000
# Of these so many at each tick.
LEFT_MAX: Final = 20
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
            if before["status"] == status and not self._may_resume(before, session):
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
        # One that is cancelled may be ordered again once this has returned.
        tries_max = SETTLE_TRIES if status is BackfillStatus.PAUSED else TRANSACTION_TRIES_MAX
        try:
            self.carry_out(backfill_id, tries_max)
        except StorageUnavailable as exc:
            # The decision stands, and the parts know of it, or the next tick tells them.
            event("backfill_not_carried_out", "NOTICE", backfill_id=backfill_id, error=exc.message)

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

    def carry_out(self, backfill_id: str, tries_max: int = TRANSACTION_TRIES_MAX) -> None:
        """Let its parts follow what is decided; nothing is done twice that would do harm.

        Raises:
            StorageUnavailable: others keep writing what the last step would change, or MongoDB is away: the next tick does it.
        """
        document = self.backfills.find(backfill_id)
        if document is None or document["is_carried_out"]:
            return
        self.backfills.tell_parts(document)
        self.database.transact(lambda session: self._settle(document, session), tries_max=tries_max)

    def carry_out_left(self) -> int:
        """What others have decided and not carried out. Returns how many there were."""
        before = to_datetime(self.database.server_now_ms() - LEFT_MS)
        found = self.backfills.list_not_carried_out(before, LEFT_MAX)
        for document in found:
            facts = {"backfill_id": document["_id"], "status": document["status"]}
            try:
                self.carry_out(document["_id"])
            except PlatformError as exc:
                # The next tick comes by again; this one has others to serve.
                event("backfill_not_carried_out", "WARNING", error=exc.message, **facts)
            else:
                event("backfill_carried_out", "NOTICE", **facts)
        return len(found)

    def _may_resume(self, document: Document, session: ClientSession) -> bool:
        """An active one may have parts that have failed, or that version 0.1.0 had paused alone: they go on."""
        if document["status"] != BackfillStatus.ACTIVE:
            return False
        stand_still = (JobStatus.ERROR, JobStatus.PAUSED)
        return any(part["status"] in stand_still for part in self.backfills.list_parts(document["_id"], session))

    def _settle(self, document: Document, session: ClientSession) -> None:
        """What follows for the series, once the parts know."""
        current = self.backfills.find(document["_id"], session)
        if current is None or current["revision"] != document["revision"]:
            return
        parts = self.backfills.list_parts(document["_id"], session)
        if document["status"] == BackfillStatus.CANCELLED:
            summaries = [summarize_part(part, self.upkeep.ledger.count_left(part)) for part in parts]
            self.backfills.end(document["_id"], BackfillStatus.CANCELLED, summaries, session)
            self.upkeep.remove_parts(parts, session)
            return
        for part in parts:
            if document["status"] == BackfillStatus.PAUSED:
                self.upkeep.leave(part, session)
            else:
                self.alerts.resolve(f"jobs/{part['_id']}", session)
        self.backfills.note_carried_out(document, session)
