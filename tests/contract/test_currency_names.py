"""Each exchange's own names of currencies are those that ccxt knows, but where a reason is written down."""

import ccxt
import pytest

from shared.exchanges.catalog import EXCHANGES, load_spec
from tests.contract.cases import CASES

ALL = sorted(EXCHANGES)
# What ccxt says of every exchange, whether it has that name or not; and who has.
EVERYWHERE = ccxt.Exchange().commonCurrencies
USED = {"kraken": {"XBT"}, "kucoin": {"BCHSV"}}
# Exchange: (own names of currencies that ccxt maps and we do not, why).
LEFT_OUT: dict[str, tuple[set[str], str]] = {
    **dict.fromkeys(
        ("binance", "binanceus", "binanceusdm"),
        ({"YOYO"}, "long gone, and no other coin has the name"),
    ),
    "bitfinex": ({"EUTF0", "USTF0"}, "derivatives, which are not listed here"),
    "cryptocom": ({"USD_STABLE_COIN"}, "a unit of account, which no pair has"),
    "gate": ({"GTC_HT", "GTC_BSC"}, "chains to withdraw by; no pair has such a name"),
    "kraken": (
        {"FEE", "XETC", "XETH", "XLTC", "XMLN", "XREP", "XXBT", "XXDG", "XXLM", "XXMR", "XXRP", "XZEC"}
        | {"ZAUD", "ZCAD", "ZEUR", "ZGBP", "ZJPY", "ZUSD"},
        "ids of assets, which the names of pairs do not have",
    ),
    "poloniex": (
        {"ETHTRON", "REPV2", "STR", "TRXETH", "USDTBSC", "USDTETH", "USDTTRON"},
        "the same coin on another chain, or traded under two names here",
    ),
}
# What ccxt's rules for names turn into the unified one without a line of its own.
BY_RULE = {"hyperliquid": {f"k{coin}": f"K{coin}" for coin in ("BONK", "DOGS", "FLOKI", "LUNC", "NEIRO", "PEPE", "SHIB")}}


def names_by_ccxt(exchange: str) -> dict[str, str]:
    """Own name: unified name, where they differ, as ccxt has it for this exchange and not for all."""
    used = USED.get(exchange, set())
    known = getattr(ccxt, CASES[exchange].ccxt_id)().commonCurrencies
    special = {own: name for own, name in known.items() if own != name and (own in used or EVERYWHERE.get(own) != name)}
    return special | BY_RULE.get(exchange, {})


@pytest.mark.parametrize("exchange", ALL)
def test_currencies_have_the_names_that_ccxt_gives_them(exchange: str) -> None:
    ours = {own: unified for unified, own in load_spec(exchange).symbol_form.aliases.items()}
    theirs = names_by_ccxt(exchange)
    left_out, _ = LEFT_OUT.get(exchange, (set(), ""))
    assert left_out <= set(theirs)
    assert ours == {own: unified for own, unified in theirs.items() if own not in left_out}


@pytest.mark.parametrize("exchange", ALL)
def test_a_currency_is_written_by_its_own_name_and_read_back(exchange: str) -> None:
    form, peer = load_spec(exchange).symbol_form, getattr(ccxt, CASES[exchange].ccxt_id)()
    for unified, own in form.aliases.items():
        assert form.unify(own) == unified == peer.safe_currency_code(own)
        # Nobody gets one coin by the name of another.
        if own not in form.aliases:
            assert form.write(f"{own}/USDC") is form.write(f"{own}/USDC:USDC") is None


@pytest.mark.parametrize(
    ("exchange", "symbol", "written"),
    [
        ("upbit", "TON/KRW", None),
        ("poloniex", "HOT/USDT", None),
        ("poloniex", "Hotcoin/USDT", "HOT_USDT"),
        ("kraken", "LUNA/USD", "LUNA2USD"),
        ("kraken", "LUNC/USD", "LUNAUSD"),
        ("coinbase", "CELO/USD", "CGLD-USD"),
        ("coinbase", "CGLD/USD", None),
        ("hyperliquid", "KPEPE/USDC:USDC", "kPEPE"),
    ],
)
def test_a_coin_is_asked_for_by_the_name_that_it_has_there(exchange: str, symbol: str, written: str | None) -> None:
    assert load_spec(exchange).symbol_form.write(symbol) == written
