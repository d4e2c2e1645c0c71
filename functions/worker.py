"""Worker: POST {job_id, fence, trigger} runs one claimed job to its end and answers with what it did."""

from typing import Final

from flask import Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from functions.gateway import handle, only, read_object, respond
from shared.deadline import Deadline
from shared.domain.jobs import RunOutcome
from shared.errors import InvalidRequest
from shared.wiring import Platform

FENCE_MAX: Final = 2**53


class WorkerCall(BaseModel):
    """The body of a call."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job_id: str = Field(min_length=1, max_length=200)
    fence: int = Field(ge=1, le=FENCE_MAX)
    trigger: str = Field(default="manual", max_length=200)


def worker(request: Request) -> Response:
    """The entry point."""
    return handle("worker", request, _run)


def _run(platform: Platform, request: Request) -> Response:
    only(request, "POST")
    platform.worker_tokens.verify(request.headers.get("Authorization", ""))
    try:
        call = WorkerCall.model_validate(read_object(request))
    except ValidationError as exc:
        errors = [(".".join(str(part) for part in error["loc"]), error["msg"]) for error in exc.errors()]
        raise InvalidRequest("the call is not of the form {job_id, fence, trigger}", errors) from exc
    deadline = Deadline.after(platform.settings.worker_deadline_s)
    result = platform.runner.run(call.job_id, call.fence, call.trigger, deadline)
    if result.outcome is RunOutcome.ERROR:
        platform.alert_sender.send_pending()
    return respond(
        {
            "run_id": result.run_id,
            "outcome": result.outcome.value,
            "candles": result.candles,
            "requests": result.requests,
        }
    )
