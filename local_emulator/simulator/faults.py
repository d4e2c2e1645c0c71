"""What goes wrong on purpose: which fault, for which requests, how often."""

import random
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from local_emulator.simulator.wire import Span

FAULTS_MAX: Final = 200
EVERY_EXCHANGE: Final = "*"
# Kinds that change the rows of a page, and so can come together. Of the others one request meets one at most.
ROW_KINDS: Final = frozenset(
    {"cut_rows", "gap", "shuffle", "double", "conflict", "nan", "wrong_unit", "off_grid", "late", "revise", "hide"}
)


class Fault(BaseModel):
    """One fault. Without `count` and `rate` it hits every request that it fits, until it is cleared.

    status      an error answer: 503, 500, 429 (with Retry-After if `retry_after_s`), 418, 403, 451
    not_json    an HTML page with status 200
    cut         the connection closes in the middle of the body
    slow        the answer begins after `delay_ms`
    drip        the body comes in small pieces over `delay_ms`
    drop        the connection closes without an answer
    cut_rows    valid JSON, the last `rows` rows are missing
    gap         valid JSON, the row in the middle is missing
    shuffle     rows in another order
    double      `rows` rows come twice, or those that open in [from_ms, to_ms)
    conflict    as `double`, the second time with other values
    nan         the close of the row in the middle is NaN
    wrong_unit  times are a thousand times too large
    off_grid    the time of the row in the middle lies 7 s off
    late        a candle is withheld until `delay_ms` after its close, and the running one with it unless `keeps_running`
    revise      a candle has other values until `delay_ms` after its close, or for ever if it opens in [from_ms, to_ms)
    hide        this `share` of the candles that open in [from_ms, to_ms) are missing, always the same ones
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    exchange: str = EVERY_EXCHANGE
    kind: Literal[
        "status", "not_json", "cut", "slow", "drip", "drop",
        "cut_rows", "gap", "shuffle", "double", "conflict", "nan", "wrong_unit", "off_grid", "late", "revise", "hide",
    ]  # fmt: skip
    count: int | None = Field(default=None, ge=1, description="so many requests")
    rate: float | None = Field(default=None, gt=0, le=1, description="this share of the requests")
    symbol: str | None = None
    timeframe: str | None = None
    everywhere: bool = Field(default=False, description="not only candles but ping, time and symbols too")
    status: int = Field(default=503, ge=400, le=599)
    retry_after_s: int | None = Field(default=None, ge=0, le=86_400)
    delay_ms: int = Field(default=1_000, ge=0, le=86_400_000)
    rows: int = Field(default=1, ge=1, le=10_000)
    keeps_running: bool = False
    from_ms: int = Field(default=0, ge=0)
    to_ms: int = Field(default=0, ge=0)
    share: float = Field(default=1.0, gt=0, le=1)

    def fits(self, exchange: str, span: Span | None) -> bool:
        """Whether it is meant for a request; `span` is None for what does not ask for candles."""
        if self.exchange not in (EVERY_EXCHANGE, exchange):
            return False
        if span is None:
            return self.everywhere and self.kind not in ROW_KINDS
        return self.symbol in (None, span.market.symbol) and self.timeframe in (None, span.timeframe.name)


@dataclass(slots=True)
class ActiveFault:
    """A fault, how many requests it may still hit (None: no end), and how many it has hit."""

    fault_id: int
    fault: Fault
    left: int | None
    applied: int = 0


class FaultBook:
    """All active faults, in the order in which they were added. Chance is drawn from the seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._active: list[ActiveFault] = []
        self._ids = 0

    def add(self, fault: Fault) -> ActiveFault:
        """One more; beyond the limit the oldest is forgotten."""
        self._ids += 1
        active = ActiveFault(self._ids, fault, fault.count)
        self._active = [*self._active, active][-FAULTS_MAX:]
        return active

    def list_(self) -> list[dict[str, object]]:
        """Each with what is left of it and how often it has hit."""
        return [{"fault_id": a.fault_id, "left": a.left, "applied": a.applied, **a.fault.model_dump()} for a in self._active]

    def clear(self, exchange: str | None = None) -> None:
        """Forget all, or those of one exchange."""
        self._active = [a for a in self._active if exchange is not None and a.fault.exchange != exchange]

    def take(self, exchange: str, span: Span | None) -> list[Fault]:
        """The faults that this request meets: any number of those that change rows, one of the others."""
        taken: list[Fault] = []
        has_other = False
        for active in self._active:
            fault = active.fault
            is_other = fault.kind not in ROW_KINDS
            if active.left == 0 or (is_other and has_other) or not fault.fits(exchange, span):
                continue
            if fault.rate is not None and self.random.random() >= fault.rate:
                continue
            has_other = has_other or is_other
            active.applied += 1
            active.left = None if active.left is None else active.left - 1
            taken.append(fault)
        return taken
