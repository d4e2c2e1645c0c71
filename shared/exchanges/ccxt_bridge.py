"""`exchange: "ccxt:<id>"`: any exchange that ccxt knows, under the same limits, leases, pages and checks as our own.

Optional: nothing here is imported unless a connector names such an exchange, and ccxt comes from requirements-ccxt.txt. An own
adapter knows which end of a range an exchange keeps when it clamps; of ccxt nobody knows it. So a page that does not begin at
its start is only believed when the gap before it, asked for alone, is empty.

Weights are ms of ccxt's own pacing: its `rateLimit` times the cost of the endpoint, read at each request as ccxt computes it.
A window lets as much go at once as ccxt does in a second, but never two requests where it wants them further apart. It is as
long as the heaviest request weighs: the exchange's own is at least that.
Source: docs.ccxt.com, "Rate Limit" and "Exchange Structure".
"""

import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Final

import requests

from shared.domain.rates import RateWindow
from shared.domain.timeframes import TIMEFRAMES
from shared.errors import (
    ExchangeError,
    ExchangeRejected,
    ExchangeThrottled,
    ExchangeUnavailable,
    InvalidRequest,
    MalformedPage,
)
from shared.exchanges.ccxt_peers import PREFIX, BridgePeers, Peer, open_client
from shared.exchanges.client import ExchangeClient
from shared.exchanges.error_form import ErrorForm
from shared.exchanges.gated_http import BeforeSend, gate
from shared.exchanges.headers import read_wait_ms
from shared.exchanges.own_names import SymbolForm
from shared.exchanges.pages import AskedRange, FetchedPage, empty_page, read_page
from shared.exchanges.row_forms import MarketForm, RowForm, TimeForm
from shared.exchanges.rows import Market
from shared.exchanges.spec import CandlesRequest, ExchangeSpec, MarketsRequest, Paging
from shared.exchanges.transport import READ_TIMEOUTS_TOTAL, Answer

PERIOD_MS_MIN: Final = 1_000
# Refused for the country, by a firewall, banned, too fast: as ccxt puts an HTTP status between address and reason.
STATUS_IN_TEXT: Final = re.compile(r" (403|418|429|451) ")
# How ccxt's endpoints for candles are called.
CANDLE_PATHS: Final = re.compile(r"candle|kline|ohlc|chart|bars", re.IGNORECASE)
# Where ccxt does not say how many candles an answer holds. Fewer than asked for is no harm.
PAGE_LIMIT: Final = 300
PAGE_LIMIT_MAX: Final = 1_000
# Each asks for a part of the one before.
GAP_TRIES_MAX: Final = 6
SPECS_MAX: Final = 200


def is_bridged(exchange: str) -> bool:
    """Whether the name means ccxt."""
    return exchange.startswith(PREFIX)


@lru_cache(maxsize=SPECS_MAX)
def bridge_spec(exchange: str) -> ExchangeSpec:
    """What ccxt says of an exchange, as a spec.

    Raises:
        InvalidRequest: ccxt is not installed, does not know the exchange, or has no candles of it; names `exchange`.
    """
    peer = open_client(exchange)
    if peer.has.get("fetchOHLCV") is not True:
        raise InvalidRequest.for_field("exchange", f"{exchange}: ccxt has no candles of this exchange")
    candles_ms = math.ceil(peer.rateLimit * _candles_cost(peer.api))
    symbols_ms = math.ceil(peer.rateLimit * _told_cost(peer, peer.load_markets))
    ping_ms = math.ceil(peer.rateLimit * _told_cost(peer, peer.fetch_time)) if _tells_time(peer) else symbols_ms
    period_ms = max(PERIOD_MS_MIN, candles_ms, symbols_ms, ping_ms)
    timeframes = {name: name for name in TIMEFRAMES if name in (peer.timeframes or {})}
    return ExchangeSpec(
        name=exchange,
        docs_url=_first(peer.urls.get("doc")) or "https://docs.ccxt.com",
        base_url=_first(peer.urls.get("www")) or "https://docs.ccxt.com",
        windows=(RateWindow(period_ms, period_ms),),
        candles_weight=candles_ms,
        symbols_weight=symbols_ms,
        ping_weight=ping_ms,
        timeframes=timeframes,
        symbol_form=SymbolForm("{base}/{quote}", swap="{base}/{quote}:{settle}"),
        paging=Paging.FORWARD,
        candles=CandlesRequest(
            path="", params={"since": "{start}"}, page_limit=_page_limit(peer), time_form=TimeForm.MILLISECONDS
        ),
        rows=RowForm.arrays("time open high low close volume", TimeForm.MILLISECONDS),
        errors=ErrorForm(),
        error_rules=(),
        markets=MarketsRequest(path=""),
        market_rows=MarketForm(),
        ping_path="",
        quirks=(
            "Read by ccxt: intervals for which it gives no candle when asked twice count as intervals without trades.",
            "Timeframes are ccxt's; candles that do not open by UTC, weeks not on Monday, are refused when they come.",
        ),
    )


class BridgedClient(ExchangeClient):
    """ExchangeClient's promises, kept by ccxt's requests. The weight is that of the request about to be sent."""

    def __init__(
        self,
        spec: ExchangeSpec,
        peers: BridgePeers,
        *,
        session: requests.Session,
        now_ms: Callable[[], int],
        base_url: str | None = None,
        timeout_s: tuple[float, float] = (3.05, 10.0),
    ) -> None:
        super().__init__(spec, session=session, now_ms=now_ms, base_url=base_url, timeout_s=timeout_s)
        self._pool = peers.pool_of(spec.name, base_url)
        self._at_hand = threading.local()
        self._answer_s = timeout_s[0] + READ_TIMEOUTS_TOTAL * timeout_s[1]
        self._read_s = timeout_s[1]

    def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: str,
        start_ms: int,
        end_ms: int,
        limit: int | None = None,
        *,
        before_send: BeforeSend = None,
    ) -> FetchedPage:
        """See ExchangeClient."""
        grid = self._grid(timeframe)
        self._exchange_symbol(symbol)
        first_ms, closed_end_ms = grid.ceil(start_ms), grid.closed_end(self._now_ms())
        rows_max = self.spec.page_limit if limit is None else min(limit, self.spec.page_limit)
        # ccxt asks for no more than that: an answer without a candle says nothing of what comes later.
        span_end_ms = min(end_ms, closed_end_ms, grid.shift(first_ms, rows_max))
        if span_end_ms <= first_ms:
            return empty_page(start_ms, min(end_ms, closed_end_ms))
        asked = AskedRange(grid, start_ms, first_ms, span_end_ms)
        page = self._ask(symbol, asked, rows_max, before_send)
        for _ in range(GAP_TRIES_MAX):
            gap = grid.count(first_ms, int(page.candles.open_ms[0])) if len(page.candles) else 0
            if not gap:
                return page
            narrower = self._ask(symbol, asked, gap, before_send)
            if not len(narrower.candles) or narrower.candles.open_ms[0] >= page.candles.open_ms[0]:
                return page
            page = narrower
        raise MalformedPage(
            f"{self.spec.name} {symbol} {timeframe}: pages begin ever later than asked", exchange=self.spec.name
        )

    def _ask(self, symbol: str, asked: AskedRange, rows_max: int, before_send: BeforeSend) -> FetchedPage:
        timeframe = asked.grid.name
        with self._asking(f"{symbol} {timeframe}", before_send) as peer:
            self._pool.load_once(peer)
            rows = peer.fetch_ohlcv(symbol, timeframe, asked.first_ms, rows_max)
            headers = peer.client.last_response_headers or {}
        return read_page(Answer(rows, 200, headers, 0), self.spec, self.spec.candles, asked)

    def weight(self, timeframe: str, intervals_count: int) -> int:
        """What the request at hand costs, in ms of ccxt's pacing. More than a window allows is refused by the limiter."""
        peer: Peer | None = getattr(self._at_hand, "peer", None)
        if peer is None:
            return self.spec.candles_weight
        return max(1, math.ceil(peer.cost * self._pool.rate_limit_ms))

    def weight_of_next(self, weight: int) -> int:
        """See ExchangeClient: what ccxt says that the request at hand costs."""
        return self.weight("", 0)

    def ping(self, *, before_send: BeforeSend = None) -> int:
        """See ExchangeClient. Asks for the time where ccxt can, else for the markets."""
        with self._asking("ping", before_send) as peer:
            began = time.monotonic()
            _ = peer.client.fetch_time() if _tells_time(peer.client) else self._pool.reload(peer)
            return round((time.monotonic() - began) * 1000)

    def list_symbols(self, *, before_send: BeforeSend = None) -> list[Market]:
        """See ExchangeClient: spot pairs and perpetuals."""
        with self._asking("symbols", before_send) as peer:
            markets = self._pool.reload(peer).values()
        return sorted(
            (
                Market(market["symbol"], str(market["id"]), market.get("active") is not False)
                for market in markets
                if market.get("spot") or market.get("swap")
            ),
            key=lambda market: market.symbol,
        )

    @contextmanager
    def _asking(self, subject: str, before_send: BeforeSend) -> Iterator[Peer]:
        """A client of ccxt for one question, and its errors as ours."""
        import ccxt

        told = f"{self.spec.name} {subject}"
        names = {"exchange": self.spec.name}
        with self._pool.borrow() as peer, gate(before_send, self._answer_s):
            peer.client.timeout = round(self._read_s * 1000)
            self._at_hand.peer = peer
            try:
                yield peer
            except ccxt.BaseError as exc:
                raise self._fault(exc, f"{told}: {exc}", peer.client.last_response_headers or {}) from exc
            except (TypeError, KeyError, IndexError, ValueError, AttributeError) as exc:
                # ccxt has found something else than it expected.
                raise MalformedPage(f"{told}: {type(exc).__name__}: {exc}", **names) from exc
            finally:
                self._at_hand.peer = None

    def _fault(self, exc: Exception, text: str, headers: Mapping[str, str]) -> ExchangeError:
        """ccxt's error as ours; a status in its words says more than its class."""
        import ccxt

        name = self.spec.name
        is_throttled = isinstance(exc, ccxt.RateLimitExceeded | ccxt.DDoSProtection)
        status = STATUS_IN_TEXT.search(text)
        if status is not None and status[1] == "451":
            return ExchangeRejected(text, exchange=name)
        if is_throttled or status is not None:
            wait_ms = read_wait_ms(headers, self.spec, self._now_ms())
            return ExchangeThrottled(text, self.spec.throttle_wait_ms if wait_ms is None else wait_ms, exchange=name)
        rejections = (ccxt.BadSymbol, ccxt.BadRequest, ccxt.NotSupported, ccxt.AuthenticationError)
        if isinstance(exc, rejections) and not isinstance(exc, ccxt.NetworkError):
            return ExchangeRejected(text, exchange=name)
        return ExchangeUnavailable(text, exchange=name)


def _tells_time(client: Any) -> bool:
    return client.has.get("fetchTime") is True


def _told_cost(client: Any, ask: Callable[[], Any]) -> float:
    """The highest cost among the requests that a question needs: asked of ccxt with nothing sent and nothing answered."""
    import ccxt

    costs = [1.0]
    client.enableRateLimit = True
    client.throttle = lambda cost=None: costs.append(1.0 if cost is None else float(cost))
    # Some go on to their next request after the one, some after the other.
    nothing: tuple[Any, ...] = ({}, [])
    for answer in nothing:
        client.fetch = lambda *_args, answer=answer, **_options: answer
        with suppress(ccxt.BaseError, TypeError, KeyError, IndexError, ValueError, AttributeError):
            ask()
    return max(costs)


def _candles_cost(tree: Any, path: str = "") -> float:
    """The highest cost among the endpoints for candles; 1 where none is told."""
    if isinstance(tree, Mapping) and "cost" not in tree:
        return max((_candles_cost(inner, str(name)) for name, inner in tree.items()), default=1.0)
    cost = tree.get("cost") if isinstance(tree, Mapping) else tree
    return max(1.0, float(cost)) if isinstance(cost, int | float) and CANDLE_PATHS.search(path) else 1.0


def _page_limit(peer: Any) -> int:
    """The most candles of one answer, as far as ccxt says."""
    kinds: Mapping[str, Any] = peer.features or {}
    told = [((kinds.get(kind) or {}).get("fetchOHLCV") or {}).get("limit") for kind in ("spot", "default")]
    limit = next((int(number) for number in told if number), PAGE_LIMIT)
    return max(1, min(limit, PAGE_LIMIT_MAX))


def _first(value: Any) -> str:
    found = value[0] if isinstance(value, list) and value else value
    return found if isinstance(found, str) else ""
