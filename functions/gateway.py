"""What all entry points share: one platform an instance, request ids, bodies, and errors as problem+json (RFC 9457)."""

import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from flask import Request, Response

from shared.errors import ConfigurationError, InvalidRequest, MethodNotAllowed, PayloadTooLarge, PlatformError, Retry
from shared.settings import load_settings
from shared.stores.database import storage_errors
from shared.telemetry import TRACE_FIELD, bound, event
from shared.wiring import Platform

BODY_BYTES_MAX: Final = 1024 * 1024
RETRY_AFTER_S: Final = "5"
REQUEST_ID_CHARS_MAX: Final = 64
REQUEST_ID_KEY: Final = "chandler.request_id"

Handler = Callable[[Platform, Request], Response]

_platform_lock = threading.Lock()
_platforms: dict[str, Platform] = {}


def get_platform() -> Platform:
    """This instance's platform, made at the first request: the only state an instance keeps, and it can be lost."""
    with _platform_lock:
        if "this" not in _platforms:
            _platforms["this"] = Platform(load_settings())
        return _platforms["this"]


def handle(function: str, request: Request, handler: Handler) -> Response:
    """Answer a request: the handler's response, or its error as a problem. Logs one line a request."""
    request_id = request_id_of(request)
    began = time.monotonic()
    with bound(function=function, request_id=request_id):
        try:
            platform = get_platform()
            with bound(**_trace(request, platform.settings.google_cloud_project)), storage_errors():
                response = handler(platform, request)
        except PlatformError as exc:
            response = _problem(exc, request_id)
            severity = "WARNING" if exc.http_status < 500 else "ERROR"
            event("request_refused", severity, error=exc.code, detail=exc.message, **exc.context)
        except Exception as exc:  # noqa: BLE001 - the outermost edge: whatever it is, the caller gets no stack trace
            event("request_crashed", "ERROR", message=_stack(exc), error=type(exc).__name__)
            response = _problem(PlatformError("something went wrong here; the log has it under the request id"), request_id)
        response.headers["X-Request-Id"] = request_id
        event(
            "request_ended",
            "DEBUG" if response.status_code < 500 else "ERROR",
            httpRequest={"requestMethod": request.method, "requestUrl": request.path, "status": response.status_code},
            latency_ms=_ms_since(began),
        )
        return response


def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        PayloadTooLarge: more than BODY_BYTES_MAX.
        InvalidRequest: no JSON, or no object.
    """
    if request.content_length is not None and request.content_length > BODY_BYTES_MAX:
        raise PayloadTooLarge(f"the body may have {BODY_BYTES_MAX} bytes at most")
    body = request.stream.read(BODY_BYTES_MAX + 1)
    if len(body) > BODY_BYTES_MAX:
        raise PayloadTooLarge(f"the body may have {BODY_BYTES_MAX} bytes at most")
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest("the body is not JSON") from exc
    if not isinstance(value, dict):
        raise InvalidRequest("the body has to be a JSON object")
    return value


def only(request: Request, *methods: str) -> None:
    """Raises MethodNotAllowed unless the request's method is one of these."""
    if request.method not in methods:
        raise MethodNotAllowed(f"{request.method} is not allowed here; allowed: {', '.join(methods)}", allow=", ".join(methods))


def respond(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    text = json.dumps(value, allow_nan=False)
    return Response(text + "\n", status, headers, content_type="application/json")


def respond_stream(request: Request, chunks: Iterator[bytes], content_type: str, headers: Mapping[str, str]) -> Response:
    """A response sent piece by piece. What fails before the first piece is an answer like any other's.

    What fails later can only break the connection: the body is then without the end that HTTP/1.1 marks (a last chunk of no
    length), which every client tells from a complete one.
    """
    first = next(chunks, b"")
    return Response(_pieces(request_id_of(request), first, chunks), content_type=content_type, headers=dict(headers))


def _pieces(request_id: str, first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """Called by the server when the handler is long over, so it sees to the errors' names and the log by itself."""
    began, sent_bytes = time.monotonic(), 0
    try:
        for piece in itertools.chain((first,), rest):
            # A chunk of no length would end the body.
            if piece:
                sent_bytes += len(piece)
                yield piece
        event("stream_ended", "DEBUG", request_id=request_id, sent_bytes=sent_bytes, latency_ms=_ms_since(began))
    except GeneratorExit:
        event("stream_left", "DEBUG", request_id=request_id, sent_bytes=sent_bytes, latency_ms=_ms_since(began))
        raise
    except Exception as exc:
        event("stream_broken", "ERROR", request_id=request_id, sent_bytes=sent_bytes, message=_stack(exc))
        raise


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)


def _problem(exc: PlatformError, request_id: str) -> Response:
    """An error as the client sees it. Faults of configuration name the setting, which is no secret."""
    body: dict[str, Any] = {
        "type": f"urn:chandler:problem:{exc.code}",
        "title": exc.code.replace("_", " ").capitalize(),
        "status": exc.http_status,
        "detail": exc.message,
        "request_id": request_id,
    }
    if isinstance(exc, InvalidRequest) and exc.errors:
        body["errors"] = [{"field": field, "message": message} for field, message in exc.errors]
    headers = {}
    if exc.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(exc, MethodNotAllowed):
        headers["Allow"] = str(exc.context.get("allow", ""))
    if exc.retry is Retry.LATER:
        wait_ms = exc.context.get("wait_ms")
        headers["Retry-After"] = str(max(1, -(-wait_ms // 1000))) if isinstance(wait_ms, int) else RETRY_AFTER_S
    if isinstance(exc, ConfigurationError):
        headers["Cache-Control"] = "no-store"
    text = json.dumps(body)
    return Response(text + "\n", exc.http_status, headers, content_type="application/problem+json")


def request_id_of(request: Request) -> str:
    """The caller's own id if it is a harmless one, else a new one; the same however often it is asked for."""
    given = request.headers.get("X-Request-Id", "")
    is_harmless = given.isascii() and given.isprintable() and 0 < len(given) <= REQUEST_ID_CHARS_MAX
    request_id: str = request.environ.setdefault(REQUEST_ID_KEY, given if is_harmless else uuid.uuid4().hex)
    return request_id


def _trace(request: Request, project: str) -> dict[str, str]:
    """Cloud Logging's trace field, from W3C `traceparent` or Google's own header."""
    parent = request.headers.get("traceparent", "").split("-")
    trace_id = parent[1] if len(parent) >= 3 else request.headers.get("X-Cloud-Trace-Context", "").split("/")[0]
    if not trace_id.isalnum() or not project:
        return {}
    return {TRACE_FIELD: f"projects/{project}/traces/{trace_id}"}


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _stack(exc: Exception) -> str:
    import traceback

    return "".join(traceback.format_exception(exc))
