"""The simulator as one ASGI application: every exchange below its own path prefix, the controls below /_simulator."""

import json
import time
from typing import Final

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local_emulator.simulator.clock import SimulatorClock
from local_emulator.simulator.config import ClockChange, LimitsConfig, SimulatorConfig
from local_emulator.simulator.exchange import Exchange, IncomingRequest
from local_emulator.simulator.faults import Fault, FaultBook
from local_emulator.simulator.recordings import RecordedSeries, RecordingKey
from local_emulator.simulator.series import BlockCache
from local_emulator.simulator.stamps import Stamp
from local_emulator.simulator.wires import WIRES
from shared.errors import ConfigurationError

RECENT_MS: Final = 60_000
METHODS: Final = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]
FAULTS: Final[TypeAdapter[list[Fault]]] = TypeAdapter(list[Fault])


class Simulator:
    """All simulated exchanges and their controls.

    Raises:
        ConfigurationError: limits or recordings of an exchange that does not exist here.
    """

    def __init__(self, config: SimulatorConfig, recordings: dict[RecordingKey, RecordedSeries]) -> None:
        self.seed = config.seed
        self.clock = SimulatorClock(config.clock_offset_ms, config.freeze_at_ms)
        self.faults = FaultBook(config.seed)
        cache = BlockCache()
        unknown = {key.exchange for key in recordings} - set(WIRES)
        if unknown:
            raise ConfigurationError(f"recordings of {sorted(unknown)}: the simulator has only {sorted(WIRES)}")
        self.exchanges = {
            name: Exchange(
                wire,
                config.seed,
                self.clock,
                self.faults,
                cache,
                {key: series for key, series in recordings.items() if key.exchange == name},
            )
            for name, wire in WIRES.items()
        }
        for limits in config.limits:
            self._set_limits(limits)
        for fault in config.faults:
            self.faults.add(fault)

    def app(self) -> Starlette:
        """The application that serves it."""
        return Starlette(
            routes=[
                Route("/_simulator/report", self.report),
                Route("/_simulator/limits", self.limits, methods=["POST"]),
                Route("/_simulator/faults", self.edit_faults, methods=["GET", "POST", "DELETE"]),
                Route("/_simulator/clock", self.edit_clock, methods=["GET", "POST"]),
                Route("/{exchange}/{path:path}", self.serve, methods=METHODS),
            ],
            exception_handlers={ValidationError: _bad_request, ConfigurationError: _bad_request, ValueError: _bad_request},
        )

    async def serve(self, request: Request) -> Response:
        """A request to an exchange."""
        exchange = self.exchanges.get(request.path_params["exchange"])
        if exchange is None:
            return JSONResponse({"error": "no such exchange", "exchanges": sorted(self.exchanges)}, 404)
        body = b"" if request.method in ("GET", "HEAD") else await request.body()
        # A request arrives with its last part, so the stamp is read when all of it is there.
        stamp: Stamp = request.scope["state"]["connection"].stamp
        path = "/" + request.path_params["path"]
        return await exchange.answer(
            IncomingRequest(request.method, path, request.query_params, request.headers, body, stamp.at_ns, stamp.lateness_ns)
        )

    async def report(self, request: Request) -> Response:
        """All counts; `last_ms` says over what time `weight_recent` and `utilisation` are taken."""
        last_ms = max(1, int(request.query_params.get("last_ms", RECENT_MS)))
        at_ns = time.monotonic_ns()
        exchanges = {name: exchange.arrivals.report(at_ns, last_ms) for name, exchange in self.exchanges.items()}
        clock = {"now_ms": self.clock.now_ms(), "monotonic_ms": at_ns / 1e6, "last_ms": last_ms}
        return JSONResponse({"seed": self.seed, **clock, "exchanges": exchanges})

    async def limits(self, request: Request) -> Response:
        """Set the limits of an exchange; the counting of its windows begins anew."""
        self._set_limits(LimitsConfig.model_validate_json(await request.body()))
        return JSONResponse({})

    async def edit_faults(self, request: Request) -> Response:
        """GET lists, POST adds one or a list of them, DELETE clears (all, or those of ?exchange=)."""
        if request.method == "DELETE":
            self.faults.clear(request.query_params.get("exchange"))
        elif request.method == "POST":
            payload = json.loads(await request.body())
            for fault in FAULTS.validate_python(payload if isinstance(payload, list) else [payload]):
                self.faults.add(fault)
        return JSONResponse(self.faults.list_())

    async def edit_clock(self, request: Request) -> Response:
        """GET tells the time, POST changes it first."""
        if request.method == "POST":
            self._change_clock(ClockChange.model_validate_json(await request.body()))
        clock = self.clock
        return JSONResponse({"now_ms": clock.now_ms(), "offset_ms": clock.offset_ms, "is_frozen": clock.is_frozen})

    def _change_clock(self, change: ClockChange) -> None:
        if change.freeze is False:
            self.clock.run()
        if change.offset_ms is not None:
            self.clock.set(time.time_ns() // 1_000_000 + change.offset_ms)
        if change.now_ms is not None:
            self.clock.set(change.now_ms)
        if change.advance_ms is not None:
            self.clock.advance(change.advance_ms)
        if change.freeze:
            self.clock.freeze()

    def _set_limits(self, change: LimitsConfig) -> None:
        exchange = self.exchanges.get(change.exchange)
        if exchange is None:
            raise ConfigurationError(f"limits of {change.exchange!r}: the simulator has only {sorted(self.exchanges)}")
        in_force = tuple(window.rule for window in exchange.arrivals.windows)
        limits = change.limits()
        if change.keeps_counts and limits is not None:
            exchange.arrivals.change_limits(limits)
            return
        now_ns = time.monotonic_ns()
        history = [(now_ns - age_ms * 1_000_000, weight) for age_ms, weight in change.history]
        exchange.arrivals.set_limits(in_force if limits is None else limits, change.punish, history)


async def _bad_request(_request: Request, exc: Exception) -> Response:
    detail = exc.errors(include_url=False) if isinstance(exc, ValidationError) else str(exc)
    return Response(json.dumps({"error": detail}, default=str), 400, media_type="application/json")
