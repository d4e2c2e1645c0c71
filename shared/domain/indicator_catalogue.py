"""Every function of TA-Lib 0.8.2 (C 0.8.1) as data: its inputs, its parameters written out, and what its values depend on.

Defaults are ours: TA-Lib moves its own between releases (BBANDS 5 -> 20, APO and PPO SMA -> EMA in 0.8). Where TA-Lib leaves
the input open, it is its abstract API's: the close, and high and low for functions of two series. TA-Lib's flags call too
few functions recursive (MACD, TRIX, STOCHRSI are not flagged), so each cascade here is our own, held by
tests/properties/test_indicator_catalogue.py over every function: what is stored is near one pass over the series, or it is
refused with the measured reason. Bounds tighter than TA-Lib's (SAR, SAREXT, SUPERTREND) are where that still holds. How near
each one is: docs/indicators.md.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from shared.domain.indicator_functions import (
    MA_OF_DIFFERENCES,
    MA_OF_OSCILLATORS,
    MA_OF_PRICES,
    PERIOD_MAX,
    REAL_MAX,
    Average,
    Kind,
    Parameter,
    Seed,
    Smoothing,
    TaFunction,
)
from shared.domain.indicator_refusals import REFUSALS


def _n(name: str, default: int, low: int = 2) -> Parameter:
    """A period in candles."""
    return Parameter(name, default, low, PERIOD_MAX)


def _x(name: str, default: float, low: float = -REAL_MAX, high: float = REAL_MAX) -> Parameter:
    """A real number."""
    return Parameter(name, default, low, high)


def _ma(name: str, default: int) -> Parameter:
    """An MA type."""
    return Parameter(name, default, 0, 13)


def _ema(*periods: str | int, stages: int = 1) -> Smoothing:
    return Smoothing(periods, Average(Kind.EMA, stages))


def _wilder(*periods: str | int, stages: int = 1) -> Smoothing:
    return Smoothing(periods, Average(Kind.WILDER, stages))


def _by(matype: str, *periods: str, allowed: frozenset[str] = MA_OF_PRICES) -> Smoothing:
    return Smoothing(periods, matype=matype, allowed=allowed)


def _row(
    name: str,
    inputs: str,
    *parameters: Parameter,
    outputs: str = "",
    kind: Kind = Kind.WINDOW,
    cascade: tuple[Smoothing, ...] = (),
    seed: Mapping[str, tuple[Seed | float, ...]] = MappingProxyType({}),
) -> TaFunction:
    return TaFunction(name, tuple(inputs.split()), parameters, tuple(outputs.split()) or ("",), kind, cascade, seed)


_SUPPORTED: Final = (
    # Cycle Indicators
    # Math Operators
    _row("ADD", "high low"),
    _row("CUMSUM", "close", kind=Kind.CUMULATIVE, seed={"close": (Seed.CARRIED,)}),
    _row("DIV", "high low"),
    _row("MAX", "close", _n("timeperiod", 30)),
    _row("MIN", "close", _n("timeperiod", 30)),
    _row("MINMAX", "close", _n("timeperiod", 30), outputs="min max"),
    _row("MULT", "high low"),
    _row("SUB", "high low"),
    _row("SUM", "close", _n("timeperiod", 30)),
    # Math Transform
    _row("ACOS", "close"),
    _row("ASIN", "close"),
    _row("ATAN", "close"),
    _row("CEIL", "close"),
    _row("COS", "close"),
    _row("COSH", "close"),
    _row("EXP", "close"),
    _row("FLOOR", "close"),
    _row("LN", "close"),
    _row("LOG10", "close"),
    _row("SIN", "close"),
    _row("SINH", "close"),
    _row("SQRT", "close"),
    _row("TAN", "close"),
    _row("TANH", "close"),
    # Momentum Indicators
    _row("ADX", "high low close", _n("timeperiod", 14), cascade=(_wilder("timeperiod", stages=2),)),
    _row("ADXR", "high low close", _n("timeperiod", 14), cascade=(_wilder("timeperiod", stages=2),)),
    _row(
        "APO",
        "close",
        _n("fastperiod", 12),
        _n("slowperiod", 26),
        _ma("matype", 1),
        cascade=(_by("matype", "fastperiod", "slowperiod", allowed=MA_OF_DIFFERENCES),),
    ),
    _row("AROON", "high low", _n("timeperiod", 14), outputs="down up"),
    _row("AROONOSC", "high low", _n("timeperiod", 14)),
    _row("BOP", "open high low close"),
    _row("CCI", "high low close", _n("timeperiod", 14)),
    _row("CMO", "close", _n("timeperiod", 14), cascade=(_wilder("timeperiod"),)),
    _row("CMOU", "close", _n("timeperiod", 14)),
    _row("COPPOCK", "close", _n("wmaperiod", 10, 1), _n("roc1period", 11, 1), _n("roc2period", 14, 1)),
    _row("DX", "high low close", _n("timeperiod", 14), cascade=(_wilder("timeperiod"),)),
    _row("ER", "close", _n("timeperiod", 10)),
    _row("ERI", "high low close", _n("timeperiod", 13, 1), outputs="bull bear", cascade=(_ema("timeperiod"),)),
    _row("FRACTAL", "high low", _n("leftbars", 2, 1), _n("rightbars", 2, 1), outputs="high low"),
    _row("IMI", "open close", _n("timeperiod", 14)),
    _row(
        "KDJ",
        "high low close",
        _n("fastk_period", 9, 1),
        _n("slowk_period", 3, 1),
        _ma("slowk_matype", 13),
        _n("slowd_period", 3, 1),
        _ma("slowd_matype", 13),
        outputs="k d j",
        cascade=(
            _by("slowk_matype", "slowk_period", allowed=MA_OF_OSCILLATORS),
            _by("slowd_matype", "slowd_period", allowed=MA_OF_OSCILLATORS),
        ),
    ),
    _row(
        "MACD",
        "close",
        _n("fastperiod", 12),
        _n("slowperiod", 26),
        _n("signalperiod", 9, 1),
        outputs="macd signal hist",
        cascade=(_ema("fastperiod", "slowperiod"), _ema("signalperiod")),
    ),
    _row(
        "MACDEXT",
        "close",
        _n("fastperiod", 12),
        _ma("fastmatype", 1),
        _n("slowperiod", 26),
        _ma("slowmatype", 1),
        _n("signalperiod", 9, 1),
        _ma("signalmatype", 1),
        outputs="macd signal hist",
        cascade=(
            _by("fastmatype", "fastperiod", allowed=MA_OF_DIFFERENCES),
            _by("slowmatype", "slowperiod", allowed=MA_OF_DIFFERENCES),
            _by("signalmatype", "signalperiod", allowed=MA_OF_DIFFERENCES),
        ),
    ),
    _row("MACDFIX", "close", _n("signalperiod", 9, 1), outputs="macd signal hist", cascade=(_ema(26), _ema("signalperiod"))),
    _row("MFI", "high low close volume", _n("timeperiod", 14)),
    _row("MINUS_DI", "high low close", _n("timeperiod", 14, 1), cascade=(_wilder("timeperiod"),)),
    _row("MINUS_DM", "high low", _n("timeperiod", 14, 1), cascade=(_wilder("timeperiod"),)),
    _row("MOM", "close", _n("timeperiod", 10, 1)),
    _row("PLUS_DI", "high low close", _n("timeperiod", 14, 1), cascade=(_wilder("timeperiod"),)),
    _row("PLUS_DM", "high low", _n("timeperiod", 14, 1), cascade=(_wilder("timeperiod"),)),
    _row(
        "PPO",
        "close",
        _n("fastperiod", 12),
        _n("slowperiod", 26),
        _ma("matype", 1),
        cascade=(_by("matype", "fastperiod", "slowperiod", allowed=MA_OF_DIFFERENCES),),
    ),
    _row("QSTICK", "open close", _n("timeperiod", 10, 1)),
    _row("ROC", "close", _n("timeperiod", 10, 1)),
    _row("ROCP", "close", _n("timeperiod", 10, 1)),
    _row("ROCR", "close", _n("timeperiod", 10, 1)),
    _row("ROCR100", "close", _n("timeperiod", 10, 1)),
    _row("RSI", "close", _n("timeperiod", 14), cascade=(_wilder("timeperiod"),)),
    _row(
        "SMI",
        "high low close",
        _n("timeperiod", 13),
        _n("fastperiod", 2),
        _n("slowperiod", 25),
        _n("signalperiod", 9),
        outputs="smi signal",
        cascade=(_ema("slowperiod"), _ema("fastperiod"), _ema("signalperiod")),
    ),
    _row(
        "STOCH",
        "high low close",
        _n("fastk_period", 5, 1),
        _n("slowk_period", 3, 1),
        _ma("slowk_matype", 0),
        _n("slowd_period", 3, 1),
        _ma("slowd_matype", 0),
        outputs="k d",
        cascade=(
            _by("slowk_matype", "slowk_period", allowed=MA_OF_OSCILLATORS),
            _by("slowd_matype", "slowd_period", allowed=MA_OF_OSCILLATORS),
        ),
    ),
    _row(
        "STOCHF",
        "high low close",
        _n("fastk_period", 5, 1),
        _n("fastd_period", 3, 1),
        _ma("fastd_matype", 0),
        outputs="k d",
        cascade=(_by("fastd_matype", "fastd_period", allowed=MA_OF_OSCILLATORS),),
    ),
    _row(
        "STOCHRSI",
        "close",
        _n("timeperiod", 14),
        _n("fastk_period", 5, 1),
        _n("fastd_period", 3, 1),
        _ma("fastd_matype", 0),
        outputs="k d",
        cascade=(_wilder("timeperiod"), _by("fastd_matype", "fastd_period", allowed=MA_OF_OSCILLATORS)),
    ),
    _row("TRIX", "close", _n("timeperiod", 30, 1), cascade=(_ema("timeperiod", stages=3),)),
    _row("TSI", "close", _n("firstperiod", 25), _n("secondperiod", 13), cascade=(_ema("firstperiod"), _ema("secondperiod"))),
    _row("ULTOSC", "high low close", _n("timeperiod1", 7, 1), _n("timeperiod2", 14, 1), _n("timeperiod3", 28, 1)),
    _row("VHF", "close", _n("timeperiod", 28)),
    _row("VORTEX", "high low close", _n("timeperiod", 14, 1), outputs="plus minus"),
    _row("WILLR", "high low close", _n("timeperiod", 14)),
    # Overlap Studies
    _row("ACCBANDS", "high low close", _n("timeperiod", 20), outputs="upper middle lower"),
    _row(
        "BBANDS",
        "close",
        _n("timeperiod", 20),
        _x("nbdevup", 2.0),
        _x("nbdevdn", 2.0),
        _ma("matype", 0),
        outputs="upper middle lower",
        cascade=(_by("matype", "timeperiod"),),
    ),
    _row("DEMA", "close", _n("timeperiod", 30, 1), cascade=(_ema("timeperiod", stages=2),)),
    _row("DONCHIAN", "high low", _n("timeperiod", 20), outputs="upper middle lower"),
    _row("EMA", "close", _n("timeperiod", 30, 1), cascade=(_ema("timeperiod"),)),
    _row("HMA", "close", _n("timeperiod", 20, 1)),
    _row("KAMA", "close", _n("timeperiod", 30, 1), kind=Kind.FIXED, cascade=(Smoothing(("timeperiod",), Average(Kind.FIXED)),)),
    _row(
        "KC",
        "high low close",
        _n("timeperiod", 20),
        _n("atrperiod", 10, 1),
        _x("nbdev", 2.0),
        outputs="upper middle lower",
        cascade=(_ema("timeperiod"), _wilder("atrperiod")),
    ),
    _row("MA", "close", _n("timeperiod", 30, 1), _ma("matype", 0), cascade=(_by("matype", "timeperiod"),)),
    _row("MIDPOINT", "close", _n("timeperiod", 14)),
    _row("MIDPRICE", "high low", _n("timeperiod", 14)),
    _row("RMA", "close", _n("timeperiod", 30, 1), cascade=(_wilder("timeperiod"),)),
    _row("SAR", "high low", _x("acceleration", 0.02, 0.005), _x("maximum", 0.2, 0.01), kind=Kind.FIXED),
    _row(
        "SAREXT",
        "high low",
        _x("startvalue", 0.0, 0.0, 0.0),
        _x("offsetonreverse", 0.0, 0.0, 0.01),
        _x("accelerationinitlong", 0.02, 0.005),
        _x("accelerationlong", 0.02, 0.005),
        _x("accelerationmaxlong", 0.2, 0.01),
        _x("accelerationinitshort", 0.02, 0.005),
        _x("accelerationshort", 0.02, 0.005),
        _x("accelerationmaxshort", 0.2, 0.01),
        kind=Kind.FIXED,
    ),
    _row("SMA", "close", _n("timeperiod", 30, 1)),
    _row(
        "SUPERTREND",
        "high low close",
        _n("timeperiod", 10),
        _x("multiplier", 3.0, 0.0, 5.0),
        outputs="line trend",
        kind=Kind.FIXED,
        cascade=(_wilder("timeperiod"),),
    ),
    _row("T3", "close", _n("timeperiod", 5, 1), _x("vfactor", 0.7, 0.0, 1.0), cascade=(_ema("timeperiod", stages=3),)),
    _row("TEMA", "close", _n("timeperiod", 30, 1), cascade=(_ema("timeperiod", stages=3),)),
    _row("TRIMA", "close", _n("timeperiod", 30, 1)),
    _row("WMA", "close", _n("timeperiod", 30, 1)),
    _row("ZLEMA", "close", _n("timeperiod", 30, 1), cascade=(_ema("timeperiod"),)),
    # Pattern Recognition
    _row("CDLABANDONEDBABY", "open high low close", _x("penetration", 0.3, 0.0)),
    _row("CDLDARKCLOUDCOVER", "open high low close", _x("penetration", 0.5, 0.0)),
    _row("CDLEVENINGDOJISTAR", "open high low close", _x("penetration", 0.3, 0.0)),
    _row("CDLEVENINGSTAR", "open high low close", _x("penetration", 0.3, 0.0)),
    _row("CDLMATHOLD", "open high low close", _x("penetration", 0.5, 0.0)),
    _row("CDLMORNINGDOJISTAR", "open high low close", _x("penetration", 0.3, 0.0)),
    _row("CDLMORNINGSTAR", "open high low close", _x("penetration", 0.3, 0.0)),
    # Price Transform
    _row("AVGDEV", "close", _n("timeperiod", 14)),
    _row("AVGPRICE", "open high low close"),
    _row("HA", "open high low close", outputs="open high low close", cascade=(_ema(3),)),
    _row("MEDPRICE", "high low"),
    _row("TYPPRICE", "high low close"),
    _row("WCLPRICE", "high low close"),
    # Statistic Functions
    _row("BETA", "high low", _n("timeperiod", 5, 1)),
    _row("LINEARREG", "close", _n("timeperiod", 14)),
    _row("LINEARREG_INTERCEPT", "close", _n("timeperiod", 14)),
    _row("PERCENTILE", "close", _n("timeperiod", 30), _x("percentile", 50.0, 0.0, 100.0)),
    _row("PERCENTRANK", "close", _n("timeperiod", 100)),
    _row("TSF", "close", _n("timeperiod", 14)),
    # Volatility Indicators
    _row("ADR", "high low", _n("timeperiod", 14, 1)),
    _row("ATR", "high low close", _n("timeperiod", 14, 1), cascade=(_wilder("timeperiod"),)),
    _row("CVI", "high low", _n("timeperiod", 10), _n("rocperiod", 10, 1), cascade=(_ema("timeperiod"),)),
    _row("MASSI", "high low", _n("fastperiod", 9), _n("slowperiod", 25), cascade=(_ema("fastperiod", stages=2),)),
    _row("NATR", "high low close", _n("timeperiod", 14, 1), cascade=(_wilder("timeperiod"),)),
    _row("RVI", "close", _n("timeperiod", 14, 1), _n("stddevperiod", 10), cascade=(_wilder("timeperiod"),)),
    _row("TRANGE", "high low close"),
    # Volume Indicators
    _row(
        "AD",
        "high low close volume",
        kind=Kind.CUMULATIVE,
        seed={"high": (1.0,), "low": (0.0,), "close": (1.0,), "volume": (Seed.CARRIED,)},
    ),
    _row(
        "ADOSC", "high low close volume", _n("fastperiod", 3), _n("slowperiod", 10), cascade=(_ema("fastperiod", "slowperiod"),)
    ),
    _row("EFI", "close volume", _n("timeperiod", 13, 1), cascade=(_ema("timeperiod"),)),
    _row("MARKETFI", "high low volume"),
    _row("OBV", "close volume", kind=Kind.CUMULATIVE, seed={"close": (Seed.PREVIOUS_CLOSE,), "volume": (Seed.CARRIED,)}),
    _row(
        "PVO",
        "volume",
        _n("fastperiod", 12),
        _n("slowperiod", 26),
        _ma("matype", 1),
        cascade=(_by("matype", "fastperiod", "slowperiod", allowed=MA_OF_DIFFERENCES),),
    ),
    _row(
        "PVT",
        "close volume",
        kind=Kind.CUMULATIVE,
        seed={"close": (Seed.HALF_PREVIOUS_CLOSE, Seed.PREVIOUS_CLOSE), "volume": (0.0, Seed.CARRIED)},
    ),
)

# Candle patterns without parameters: open, high, low, close in; -100, 0 or 100 out.
_PATTERNS: Final = (
    "CDL2CROWS CDL3BLACKCROWS CDL3INSIDE CDL3LINESTRIKE CDL3OUTSIDE CDL3STARSINSOUTH CDL3WHITESOLDIERS CDLADVANCEBLOCK "
    "CDLBELTHOLD CDLBREAKAWAY CDLCLOSINGMARUBOZU CDLCONCEALBABYSWALL CDLCOUNTERATTACK CDLDOJI CDLDOJISTAR "
    "CDLDRAGONFLYDOJI CDLENGULFING CDLGAPSIDESIDEWHITE CDLGRAVESTONEDOJI CDLHAMMER CDLHANGINGMAN CDLHARAMI "
    "CDLHARAMICROSS CDLHIGHWAVE CDLHIKKAKE CDLHIKKAKEMOD CDLHOMINGPIGEON CDLIDENTICAL3CROWS CDLINNECK CDLINVERTEDHAMMER "
    "CDLKICKING CDLKICKINGBYLENGTH CDLLADDERBOTTOM CDLLONGLEGGEDDOJI CDLLONGLINE CDLMARUBOZU CDLMATCHINGLOW CDLONNECK "
    "CDLPIERCING CDLRICKSHAWMAN CDLRISEFALL3METHODS CDLSEPARATINGLINES CDLSHOOTINGSTAR CDLSHORTLINE CDLSPINNINGTOP "
    "CDLSTALLEDPATTERN CDLSTICKSANDWICH CDLTAKURI CDLTASUKIGAP CDLTHRUSTING CDLTRISTAR CDLUNIQUE3RIVER "
    "CDLUPSIDEGAP2CROWS CDLXSIDEGAP3METHODS"
)

CATALOGUE: Final[Mapping[str, TaFunction]] = MappingProxyType(
    {function.name: function for function in _SUPPORTED}
    | {name: _row(name, "open high low close") for name in _PATTERNS.split()}
    | {name: TaFunction(name, kind=Kind.REFUSED, refusal=reason) for name, reason in REFUSALS.items()}
)
