"""Admin paths of connectors and exchanges."""

from typing import Final

from flask import Response

from functions.admin_call import Call, Route, respond_page, respond_resource
from functions.admin_models import (
    ConnectorCreate,
    ConnectorPatch,
    NoQuery,
    PageQuery,
    parse_body,
    parse_query,
    parse_revision,
    read_cursor,
)
from functions.admin_views import document_view, exchange_view, rate_limit_view, symbols_view
from functions.gateway import respond
from shared.errors import InvalidRequest, NotFound
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.usecases.authorize import Role


def _list_exchanges(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    return respond({"items": [exchange_view(load_spec(name)) for name in sorted(EXCHANGES)]})


def _get_exchange(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    try:
        return respond(exchange_view(load_spec(call.target_id)))
    except InvalidRequest as exc:
        raise NotFound(exc.message) from exc


def _create(call: Call) -> Response:
    body = parse_body(call.request, ConnectorCreate)
    document = call.platform.connector_manager.create(body.id, body.exchange, body.given(), call.author)
    return respond_resource(document_view(document), 201, f"/v1/connectors/{document['_id']}")


def _list(call: Call) -> Response:
    query = parse_query(call.request, PageQuery)
    found = call.platform.connectors.list_(read_cursor(query.cursor) or "", query.limit)
    return respond_page([document_view(document) for document in found], query.limit, found[-1]["_id"] if found else None)


def _get(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    return respond_resource(document_view(call.platform.connectors.get(call.target_id)))


def _patch(call: Call) -> Response:
    fields = parse_body(call.request, ConnectorPatch).given()
    revision = parse_revision(call.request)
    return respond_resource(document_view(call.platform.connector_manager.patch(call.target_id, fields, revision, call.author)))


def _delete(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    call.platform.connector_manager.delete(call.target_id, parse_revision(call.request), call.author)
    return Response(status=204)


def _pause(call: Call) -> Response:
    revision = parse_revision(call.request)
    return respond_resource(document_view(call.platform.connector_manager.pause(call.target_id, revision, call.author)))


def _resume(call: Call) -> Response:
    revision = parse_revision(call.request)
    return respond_resource(document_view(call.platform.connector_manager.resume(call.target_id, revision, call.author)))


def _unblock(call: Call) -> Response:
    return respond_resource(document_view(call.platform.connector_manager.unblock(call.target_id, call.author)))


def _ping(call: Call) -> Response:
    connector = call.platform.connectors.get_connector(call.target_id)
    latency_ms = call.platform.exchange_desk.ping(connector)
    return respond({"connector_id": connector.connector_id, "exchange": connector.exchange, "latency_ms": latency_ms})


def _symbols(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    connector = call.platform.connectors.get_connector(call.target_id)
    return respond(symbols_view(call.platform.exchange_desk.list_symbols(connector)))


def _rate_limit(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    platform = call.platform
    document = platform.connectors.get(call.target_id)
    now_ms = platform.database.server_now_ms()
    usage = platform.connectors.get_usage(call.target_id, now_ms)
    client = platform.open_exchange(platform.connectors.get_connector(call.target_id), lambda: now_ms)
    return respond(rate_limit_view(document, usage, client.rate_limit_info(), now_ms))


ROUTES: Final = (
    Route("GET", "/v1/exchanges", Role.VIEWER, _list_exchanges),
    Route("GET", "/v1/exchanges/{id}", Role.VIEWER, _get_exchange),
    Route("POST", "/v1/connectors", Role.ADMIN, _create),
    Route("GET", "/v1/connectors", Role.VIEWER, _list),
    Route("GET", "/v1/connectors/{id}", Role.VIEWER, _get),
    Route("PATCH", "/v1/connectors/{id}", Role.ADMIN, _patch),
    Route("DELETE", "/v1/connectors/{id}", Role.ADMIN, _delete),
    Route("POST", "/v1/connectors/{id}/pause", Role.OPERATOR, _pause),
    Route("POST", "/v1/connectors/{id}/resume", Role.OPERATOR, _resume),
    Route("POST", "/v1/connectors/{id}/unblock", Role.OPERATOR, _unblock),
    Route("POST", "/v1/connectors/{id}/ping", Role.OPERATOR, _ping),
    Route("GET", "/v1/connectors/{id}/symbols", Role.VIEWER, _symbols),
    Route("GET", "/v1/connectors/{id}/rate-limit", Role.VIEWER, _rate_limit),
)
