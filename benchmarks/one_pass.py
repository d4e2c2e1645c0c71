"""How far stored values are from one TA-Lib pass over the whole series, for every function that is offered.

    python -m benchmarks.one_pass

Prints the table of docs/indicators.md: the worst |value - one pass|, as part of max(|value|, a thousandth of the output's root
mean square), in markets that move and in markets that stand still now and then, all made from fixed seeds. Of candle patterns,
which say -100, 0 or 100, how many of a thousand values are other ones.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from shared.domain.candles import CandleBatch
from shared.domain.indicator_catalogue import CATALOGUE
from shared.domain.indicator_functions import Kind
from shared.domain.indicators import IndicatorSpec, resolve_indicators
from tests.properties.indicator_markets import (
    compute_as_a_whole,
    compute_in_one_pass,
    make_market,
    make_markets,
    worst_difference,
)

CANDLES: Final = 20_000
FLAT_NAMES: Final = ("illiquid", "still")
PATTERN_PREFIX: Final = "CDL"


def moving_and_flat(count: int = CANDLES) -> tuple[list[CandleBatch], list[CandleBatch]]:
    """Markets of each sort."""
    markets = make_markets(seed=7, count=count)
    flat = [markets.pop(name) for name in FLAT_NAMES]
    flat.append(make_market(seed=77, count=count, price=4e-7, volatility=3e-2, tick=1e-8, still_mean=60))
    return list(markets.values()), flat


def distance(spec: IndicatorSpec, markets: Iterable[CandleBatch]) -> float:
    """The worst difference; of a candle pattern how many of a thousand values differ."""
    worst = 0.0
    for market in markets:
        whole, one_pass = compute_as_a_whole([spec], market), compute_in_one_pass([spec], market)
        for field, column in one_pass.items():
            if spec.name.startswith(PATTERN_PREFIX):
                worst = max(worst, 1000 * float(np.mean(np.nan_to_num(whole[field]) != np.nan_to_num(column))))
            else:
                worst = max(worst, worst_difference(whole[field], column).scaled)
    return worst


def measure(count: int = CANDLES) -> Mapping[str, tuple[float, float]]:
    """Function -> distance in markets that move, and in flat ones."""
    moving, flat = moving_and_flat(count)
    offered = sorted(name for name, function in CATALOGUE.items() if function.kind is not Kind.REFUSED)
    specs = {name: resolve_indicators([{"name": name}])[0] for name in offered}
    return {name: (distance(spec, moving), distance(spec, flat)) for name, spec in specs.items()}


def shown(name: str, value: float) -> str:
    """As in the table."""
    if not value:
        return "0"
    return f"{value:.3g} ‰" if name.startswith(PATTERN_PREFIX) else f"{value:.0e}"


def main() -> None:
    """The table."""
    print("| Function | Market that moves | Market with flat stretches |\n| --- | --- | --- |")
    for name, (moving, flat) in measure().items():
        print(f"| {name} | {shown(name, moving)} | {shown(name, flat)} |")


if __name__ == "__main__":
    main()
