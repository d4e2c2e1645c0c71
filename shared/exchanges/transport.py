"""One request to an exchange, one judged answer: every foreign error is mapped here, once.

Nothing is retried. A retry spends weight, so only who holds the reservation may decide on it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import requests
import urllib3
from pydantic_core import from_json

from shared.errors import ExchangeError, ExchangeRejected, ExchangeThrottled, ExchangeUnavailable, MalformedPage
from shared.exchanges.error_form import ErrorRule, Outcome
from shared.exchanges.gated_http import BeforeSend, gate
from shared.exchanges.headers import read_wait_ms
from shared.exchanges.http_session import proxies_for
from shared.exchanges.spec import ExchangeSpec, Template
from shared.exchanges.tables import find_in

# The largest answer is a list of all symbols (Binance's exchangeInfo is about 10 MB, unpacked); a page is below 1 MB.
BODY_BYTES_MAX: Final = 32 * 1024 * 1024
CHUNK_BYTES: Final = 64 * 1024
# A peer that sends a byte now and then keeps every single read below its time-out; the whole answer may take this long.
READ_TIMEOUTS_TOTAL: Final = 2.0
EXCERPT_BYTES: Final = 200
# As much of an answer that is no JSON is searched for the words of a rule.
PAGE_BYTES: Final = 8 * 1024

# What a status means where the exchange's own rules say nothing. 451: not served to this country. 403: a firewall has had
# enough of this address.
REJECTED_STATUSES: Final = frozenset({400, 404, 405, 410, 422})
STATUS_RULES: Final = (
    ErrorRule(Outcome.REJECTED, statuses=(451,)),
    ErrorRule(Outcome.THROTTLED, statuses=(403, 418, 429)),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer that carries no error."""

    payload: Any
    status: int
    headers: Mapping[str, str]
    latency_ms: int


class Transport:
    """Requests to one exchange. Safe to share between threads as far as the session is.

    `now_ms` is the database's clock. `timeout_s` is (connect, read).
    """

    def __init__(
        self,
        spec: ExchangeSpec,
        *,
        session: requests.Session,
        now_ms: Callable[[], int],
        base_url: str | None,
        timeout_s: tuple[float, float],
    ) -> None:
        self.spec = spec
        self._session = session
        self._now_ms = now_ms
        self._base_url = (base_url or spec.base_url).rstrip("/")
        self._timeout_s = timeout_s
        self._proxies = proxies_for(self._base_url)

    def call(
        self,
        method: str,
        path: str,
        params: Mapping[str, Template],
        names: Mapping[str, int | str],
        *,
        subject: str,
        before_send: BeforeSend,
    ) -> Answer:
        """Send one request and judge the answer; `subject` is what it is about, for messages.

        Raises:
            ExchangeError: see ExchangeClient.
        """
        in_path = {name: quote(str(value), safe=":") if name == "symbol" else value for name, value in names.items()}
        url = self._base_url + path.format(**in_path)
        filled = {key: _fill(template, names) for key, template in params.items()}
        body_form: dict[str, Any] = {"params": filled} if method == "GET" else {"json": filled}
        started = time.monotonic()
        try:
            with (
                gate(before_send, self._timeout_s[0] + READ_TIMEOUTS_TOTAL * self._timeout_s[1]),
                self._session.request(
                    method,
                    url,
                    timeout=self._timeout_s,
                    stream=True,
                    allow_redirects=False,
                    proxies=self._proxies,
                    **body_form,
                ) as response,
            ):
                body = self._read(response, subject)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as exc:
            raise ExchangeUnavailable(
                f"{self.spec.name} {subject}: no answer: {_reason(exc)}", exchange=self.spec.name
            ) from exc
        latency_ms = round((time.monotonic() - started) * 1000)
        return self._judge(response.status_code, response.headers, body, latency_ms, subject)

    def _read(self, response: requests.Response, subject: str) -> bytes:
        """The whole body, bounded in size; gated_http.py bounds its time."""
        chunks: list[bytes] = []
        size = 0
        # read1 gives what has arrived; iter_content would wait for a full chunk, byte by byte if need be.
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
            chunks.append(chunk)
            size += len(chunk)
            if size > BODY_BYTES_MAX:
                raise MalformedPage(
                    f"{self.spec.name} {subject}: the answer is larger than {BODY_BYTES_MAX} bytes", exchange=self.spec.name
                )
        return b"".join(chunks)

    def _judge(self, status: int, headers: Mapping[str, str], body: bytes, latency_ms: int, subject: str) -> Answer:
        """The parsed answer, or the error that it carries, whatever its status says."""
        is_success = 200 <= status < 300
        try:
            # Cells hardly ever repeat: looking for those that do costs more than it saves.
            payload = from_json(body, cache_strings="keys")
        except ValueError as exc:
            if is_success:
                raise MalformedPage(
                    f"{self.spec.name} {subject}: HTTP {status} without JSON ({exc}): {_excerpt(body)}", exchange=self.spec.name
                ) from exc
            payload = None
        code = _code_in(payload, self.spec)
        if is_success and code is None and not _is_error_body(self.spec, status, body):
            return Answer(payload, status, headers, latency_ms)
        message_path = self.spec.errors.message_path
        message = find_in(payload, message_path) if message_path else None
        words = (code or "", "" if message is None else str(message))
        page = body[:PAGE_BYTES].decode("utf-8", "replace").lower() if payload is None else ""
        rule = _first_rule(self.spec, status, *words, body, page)
        outcome = rule.outcome if rule is not None else _outcome_of(status, is_json=payload is not None)
        raise self._fault(outcome, rule, status, headers, f"{self.spec.name} {subject}: HTTP {status}: {_excerpt(body)}")

    def _fault(
        self, outcome: Outcome, rule: ErrorRule | None, status: int, headers: Mapping[str, str], text: str
    ) -> ExchangeError:
        if outcome is Outcome.REJECTED:
            return ExchangeRejected(text, exchange=self.spec.name, status=status)
        if outcome is Outcome.IN_DOUBT:
            return ExchangeUnavailable(text, exchange=self.spec.name, status=status, is_symbol_in_doubt=True)
        if outcome is Outcome.UNAVAILABLE:
            return ExchangeUnavailable(text, exchange=self.spec.name, status=status)
        wait_ms = read_wait_ms(headers, self.spec, self._now_ms())
        if wait_ms is None:
            wait_ms = rule.wait_ms if rule is not None and rule.wait_ms is not None else self.spec.throttle_wait_ms
        return ExchangeThrottled(text, wait_ms, exchange=self.spec.name, status=status)


def _fill(template: Template, names: Mapping[str, int | str]) -> Any:
    """A parameter with its placeholders filled; one that is nothing but a placeholder keeps the value's type."""
    if isinstance(template, Mapping):
        return {key: _fill(inner, names) for key, inner in template.items()}
    if not isinstance(template, str):
        return template
    if template[:1] == "{" and template[1:-1] in names:
        return names[template[1:-1]]
    return template.format(**names)


def _code_in(payload: object, spec: ExchangeSpec) -> str | None:
    """The code of an error, None if there is none or it says that all is well."""
    form = spec.errors
    codes = (find_in(payload, path) for path in (form.code_path, *form.other_code_paths) if path)
    return next((str(code) for code in codes if isinstance(code, str | int) and str(code) not in form.ok_codes), None)


def _is_error_body(spec: ExchangeSpec, status: int, body: bytes) -> bool:
    """Whether a body without a code is known as an error."""
    known = (rule for rule in spec.error_rules if rule.body and status in rule.statuses)
    return any(body.strip() == rule.body.encode() for rule in known)


def _first_rule(spec: ExchangeSpec, status: int, code: str, message: str, body: bytes, page: str) -> ErrorRule | None:
    text = f"{code} {message}".lower()
    for rule in (*spec.error_rules, *STATUS_RULES):
        is_meant = status in rule.statuses or code in rule.codes or any(words.lower() in text for words in rule.texts)
        if is_meant and rule.page_text.lower() in page and (not rule.body or body.strip() == rule.body.encode()):
            return rule
    return None


def _outcome_of(status: int, *, is_json: bool) -> Outcome:
    """What an error means that no rule knows. An answer that is no JSON comes from something in between, and may pass."""
    return Outcome.REJECTED if is_json and status in REJECTED_STATUSES else Outcome.UNAVAILABLE


def _excerpt(body: bytes) -> str:
    return " ".join(body[:EXCERPT_BYTES].decode("utf-8", "replace").split()) or "empty body"


def _reason(exc: Exception) -> str:
    """What is at the bottom of it, without the connection's own name in front."""
    inner = exc.args[0] if exc.args else None
    cause = getattr(inner, "reason", None) or exc
    return f"{type(cause).__name__}: {str(cause).rsplit('): ', 1)[-1][:EXCERPT_BYTES]}"
