"""One request to the admin function on its way: who calls, with what, on which platform; and the paths it can take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Request, Response

from functions.admin_models import write_cursor
from functions.gateway import request_id_of, respond
from shared.errors import MethodNotAllowed, NotFound
from shared.usecases.authorize import Caller, Role
from shared.usecases.record_changes import Author
from shared.wiring import Platform


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler works on; `target_id` is the id in the path, empty where the path has none."""

    platform: Platform
    request: Request
    caller: Caller
    target_id: str

    @property
    def author(self) -> Author:
        """The caller as the audit log names them."""
        return Author(self.caller.subject, self.caller.role.name.lower(), request_id_of(self.request))


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path, whose step `{id}` stands for any one; who may take it, and what it does."""

    method: str
    path: str
    least: Role
    handler: Callable[[Call], Response]

    def match(self, steps: Sequence[str]) -> str | None:
        """The id in the path (empty if the route has none), None if the path is another one."""
        own = self.path.strip("/").split("/")
        if len(own) != len(steps):
            return None
        target_id = ""
        for expected, step in zip(own, steps, strict=True):
            if expected == "{id}" and step:
                target_id = step
            elif expected != step:
                return None
        return target_id


def find_route(routes: Sequence[Route], method: str, path: str) -> tuple[Route, str]:
    """The route of a request and the id in its path.

    Raises:
        NotFound: no route has this path.
        MethodNotAllowed: only routes of other methods have it.
    """
    steps = path.removeprefix("/").removesuffix("/").split("/")
    wanted = "GET" if method == "HEAD" else method
    allowed: list[str] = []
    for route in routes:
        target_id = route.match(steps)
        if target_id is None:
            continue
        if route.method == wanted:
            return route, target_id
        allowed.append(route.method)
    if not allowed:
        raise NotFound("there is nothing under this path; the API begins at /v1")
    methods = ", ".join(sorted(allowed))
    raise MethodNotAllowed(f"{method} is not allowed here; allowed: {methods}", allow=methods)


def respond_page(items: list[dict[str, Any]], limit: int, position: str | None) -> Response:
    """A page of a list; a full one says where the next begins (`position`, of its last item), which may then be empty."""
    body: dict[str, Any] = {"items": items}
    if position is not None and len(items) >= limit:
        body["next_cursor"] = write_cursor(position)
    return respond(body)


def respond_resource(view: Mapping[str, Any], status: int = 200, location: str = "") -> Response:
    """One connector or job; its revision is its ETag."""
    headers = {"ETag": f'"{view["revision"]}"'}
    if location:
        headers["Location"] = location
    return respond(view, status, headers)
