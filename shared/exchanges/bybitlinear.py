"""Bybit's perpetuals that are settled in USDT or USDC, as data. Source: bybit-exchange/docs, v5; see bybit_family.py."""

from typing import Final

from shared.exchanges.bybit_family import bybit_spec
from shared.exchanges.spec import SymbolForm

SPEC: Final = bybit_spec(
    "bybitlinear",
    "linear",
    SymbolForm(None, swap="{base}{quote}", swap_by_settle={"USDC": "{base}PERP"}),
    # Dated contracts are in the same list.
    only={"contractType": "LinearPerpetual"},
    settle_key="settleCoin",
    quirks=(
        "Volumes are in the base currency, as on the spot market.",
        "Dated contracts are left out.",
        "Asking too fast brings a ban of ten minutes for the whole address, told by HTTP 403.",
        "The limit counts together with Bybit's spot market: it is the address's.",
    ),
)
