"""Times, revisions, cursors and paths as requests to the admin function carry them."""

import pytest
from flask import Request
from pydantic import TypeAdapter, ValidationError
from werkzeug.test import EnvironBuilder

from functions.admin import ROUTES
from functions.admin_call import find_route
from functions.admin_models import Moment, parse_revision, read_cursor, write_cursor
from shared.errors import InvalidRequest, MethodNotAllowed, NotFound
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.stores.rate_limits import windows_document
from shared.usecases.manage_connectors import check_windows

MOMENT: TypeAdapter[int] = TypeAdapter(Moment)


@pytest.mark.parametrize(
    ("value", "at_ms"),
    [
        ("2024-01-01T00:00:00Z", 1_704_067_200_000),
        ("2024-01-01T01:30:00.250+01:30", 1_704_067_200_250),
        ("2024-01-01T00:00:00", 1_704_067_200_000),
        ("2024-01-01", 1_704_067_200_000),
        (1_704_067_200_000, 1_704_067_200_000),
        ("1704067200000", 1_704_067_200_000),
        (0, 0),
    ],
)
def test_moments_are_iso_in_utc_unless_it_says_otherwise_or_whole_ms(value: object, at_ms: int) -> None:
    assert MOMENT.validate_python(value) == at_ms


@pytest.mark.parametrize(
    "value",
    ["", "now", "2024-01-32", "01:00", "1969-12-31T23:59:59Z", -1, 2**53, 1.0, True, None, [], "9" * 20],
)
def test_other_moments_are_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        MOMENT.validate_python(value)


def if_match(header: str) -> Request:
    return Request(EnvironBuilder(headers={"If-Match": header}).get_environ())


def test_if_match_names_a_revision_quoted_or_not() -> None:
    assert [parse_revision(if_match(header)) for header in ('"3"', "3", 'W/"3"', "*", "")] == [3, 3, 3, None, None]
    for header in ("x", '"-1"', "1, 2", "9" * 30):
        with pytest.raises(InvalidRequest):
            parse_revision(if_match(header))


@pytest.mark.parametrize("position", ["", "binance:BTC-USDT:1m", "ä", "x" * 100])
def test_a_cursor_says_what_was_put_in(position: str) -> None:
    assert read_cursor(write_cursor(position)) == position


@pytest.mark.parametrize("cursor", ["a", "ä", "_w"])
def test_a_cursor_that_is_none_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        read_cursor(cursor)


def test_every_route_is_found_under_its_own_path_and_no_other() -> None:
    for route in ROUTES:
        found, target_id = find_route(ROUTES, route.method, route.path.replace("{id}", "binance:BTC-USDT:1m"))
        assert found is route
        assert target_id == ("binance:BTC-USDT:1m" if "{id}" in route.path else "")
    assert find_route(ROUTES, "HEAD", "/v1/jobs/")[0].path == "/v1/jobs"
    for path in ("/v1/jobs/a/candles/b", "/v1/job", "v2/jobs", "/v1//jobs"):
        with pytest.raises(NotFound):
            find_route(ROUTES, "GET", path)
    with pytest.raises(MethodNotAllowed, match="GET, POST"):
        find_route(ROUTES, "PATCH", "/v1/jobs")


@pytest.mark.parametrize("exchange", sorted(EXCHANGES))
def test_documented_limits_let_every_kind_of_request_through(exchange: str) -> None:
    spec = load_spec(exchange)
    check_windows(windows_document(spec.windows), spec)
