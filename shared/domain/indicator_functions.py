"""What a row of the indicator catalogue says, and how many candles before a value its function needs.

The engine starts afresh at every call, so an average that never quite forgets (EMA, Wilder) has to be fed so many earlier
candles that what it was seeded with has decayed to some 1e-9 of its value. The rule (measured over liquid, micro-price and
illiquid markets, see `warmup_candles_of`) errs on the long side: the illiquid ones decide it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

Number: TypeAlias = int | float

# TA-Lib's own bounds (TA_INTEGER_MAX of its periods, TA_REAL_MIN / MAX).
PERIOD_MAX: Final = 100_000
REAL_MAX: Final = 3e37

# Short periods depend on the length of flat stretches, not on the period (RSI 2 needs 163, RSI 7 355 candles).
RECURSIVE_WARMUP_MIN: Final = 500
# Stretches without trades do not decay a ratio of averages: the factor from liquid to illiquid markets.
ILLIQUID_FACTOR: Final = 1.7
# e^-21 is below 1e-9; an EMA of n keeps 1 - 2/(n+1) a candle, Wilder's 1 - 1/n.
WILDER_CANDLES_PER_PERIOD: Final = 21.0
EMA_CANDLES_PER_PERIOD: Final = 10.5
STAGE_FACTORS: Final = (0.0, 1.0, 1.25, 1.5)
# KAMA, SAR, SUPERTREND forget when the market makes them (a trend, a reversal), not after a number of candles.
DATA_DEPENDENT_WARMUP: Final = 1000
# KAMA is never slower than an EMA with the weight (2/31)^2: 21 / (2/31)^2. Up to 30 candles 1000 were always enough; a
# longer efficiency ratio stays near zero, and 1000 leave KAMA 60 off by 3e-9, KAMA 200 by 2e-4.
KAMA_PERIOD_QUICK_MAX: Final = 30
KAMA_WARMUP_SLOW: Final = 5046


class Kind(StrEnum):
    """How a function depends on the candles before."""

    WINDOW = "window"
    EMA = "ema"
    WILDER = "wilder"
    FIXED = "fixed"
    CUMULATIVE = "cumulative"
    REFUSED = "refused"


class Seed(StrEnum):
    """What a candle put before the page holds, so that a cumulative function continues from its stored value."""

    CARRIED = "carried"
    PREVIOUS_CLOSE = "previous_close"
    HALF_PREVIOUS_CLOSE = "half_previous_close"


@dataclass(frozen=True, slots=True)
class Average:
    """A moving average: its kind, and how many smoothing stages it has in itself."""

    kind: Kind
    stages: int = 0


# Index = TA-Lib's MA type.
MA_TYPES: Final[tuple[tuple[str, Average], ...]] = (
    ("sma", Average(Kind.WINDOW)),
    ("ema", Average(Kind.EMA, 1)),
    ("wma", Average(Kind.WINDOW)),
    ("dema", Average(Kind.EMA, 2)),
    ("tema", Average(Kind.EMA, 3)),
    ("trima", Average(Kind.WINDOW)),
    ("kama", Average(Kind.FIXED)),
    ("mama", Average(Kind.REFUSED)),
    ("t3", Average(Kind.EMA, 3)),
    ("hma", Average(Kind.WINDOW)),
    ("none", Average(Kind.WINDOW)),
    ("default", Average(Kind.REFUSED)),
    ("zlema", Average(Kind.EMA, 1)),
    ("rma", Average(Kind.WILDER, 1)),
)
MA_NAMES: Final = tuple(name for name, _ in MA_TYPES)
# MAMA never forgets where its history began; `default` leaves the choice to the engine's release.
MA_OF_PRICES: Final = frozenset(MA_NAMES) - {"mama", "default"}
# Of an oscillator, TRIMA's running sums are off by 1e-7 near 0, and KAMA takes its time (6e-5 after 1000 candles).
MA_OF_OSCILLATORS: Final = MA_OF_PRICES - {"trima", "kama"}
# The difference of two window averages keeps the rounding of their running sums: 1e-8 (SMA) to 3e-7 (TRIMA) near 0.
MA_OF_DIFFERENCES: Final = MA_OF_PRICES - {"sma", "wma", "trima", "hma", "kama"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter under TA-Lib's name, with the default that is written out where a request leaves it away."""

    name: str
    default: Number
    low: Number
    high: Number

    @property
    def is_integer(self) -> bool:
        """Whether only whole numbers make sense."""
        return isinstance(self.default, int)

    @property
    def is_matype(self) -> bool:
        """Whether its values are MA types."""
        return self.name.endswith("matype")


@dataclass(frozen=True, slots=True)
class Smoothing:
    """One link of a cascade: averages of one kind side by side, the longest of which decides.

    `periods` are parameter names, or numbers where TA-Lib fixes them; `matype` names the parameter that chooses the
    average (`allowed`: the page-stable ones here), else `average` is it.
    """

    periods: tuple[str | int, ...]
    average: Average = Average(Kind.WINDOW)
    matype: str = ""
    allowed: frozenset[str] = MA_OF_PRICES

    def resolve(self, params: Mapping[str, Number]) -> tuple[Average, int]:
        """The average in use and its period in candles."""
        average = MA_TYPES[int(params[self.matype])][1] if self.matype else self.average
        return average, max(int(params[period]) if isinstance(period, str) else period for period in self.periods)


@dataclass(frozen=True, slots=True)
class TaFunction:
    """One row of the catalogue.

    `inputs` are candle columns in the order of the call; `outputs` the suffixes of the stored fields, one empty one where
    the label alone is the field. `kind` WINDOW says: nothing beyond the lookback but what `cascade` holds. `seed` maps
    each input to what the candles put before the page hold.
    """

    name: str
    inputs: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    outputs: tuple[str, ...] = ("",)
    kind: Kind = Kind.WINDOW
    cascade: tuple[Smoothing, ...] = ()
    seed: Mapping[str, tuple[Seed | float, ...]] = field(default_factory=dict)
    refusal: str = ""


def matype_refusals(function: TaFunction, params: Mapping[str, Number]) -> list[tuple[str, str]]:
    """(parameter, reason) for each MA type with which what the function says would depend on where it began."""
    refusals = []
    for link in function.cascade:
        if link.matype and MA_NAMES[int(params[link.matype])] not in link.allowed:
            names = ", ".join(f"{number} ({name})" for number, name in enumerate(MA_NAMES) if name in link.allowed)
            used = f"{params[link.matype]} ({MA_NAMES[int(params[link.matype])]})"
            refusals.append((link.matype, f"MA type {used} depends on where it is begun: use one of {names}"))
    return refusals


def warmup_candles_of(function: TaFunction, params: Mapping[str, Number], lookback: int) -> int:
    """Candles after which values are those of one pass over the whole series, to 1e-9, also where the market is not liquid.

    Window functions: TA-Lib's lookback. Recursive ones: max(500, 1.7 S (lookback + K)) with K = 21 n (Wilder) or
    10.5 (n + 1) (EMA), n the longest period, S = 1 / 1.25 / 1.5 for one / two / three and more smoothing stages.
    Data-dependent ones: 1000 at least, a slow KAMA 5046 and its lookback. Cumulative ones: the one that carries the value.
    """
    if function.kind is Kind.CUMULATIVE:
        return 1
    links = [link.resolve(params) for link in function.cascade]
    kama_period = max((period for average, period in links if average.kind is Kind.FIXED), default=0)
    floor = RECURSIVE_WARMUP_MIN
    if function.kind is Kind.FIXED or kama_period:
        floor = DATA_DEPENDENT_WARMUP if kama_period <= KAMA_PERIOD_QUICK_MAX else KAMA_WARMUP_SLOW + lookback
    stages = sum(average.stages for average, _ in links)
    decay = max((_decay_candles(average, period) for average, period in links), default=0.0)
    if not stages:
        return max(floor, lookback) if floor != RECURSIVE_WARMUP_MIN else lookback
    return max(floor, math.ceil(ILLIQUID_FACTOR * STAGE_FACTORS[min(stages, 3)] * (lookback + decay)))


def _decay_candles(average: Average, period: int) -> float:
    """Candles after which one stage of the average has forgotten all but e^-21 of its seed."""
    if average.kind is Kind.WILDER:
        return WILDER_CANDLES_PER_PERIOD * period
    if average.kind is Kind.EMA:
        return EMA_CANDLES_PER_PERIOD * (period + 1)
    return 0.0
