"""What a simulator with this seed, standing still at this moment, serves; computed beside it for comparison."""

from local_emulator.simulator.series import BlockCache
from local_emulator.simulator.truth import true_candles
from shared.domain.candles import CandleBatch

SEED = 7
NOW_MS = 1_794_395_471_500  # 2026-11-11 11:11:11.500 UTC
CACHE = BlockCache()
DEFAULT_WINDOWS = {"binance": (6_000, 60_000), "coinbase": (10, 1_000), "kraken": (1, 1_000)}


def rows_of(batch: CandleBatch) -> list[list[float]]:
    columns = (batch.open_ms, batch.open, batch.high, batch.low, batch.close, batch.volume)
    return [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def truth(exchange: str, symbol: str, timeframe: str, start_ms: int, end_ms: int) -> list[list[float]]:
    return rows_of(true_candles(SEED, exchange, symbol, timeframe, start_ms, end_ms, CACHE))
