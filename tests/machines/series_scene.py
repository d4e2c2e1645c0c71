"""What tests of a series' history share: the moment at which the simulator stands still, hidden candles, the ledger's sums."""

from typing import Final

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.timeframes import MINUTE_MS
from shared.wiring import Platform

NOW_MS: Final = 1_760_000_042_000
CLOSED_MS: Final = NOW_MS // MINUTE_MS * MINUTE_MS
# A limit that does not bind: these tests are not about it.
WIDE: Final = [(1_000_000, 60_000)]


def back(intervals: int) -> int:
    """Open time of the minute so many before the one that is open at NOW_MS."""
    return CLOSED_MS - intervals * MINUTE_MS


def hide(simulator: SimulatorProcess, start_ms: int, end_ms: int, share: float = 1.0, exchange: str = "binance") -> None:
    """From now on that share of the candles of the range is missing, and every other fault is over."""
    simulator.set_faults({"exchange": exchange, "kind": "hide", "from_ms": start_ms, "to_ms": end_ms, "share": share})


def counts(platform: Platform, job_id: str, end_ms: int = CLOSED_MS) -> dict[str, int]:
    """Intervals by state from the job's start to `end_ms`, without those that no interval is in."""
    found = platform.coverage_reader.read(job_id, None, end_ms, frozenset(), 1)
    return {state.value: count for state, count in found.counts.items() if count}
