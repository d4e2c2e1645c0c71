"""What a correct store must hold in the end: the closed candles of a generated series."""

from local_emulator.simulator.series import BlockCache, GeneratedSeries
from local_emulator.simulator.wires import WIRES
from shared.domain.candles import CandleBatch
from shared.domain.timeframes import TIMEFRAMES
from shared.errors import NotFound


def true_candles(
    seed: int, exchange: str, symbol: str, timeframe: str, start_ms: int, end_ms: int, cache: BlockCache | None = None
) -> CandleBatch:
    """Final candles that open in [start_ms, end_ms), without those that this exchange leaves out for want of trades.

    Pure: the same arguments give the same candles in every process. The caller sees to it that they are closed.

    Raises:
        NotFound: no such exchange, symbol or timeframe here.
    """
    wire = WIRES.get(exchange)
    market = next((market for market in wire.markets if market.symbol == symbol), None) if wire else None
    if wire is None or market is None or timeframe not in TIMEFRAMES:
        raise NotFound(f"the simulator generates no {exchange} {symbol} {timeframe}; see market.py for what there is")
    series = GeneratedSeries(seed, exchange, market, wire.omits_empty, cache or BlockCache())
    rows = series.closed(TIMEFRAMES[timeframe], start_ms, end_ms)
    return (rows.traded() if wire.omits_empty else rows).as_batch()
