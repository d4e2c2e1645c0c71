"""One simulated exchange: its wire format, its door, its candles."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.datastructures import QueryParams
from starlette.responses import Response

from local_emulator.simulator.arrivals import Arrivals
from local_emulator.simulator.clock import SimulatorClock
from local_emulator.simulator.delivery import response_for
from local_emulator.simulator.faults import ROW_KINDS, Fault, FaultBook
from local_emulator.simulator.market import Market
from local_emulator.simulator.recordings import RecordedSeries, RecordingKey
from local_emulator.simulator.row_faults import Page, spoil
from local_emulator.simulator.select_rows import select_rows
from local_emulator.simulator.series import BlockCache, GeneratedSeries, Series
from local_emulator.simulator.wire import Refused, Reply, Route, Span, Wire, WireRequest, json_object
from shared.domain.candles import CandleBatch
from shared.domain.timeframes import HOUR_MS

# Whoever sends this header plays somebody else on the same address: counted by the exchange, and not in the report.
STRANGER: Final = "x-simulator-stranger"
NOTHING: Final = RecordedSeries(CandleBatch.empty())


@dataclass(frozen=True, slots=True)
class IncomingRequest:
    """What came over the wire, below the exchange's path prefix, and when: see Stamp."""

    method: str
    path: str
    query: QueryParams
    headers: Mapping[str, str]
    body: bytes
    arrived_ns: int
    lateness_ns: int | None = None


@dataclass(slots=True)
class Exchange:
    """Answers requests of one exchange. Recordings take the place of generated series, and add symbols."""

    wire: Wire
    seed: int
    clock: SimulatorClock
    faults: FaultBook
    cache: BlockCache
    recordings: dict[RecordingKey, RecordedSeries]
    arrivals: Arrivals = field(init=False)
    markets: dict[str, Market] = field(init=False)

    def __post_init__(self) -> None:
        self.arrivals = Arrivals(self.wire.limits, self.wire.punishment)
        self.markets = {market.symbol: market for market in self.wire.markets}
        for key, series in self.recordings.items():
            if key.symbol not in self.markets:
                recorded = Market(key.symbol, 1.0, 8, 1.0, 8, listed_ms=series.first_ms, is_generated=False)
                self.markets[key.symbol] = recorded

    async def answer(self, incoming: IncomingRequest) -> Response:
        """Count, judge, and answer. Nothing may wait before the counting."""
        route, params = self._route(incoming)
        asked = incoming.query if incoming.method == "GET" else json_object(incoming.body)
        weight = route.query_weight(asked) if route.query_weight else route.weight
        if STRANGER in incoming.headers:
            verdict = self.arrivals.arrive_strange(incoming.arrived_ns, weight)
        else:
            verdict = self.arrivals.arrive(incoming.arrived_ns, weight, incoming.lateness_ns)
        now_ms = self.clock.now_ms()
        fault: Fault | None = None
        if verdict.status != "accepted":
            reply = self.wire.refusal(verdict, now_ms)
        else:
            limits = tuple(window.rule for window in self.arrivals.windows)
            request = WireRequest(incoming.query, params, incoming.headers, incoming.body, now_ms, self.markets, limits)
            reply, fault = await self._reply(route, request)
        self.arrivals.statuses[fault.kind if fault and fault.kind in ("drop", "cut") else str(reply.status)] += 1
        headers: dict[str, str] = {}
        for window in self.arrivals.counted:
            headers |= self.wire.usage_headers(window)
        return response_for(reply, fault, headers, now_ms)

    def _route(self, incoming: IncomingRequest) -> tuple[Route, dict[str, str]]:
        for route in self.wire.routes:
            params = route.match(incoming.method, incoming.path, incoming.body)
            if params is not None:
                return route, params
        return Route(incoming.path, answer=lambda _request: self.wire.error(404)), {}

    async def _reply(self, route: Route, request: WireRequest) -> tuple[Reply, Fault | None]:
        try:
            span = route.span(request) if route.span else None
        except Refused as refused:
            return refused.reply, None
        faults = self.faults.take(self.wire.name, span)
        fault = next((fault for fault in faults if fault.kind not in ROW_KINDS), None)
        if fault is not None and fault.kind == "status":
            retry_after = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            error = self.wire.error(fault.status)
            return Reply(fault.status, error.body, {**error.headers, **retry_after}, error.media_type), fault
        if span is None or route.page is None:
            try:
                return (route.answer(request) if route.answer else self.wire.error(404)), fault
            except Refused as refused:
                return refused.reply, fault
        series = self._series(span)
        if span.timeframe.step_ms < HOUR_MS:
            rows = select_rows(series, span, request.now_ms)
        else:
            # Long timeframes can take a tenth of a second when cold; the door must go on counting meanwhile.
            rows = await asyncio.to_thread(select_rows, series, span, request.now_ms)
        for row_fault in faults:
            if row_fault.kind in ROW_KINDS:
                rows = spoil(Page(rows, span.timeframe, request.now_ms, self.faults.random), row_fault)
        return route.page(request, span, rows), fault

    def _series(self, span: Span) -> Series:
        recorded = self.recordings.get(RecordingKey(self.wire.name, span.market.symbol, span.timeframe.name))
        if recorded is not None:
            return recorded
        if not span.market.is_generated:
            return NOTHING
        return GeneratedSeries(self.seed, self.wire.name, span.market, self.wire.omits_empty, self.cache)
