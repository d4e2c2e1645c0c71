"""How an exchange calls what we call otherwise: markets and timeframes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

UNIFIED_SYMBOL: Final = re.compile(
    r"(?P<base>[^\s/:%?#&-]{1,32})/(?P<quote>[^\s/:%?#&-]{1,32})(?::(?P<settle>[^\s/:%?#&-]{1,32}))?"
)


def timeframe_names(text: str) -> dict[str, str]:
    """Our names and the exchange's own, written `1m 5m 1h=60m`: where one stands alone, both have the same."""
    pairs = (name.partition("=") for name in text.split())
    return {ours: own or ours for ours, _, own in pairs}


@dataclass(frozen=True, slots=True)
class SymbolForm:
    """How `BASE/QUOTE` is written. Templates know `{base}`, `{quote}` and `{settle}`.

    `spot_long` is used instead of `spot` when a side has more than three characters; `swap` for `BASE/QUOTE:SETTLE`, unless
    `swap_by_settle` has another for that settlement currency or, under INVERSE, for contracts settled in their base. Where a
    contract's name does not tell its settlement, it is the quote currency, or the quote of an inverse one is `inverse_quote`:
    others would get the candles of a namesake and are unknown. A form that is None is not traded there. `aliases` maps the
    unified currency to the exchange's own; by the name of one of these no other currency can be asked for, since the exchange
    would take it for that one. Where names are in one case, unified currencies are in capitals, whatever the list has.
    """

    INVERSE: ClassVar[str] = "base"

    spot: str | None
    spot_long: str | None = None
    swap: str | None = None
    swap_by_settle: Mapping[str, str] = field(default_factory=dict)
    inverse_quote: str = "USD"
    aliases: Mapping[str, str] = field(default_factory=dict)
    is_lower_case: bool = False
    is_upper_case: bool = False

    @property
    def kinds(self) -> str:
        """Which unified forms are known here, for messages."""
        has_swaps = self.swap is not None or bool(self.swap_by_settle)
        forms = (("BASE/QUOTE", self.spot is not None), ("BASE/QUOTE:SETTLE", has_swaps))
        return " or ".join(form for form, is_known in forms if is_known)

    def write(self, symbol: str) -> str | None:
        """The exchange's name of a unified symbol, None if it does not fit the form or that kind is not traded here."""
        match = UNIFIED_SYMBOL.fullmatch(symbol)
        if match is None or any(name is not None and self._is_taken(name) for name in match.groups()):
            return None
        names = {side: self.aliases.get(name, name) for side, name in match.groupdict().items() if name is not None}
        template = self._swap_form(match) if "settle" in names else self.spot
        if self.spot_long is not None and "settle" not in names and max(len(names["base"]), len(names["quote"])) > 3:
            template = self.spot_long
        if template is None:
            return None
        text = template.format(**names)
        if self.is_lower_case:
            return text.lower()
        return text.upper() if self.is_upper_case else text

    def _is_taken(self, currency: str) -> bool:
        """Whether the exchange means another currency by that name."""
        return currency not in self.aliases and currency in self.aliases.values()

    def _swap_form(self, match: re.Match[str]) -> str | None:
        is_inverse = match["settle"] == match["base"]
        template = self.swap_by_settle.get(self.INVERSE if is_inverse else match["settle"], self.swap)
        if template is None or "{settle}" in template:
            return template
        if is_inverse:
            return template if self.INVERSE in self.swap_by_settle and match["quote"] == self.inverse_quote else None
        return template if match["settle"] == match["quote"] else None

    def unify(self, currency: str) -> str:
        """The unified name of the exchange's name of a currency."""
        own = currency.upper() if self.is_lower_case or self.is_upper_case else currency
        return next((unified for unified, alias in self.aliases.items() if alias == own), own)
