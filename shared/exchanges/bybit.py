"""Bybit spot, as data. Source: bybit-exchange/docs, v5; what it shares with the perpetuals is in bybit_family.py."""

from typing import Final

from shared.exchanges.bybit_family import bybit_spec
from shared.exchanges.spec import SymbolForm

SPEC: Final = bybit_spec(
    "bybit",
    "spot",
    SymbolForm("{base}{quote}"),
    only={},
    settle_key="",
    quirks=(
        "Asking too fast brings a ban of ten minutes for the whole address, told by HTTP 403.",
        "Not served to the United States, nor from cloud regions there.",
    ),
)
