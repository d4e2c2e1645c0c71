"""Every error answer is what it means and for how long, and everything that a spec says of errors is shown by an answer."""

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests
import urllib3
from requests.adapters import BaseAdapter

from shared.errors import ExchangeError, ExchangeThrottled
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.exchanges.client import ExchangeClient
from shared.exchanges.error_form import ErrorRule
from shared.exchanges.spec import ExchangeSpec
from shared.exchanges.transport import STATUS_RULES
from tests.contract.cases import CASES
from tests.contract.error_answers import ERRORS
from tests.contract.error_forms import ErrorAnswer, Meaning, body_of
from tests.contract.frozen_market import NOW_MS

ALL = sorted(EXCHANGES)
# In the place of an exchange's own, so that a rule's wait is never right by being the same.
DEFAULT_WAIT_MS = 7_777
# Codes that a rule would know by their words too.
SAID_TWICE = {"htx": {"system-maintenance"}}


class Says(BaseAdapter):
    """Answers everything with the same."""

    def __init__(self, status: int, said: Any) -> None:
        super().__init__()
        self._status, self._body = status, body_of(said)

    def send(self, request: requests.PreparedRequest, *_args: Any, **_options: Any) -> requests.Response:
        """What `requests` calls to have a request sent."""
        response = requests.Response()
        response.status_code, response.url, response.request = self._status, str(request.url), request
        response.raw = urllib3.HTTPResponse(io.BytesIO(self._body), status=self._status, preload_content=False)
        return response

    def close(self) -> None:
        """Nothing is open."""


def client_told(spec: ExchangeSpec, answer: ErrorAnswer) -> ExchangeClient:
    """A client that gets this answer whatever it asks."""
    session = requests.Session()
    session.trust_env = False
    session.mount("https://", Says(answer[0], answer[1]))
    return ExchangeClient(replace(spec, throttle_wait_ms=DEFAULT_WAIT_MS), session=session, now_ms=lambda: NOW_MS)


def meaning_of(error: ExchangeError) -> Meaning:
    wait_ms = error.wait_ms if isinstance(error, ExchangeThrottled) and error.wait_ms != DEFAULT_WAIT_MS else None
    return Meaning(type(error), wait_ms, bool(error.context.get("is_symbol_in_doubt")))


def judged(spec: ExchangeSpec, answer: ErrorAnswer) -> Meaning | None:
    """What the answer is taken for, None if for no error."""
    try:
        client_told(spec, answer).ping()
    except ExchangeError as error:
        return meaning_of(error)
    return None


@pytest.mark.parametrize(
    ("exchange", "number"), [(exchange, number) for exchange in ALL for number in range(len(ERRORS[exchange]))]
)
def test_every_error_is_what_it_means(exchange: str, number: int) -> None:
    answer = ERRORS[exchange][number]
    with pytest.raises(ExchangeError) as raised:
        client_told(load_spec(exchange), answer).fetch_ohlcv(CASES[exchange].symbol, "1m", NOW_MS - 3_000_000, NOW_MS)
    assert meaning_of(raised.value) == answer[2]


@pytest.mark.parametrize("exchange", ALL)
def test_errors_of_all_three_kinds_are_among_the_answers(exchange: str) -> None:
    assert {meaning.error.__name__ for _, _, meaning in ERRORS[exchange]} >= {
        "ExchangeRejected",
        "ExchangeThrottled",
        "ExchangeUnavailable",
    }


@pytest.mark.parametrize("exchange", ALL)
def test_no_answer_leaves_an_exchange_sooner_than_a_second_or_a_ban_than_a_minute(exchange: str) -> None:
    for status, _, meaning in ERRORS[exchange]:
        wait_ms = load_spec(exchange).throttle_wait_ms if meaning.wait_ms is None else meaning.wait_ms
        assert wait_ms >= (60_000 if status in (403, 418) else 1_000)


def shortened(rule: ErrorRule, said_twice: set[str]) -> Iterator[ErrorRule]:
    """The rule without one of the things that it says."""
    for name in ("codes", "statuses", "texts"):
        items = getattr(rule, name)
        for item in set(items) - said_twice:
            yield replace(rule, **{name: tuple(other for other in items if other != item)})
    if rule.wait_ms is not None:
        yield replace(rule, wait_ms=None)
    for name in ("page_text", "body"):
        if getattr(rule, name):
            yield replace(rule, **{name: ""})


def weakened(spec: ExchangeSpec) -> Iterator[tuple[str, ExchangeSpec]]:
    """The spec without one thing that it says of errors, and what that is."""
    form, rules = spec.errors, spec.error_rules
    for place, rule in enumerate(rules):
        # Said again for whoever reads the spec, and as true without it.
        if rule in STATUS_RULES:
            continue
        yield f"without {rule}", replace(spec, error_rules=(*rules[:place], *rules[place + 1 :]))
        for other in shortened(rule, SAID_TWICE.get(spec.name, set())):
            yield f"{other} for {rule}", replace(spec, error_rules=(*rules[:place], other, *rules[place + 1 :]))
    for path in form.other_code_paths:
        paths = tuple(other for other in form.other_code_paths if other != path)
        yield f"without the code at {path}", replace(spec, errors=replace(form, other_code_paths=paths))


@pytest.mark.parametrize("exchange", ALL)
def test_nothing_that_a_spec_says_of_errors_could_be_left_out_unseen(exchange: str) -> None:
    unseen = [
        what
        for what, spec in weakened(load_spec(exchange))
        if all(judged(spec, answer) == answer[2] for answer in reversed(ERRORS[exchange]))
    ]
    assert not unseen, (
        f"put answers into tests/contract/error_answers.py for which it makes a difference whether {exchange}'s spec is as it "
        "is or:\n" + "\n".join(unseen)
    )
