"""ccxt's own class for an exchange, talking to a Bench: a client that no one here wrote."""

from typing import Any

import ccxt

from tests.contract.bench import Bench
from tests.contract.cases import Case
from tests.contract.frozen_market import NOW_MS

COLUMNS = ("open", "high", "low", "close", "volume")


def open_ccxt(case: Case, bench: Bench) -> Any:
    """With its markets loaded from the simulator, and with the simulator's clock."""
    peer = getattr(ccxt, case.ccxt_id)({"enableRateLimit": False, "options": dict(case.ccxt_options)})
    peer.has.update(case.ccxt_has)
    peer.session.trust_env = False
    peer.session.mount("https://", bench)
    # Some windows end at "now".
    peer.milliseconds = lambda: NOW_MS
    peer.seconds = lambda: NOW_MS // 1_000
    peer.microseconds = lambda: NOW_MS * 1_000
    peer.load_markets()
    return peer


def rows_of(batch: Any) -> list[list[float]]:
    """Our candles as ccxt gives them: [open time in ms, open, high, low, close, volume]."""
    columns = (batch.open_ms, *(getattr(batch, name) for name in COLUMNS))
    return [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)]
