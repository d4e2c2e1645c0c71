"""Runs of one instance that want weight at the same time ask the limiter together: one command for all of them.

When many series close together, every run of a connector writes the same document. While one run's question is on its way the
others' wait and then go as one, so the limiter is asked as often as it can answer and no oftener. Alone, a run asks at once.

The limiter's promise holds as before: shares add up to no more than was granted, each carries the grant's own use-by, and the
grant is settled when all its shares are.
"""

import threading
from dataclasses import dataclass, field, replace

from shared.domain.rates import Reservation, Settlement
from shared.stores.database import Database
from shared.stores.rate_limits import RateLimitStore


@dataclass(frozen=True, slots=True)
class _Terms:
    """Who asks on the same terms can be answered together: the same need has the same earliest moment."""

    connector_id: str
    need: int
    wait_ms_max: int
    use_by_ms: int
    transit_ms: int
    is_for_job: bool
    is_live: bool
    version: str | None


@dataclass(slots=True)
class _Ask:
    """One run's question. One that the grant did not reach stays in line."""

    want: int
    is_served: bool = False
    answer: Reservation | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Line:
    """Those who wait to ask, in the order they came."""

    is_asking: bool = False
    asks: list[_Ask] = field(default_factory=list)


@dataclass(slots=True)
class _Shares:
    """What has been said so far of the shares of one grant, and of how many nothing yet."""

    open_count: int
    used: int = 0
    arrived_by_ms: int = 0


class SharedGrants(RateLimitStore):
    """The limiter as the runs of one instance use it."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._changed = threading.Condition()
        self._lines: dict[_Terms, _Line] = {}
        self._shares: dict[str, _Shares] = {}

    @property
    def waiting_count(self) -> int:
        """Questions that wait for the one on its way."""
        with self._changed:
            return sum(len(line.asks) for line in self._lines.values())

    def reserve(
        self,
        connector_id: str,
        *,
        need: int,
        want: int,
        wait_ms_max: int,
        use_by_ms: int,
        transit_ms: int,
        is_for_job: bool = True,
        is_live: bool = True,
        version: str | None = None,
    ) -> Reservation:
        """See RateLimitStore. What goes wrong with a question goes wrong for all who asked it."""
        terms = _Terms(connector_id, need, wait_ms_max, use_by_ms, transit_ms, is_for_job, is_live, version)
        ask = _Ask(max(need, want))
        with self._changed:
            line = self._lines.setdefault(terms, _Line())
            line.asks.append(ask)
        # Every round serves at least the first in line, and who was not served stays in front.
        while not ask.is_served:
            asks = self._take_turn(line, ask)
            if asks:
                self._ask_for(terms, line, asks)
        if ask.error is not None:
            raise ask.error
        assert ask.answer is not None
        return ask.answer

    def settle(self, connector_id: str, settlement: Settlement) -> None:
        """See RateLimitStore: for one share, said once. A share that is never heard of leaves the whole grant charged."""
        with self._changed:
            shares = self._shares.get(settlement.reservation_id)
            if shares is None:
                return
            shares.open_count -= 1
            shares.used += settlement.used
            shares.arrived_by_ms = max(shares.arrived_by_ms, settlement.arrived_by_ms)
            if shares.open_count:
                return
            del self._shares[settlement.reservation_id]
        super().settle(connector_id, Settlement(settlement.reservation_id, shares.used, shares.arrived_by_ms))

    def _take_turn(self, line: _Line, ask: _Ask) -> list[_Ask]:
        """Wait for somebody else to have asked, or for the turn to ask: then for all in line, itself among them."""
        with self._changed:
            self._changed.wait_for(lambda: ask.is_served or not line.is_asking)
            if ask.is_served:
                return []
            line.is_asking, asks = True, line.asks
            line.asks = []
            return asks

    def _ask_for(self, terms: _Terms, line: _Line, asks: list[_Ask]) -> None:
        """One question for all of them; the answer is shared out in the order they came."""
        try:
            reservation = super().reserve(
                terms.connector_id,
                need=terms.need,
                want=sum(ask.want for ask in asks),
                wait_ms_max=terms.wait_ms_max,
                use_by_ms=terms.use_by_ms,
                transit_ms=terms.transit_ms,
                is_for_job=terms.is_for_job,
                is_live=terms.is_live,
                version=terms.version,
            )
            shares_count = _share_out(reservation, terms.need, asks)
            if reservation.granted:
                with self._changed:
                    self._shares[reservation.reservation_id] = _Shares(shares_count)
        except BaseException as exc:
            for ask in asks:
                ask.error = exc
            raise
        finally:
            with self._changed:
                for ask in asks:
                    ask.is_served = ask.answer is not None or ask.error is not None
                line.asks[:0] = [ask for ask in asks if not ask.is_served]
                line.is_asking = False
                if not line.asks:
                    del self._lines[terms]
                self._changed.notify_all()


def _share_out(reservation: Reservation, need: int, asks: list[_Ask]) -> int:
    """What each needs, in the order they came; then what is left, up to what each wants. How many got something.

    A refusal is everybody's: all need the same.
    """
    if not reservation.granted:
        for ask in asks:
            ask.answer = reservation
        return 0
    served = asks[: reservation.granted // need]
    left = reservation.granted - need * len(served)
    for ask in served:
        more = min(ask.want - need, left)
        ask.answer = replace(reservation, granted=need + more)
        left -= more
    return len(served)
