"""The way to MongoDB: one client per instance, transactions, and the one place where pymongo's errors become ours."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final, TypeVar

import pymongo
from bson.codec_options import CodecOptions
from pymongo import ASCENDING, MongoClient, WriteConcern
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import (
    ConfigurationError as DriverConfigurationError,
)
from pymongo.errors import (
    ConnectionFailure,
    ExecutionTimeout,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    WTimeoutError,
)

from shared.errors import ConfigurationError, StorageBusy, StorageUnavailable
from shared.settings import Settings

Document = dict[str, Any]

OLDEST_VERSION: Final = (6, 0)
# A claim, a page or a reservation is a few milliseconds' work; what takes this long will not be useful any more.
OPERATION_TIMEOUT_MS: Final = 10_000
SERVER_SELECTION_TIMEOUT_MS: Final = 5_000
CONNECTION_IDLE_MS: Final = 90_000
POOL_WAIT_MS: Final = 5_000
TRANSACTION_TRIES_MAX: Final = 60
# All tries of a transaction together: a run keeps time for two of them (send_requests.PAGE_RESERVE_MS).
TRANSACTION_TIMEOUT_S: Final = 8.0
COMMIT_TRIES_MAX: Final = 3
# About what a small transaction takes; doubled with each try, full jitter.
CONFLICT_PAUSE_S: Final = 0.005
# A backfill at full speed holds its job's document for most of the time, a few ms now and then excepted: whoever pauses it has
# to come by often.
CONFLICT_DOUBLINGS_MAX: Final = 4

MALFORMED_URI: Final = (
    "MONGODB_URI is malformed; it has to be like mongodb://user:password@host:27017/?replicaSet=rs0, with user and password "
    "percent-encoded (RFC 3986)"
)

SECONDS_A_DAY: Final = 86_400
DUPLICATE_KEY: Final = 11000
# Codes that mean "not now": failover, shutdown, overload (462 from 8.2 on), lock and write conflicts, and 11601: interrupted,
# as a command is that is under way when another worker takes the job over and ends this one's session.
TRANSIENT_CODES: Final = frozenset(
    {6, 7, 24, 50, 89, 91, 133, 189, 251, 262, 462, 9001, 10107, 11600, 11601, 11602, 13435, 13436}
)
WRITE_CONFLICT: Final = 112
SNAPSHOT_UNAVAILABLE: Final = 246
SNAPSHOT_TRIES_MAX: Final = 3
AUTHENTICATION_CODES: Final = frozenset({13, 18, 8000})

T = TypeVar("T")


@contextmanager
def storage_errors() -> Iterator[None]:
    """Inside the block pymongo's errors come out as StorageUnavailable or ConfigurationError.

    What is left (a duplicate key that nobody expected, a bad pipeline) is a fault of ours and passes through as it is.
    """
    try:
        yield
    except (InvalidURI, DriverConfigurationError):
        # The driver quotes what it could not read, which may be a piece of the password.
        raise ConfigurationError(MALFORMED_URI) from None
    except (ConnectionFailure, ExecutionTimeout, WTimeoutError) as exc:
        raise StorageUnavailable(f"MongoDB did not answer: {_brief(exc)}") from exc
    except OperationFailure as exc:
        if exc.code in AUTHENTICATION_CODES:
            raise ConfigurationError(f"MONGODB_URI: MongoDB refused the user: {_brief(exc)}") from exc
        if exc.code == WRITE_CONFLICT:
            raise StorageBusy("others keep writing what this would change; try it again") from exc
        if exc.timeout or exc.code in TRANSIENT_CODES or exc.has_error_label("TransientTransactionError"):
            raise StorageUnavailable(f"MongoDB could not do it now: {_brief(exc)}") from exc
        raise
    except PyMongoError as exc:
        if exc.timeout:
            raise StorageUnavailable(f"MongoDB did not answer in time: {_brief(exc)}") from exc
        raise


@contextmanager
def _uri_errors() -> Iterator[None]:
    """Some malformed URIs come out of the driver as plain ValueErrors."""
    try:
        yield
    except ValueError:
        raise ConfigurationError(MALFORMED_URI) from None


def refuse_unsuitable(hello: Mapping[str, Any], version: Sequence[int]) -> None:
    """Judge a server by its answers to `hello` and `buildInfo` (`versionArray`). Raises ConfigurationError."""
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise ConfigurationError(
            "MONGODB_URI: this mongod is a standalone, which has no transactions and no retryable writes. Start it with "
            "`--replSet rs0` and run `rs.initiate()` once in mongosh; a replica set of one member is enough."
        )
    if tuple(version[:2]) < OLDEST_VERSION:
        found = ".".join(str(part) for part in version[:3])
        raise ConfigurationError(f"MONGODB_URI: MongoDB {found} is too old; Chandler needs 6.0 or newer.")


def is_duplicate_key(exc: PyMongoError) -> bool:
    """Whether a write failed only because its key is there already (also inside a bulk write)."""
    if getattr(exc, "code", None) == DUPLICATE_KEY:
        return True
    details = getattr(exc, "details", None) or {}
    errors = details.get("writeErrors", ())
    return bool(errors) and all(error.get("code") == DUPLICATE_KEY for error in errors)


def ensure_expiry(collection: "Collection[Document]", field: str, days: int) -> None:
    """Let the server remove documents that many days after the date in `field`. A number that was changed is taken over."""
    name, expire_s = f"{field}_1", days * SECONDS_A_DAY
    existing = collection.index_information().get(name)
    if existing is None:
        collection.create_index([(field, ASCENDING)], name=name, expireAfterSeconds=expire_s)
    elif existing.get("expireAfterSeconds") != expire_s:
        collection.database.command("collMod", collection.name, index={"name": name, "expireAfterSeconds": expire_s})


class Database:
    """The platform's database and the candles' databases on one client. Dates come back as aware UTC datetimes."""

    def __init__(self, client: "MongoClient[Document]", settings: Settings) -> None:
        self.client = client
        self._settings = settings
        self._options: CodecOptions[Document] = CodecOptions(tz_aware=True)

    @classmethod
    def connect(cls, settings: Settings) -> "Database":
        """Make the client; it connects at the first operation.

        Raises:
            ConfigurationError: `MONGODB_URI` is missing or malformed.
        """
        uri = settings.mongodb_uri.get_secret_value()
        if not uri:
            raise ConfigurationError(
                "MONGODB_URI is not set; it names the replica set, like mongodb://host:27017/?replicaSet=rs0"
            )
        with storage_errors(), _uri_errors():
            client: MongoClient[Document] = MongoClient(
                uri,
                appname="chandler",
                tz_aware=True,
                retryWrites=True,
                w="majority",
                maxPoolSize=settings.mongodb_pool_size,
                minPoolSize=0,
                maxIdleTimeMS=CONNECTION_IDLE_MS,
                waitQueueTimeoutMS=POOL_WAIT_MS,
                serverSelectionTimeoutMS=SERVER_SELECTION_TIMEOUT_MS,
                timeoutMS=OPERATION_TIMEOUT_MS,
                connect=False,
            )
        return cls(client, settings)

    def check(self) -> None:
        """Refuse what the platform cannot be right on.

        Raises:
            ConfigurationError: a standalone mongod (no retryable writes, no transactions) or a version before 6.0.
        """
        with storage_errors():
            hello = self.client.admin.command("hello")
            version = self.client.admin.command("buildInfo")["versionArray"]
        refuse_unsuitable(hello, version)

    def collection(self, name: str) -> "Collection[Document]":
        """A collection of the platform's database."""
        return self.client.get_database(self._settings.database, codec_options=self._options)[name]

    def candles_collection(self, exchange: str, name: str) -> "Collection[Document]":
        """A collection of the database that holds this exchange's candles."""
        return self.client.get_database(self._settings.candles_database_of(exchange), codec_options=self._options)[name]

    def server_now_ms(self) -> int:
        """The primary's clock, UTC ms."""
        with storage_errors():
            at = self.client.admin.command("hello")["localTime"]
        return int(at.timestamp() * 1000)

    def server_info(self) -> Document:
        """What answers: {version, replica_set (None behind a router), server_time}."""
        with storage_errors():
            hello = self.client.admin.command("hello")
            version = self.client.admin.command("buildInfo")["version"]
        return {"version": version, "replica_set": hello.get("setName"), "server_time": hello["localTime"]}

    def open_session(self) -> ClientSession:
        """A session for several transactions one after the other; close it (it is a context manager)."""
        return self.client.start_session()

    def read_snapshot(self, read: Callable[["ClientSession"], T]) -> T:
        """What `read` reads in its session, all of it as of one moment. It runs again where a collection was made meanwhile."""
        for attempt in range(1, SNAPSHOT_TRIES_MAX + 1):
            try:
                with self.client.start_session(snapshot=True) as session:
                    return read(session)
            except OperationFailure as exc:
                if exc.code != SNAPSHOT_UNAVAILABLE or attempt == SNAPSHOT_TRIES_MAX:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    def end_sessions(self, session_ids: Sequence[Any]) -> None:
        """Abort what these sessions (`ClientSession.session_id["id"]`) have open.

        A process that dies in the middle of a transaction leaves it open on the server, where it holds its documents for
        up to a minute (transactionLifetimeLimitSeconds): who takes its work over ends it first. Users may end their own
        sessions without any privilege.
        """
        if session_ids:
            self.client.admin.command("killSessions", [{"id": session_id} for session_id in session_ids])

    def transact(
        self,
        work: Callable[["ClientSession"], T],
        session: ClientSession | None = None,
        tries_max: int = TRANSACTION_TRIES_MAX,
    ) -> T:
        """Run `work` in one transaction, all of it or nothing, majority committed; in `session` or one of its own.

        `work` may run several times, so it must not have effects besides its writes. Tried again a bounded number of times, and
        for TRANSACTION_TIMEOUT_S, on what the server calls transient; a commit whose outcome is unknown is sent again, which is
        safe.

        Raises:
            StorageUnavailable: it did not commit, or it is not known whether it did.
        """
        with (
            storage_errors(),
            pymongo.timeout(TRANSACTION_TIMEOUT_S),
            nullcontext(session) if session else self.client.start_session() as open_session,
        ):
            for attempt in range(1, min(tries_max, TRANSACTION_TRIES_MAX) + 1):
                open_session.start_transaction(write_concern=WriteConcern("majority"))
                try:
                    result = work(open_session)
                    _commit(open_session)
                except PyMongoError as exc:
                    _abort(open_session)
                    if exc.has_error_label("TransientTransactionError") and attempt < min(tries_max, TRANSACTION_TRIES_MAX):
                        # Who waits for the same document would else use up all tries while the other one commits.
                        time.sleep(random.uniform(0, CONFLICT_PAUSE_S * 2 ** min(attempt, CONFLICT_DOUBLINGS_MAX)))
                        continue
                    raise
                except BaseException:
                    _abort(open_session)
                    raise
                return result
        raise AssertionError("unreachable: the last try returns or raises")

    def close(self) -> None:
        """Close all connections."""
        self.client.close()


def _commit(session: "ClientSession") -> None:
    for attempt in range(1, COMMIT_TRIES_MAX + 1):
        try:
            session.commit_transaction()
        except PyMongoError as exc:
            if exc.has_error_label("UnknownTransactionCommitResult") and attempt < COMMIT_TRIES_MAX:
                continue
            raise
        return


def _abort(session: "ClientSession") -> None:
    if session.in_transaction:
        session.abort_transaction()


def _brief(exc: PyMongoError) -> str:
    """The first line of a driver's message, which else repeats the whole topology."""
    return str(exc).split(", full error")[0].split("(configured timeouts")[0][:300]
