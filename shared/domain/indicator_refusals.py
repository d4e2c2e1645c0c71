"""The functions of TA-Lib 0.8.2 that are not offered, and why: what they say depends on where they began, however far back.

Figures are the worst |begun 1,000 candles ago - one pass| of max(|value|, 1e-3 rms), over a year of minutes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_GROUPS: Final = (
    (
        "HT_DCPERIOD HT_DCPHASE HT_PHASOR HT_SINE HT_TRENDLINE HT_TRENDMODE MAMA",
        "its Hilbert transform never forgets where the history began",
    ),
    (
        "MAXINDEX MININDEX MINMAXINDEX",
        "its values are positions in the array, not in time",
    ),
    (
        "MAVP",
        "it needs a series of periods, which candles do not have",
    ),
    (
        "NVI PVI VWAP WAD",
        "it adds up from the first candle of all, and its value alone is not enough to go on from",
    ),
    (
        "CMF VWMA RVOL",
        "in windows without volume it divides rounding residue by rounding residue (off by up to 1e4 times its value)",
    ),
    (
        "AC AO DPO",
        "the rounding of its running sums shows near zero (off by 1.6e-8 over a year of minutes); APO with matype 1 holds",
    ),
    (
        "LINEARREG_ANGLE LINEARREG_SLOPE FOSC",
        "the rounding of its running sums shows near zero (off by up to 4e-7 over a year of minutes)",
    ),
    (
        "CORREL",
        "the rounding of its running sums shows in quiet windows (off by 1.1e-7 over a year of minutes)",
    ),
    (
        "STDDEV VAR",
        "the rounding of its sums of squares shows in quiet windows (off by 5e-9 over a year of minutes); BBANDS holds",
    ),
)

# Function -> reason, to be read after "not offered: ".
REFUSALS: Final[Mapping[str, str]] = MappingProxyType({name: why for names, why in _GROUPS for name in names.split()})
