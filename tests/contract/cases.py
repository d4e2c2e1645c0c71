"""What the one contract suite has to know of each exchange: a row each. Everything else is read from the spec."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.contract.by_exchange import ByExchange


@dataclass(frozen=True)
class Asks:
    """So many intervals before the first and behind the last of a range are asked for too (None: all up to now), and why."""

    before: int = 0
    behind: int | None = 0
    reason: str = ""


@dataclass(frozen=True)
class Case:
    """One exchange.

    `ccxt_id` and `ccxt_options` are the class and options that make ccxt read the same kind of market. `symbol` is traded
    all the time, `quiet` has intervals without trades, `unknown` does not exist. `ccxt_has` switches off what ccxt would ask
    for and a reader of candles does not need (`{"fetchCurrencies": False}`). `ccxt_timeframes_off` are those that ccxt reads
    otherwise, with the reason. `ccxt_needs_end`: ccxt tells the exchange no end, and so gets the newest unless the caller
    names one. `we_ask` and `ccxt_asks` are where either asks for more than the range. `hides_delisted`: its list of symbols
    names only what trades now.
    """

    exchange: str
    ccxt_id: str
    symbol: str = "BTC/USDT"
    quiet: str = "ZEC/USDT"
    unknown: str = "NOPE/USDT"
    ccxt_options: Mapping[str, Any] = field(default_factory=dict)
    ccxt_has: Mapping[str, bool] = field(default_factory=dict)
    ccxt_timeframes_off: Mapping[str, str] = field(default_factory=dict)
    ccxt_needs_end: bool = False
    we_ask: Asks = Asks()
    ccxt_asks: Asks = Asks()
    hides_delisted: bool = False


CASES = ByExchange[Case](
    "put a Case for {} into tests/contract/cases.py",
    {
        case.exchange: case
        for case in (
            Case("binance", "binance", ccxt_options={"fetchMarkets": ["spot"]}),
            Case("binanceus", "binanceus"),
            Case(
                "binanceusdm",
                "binanceusdm",
                symbol="BTC/USDT:USDT",
                quiet="ZEC/USDC:USDC",
                unknown="NOPE/USDT:USDT",
                ccxt_has={"fetchCurrencies": False},
            ),
            Case(
                "bitfinex",
                "bitfinex",
                symbol="BTC/USD",
                quiet="ZEC/USD",
                unknown="NOPE/USD",
                ccxt_has={"fetchCurrencies": False},
                hides_delisted=True,
            ),
            Case(
                "bitget",
                "bitget",
                ccxt_options={"fetchMarkets": {"types": ["spot"]}},
                ccxt_has={"fetchCurrencies": False},
                we_ask=Asks(before=1, reason="whether the end counts is not known, and rows are counted back from it"),
            ),
            Case(
                "bitstamp",
                "bitstamp",
                symbol="BTC/USD",
                quiet="ZEC/USD",
                unknown="NOPE/USD",
            ),
            Case(
                "bybit",
                "bybit",
                ccxt_options={"fetchMarkets": {"types": ["spot"]}},
                ccxt_has={"fetchCurrencies": False},
                hides_delisted=True,
            ),
            Case(
                "bybitlinear",
                "bybit",
                symbol="BTC/USDC:USDC",
                quiet="ZEC/USDT:USDT",
                unknown="NOPE/USDC:USDC",
                ccxt_options={"fetchMarkets": {"types": ["linear"]}, "defaultType": "swap"},
                ccxt_has={"fetchCurrencies": False},
                hides_delisted=True,
            ),
            Case("coinbase", "coinbaseexchange"),
            Case(
                "cryptocom",
                "cryptocom",
                hides_delisted=True,
            ),
            Case(
                "deribit",
                "deribit",
                # All three forms: an inverse and a linear perpetual, and spot.
                symbol="BTC/USD:BTC",
                quiet="ZEC/USDC:USDC",
                unknown="NOPE/USDC",
                ccxt_has={"fetchCurrencies": False},
                we_ask=Asks(1, 1, "a start on the grid has lost its candle (ccxt 21061), and the end counts"),
                ccxt_asks=Asks(1, 0, "for the same; its end is a ms earlier"),
            ),
            Case(
                "gate",
                "gate",
                ccxt_options={"fetchMarkets": {"types": ["spot"]}},
                ccxt_has={"fetchCurrencies": False},
                ccxt_timeframes_off={"1M": "ccxt has no months here, and would send its own name for them"},
            ),
            Case(
                "gemini",
                "gemini",
                symbol="BTC/USD",
                quiet="ZEC/GUSD",
                unknown="NOPE/USD",
                ccxt_has={"fetchCurrencies": False},
            ),
            Case(
                "htx",
                "htx",
                ccxt_options={"fetchMarkets": {"types": {"spot": True, "linear": False, "inverse": False}}},
                ccxt_has={"fetchCurrencies": False},
                we_ask=Asks(behind=1, reason="whether the end counts is not known"),
            ),
            Case(
                "hyperliquid",
                "hyperliquid",
                symbol="BTC/USDC:USDC",
                quiet="ZEC/USDC:USDC",
                unknown="NOPE/USDC:USDC",
                ccxt_options={"fetchMarkets": {"types": ["swap"]}},
                ccxt_has={"fetchCurrencies": False},
                ccxt_asks=Asks(behind=None, reason="it names now as the end"),
            ),
            Case("kraken", "kraken"),
            Case(
                "kucoin",
                "kucoin",
                ccxt_options={"fetchMarkets": {"types": ["spot"], "fetchTickersFees": False}},
                ccxt_has={"fetchCurrencies": False},
                ccxt_timeframes_off={"1M": "ccxt counts a month as thirty days, so its range holds fewer months"},
            ),
            Case("mexc", "mexc"),
            Case(
                "okx",
                "okx",
                ccxt_options={"fetchMarkets": {"types": ["spot"]}},
                ccxt_has={"fetchCurrencies": False},
            ),
            Case(
                "poloniex",
                "poloniex",
                ccxt_has={"fetchCurrencies": False},
                ccxt_needs_end=True,
            ),
            Case(
                "upbit",
                "upbit",
                symbol="BTC/KRW",
                quiet="ZEC/KRW",
                unknown="NOPE/KRW",
                hides_delisted=True,
            ),
        )
    },
)
