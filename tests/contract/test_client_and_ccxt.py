"""ExchangeClient beside ccxt, a client that no one here wrote: both ask the same and read the same."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import ccxt
import pytest

from shared.domain.timeframes import TIMEFRAMES
from tests.contract.conftest import Connect
from tests.contract.loopback_venue import NOW_MS, START_MS, Venue, page_of

CCXT = {
    "binance": ("binance", "BTC/USDT", "BTCUSDT"),
    "coinbase": ("coinbaseexchange", "BTC/USD", "BTC-USD"),
    "kraken": ("kraken", "BTC/USD", "XXBTZUSD"),
}


@pytest.mark.parametrize(("timeframe", "limit"), [("1m", 300), ("1h", 50), ("1d", 1)])
@pytest.mark.parametrize("exchange", sorted(CCXT))
def test_ccxt_asks_the_same_and_reads_the_same(
    venue: Venue, connect: Connect, exchange: str, timeframe: str, limit: int
) -> None:
    ccxt_id, symbol, market_id = CCXT[exchange]
    grid = TIMEFRAMES[timeframe]
    payload = page_of(exchange, [grid.shift(START_MS, index) for index in range(limit + 1)])
    venue.says(payload)
    page = connect(exchange).fetch_ohlcv(symbol, timeframe, START_MS, NOW_MS, limit)

    peer = getattr(ccxt, ccxt_id)()
    base, quote = symbol.split("/")
    market = {"id": market_id, "symbol": symbol, "base": base, "quote": quote, "spot": True, "type": "spot", "active": True}
    peer.set_markets([peer.safe_market_structure(market)])
    sent: list[str] = []

    def answer(url: str, *_: Any) -> Any:
        sent.append(url)
        return payload

    peer.fetch = answer
    theirs = peer.fetch_ohlcv(symbol, timeframe, START_MS, limit)

    columns = (page.candles.open_ms, *(getattr(page.candles, name) for name in ("open", "high", "low", "close", "volume")))
    ours = [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    assert ours == theirs[:limit]
    assert len(ours) == limit
    parts = urlsplit(sent[0])
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    assert parts.path == venue.asked[-1][1]
    # ccxt names the pair by Kraken's key, which is another name of the same pair; it leaves Binance's end open.
    own = {key: value for key, value in venue.query.items() if key not in ("endTime", "pair")}
    assert own == {key: value for key, value in query.items() if key != "pair"}
