"""Admin paths of backfills: what one would cost, ordering one, how far it has come, pause, resume and cancel."""

from typing import Final

from flask import Response

from functions.admin_call import Call, Route
from functions.admin_models import BackfillCreate, NoQuery, parse_body, parse_query
from functions.admin_views import View, ms_view, to_json
from functions.gateway import respond
from shared.domain.jobs import to_datetime
from shared.usecases.authorize import Role
from shared.usecases.order_backfills import BackfillPlan, BackfillProgress, PartProgress

SHARE_DIGITS: Final = 4


def _create(call: Call) -> Response:
    body = parse_body(call.request, BackfillCreate)
    backfills, order = call.platform.backfills, body.to_order()
    if body.dry_run:
        return respond({**_plan_view(backfills.plan(call.target_id, order)), "dry_run": True})
    plan = backfills.create(call.target_id, order, call.author)
    if not plan.parts:
        # Nothing was made: all of it is there.
        return respond({**_plan_view(plan), "dry_run": False})
    location = f"/v1/backfills/{plan.backfill_id}"
    return respond({**_plan_view(plan), "dry_run": False}, 201, {"Location": location})


def _list(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    return respond({"items": [_progress_view(call, each) for each in call.platform.backfills.list_of(call.target_id)]})


def _get(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    return respond(_progress_view(call, call.platform.backfills.read(call.target_id)))


def _pause(call: Call) -> Response:
    return respond(_progress_view(call, call.platform.backfills.pause(call.target_id, call.author)))


def _resume(call: Call) -> Response:
    return respond(_progress_view(call, call.platform.backfills.resume(call.target_id, call.author)))


def _cancel(call: Call) -> Response:
    parse_query(call.request, NoQuery)
    call.platform.backfills.cancel(call.target_id, call.author)
    return Response(status=204)


def _plan_view(plan: BackfillPlan) -> View:
    """What an order comes to. `chunks` are the parts that workers run at once; none, if nothing is to be asked for."""
    return {
        "id": plan.backfill_id,
        "job_id": plan.job_id,
        "timeframe": plan.timeframe.name,
        "from": ms_view(plan.start_ms),
        "to": ms_view(plan.end_ms),
        "intervals": sum(plan.counts.values()),
        "counts": {state.value: count for state, count in plan.counts.items()},
        "wanted": plan.wanted,
        "requests": plan.estimate.requests,
        "weight": plan.estimate.weight,
        "expected_seconds": plan.estimate.seconds,
        "bound_by": None if plan.estimate.bound is None else plan.estimate.bound.value,
        "chunks": [{"from": ms_view(start_ms), "to": ms_view(end_ms)} for start_ms, end_ms in plan.parts],
    }


def _progress_view(call: Call, progress: BackfillProgress) -> View:
    """How far it has come: `left` of the `wanted` intervals; `eta_at` None: it stands still, or nothing can be told yet."""
    documents = [part.document for part in progress.parts]
    wanted, left, eta_s = progress.wanted, progress.left, progress.eta_s
    now_ms = call.platform.database.server_now_ms()
    eta_at = None if eta_s is None or not left else to_json(to_datetime(now_ms + round(eta_s * 1000)))
    return {
        "id": progress.backfill_id,
        "status": progress.status.value,
        "waiting_for": "connector_paused" if progress.is_connector_paused else None,
        "connector_id": documents[0]["connector_id"],
        "symbol": documents[0]["symbol"],
        "timeframe": documents[0]["timeframe"],
        "from": to_json(min(document["start_at"] for document in documents)),
        "to": to_json(max(document["end_at"] for document in documents)),
        "wanted": wanted,
        "left": left,
        "share": 1.0 if not wanted else round((wanted - left) / wanted, SHARE_DIGITS),
        "eta_seconds": eta_s,
        "eta_at": eta_at,
        "candles": sum(document["totals"].get("candles", 0) for document in documents),
        "chunks": [_part_view(part) for part in progress.parts],
    }


def _part_view(part: PartProgress) -> View:
    document = part.document
    return {
        "job_id": document["_id"],
        "status": document["status"],
        "from": to_json(document["start_at"]),
        "to": to_json(document["end_at"]),
        "last_ts": to_json(document["cursor"]["last_ts"]),
        "wanted": part.wanted,
        "left": part.left,
        "last_error": to_json(document["last_error"]),
    }


ROUTES: Final = (
    Route("POST", "/v1/jobs/{id}/backfill", Role.OPERATOR, _create),
    Route("GET", "/v1/jobs/{id}/backfills", Role.VIEWER, _list),
    Route("GET", "/v1/backfills/{id}", Role.VIEWER, _get),
    Route("POST", "/v1/backfills/{id}/pause", Role.OPERATOR, _pause),
    Route("POST", "/v1/backfills/{id}/resume", Role.OPERATOR, _resume),
    Route("DELETE", "/v1/backfills/{id}", Role.OPERATOR, _cancel),
)
