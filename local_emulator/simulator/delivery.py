"""How an answer leaves: at once, late, in drops, cut off, or not at all. Every answer carries the simulator's own date."""

import asyncio
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from local_emulator.simulator.faults import Fault
from local_emulator.simulator.wire import Reply

NOT_JSON: Final = b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking your browser</body></html>"
DROPS: Final = 20


def response_for(reply: Reply, fault: Fault | None, headers: Mapping[str, str], now_ms: int) -> Response:
    """The answer as this fault delivers it."""
    named = {**headers, **reply.headers, "date": formatdate(now_ms / 1_000, usegmt=True)}
    if fault is not None and fault.kind == "not_json":
        return Response(NOT_JSON, 200, named, "text/html")
    if fault is not None and fault.kind in FAULTY_RESPONSES:
        return FAULTY_RESPONSES[fault.kind](fault, reply.body, reply.status, named, reply.media_type)
    return Response(reply.body, reply.status, named, reply.media_type)


class _FaultyResponse(Response):
    def __init__(self, fault: Fault, *args: Any) -> None:
        super().__init__(*args)
        self.fault = fault


class _Slow(_FaultyResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(self.fault.delay_ms / 1_000)
        await super().__call__(scope, receive, send)


class _Drip(_FaultyResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        size = max(1, -(-len(self.body) // DROPS))
        for at in range(0, len(self.body), size):
            await send({"type": "http.response.body", "body": bytes(self.body[at : at + size]), "more_body": True})
            await asyncio.sleep(self.fault.delay_ms / 1_000 / DROPS)
        await send({"type": "http.response.body", "body": b""})


class _Cut(_FaultyResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body[: len(self.body) // 2]), "more_body": True})
        await _hang_up(scope, receive)


class _Drop(_FaultyResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _hang_up(scope, receive)


async def _hang_up(scope: Scope, receive: Receive) -> None:
    """Close the connection, and return only when the server knows: it would answer for us otherwise."""
    scope["state"]["connection"].transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass


FAULTY_RESPONSES: Final[dict[str, type[_FaultyResponse]]] = {"slow": _Slow, "drip": _Drip, "cut": _Cut, "drop": _Drop}
