"""ccxt's clients: opened, pointed at our session, lent out one a request, and asked what an answer without rows really said.

A client is for one thread at a time, and waits for weight in the middle of a request: all jobs of an exchange would wait with
it. So there are as many as there are requests on their way, with one list of markets between them. The list is
what is large (3 to 4 MB for 1,000 markets); a client without it takes 0.05 to 0.3 MB, and 20 to 40 ms to make.
"""

import importlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, SupportsIndex
from urllib.parse import urlsplit

import requests

from shared.errors import InvalidRequest, MalformedPage
from shared.exchanges.http_session import POOL_SIZE, proxies_for

PREFIX: Final = "ccxt:"
# More could not send: each needs a connection.
CLIENTS_MAX: Final = POOL_SIZE
# A list longer than that holds rows; a shorter one may hold another list, in which they are.
NESTED_MAX: Final = 4


def open_client(exchange: str) -> Any:
    """ccxt's client of an exchange, with no request sent.

    Raises:
        InvalidRequest: ccxt is not installed, or does not know the exchange; names `exchange`.
    """
    try:
        ccxt = importlib.import_module("ccxt")
    except ImportError as exc:
        raise InvalidRequest.for_field(
            "exchange", f"{exchange}: ccxt is not installed here; deploy with requirements-ccxt.txt"
        ) from exc
    ccxt_id = exchange.removeprefix(PREFIX)
    if ccxt_id not in ccxt.exchanges:
        raise InvalidRequest.for_field("exchange", f"ccxt {ccxt.__version__} knows no exchange {ccxt_id!r}")
    client = getattr(ccxt, ccxt_id)({"enableRateLimit": False})
    # A question more for each list of markets, and its answer is of no use here.
    client.has["fetchCurrencies"] = False
    return client


class Peer:
    """One client of ccxt, for one thread at a time. `cost` is that of the request at hand, in ccxt's unit."""

    def __init__(self, client: Any, exchange: str) -> None:
        self.client = client
        self.cost = 1.0
        self._exchange = exchange
        self._answers: list[Any] = []
        self._timeless_count = 0
        self._send, self._parse = client.fetch, client.parse_ohlcv
        client.enableRateLimit = True
        # In the place of its own sleeping: what the next request costs, to be reserved when its connection is up.
        client.throttle = self._note_cost
        client.fetch = self._fetch
        client.parse_ohlcv = self._parse_row

    def fetch_ohlcv(self, symbol: str, timeframe: str, since_ms: int, limit: int) -> list[Any]:
        """ccxt's rows.

        ccxt takes whatever it does not find for an empty list: of 90 exchanges, 68 read `{}` and 80 a page of HTML as a time
        without trades, and the cursor would pass it for good. So an answer without rows has to hold the list in which they
        would be. Which one that is knows ccxt only: it reads the answer once more, with lists that tell if they are read.

        Raises:
            MalformedPage: there are no rows, and no list of them either; or rows without a time, which ccxt leaves out.
        """
        self._answers, self._timeless_count = [], 0
        rows: list[Any] = self.client.fetch_ohlcv(symbol, timeframe, since_ms, limit)
        answers, self._answers = self._answers, []
        told = f"{self._exchange} {symbol} {timeframe}"
        if self._timeless_count:
            raise MalformedPage(f"{told}: {self._timeless_count} rows have no time", exchange=self._exchange)
        if not rows and not self._is_list_read(answers, (symbol, timeframe, since_ms, limit)):
            raise MalformedPage(f"{told}: no rows, and no list where they would be: {answers!r:.200}", exchange=self._exchange)
        return rows

    def _is_list_read(self, answers: list[Any], asked: tuple[str, str, int, int]) -> bool:
        """Whether ccxt finds rows in a list of the answer. Rows themselves are not looked into: they may be lists as well."""
        watched: list[_Watched] = []
        seen = iter([_watch(answer, watched) for answer in answers])
        self.client.fetch = lambda *_args, **_options: next(seen)
        self.client.parse_ohlcv = lambda *_args, **_options: [0] * 6
        try:
            self.client.fetch_ohlcv(*asked)
        finally:
            self.client.fetch, self.client.parse_ohlcv = self._fetch, self._parse_row
        return any(each.is_read for each in watched)

    def load_markets(self) -> Mapping[str, Any]:
        """The markets, asked for anew.

        Raises:
            MalformedPage: there are none: every symbol would be rejected for good.
        """
        self._answers = []
        markets: Mapping[str, Any] = self.client.load_markets(True)
        answers, self._answers = self._answers, []
        if not markets or not all(isinstance(answer, dict | list) for answer in answers):
            self.client.markets = None
            raise MalformedPage(f"{self._exchange}: no list of markets", exchange=self._exchange)
        return markets

    def _note_cost(self, cost: float | None = None) -> None:
        self.cost = 1.0 if cost is None else cost

    def _parse_row(self, *args: Any, **options: Any) -> Any:
        row = self._parse(*args, **options)
        self._timeless_count += row[0] is None
        return row

    def _fetch(self, *args: Any, **options: Any) -> Any:
        answer = self._send(*args, **options)
        self._answers.append(answer)
        return answer


class PeerPool:
    """The clients of one exchange at one address."""

    def __init__(self, exchange: str, open_peer: Callable[[], Peer]) -> None:
        self._open_peer = open_peer
        self._changed = threading.Condition()
        self._loading = threading.Lock()
        self._idle: list[Peer] = []
        self._count = 0
        # Sends nothing: it keeps the newest markets, which others take over while nobody changes them.
        self._keeper = open_client(exchange)
        self.rate_limit_ms = float(self._keeper.rateLimit)

    @contextmanager
    def borrow(self) -> Iterator[Peer]:
        """A client that nobody else uses meanwhile, with the newest markets if there are any."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._count < CLIENTS_MAX)
            peer = self._idle.pop() if self._idle else None
            self._count += peer is None
        try:
            if peer is None:
                peer = self._open_peer()
            self._take_over(peer)
            yield peer
        finally:
            with self._changed:
                if peer is None:
                    self._count -= 1
                else:
                    self._idle.append(peer)
                self._changed.notify()

    def load_once(self, peer: Peer) -> None:
        """Have the markets in that client: who comes first asks for them, the others wait for the answer."""
        if peer.client.markets:
            return
        with self._loading:
            self._take_over(peer)
            if not peer.client.markets:
                self.reload(peer)

    def reload(self, peer: Peer) -> Mapping[str, Any]:
        """The markets, asked for anew and kept for all."""
        markets = peer.load_markets()
        with self._changed:
            self._keeper.set_markets_from_exchange(peer.client)
        return markets

    def _take_over(self, peer: Peer) -> None:
        with self._changed:
            if self._keeper.markets and peer.client.markets is not self._keeper.markets:
                peer.client.set_markets_from_exchange(self._keeper)


class BridgePeers:
    """The clients of one instance: asking for an exchange's markets takes seconds, so they are kept."""

    def __init__(self, session: requests.Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, str | None], PeerPool] = {}

    def pool_of(self, exchange: str, base_url: str | None) -> PeerPool:
        """The clients of that exchange, its hosts replaced by `base_url` if given."""
        with self._lock:
            pool = self._pools.get((exchange, base_url))
            if pool is None:
                pool = self._pools[(exchange, base_url)] = PeerPool(exchange, lambda: self._open_peer(exchange, base_url))
            return pool

    def _open_peer(self, exchange: str, base_url: str | None) -> Peer:
        client = open_client(exchange)
        client.session = self._session
        client.proxies = proxies_for(base_url or f"https://{exchange.removeprefix(PREFIX)}.com") or None
        if base_url is not None:
            client.urls["api"] = _redirected(client.urls["api"], base_url.rstrip("/"))
        return Peer(client, exchange)


class _Watched(list[Any]):
    """A list that says whether anybody has looked for what is in it."""

    is_read = False

    def __len__(self) -> int:
        self.is_read = True
        return super().__len__()

    def __iter__(self) -> Iterator[Any]:
        self.is_read = True
        return super().__iter__()

    def __getitem__(self, at: "SupportsIndex | slice") -> Any:
        # ccxt tries its way to the rows by names too, in whatever it has found.
        self.is_read = self.is_read or not isinstance(at, str)
        return super().__getitem__(at)


def _watch(value: Any, watched: list[_Watched]) -> Any:
    """A copy of an answer with such lists; what is inside of rows is left as it is."""
    if isinstance(value, Mapping):
        return {key: _watch(inner, watched) for key, inner in value.items()}
    if not isinstance(value, list):
        return value
    each = _Watched(_watch(inner, watched) for inner in value) if len(value) <= NESTED_MAX else _Watched(value)
    watched.append(each)
    return each


def _redirected(urls: Any, base_url: str) -> Any:
    """The same addresses on another host; what stands before the path is replaced, wherever an address is."""
    if isinstance(urls, Mapping):
        return {name: _redirected(inner, base_url) for name, inner in urls.items()}
    return base_url + urlsplit(urls).path if isinstance(urls, str) else urls
