"""What our runner has landed in MongoDB is what ccxt, which no one here wrote, reads from the same exchange."""

from collections.abc import Iterator
from typing import Any, Final

import ccxt
import pytest

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.domain.jobs import to_ms
from shared.domain.timeframes import TIMEFRAMES
from shared.wiring import Platform
from tests.factories import add_connector, add_job, run_until_caught_up, stored_documents

SEED: Final = 29
NOW_MS: Final = 1_794_395_471_500  # 2026-11-11 11:11:11.500 UTC
COLUMNS: Final = ("open", "high", "low", "close", "volume")
WIDE: Final = [(100_000, 60_000)]
PAGES_MAX: Final = 20
# The class of ccxt, and what stands behind the host in its addresses.
CCXT: Final = {"binance": ("binance", "/api/v3"), "coinbase": ("coinbaseexchange", ""), "kraken": ("kraken", "")}
# Each with a full market and one with minutes without trades; some of several pages, some in the newest one.
SERIES: Final = [
    ("binance", "BTC/USDT", "1m", 2_300),
    ("binance", "ZEC/USDT", "5m", 700),
    ("binance", "ETH/USDT", "1w", 150),
    ("binance", "ETH/USDT", "1M", 40),
    ("coinbase", "BTC/USD", "1m", 700),
    ("coinbase", "ZEC/USD", "1m", 700),
    ("coinbase", "ETH/USD", "6h", 320),
    ("kraken", "BTC/USD", "1m", 700),
    ("kraken", "ZEC/USD", "15m", 600),
    ("kraken", "ETH/USD", "1d", 400),
]


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with start_simulator(seed=SEED, freeze_at_ms=NOW_MS) as running:
        for exchange in CCXT:
            running.configure(exchange, WIDE, punish=False)
        yield running


@pytest.fixture(scope="module")
def clients(simulator: SimulatorProcess) -> Iterator[dict[str, Any]]:
    """ccxt's own classes; only their hosts are changed."""
    opened: dict[str, Any] = {}
    for exchange, (ccxt_id, path) in CCXT.items():
        client = getattr(ccxt, ccxt_id)({"enableRateLimit": False, "options": {"fetchMarkets": ["spot"]}})
        client.urls["api"]["public"] = simulator.base_url(exchange) + path
        client.session.trust_env = False
        client.load_markets()
        opened[exchange] = client
    yield opened
    for client in opened.values():
        client.session.close()


def read_by_ccxt(client: Any, symbol: str, timeframe: str, start_ms: int, end_ms: int) -> list[list[float]]:
    """Page by page as its users do it, by time: a page may be short, and empty where nothing was traded."""
    grid = TIMEFRAMES[timeframe]
    rows: dict[int, list[float]] = {}
    since = start_ms
    for _ in range(PAGES_MAX):
        page = client.fetch_ohlcv(symbol, timeframe, since, 300)
        rows.update({row[0]: row for row in page if start_ms <= row[0] < end_ms})
        last = page[-1][0] if page else grid.shift(since, 299)
        since = max(grid.close(last), grid.close(since))
        if since >= end_ms:
            return [rows[open_ms] for open_ms in sorted(rows)]
    raise AssertionError(f"more than {PAGES_MAX} pages")


@pytest.mark.parametrize(("exchange", "symbol", "timeframe", "intervals"), SERIES)
def test_what_landed_is_what_ccxt_reads(
    platform: Platform,
    simulator: SimulatorProcess,
    clients: dict[str, Any],
    exchange: str,
    symbol: str,
    timeframe: str,
    intervals: int,
) -> None:
    grid = TIMEFRAMES[timeframe]
    end_ms = grid.floor(NOW_MS)
    start_ms = grid.shift(end_ms, -intervals)
    add_connector(platform, exchange, base_url=simulator.base_url(exchange), windows=WIDE)
    job_id = add_job(platform, symbol, timeframe, connector_id=exchange, start_ms=start_ms)
    run_until_caught_up(platform, job_id)
    assert platform.jobs.get(job_id)["last_error"] is None
    landed = [
        [to_ms(document["_id"]), *(document[name] for name in COLUMNS)]
        for document in stored_documents(platform, exchange, symbol, timeframe)
    ]
    theirs = read_by_ccxt(clients[exchange], symbol, timeframe, start_ms, end_ms)
    assert len(landed) == len(theirs)
    assert landed == theirs
    is_sparse = exchange == "coinbase" and symbol.startswith("ZEC")
    assert intervals / 2 < len(landed) < intervals if is_sparse else len(landed) == intervals
