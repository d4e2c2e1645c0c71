"""Metrics: GET / in Prometheus' text format or OpenMetrics, as the `Accept` header asks. Needs a token of role viewer."""

from flask import Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from functions.gateway import handle, only
from shared.errors import NotFound
from shared.usecases.authorize import Role
from shared.wiring import Platform


def metrics(request: Request) -> Response:
    """The entry point."""
    return handle("metrics", request, _scrape)


def _scrape(platform: Platform, request: Request) -> Response:
    only(request, "GET")
    platform.user_tokens.verify(request.headers.get("Authorization", ""), Role.VIEWER)
    # Prometheus' own default path besides the function's root.
    if request.path not in ("/", "/metrics"):
        raise NotFound(f"there is nothing at {request.path}; metrics are at /")
    registry = CollectorRegistry()
    registry.register(platform.metrics)
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type, headers={"Cache-Control": "no-store"})
