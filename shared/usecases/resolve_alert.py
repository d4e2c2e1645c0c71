"""A person has seen to an alert: close it, with an audit entry in the same transaction."""

from dataclasses import dataclass

from bson import ObjectId
from bson.errors import InvalidId
from pymongo.client_session import ClientSession

from shared.errors import NotFound
from shared.stores.alerts import AlertStore
from shared.stores.audit_log import AuditLog
from shared.stores.database import Database, Document
from shared.usecases.record_changes import Author, record_change


@dataclass(frozen=True, slots=True)
class AlertResolver:
    """The one edit of alerts that people make."""

    database: Database
    alerts: AlertStore
    audit_log: AuditLog

    def resolve(self, alert_id: str, author: Author) -> Document:
        """The alert as it now is; one that is resolved already stays so. If its cause comes again, a new one opens.

        Raises:
            NotFound: no such alert.
        """
        try:
            known_id = ObjectId(alert_id)
        except InvalidId as exc:
            raise NotFound(f"alert {alert_id} does not exist") from exc

        def write(session: ClientSession) -> Document:
            before, after = self.alerts.resolve_by_id(known_id, session)
            if after is not before:
                record_change(
                    self.audit_log, author, "alert.resolve", f"alerts/{alert_id}", before=before, after=after, session=session
                )
            return after

        return self.database.transact(write)
