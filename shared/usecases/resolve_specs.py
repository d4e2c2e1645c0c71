"""Indicator lists of jobs as specs, each list worked out once an instance: hundreds of jobs share a few lists."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shared.domain.indicators import IndicatorSpec, resolve_indicators

# A list is a few kilobytes; who has more different ones than this works some out again.
LISTS_MAX: Final = 256


class SpecLists:
    """Keeps what it has resolved. The same list always gives the same specs, so it may be lost at any time."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[IndicatorSpec, ...]] = {}

    def resolve(self, documents: Sequence[Mapping[str, Any]]) -> tuple[IndicatorSpec, ...]:
        """See resolve_indicators; raises what it raises."""
        key = json.dumps(documents)
        specs = self._known.get(key)
        if specs is None:
            specs = resolve_indicators(documents)
            if len(self._known) >= LISTS_MAX:
                self._known.clear()
            self._known[key] = specs
        return specs
