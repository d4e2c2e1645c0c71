"""Make, change, pause, resume and delete connectors, each change with its audit entry in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pymongo.client_session import ClientSession

from shared.domain.connectors import CONNECTOR_ID_PATTERN, ConnectorStatus, windows_of
from shared.domain.jobs import to_datetime
from shared.errors import Conflict, InvalidRequest
from shared.exchanges.catalog import load_spec
from shared.exchanges.spec import ExchangeSpec
from shared.stores.audit_log import AuditLog
from shared.stores.connector_holds import ConnectorHolds
from shared.stores.connectors import ConnectorStore
from shared.stores.database import Database, Document
from shared.stores.jobs import JobStore
from shared.stores.rate_limits import forgiven_refusal, initial_limiter, windows_document
from shared.usecases.check_base_url import check_base_url
from shared.usecases.record_changes import Author, record_change
from shared.usecases.run_endings import PAUSED_CONNECTOR_MS

# No block is longer (exchanges/client.py).
BLOCK_MS_MAX: Final = 3 * 24 * 3_600_000
MADE_AGAIN: Final = "made again under the id of a deleted connector, whose requests or block count at the exchange until then"
# What a person may set; everything else in the document is the platform's.
EDITABLE_FIELDS: Final = frozenset(
    {"base_url", "rate_limit", "rate_limit_period_ms", "extra_rate_limits", "settle_delay_ms", "publish_grace_ms"}
)


@dataclass(frozen=True, slots=True)
class ConnectorManager:
    """The edits of connectors. `revision` None: whatever it is now."""

    database: Database
    connectors: ConnectorStore
    holds: ConnectorHolds
    jobs: JobStore
    audit_log: AuditLog
    hosts_allowed: Sequence[str]

    def create(self, connector_id: str | None, exchange: str, fields: Document, author: Author) -> Document:
        """A new connector: the exchange's documented limits, and in their place the `fields` that are given.

        Raises:
            InvalidRequest: unknown exchange, an id that is no slug, limits that make no sense, a base_url that may not be.
            Conflict: the id is taken.
        """
        spec = load_spec(exchange)
        connector_id = exchange.replace(":", "-") if connector_id is None else connector_id
        if not CONNECTOR_ID_PATTERN.fullmatch(connector_id):
            raise InvalidRequest.for_field("id", "has to be 1 to 40 of a-z, 0-9, _ and -, not beginning with _ or -")
        now = to_datetime(self.database.server_now_ms())
        document: Document = {
            "_id": connector_id,
            "exchange": exchange,
            "status": ConnectorStatus.ACTIVE.value,
            **windows_document(spec.windows),
            "rate_limit_usage": 0,
            "period_start_at": None,
            "blocked_until": None,
            "base_url": None,
            "settle_delay_ms": spec.settle_delay_ms,
            "publish_grace_ms": spec.publish_grace_ms,
            **_only_editable(fields),
            "revision": 1,
            "created_at": now,
            "updated_at": now,
        }
        self._check(document, spec)

        def write(session: ClientSession) -> Document:
            # So that all stripes are there when jobs are made.
            self.holds.exclude(connector_id, session)
            held_until = self.holds.find_left(connector_id, session)
            held = (
                {} if held_until is None or held_until <= now else {"blocked_until": held_until, "blocked_reason": MADE_AGAIN}
            )
            made = {**document, **held}
            self.connectors.insert({**made, "limiter": initial_limiter()}, session)
            self._record(author, "create", connector_id, None, made, session)
            return made

        return self.database.transact(write)

    def patch(self, connector_id: str, fields: Document, revision: int | None, author: Author) -> Document:
        """Set the given fields; a changed limit holds from the next request on.

        Raises:
            InvalidRequest, NotFound, PreconditionFailed.
        """
        if not fields:
            raise InvalidRequest("nothing to change: the body is empty")
        before = self.connectors.get(connector_id)
        spec = load_spec(before["exchange"])
        if fields.get("base_url") is not None:
            # Looking up a host can take seconds, too long for a transaction.
            check_base_url(fields["base_url"], self.hosts_allowed)

        def write(session: ClientSession) -> Document:
            before = self.connectors.get_to_edit(connector_id, session)
            check_windows({**before, **fields}, spec)
            after = self.connectors.update(connector_id, revision, _only_editable(fields), session)
            self._record(author, "patch", connector_id, before, after, session)
            return after

        return self.database.transact(write)

    def delete(self, connector_id: str, revision: int | None, author: Author) -> None:
        """Remove a connector that no job uses; its candles stay.

        Raises:
            Conflict: there are jobs.
            NotFound, PreconditionFailed.
        """

        def write(session: ClientSession) -> None:
            # A job cannot be made between the counting and the removal.
            self.holds.exclude(connector_id, session)
            before = self.connectors.get_to_edit(connector_id, session)
            if uses := _told(self.jobs.count_uses(connector_id, session)):
                raise Conflict(f"{uses} connector {connector_id}; delete what does first", connector_id=connector_id)
            self.holds.leave(connector_id, self.connectors.delete(connector_id, revision, session), session)
            self._record(author, "delete", connector_id, before, None, session)

        self.database.transact(write)

    def pause(self, connector_id: str, revision: int | None, author: Author) -> Document:
        """No job of it asks the exchange any more; runs on their way end their page. Raises NotFound, PreconditionFailed."""
        return self._set_status(connector_id, ConnectorStatus.PAUSED, revision, author)

    def resume(self, connector_id: str, revision: int | None, author: Author) -> Document:
        """Let its jobs run again, those that found it paused at once. Raises NotFound, PreconditionFailed."""
        document = self._set_status(connector_id, ConnectorStatus.ACTIVE, revision, author)
        # After the commit: it may be thousands of jobs, and without it they look again within a minute by themselves.
        self.jobs.hasten(connector_id, PAUSED_CONNECTOR_MS)
        return document

    def unblock(self, connector_id: str, author: Author) -> Document:
        """End a block before its time and let its jobs run at once. Raises NotFound.

        For who knows that the block was no exchange's own (a wrong base_url, a proxy), or that its address has changed.
        """
        now_ms = self.database.server_now_ms()

        def write(session: ClientSession) -> Document:
            before = self.connectors.get_to_edit(connector_id, session)
            ended = {
                "blocked_until": None,
                "blocked_reason": None,
                "unblocked_at": to_datetime(now_ms),
                **forgiven_refusal(),
            }
            after = self.connectors.update(connector_id, None, ended, session)
            self._record(author, "unblock", connector_id, before, after, session)
            return after

        document = self.database.transact(write)
        self.jobs.hasten(connector_id, BLOCK_MS_MAX)
        return document

    def _set_status(self, connector_id: str, status: ConnectorStatus, revision: int | None, author: Author) -> Document:
        action = "pause" if status is ConnectorStatus.PAUSED else "resume"
        until = {} if status is ConnectorStatus.PAUSED else {"paused_until": to_datetime(self.database.server_now_ms())}

        def write(session: ClientSession) -> Document:
            before = self.connectors.get_to_edit(connector_id, session)
            if before["status"] == status.value and revision in (None, before["revision"]):
                return before
            after = self.connectors.update(connector_id, revision, {"status": status.value, **until}, session)
            self._record(author, action, connector_id, before, after, session)
            return after

        return self.database.transact(write)

    def _check(self, document: Document, spec: ExchangeSpec) -> None:
        check_windows(document, spec)
        if document["base_url"] is not None:
            check_base_url(document["base_url"], self.hosts_allowed)

    def _record(
        self,
        author: Author,
        verb: str,
        connector_id: str,
        before: Document | None,
        after: Document | None,
        session: ClientSession,
    ) -> None:
        target = f"connectors/{connector_id}"
        record_change(self.audit_log, author, f"connector.{verb}", target, before=before, after=after, session=session)


def check_windows(document: Document, spec: ExchangeSpec) -> None:
    """Whether the limits of a connector document can be kept and let every kind of request through.

    Raises:
        InvalidRequest: two windows of one period (the limiter keeps one log a period), or a limit below one request's weight.
    """
    heaviest = max(spec.candles_weight, spec.symbols_weight, spec.ping_weight)
    problems: list[tuple[str, str]] = []
    seen: set[int] = set()
    for number, window in enumerate(windows_of(document)):
        at = "" if number == 0 else f"extra_rate_limits.{number - 1}."
        if window.limit < heaviest:
            message = f"{window.limit} is less than one request of {spec.name} can weigh ({heaviest}); it could never be sent"
            problems.append((f"{at}rate_limit", message))
        if window.period_ms in seen:
            problems.append((f"{at}rate_limit_period_ms", f"another limit has the period {window.period_ms} ms already"))
        seen.add(window.period_ms)
    if problems:
        raise InvalidRequest("; ".join(f"{field}: {message}" for field, message in problems), problems)


def _only_editable(fields: Document) -> Document:
    assert set(fields) <= EDITABLE_FIELDS, f"not for people to set: {sorted(set(fields) - EDITABLE_FIELDS)}"
    return fields


def _told(uses: Mapping[str, int]) -> str:
    """`2 jobs and 1 backfill use`; the tasks of series go with what people have made, and are named where nothing else is."""
    made = {name: count for name, count in uses.items() if count and name != "task"}
    named = made or {name: count for name, count in uses.items() if count}
    listed = " and ".join(f"{count} {name}" if count == 1 else f"{count} {name}s" for name, count in named.items())
    return f"{listed} {'uses' if list(named.values()) == [1] else 'use'}" if named else ""
