"""The error tree: everything that can go wrong and that somebody up the call chain decides about.

    PlatformError
      RequestRejected         the caller's fault
        InvalidRequest 400 . Unauthenticated 401 . Forbidden 403 . NotFound 404
        MethodNotAllowed 405 . NotAcceptable 406 . Conflict 409 . PreconditionFailed 412 . PayloadTooLarge 413
      ExchangeError           an exchange, or the way to it
        ExchangeUnavailable LATER . ExchangeThrottled LATER . MalformedPage LATER . ExchangeRejected NEVER
      LeaseLost               another worker owns the job: stop at once, write nothing more
      RateLimitReached LATER  our own limiter has no room; nothing was sent
      StorageUnavailable LATER
        StorageBusy LATER       MongoDB is well, but others keep writing what this would change
      EnrichmentFailed LATER
      ConfigurationError      names the setting or document field to mend
      NotInstalled            501; an optional library is not there; names the list of requirements that has it

Every leaf has a stable `code` (the API's problem type and the log's field), the HTTP status that the API answers with, and
`retry`: whether trying the same again can help. Foreign exceptions are mapped here once, where they enter.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar


class Retry(StrEnum):
    """Whether the same attempt can succeed: after a wait, or never."""

    LATER = "later"
    NEVER = "never"


class PlatformError(Exception):
    """Base of the tree. `message` says what happened, to what, and what to do next; `context` holds facts for the log."""

    code: ClassVar[str] = "platform_error"
    http_status: ClassVar[int] = 500
    retry: ClassVar[Retry] = Retry.NEVER

    def __init__(self, message: str, **context: object) -> None:
        super().__init__(message)
        self.message = message
        self.context = context


class RequestRejected(PlatformError):
    """The caller has to change something."""

    code = "request_rejected"
    http_status = 400


class InvalidRequest(RequestRejected):
    """The request does not make sense; `errors` are (field, message) pairs, field as a dotted path like `indicators.0.name`."""

    code = "invalid_request"

    def __init__(self, message: str, errors: Sequence[tuple[str, str]] = (), **context: object) -> None:
        super().__init__(message, **context)
        self.errors = tuple(errors)

    @classmethod
    def for_field(cls, field: str, message: str) -> "InvalidRequest":
        """One field is wrong; the message is repeated as the summary."""
        return cls(f"{field}: {message}", [(field, message)])


class Unauthenticated(RequestRejected):
    """No token, or one that does not verify."""

    code = "unauthenticated"
    http_status = 401


class Forbidden(RequestRejected):
    """A valid token whose role or account may not do this."""

    code = "forbidden"
    http_status = 403


class NotFound(RequestRejected):
    """No such thing."""

    code = "not_found"
    http_status = 404


class MethodNotAllowed(RequestRejected):
    """The path exists, the method does not."""

    code = "method_not_allowed"
    http_status = 405


class NotAcceptable(RequestRejected):
    """`Accept` names no form in which there is an answer."""

    code = "not_acceptable"
    http_status = 406


class Conflict(RequestRejected):
    """The thing exists already, or its state forbids this."""

    code = "conflict"
    http_status = 409


class PreconditionFailed(RequestRejected):
    """`If-Match` names a revision that is no longer the current one."""

    code = "precondition_failed"
    http_status = 412


class PayloadTooLarge(RequestRejected):
    """The body is larger than this endpoint reads."""

    code = "payload_too_large"
    http_status = 413


class ExchangeError(PlatformError):
    """Something between us and the exchange's candles."""

    code = "exchange_error"
    http_status = 502


class ExchangeUnavailable(ExchangeError):
    """Connection, time-out, 5xx or maintenance: may pass by itself."""

    code = "exchange_unavailable"
    retry = Retry.LATER


class ExchangeThrottled(ExchangeError):
    """The exchange says: too fast. `wait_ms` is how long to send it nothing at all."""

    code = "exchange_throttled"
    retry = Retry.LATER

    def __init__(self, message: str, wait_ms: int, **context: object) -> None:
        super().__init__(message, wait_ms=wait_ms, **context)
        self.wait_ms = wait_ms


class ExchangeRejected(ExchangeError):
    """Unknown symbol, delisted, unsupported timeframe, blocked country: asking again cannot help."""

    code = "exchange_rejected"


class MalformedPage(ExchangeError):
    """What came back is not a page of candles of the series that was asked for."""

    code = "malformed_page"
    retry = Retry.LATER


class LeaseLost(PlatformError):
    """The job's fence moved on: another worker owns the job. Stop at once and write nothing more."""

    code = "lease_lost"
    http_status = 409


class RateLimitReached(PlatformError):
    """The connector's limit has no room for a request soon; `wait_ms` says when asking again makes sense."""

    code = "rate_limit_reached"
    http_status = 503
    retry = Retry.LATER

    def __init__(self, message: str, wait_ms: int, **context: object) -> None:
        super().__init__(message, wait_ms=wait_ms, **context)
        self.wait_ms = wait_ms


class StorageUnavailable(PlatformError):
    """MongoDB did not answer in time."""

    code = "storage_unavailable"
    http_status = 503
    retry = Retry.LATER


class StorageBusy(StorageUnavailable):
    """Others write the same documents all the time, and this could not come between."""

    code = "storage_busy"


class EnrichmentFailed(PlatformError):
    """Indicators could not be computed from candles that are stored."""

    code = "enrichment_failed"
    retry = Retry.LATER


class ConfigurationError(PlatformError):
    """A setting or document is wrong; the message names it and says how to mend it."""

    code = "configuration_error"


class NotInstalled(PlatformError):
    """What was asked for needs a library that is not installed here; the message says which list of requirements has it."""

    code = "not_installed"
    http_status = 501
