"""Ask an exchange something for a person who waits: its answer to a ping, its symbols. Within the limit like every request."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from shared.deadline import ServerClock
from shared.domain.connectors import Connector
from shared.domain.job_ranges import format_ms
from shared.errors import ExchangeThrottled, RateLimitReached
from shared.exchanges.catalog import load_spec
from shared.exchanges.client import ExchangeClient
from shared.exchanges.gated_http import BeforeSend, Passage
from shared.exchanges.rows import Market
from shared.stores.rate_limits import Block
from shared.usecases.grants import Grants, NoRoom, Refused
from shared.usecases.instance_limiter import InstanceLimiter
from shared.usecases.send_requests import OpenExchange

T = TypeVar("T")

# A person waits this long for room in the limit; longer, and they are told when to come back.
WAIT_MS_MAX: Final = 2_000
# Symbols come and go by the day.
SYMBOLS_KEPT_S: Final = 3_600
# A symbol that is not on the list may be new; but asking for nonsense must not spend the limit.
SYMBOLS_REFRESH_S: Final = 60
# Connectors come in tens; this only bounds what an instance may hold.
LISTS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class SymbolList:
    """All pairs of an exchange by unified symbol, when they were asked for (UTC ms, and on this process's clock)."""

    markets: dict[str, Market]
    fetched_ms: int
    fetched_monotonic: float

    def age_s(self) -> float:
        """How old it is."""
        return time.monotonic() - self.fetched_monotonic


@dataclass(slots=True)
class _Shelf:
    """The list kept for one connector; one thread at a time fetches it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    symbols: SymbolList | None = None


class ExchangeDesk:
    """Sends single requests, each after its weight has been reserved. One an instance; safe between threads."""

    def __init__(self, limiter: InstanceLimiter, open_exchange: OpenExchange) -> None:
        self._limiter = limiter
        self._open_exchange = open_exchange
        self._lock = threading.Lock()
        self._shelves: dict[tuple[str, str, str | None], _Shelf] = {}

    def ping(self, connector: Connector) -> int:
        """The round trip in ms. Raises as `_send` does."""
        return self._send(connector, load_spec(connector.exchange).ping_weight, _ping)[0]

    def list_symbols(self, connector: Connector, kept_s: float = SYMBOLS_KEPT_S) -> SymbolList:
        """The exchange's symbols, at most `kept_s` old. Raises as `_send` does."""
        shelf = self._shelf(connector)
        with shelf.lock:
            if shelf.symbols is None or shelf.symbols.age_s() > kept_s:
                weight = load_spec(connector.exchange).symbols_weight
                markets, at_ms = self._send(connector, weight, _list_symbols)
                shelf.symbols = SymbolList({market.symbol: market for market in markets}, at_ms, time.monotonic())
            return shelf.symbols

    def find_market(self, connector: Connector, symbol: str) -> Market | None:
        """The market, None if the exchange does not know the symbol: then its list is at most a minute old."""
        market = self.list_symbols(connector).markets.get(symbol)
        if market is not None and market.is_active:
            return market
        return self.list_symbols(connector, SYMBOLS_REFRESH_S).markets.get(symbol)

    def _shelf(self, connector: Connector) -> _Shelf:
        key = (connector.connector_id, connector.exchange, connector.base_url)
        with self._lock:
            if len(self._shelves) >= LISTS_MAX and key not in self._shelves:
                self._shelves.clear()
            return self._shelves.setdefault(key, _Shelf())

    def _send(self, connector: Connector, weight: int, ask: Callable[..., T]) -> tuple[T, int]:
        """What the exchange says, and the time of its answer (UTC ms, the database's clock).

        Raises:
            RateLimitReached: no room within WAIT_MS_MAX; nothing was sent.
            StorageUnavailable: the limiter is away, or too slow to be used.
            ExchangeError: what the exchange answered; a refusal for speed has blocked the connector by then.
        """
        grants = Grants(self._limiter, connector, WAIT_MS_MAX, is_for_job=False)
        clock = ServerClock.stamped(0)
        sent_ms = 0

        client = self._open_exchange(connector, lambda: clock.now_ms())

        def before_send() -> Passage:
            nonlocal clock, sent_ms
            spent = client.weight_of_next(weight)
            permit = grants.acquire(spent, spent)
            clock = ServerClock(permit.reservation.clock_ms, permit.reservation.replied_s)
            sent_ms = clock.now_ms()
            return Passage(partial(grants.note_answer, permit), partial(grants.note_unsent, permit))

        try:
            answer = ask(client, before_send=before_send)
        except Refused as exc:
            # A paused connector may be asked by people, so this is no room.
            refusal = exc.refusal if isinstance(exc.refusal, NoRoom) else NoRoom(0, 0)
            raise _no_room(connector, refusal, self._limiter.find_block(connector.connector_id)) from exc
        except ExchangeThrottled as exc:
            self._limiter.block(connector.connector_id, exc.wait_ms, exc.message, sent_ms)
            raise
        finally:
            grants.close()
        return answer, clock.now_ms()


def _ping(client: ExchangeClient, *, before_send: BeforeSend) -> int:
    return client.ping(before_send=before_send)


def _list_symbols(client: ExchangeClient, *, before_send: BeforeSend) -> list[Market]:
    return client.list_symbols(before_send=before_send)


def _no_room(connector: Connector, refusal: NoRoom, block: Block | None) -> RateLimitReached:
    connector_id, again = connector.connector_id, f"try again in {max(1, -(-refusal.wait_ms // 1000))} s"
    if block is not None and block.until_ms > refusal.at_ms - refusal.wait_ms:
        text = (
            f"the exchange has refused connector {connector_id}, which is blocked until {format_ms(block.until_ms)}; {again}, "
            f"or end that by POST /v1/connectors/{connector_id}/unblock"
        )
    else:
        text = f"the rate limit of connector {connector_id} has no room now; {again}"
    return RateLimitReached(text, refusal.wait_ms, connector_id=connector_id)
