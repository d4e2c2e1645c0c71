"""Admin paths of jobs and their runs."""

from typing import Final

from flask import Response

from functions.admin_call import Call, Route, respond_page, respond_resource
from functions.admin_models import (
    CoverageQuery,
    DeleteJobQuery,
    JobCreate,
    JobPatch,
    JobsQuery,
    NoQuery,
    PageQuery,
    RangeQuery,
    bad_cursor,
    parse_body,
    parse_query,
    parse_revision,
    read_cursor,
    read_id_cursor,
)
from functions.admin_views import coverage_view, document_view, job_view, verification_view
from functions.gateway import respond
from shared.domain.jobs import Job, to_datetime, to_ms
from shared.errors import InvalidRequest
from shared.stores.candles import Series
from shared.stores.database import Document
from shared.usecases.authorize import Role
from shared.usecases.series_jobs import is_task, with_list

# Milliseconds since the epoch, up to the year 9999.
MS_DIGITS_MAX: Final = 15


def _respond_job(call: Call, document: Document, status: int = 200, location: str = "") -> Response:
    """With how much of its series is still to be computed, which is not looked up for each job of a list."""
    (shown,) = _with_lists(call, [document])
    view = job_view(shown, call.platform.database.server_now_ms())
    stale_count = call.platform.helpers.count_stale(Series.of(Job.from_document(document)))
    return respond_resource({**view, "stale_candles": stale_count}, status, location)


def _with_lists(call: Call, documents: list[Document]) -> list[Document]:
    """With the indicators of their series, but for tasks of series, which have none."""
    series = [Series.of(Job.from_document(document)) for document in documents]
    lists = call.platform.series_store.read_states(series)
    return [
        document if is_task(document) else with_list(document, lists[each.series_id])
        for document, each in zip(documents, series, strict=True)
    ]


def _create(call: Call) -> Response:
    new = parse_body(call.request, JobCreate).to_new_job()
    document = call.platform.job_manager.create(new, call.author)
    return _respond_job(call, document, 201, f"/v1/jobs/{document['_id']}")


def _list(call: Call) -> Response:
    query = parse_query(call.request, JobsQuery)
    found = call.platform.jobs.list_(query.condition(), read_cursor(query.cursor) or "", query.limit)
    now_ms = call.platform.database.server_now_ms()
    shown = [job_view(document, now_ms) for document in _with_lists(call, found)]
    return respond_page(shown, query.limit, found[-1]["_id"] if found else None)


def _get(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    return _respond_job(call, call.platform.jobs.get(call.target_id))


def _patch(call: Call) -> Response:
    changes = parse_body(call.request, JobPatch).to_changes()
    revision = parse_revision(call.request)
    return _respond_job(call, call.platform.job_manager.patch(call.target_id, changes, revision, call.author))


def _delete(call: Call) -> Response:
    with_candles = parse_query(call.request, DeleteJobQuery).candles == "delete"
    revision = parse_revision(call.request)
    call.platform.job_manager.delete(call.target_id, revision, call.author, with_candles=with_candles)
    return Response(status=204)


def _run(call: Call) -> Response:
    return _respond_job(call, call.platform.job_manager.run_now(call.target_id, call.author), 202)


def _pause(call: Call) -> Response:
    revision = parse_revision(call.request)
    return _respond_job(call, call.platform.job_manager.pause(call.target_id, revision, call.author))


def _resume(call: Call) -> Response:
    revision = parse_revision(call.request)
    return _respond_job(call, call.platform.job_manager.resume(call.target_id, revision, call.author))


def _runs(call: Call) -> Response:
    query = parse_query(call.request, PageQuery)
    position = read_cursor(query.cursor)
    if position is not None and not (position.isascii() and position.isdigit() and len(position) <= MS_DIGITS_MAX):
        raise bad_cursor()
    call.platform.jobs.get(call.target_id)
    before = None if position is None else to_datetime(min(int(position), 253_402_300_799_999))
    found = call.platform.runs.list_of_job(call.target_id, before, query.limit)
    last = str(to_ms(found[-1]["started_at"])) if found else None
    return respond_page([document_view(document) for document in found], query.limit, last)


def _revisions(call: Call) -> Response:
    query = parse_query(call.request, PageQuery)
    before_id = read_id_cursor(query.cursor)
    job = call.platform.jobs.get(call.target_id)
    series = Series(job["exchange"], job["symbol"], job["timeframe"])
    found = call.platform.revisions.list_(series.series_id, before_id, query.limit)
    return respond_page([document_view(each) for each in found], query.limit, str(found[-1]["_id"]) if found else None)


def _verify(call: Call) -> Response:
    query = parse_query(call.request, RangeQuery)
    if call.request.content_length:
        raise InvalidRequest("there is nothing to say in a body here: start and end stand in the query")
    return respond(verification_view(call.platform.series_verifier.verify(call.target_id, query.start, query.end)))


def _coverage(call: Call) -> Response:
    query = parse_query(call.request, CoverageQuery)
    read = call.platform.coverage_reader.read
    return respond(coverage_view(read(call.target_id, query.start, query.end, query.state, query.limit)))


ROUTES: Final = (
    Route("POST", "/v1/jobs", Role.ADMIN, _create),
    Route("GET", "/v1/jobs", Role.VIEWER, _list),
    Route("GET", "/v1/jobs/{id}", Role.VIEWER, _get),
    Route("PATCH", "/v1/jobs/{id}", Role.ADMIN, _patch),
    Route("DELETE", "/v1/jobs/{id}", Role.ADMIN, _delete),
    Route("POST", "/v1/jobs/{id}/run", Role.OPERATOR, _run),
    Route("POST", "/v1/jobs/{id}/pause", Role.OPERATOR, _pause),
    Route("POST", "/v1/jobs/{id}/resume", Role.OPERATOR, _resume),
    Route("GET", "/v1/jobs/{id}/runs", Role.VIEWER, _runs),
    Route("GET", "/v1/jobs/{id}/revisions", Role.VIEWER, _revisions),
    Route("POST", "/v1/jobs/{id}/verify", Role.OPERATOR, _verify),
    Route("GET", "/v1/jobs/{id}/coverage", Role.VIEWER, _coverage),
)
