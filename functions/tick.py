"""Tick: POST by the cloud scheduler; claims what is due for up to a minute and starts the workers."""

from flask import Request, Response

from functions.gateway import handle, only, respond
from shared.wiring import Platform


def tick(request: Request) -> Response:
    """The entry point."""
    return handle("tick", request, _tick)


def _tick(platform: Platform, request: Request) -> Response:
    only(request, "POST")
    platform.tick_tokens.verify(request.headers.get("Authorization", ""))
    # The search for due jobs names its indexes; nobody may have called admin yet.
    _ = platform.is_prepared
    # The same over all retries of one firing; absent when somebody runs the schedule by hand.
    scheduled = request.headers.get("X-CloudScheduler-ScheduleTime", "")
    trigger = f"schedule {scheduled[:40]}" if scheduled else "manual tick"
    platform.values_renewal.step()
    report = platform.dispatcher.run(trigger)
    # Behind all jobs that were due.
    platform.backfill_steering.carry_out_left()
    platform.job_manager.finish_deletions_left()
    return respond(
        {
            "passes": report.passes,
            "claimed": report.claimed,
            "started": report.started,
            "given_back": report.given_back,
        }
    )
