"""Write down who changed what, in the transaction of the change."""

from dataclasses import dataclass
from typing import Final

from pymongo.client_session import ClientSession

from shared.stores.audit_log import AuditLog
from shared.stores.database import Document

# What functions keep in documents for themselves; nobody edits it.
INTERNAL_FIELDS: Final = frozenset(
    {
        *("limiter", "scratch", "lock", "abandoned", "run_requested", "slot_ledger", "is_retiring"),
        *("epoch", "wakes", "codes_until", "pace", "decision"),
    }
)


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change, in which role, by which request."""

    actor: str
    role: str
    request_id: str


def record_change(
    audit_log: AuditLog,
    author: Author,
    action: str,
    target: str,
    *,
    before: Document | None,
    after: Document | None,
    session: ClientSession,
) -> None:
    """One entry: `action` like `job.patch`, `target` like `jobs/binance:BTC-USDT:1m`; documents without internal fields."""
    audit_log.append(
        actor=author.actor,
        role=author.role,
        action=action,
        target=target,
        before=without_internals(before),
        after=without_internals(after),
        request_id=author.request_id,
        session=session,
    )


def without_internals(document: Document | None) -> Document | None:
    """The document as people know it."""
    if document is None:
        return None
    return {name: value for name, value in document.items() if name not in INTERNAL_FIELDS}
