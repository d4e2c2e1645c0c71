"""Admin: the API of people and their tools, under /v1. Parse, call one use case, respond."""

from typing import Final

from flask import Request, Response

from functions import admin_backfills, admin_candles, admin_connectors, admin_jobs
from functions.admin_call import Call, Route, find_route, respond_page
from functions.admin_models import AlertsQuery, AuditQuery, NoQuery, parse_query, read_id_cursor
from functions.admin_views import document_view, to_json
from functions.gateway import handle, respond
from shared.usecases.authorize import Role
from shared.wiring import Platform


def admin(request: Request) -> Response:
    """The entry point."""
    return handle("admin", request, _answer)


def _answer(platform: Platform, request: Request) -> Response:
    route, target_id = find_route(ROUTES, request.method, request.path)
    caller = platform.user_tokens.verify(request.headers.get("Authorization", ""), route.least)
    # The first admitted request of an instance makes the indexes; an error here is the request's.
    _ = platform.is_prepared
    return route.handler(Call(platform, request, caller, target_id))


def _health(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    call.platform.database.check()
    return respond({"status": "ok", "mongodb": to_json(call.platform.database.server_info())})


def _audit(call: Call) -> Response:
    query = parse_query(call.request, AuditQuery)
    before_id = read_id_cursor(query.cursor)
    found = call.platform.audit_log.list_(query.target, before_id, query.limit)
    return respond_page([document_view(entry) for entry in found], query.limit, str(found[-1]["_id"]) if found else None)


def _alerts(call: Call) -> Response:
    query = parse_query(call.request, AlertsQuery)
    return respond({"items": [document_view(alert) for alert in call.platform.alerts.list_(query.state, query.limit)]})


def _resolve_alert(call: Call) -> Response:
    return respond(document_view(call.platform.alert_resolver.resolve(call.target_id, call.author)))


ROUTES: Final = (
    Route("GET", "/v1/health", Role.VIEWER, _health),
    Route("GET", "/v1/audit", Role.VIEWER, _audit),
    Route("GET", "/v1/alerts", Role.VIEWER, _alerts),
    Route("POST", "/v1/alerts/{id}/resolve", Role.OPERATOR, _resolve_alert),
    *admin_connectors.ROUTES,
    *admin_jobs.ROUTES,
    *admin_candles.ROUTES,
    *admin_backfills.ROUTES,
)
