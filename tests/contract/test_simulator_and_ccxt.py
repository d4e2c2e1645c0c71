"""The simulator read by ccxt, a client that no one here wrote."""

from collections.abc import Iterator
from typing import Any

import ccxt
import pytest

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.timeframes import TIMEFRAMES
from tests.contract.frozen_market import DEFAULT_WINDOWS, NOW_MS, truth


@pytest.fixture(scope="module")
def clients(process: SimulatorProcess) -> Iterator[dict[str, Any]]:
    """ccxt's own classes with their markets loaded; only their hosts are changed."""
    opened: dict[str, Any] = {
        "binance": ccxt.binance({"enableRateLimit": False, "options": {"fetchMarkets": ["spot"]}}),
        "coinbase": ccxt.coinbaseexchange({"enableRateLimit": False}),
        "kraken": ccxt.kraken({"enableRateLimit": False}),
    }
    for exchange, client in opened.items():
        process.configure(exchange, punish=False)
        client.urls["api"]["public"] = process.base_url(exchange) + ("/api/v3" if exchange == "binance" else "")
        client.session.trust_env = False
        client.load_markets()
    yield opened
    for client in opened.values():
        client.session.close()


@pytest.mark.parametrize("exchange", DEFAULT_WINDOWS)
def test_ccxt_reads_the_markets(simulator: SimulatorProcess, clients: dict[str, Any], exchange: str) -> None:
    client = clients[exchange]
    assert {"BTC/USDT", "ETH/USDT", "SOL/USDT", "DOGE/USDT", "ETH/BTC", "NOVA/USDT"} <= set(client.markets)
    assert client.market("BTC/USDT")["active"]
    assert not client.market("OMG/USDT")["active"]
    assert client.market("DOGE/USDT")["precision"]["price"] == 1e-5
    assert client.fetch_time() // 1_000 == NOW_MS // 1_000
    if exchange != "binance":
        assert {"BTC/USD", "ETH/USD", "DOGE/USD", "ZEC/USD"} <= set(client.markets)


@pytest.mark.parametrize("symbol", ["BTC/USDT", "ETH/BTC", "DOGE/USDT", "ZEC/USDT", "KSM/USDT"])
@pytest.mark.parametrize(
    ("exchange", "timeframe"),
    [
        *(("binance", name) for name in ("1m", "3m", "5m", "15m", "1h", "12h", "1d", "3d", "1w", "1M")),
        *(("coinbase", name) for name in ("1m", "5m", "15m", "1h", "6h", "1d")),
        *(("kraken", name) for name in ("1m", "5m", "30m", "1h", "4h", "1d", "1w")),
    ],
)
def test_ccxt_reads_the_true_candles(
    simulator: SimulatorProcess, clients: dict[str, Any], exchange: str, symbol: str, timeframe: str
) -> None:
    frame = TIMEFRAMES[timeframe]
    running_ms = frame.floor(NOW_MS)
    newest = clients[exchange].fetch_ohlcv(symbol, timeframe)
    closed = [row for row in newest if row[0] < running_ms]
    width = {"binance": 499, "coinbase": 299, "kraken": 720}[exchange]
    start_ms = frame.shift(running_ms, -width)
    assert closed == truth(exchange, symbol, timeframe, start_ms, running_ms)
    since = frame.shift(running_ms, -50)
    paged = clients[exchange].fetch_ohlcv(symbol, timeframe, since, 7)
    # A limit is the number of rows, but at Coinbase ccxt makes it a range, and rows may be missing in there.
    expected = truth(exchange, symbol, timeframe, since, frame.shift(since, 7))
    assert paged == expected
    if len(newest) > len(closed):
        final = truth(exchange, symbol, timeframe, running_ms, frame.close(running_ms))[0]
        assert newest[-1][0] == running_ms
        assert newest[-1][1] == final[1]
        assert newest[-1][5] < final[5] or "KSM" in symbol or "ZEC" in symbol


@pytest.mark.parametrize(
    ("exchange", "status", "error"),
    [
        ("binance", 429, ccxt.DDoSProtection),
        ("binance", 418, ccxt.DDoSProtection),
        ("binance", 451, ccxt.ExchangeNotAvailable),
        ("binance", 500, ccxt.OperationFailed),
        ("binance", 503, ccxt.ExchangeError),
        ("coinbase", 429, ccxt.RateLimitExceeded),
        ("coinbase", 503, ccxt.ExchangeNotAvailable),
        ("coinbase", 500, ccxt.ExchangeNotAvailable),
        ("kraken", 503, ccxt.ExchangeNotAvailable),
    ],
)
def test_ccxt_raises_its_own_errors_on_bad_statuses(
    simulator: SimulatorProcess, clients: dict[str, Any], exchange: str, status: int, error: type[Exception]
) -> None:
    simulator.set_faults({"exchange": exchange, "kind": "status", "status": status, "count": 1})
    with pytest.raises(error):
        clients[exchange].fetch_ohlcv("BTC/USDT", "1m", limit=2)
    assert clients[exchange].fetch_ohlcv("BTC/USDT", "1m", limit=2)


def test_ccxt_raises_its_own_errors_on_limits_and_symbols(simulator: SimulatorProcess, clients: dict[str, Any]) -> None:
    for exchange, error in (
        ("binance", ccxt.DDoSProtection),
        ("coinbase", ccxt.RateLimitExceeded),
        ("kraken", ccxt.DDoSProtection),
    ):
        simulator.configure(exchange, [(2, 600_000)])
        with pytest.raises(error):  # noqa: PT012 - which of them breaks the limit depends on the weight
            for _ in range(3):
                clients[exchange].fetch_ohlcv("BTC/USDT", "1m", limit=2)
        simulator.configure(exchange, punish=False)
    with pytest.raises(ccxt.BadSymbol):
        clients["binance"].public_get_klines({"symbol": "NOPEUSDT", "interval": "1m"})
    with pytest.raises(ccxt.BadRequest):
        clients["binance"].public_get_klines({"symbol": "BTCUSDT", "interval": "7m"})
    with pytest.raises(ccxt.ExchangeError, match="Unknown asset pair"):
        clients["kraken"].public_get_ohlc({"pair": "NOPEUSD"})
    with pytest.raises(ccxt.BaseError, match="NotFound"):
        clients["coinbase"].public_get_products_id_candles({"id": "NOPE-USD"})
