"""The simulated exchanges without sockets: an adapter for `requests`, so that our client and ccxt meet the same wire code.

What the two send is kept, with how the exchange understood it. Over real HTTP: test_simulator_wire.py, test_exchanges.py.
"""

import asyncio
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter
from starlette.datastructures import QueryParams

from local_emulator.simulator.clock import SimulatorClock
from local_emulator.simulator.exchange import Exchange, IncomingRequest
from local_emulator.simulator.faults import FaultBook
from local_emulator.simulator.series import BlockCache
from local_emulator.simulator.wire import Refused, Span, WireRequest
from local_emulator.simulator.wires import WIRES
from shared.exchanges.catalog import load_spec
from shared.exchanges.client import ExchangeClient
from tests.contract.frozen_market import CACHE, NOW_MS, SEED


@dataclass(frozen=True)
class Exchanged:
    """One request as the exchange understood it (None: it was not for candles, or refused), and the answer."""

    path: str
    query: Mapping[str, str]
    span: Span | None
    status: int
    body: bytes


class Bench(BaseAdapter):
    """Answers for one exchange whatever host is asked, at a frozen moment and without a limit."""

    def __init__(self, exchange: str, cache: BlockCache = CACHE) -> None:
        super().__init__()
        self._exchange = Exchange(WIRES[exchange], SEED, SimulatorClock(0, NOW_MS), FaultBook(SEED), cache, {})
        self._exchange.arrivals.set_limits((), punish=False)
        self.exchanged: list[Exchanged] = []

    @property
    def newest(self) -> Exchanged:
        """The last exchange that was about candles."""
        return next(exchanged for exchanged in reversed(self.exchanged) if exchanged.span is not None)

    def send(self, request: requests.PreparedRequest, *_args: Any, **_options: Any) -> requests.Response:
        """What `requests` calls to have a request sent."""
        parts = urlsplit(str(request.url))
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        query = QueryParams(parts.query)
        incoming = IncomingRequest(str(request.method), parts.path, query, request.headers, body, time.monotonic_ns())
        answer = asyncio.run(self._exchange.answer(incoming))
        self.exchanged.append(Exchanged(parts.path, query, self._span(incoming), answer.status_code, bytes(answer.body)))
        response = requests.Response()
        response.status_code = answer.status_code
        response.headers.update(dict(answer.headers))
        response.raw = urllib3.HTTPResponse(
            io.BytesIO(bytes(answer.body)), dict(answer.headers), answer.status_code, preload_content=False
        )
        response.url, response.request, response.reason = str(request.url), request, "as simulated"
        return response

    def close(self) -> None:
        """Nothing is open."""

    def client(self) -> ExchangeClient:
        """Ours, talking to this."""
        return ExchangeClient(load_spec(self._exchange.wire.name), session=self.session(), now_ms=lambda: NOW_MS)

    def session(self) -> requests.Session:
        """One that reaches this whatever it asks for."""
        session = requests.Session()
        session.trust_env = False
        session.mount("https://", self)
        return session

    def _span(self, incoming: IncomingRequest) -> Span | None:
        for route in self._exchange.wire.routes:
            params = route.match(incoming.method, incoming.path, incoming.body)
            if params is not None and route.span is not None:
                request = WireRequest(
                    incoming.query, params, incoming.headers, incoming.body, NOW_MS, self._exchange.markets, ()
                )
                try:
                    return route.span(request)
                except Refused:
                    return None
        return None
