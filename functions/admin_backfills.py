"""Admin paths of backfills: what one would cost, ordering one, how far it has come, pause, resume and cancel."""

from typing import Final

from flask import Response

from functions.admin_call import Call, Route
from functions.admin_models import BackfillCreate, NoQuery, parse_body, parse_query
from functions.admin_views import View, ms_view, to_json
from functions.gateway import respond
from shared.stores.database import Document
from shared.usecases.authorize import Role
from shared.usecases.order_backfills import BackfillProgress

SHARE_DIGITS: Final = 4
# The status of what a dry run tells.
PLANNED: Final = "planned"
PLAN_FIELDS: Final = ("counts", "requests", "weight", "expected_seconds", "bound_by", "holes")


def _create(call: Call) -> Response:
    body = parse_body(call.request, BackfillCreate)
    backfills, order = call.platform.backfills, body.to_order()
    if body.dry_run:
        return respond(_view(backfills.preview(call.target_id, order)))
    made = backfills.create(call.target_id, order, call.author)
    if not made.parts:
        # Nothing was made: all of it is there.
        return respond(_view(made))
    return respond(_view(made), 201, {"Location": f"/v1/backfills/{made.backfill_id}"})


def _list(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    return respond({"items": [_view(each) for each in call.platform.backfills.list_of(call.target_id)]})


def _get(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    return respond(_view(call.platform.backfills.read(call.target_id)))


def _pause(call: Call) -> Response:
    return respond(_view(call.platform.backfills.pause(call.target_id, call.author)))


def _resume(call: Call) -> Response:
    return respond(_view(call.platform.backfills.resume(call.target_id, call.author)))


def _cancel(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    call.platform.backfills.cancel(call.target_id, call.author)
    return Response(status=204)


def _view(progress: BackfillProgress) -> View:
    """A backfill: `left` of the `wanted` intervals; `eta_at` None: it stands still, or nothing can be told yet.

    `plan` is what it came to when it was ordered, with `holes` that it leaves beside candles that are there; None for what a
    live job has passed over.
    """
    wanted, left, eta_s = progress.wanted, progress.left, progress.eta_s
    eta_at = None if eta_s is None or not left else ms_view(progress.now_ms + round(eta_s * 1000))
    plan = None if progress.plan is None else {name: progress.plan[name] for name in PLAN_FIELDS}
    return {
        "id": progress.backfill_id,
        "job_id": progress.job_id,
        "connector_id": progress.connector_id,
        "symbol": progress.symbol,
        "timeframe": progress.timeframe,
        "from": ms_view(progress.start_ms),
        "to": ms_view(progress.end_ms),
        "status": PLANNED if progress.status is None else progress.status,
        "waiting_for": _waiting_for(progress),
        "wanted": wanted,
        "left": left,
        "share": 1.0 if not wanted else round((wanted - left) / wanted, SHARE_DIGITS),
        "candles": sum(part["candles"] for part in progress.parts),
        "eta_seconds": eta_s,
        "eta_at": eta_at,
        "created_at": None if progress.created_ms is None else ms_view(progress.created_ms),
        "finished_at": None if progress.ended_ms is None else ms_view(progress.ended_ms),
        "plan": to_json(plan),
        "chunks": [_part_view(part, progress) for part in progress.parts],
    }


def _waiting_for(progress: BackfillProgress) -> str | None:
    """What keeps an active backfill from getting on."""
    if progress.is_connector_paused:
        return "connector_paused"
    if progress.blocked_ms:
        return "connector_blocked"
    return "lease" if progress.is_lease_awaited else None


def _part_view(part: Document, progress: BackfillProgress) -> View:
    """A chunk. `lease_until`: nothing has come from its worker for a while; should it be gone, another one goes on then."""
    lease_ms = part["lease_ms"]
    return {
        "job_id": part["job_id"],
        "status": PLANNED if progress.status is None else part["status"],
        "from": to_json(part["start_at"]),
        "to": to_json(part["end_at"]),
        "last_ts": to_json(part["last_ts"]),
        "wanted": part["wanted"],
        "left": part["left"],
        "lease_until": ms_view(progress.now_ms + lease_ms) if lease_ms else None,
        "last_error": to_json(part["last_error"]),
    }


ROUTES: Final = (
    Route("POST", "/v1/jobs/{id}/backfill", Role.OPERATOR, _create),
    Route("GET", "/v1/jobs/{id}/backfills", Role.VIEWER, _list),
    Route("GET", "/v1/backfills/{id}", Role.VIEWER, _get),
    Route("POST", "/v1/backfills/{id}/pause", Role.OPERATOR, _pause),
    Route("POST", "/v1/backfills/{id}/resume", Role.OPERATOR, _resume),
    Route("DELETE", "/v1/backfills/{id}", Role.OPERATOR, _cancel),
)
