"""Indicators of a page of candles, by TA-Lib: specs, how much history they need, and their values.

The law: a value depends on the candles of the series and on nothing else. For every split of a series into pages the same bits
come out, since where TA-Lib begins follows from the intervals' numbers (indicator_starts.py). How far that is from one TA-Lib
pass over the whole series is a property of a function, which docs/indicators.md prints.
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.domain.candles import CandleBatch, FloatArray
from shared.domain.indicator_catalogue import CATALOGUE
from shared.domain.indicator_functions import (
    MA_NAMES,
    Kind,
    Number,
    Parameter,
    Seed,
    TaFunction,
    matype_refusals,
    warmup_candles_of,
)
from shared.domain.indicator_starts import BESIDES, BLOCK, HISTORY_CANDLES_MAX, MOVES_MIN, SECTION, Blocks, Reach, Span
from shared.domain.ta_lib import abstract, talib
from shared.domain.timeframes import Timeframe
from shared.errors import InvalidRequest

# (field, message) pairs, as InvalidRequest takes them.
Problems: TypeAlias = list[tuple[str, str]]

# Stored values carry it: TA-Lib's results move between releases (STDDEV by 4e-7 in 0.8).
ENGINE_VERSION: Final = f"talib-{talib.__version__}"
# Warm-ups up to here are kept whole. The worst, zero-lag averages (971 candles), come within 2e-9 of one pass from 704 candles
# before a section, and within 3e-10 from 768.
SPARES_NOTHING_MAX: Final = 12 * BLOCK
# What else they depend on: from where TA-Lib is begun. Values of another version are computed again (usecases/renew_values.py).
VALUES_VERSION: Final = f"{ENGINE_VERSION}, starts {SECTION}/{BLOCK}/{SPARES_NOTHING_MAX}"

INDICATORS_MAX: Final = 50
LABEL_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class IndicatorSpec:
    """One indicator: TA-Lib's function, all its parameters, and the names under which `ind` holds its outputs.

    `label` is the document's `as`; `fields` is the label itself for one output, else label + "_" + output.
    `lookback`, `warmup` (candles) and `reach` follow from the rest and are worked out once, here.
    """

    name: str
    params: tuple[tuple[str, Number], ...]
    label: str
    fields: tuple[str, ...]
    lookback: int = field(init=False, compare=False, repr=False)
    warmup: int = field(init=False, compare=False, repr=False)
    reach: Reach = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        params = dict(self.params)
        # The stubs of talib.abstract leave Function out.
        lookback = int(abstract.Function(self.name, **params).lookback)  # type: ignore[attr-defined]
        object.__setattr__(self, "lookback", lookback)
        function = CATALOGUE[self.name]
        warmup = warmup_candles_of(function, params, lookback)
        object.__setattr__(self, "warmup", warmup)
        object.__setattr__(self, "reach", _reach_of(function, lookback, warmup))

    def to_document(self) -> dict[str, object]:
        """As jobs store it and as a request may give it back."""
        return {"name": self.name, "params": dict(self.params), "as": self.label}


def resolve_indicators(requested: Sequence[Mapping[str, object]]) -> tuple[IndicatorSpec, ...]:
    """Specs of what a caller asks for: `{"name": "RSI", "params": {"timeperiod": 14}, "as": "rsi_14"}`, the last two optional.

    Parameters that are left away get the catalogue's defaults, written out.

    Raises:
        InvalidRequest: with every problem found, as (`indicators.0.params.timeperiod`, message).
    """
    if len(requested) > INDICATORS_MAX:
        raise InvalidRequest.for_field("indicators", f"{len(requested)} given, at most {INDICATORS_MAX} are computed")
    problems: Problems = []
    specs: list[IndicatorSpec] = []
    taken: dict[str, str] = {}
    for number, item in enumerate(requested):
        at = f"indicators.{number}"
        spec = _resolve_one(at, item, problems)
        if spec is None:
            continue
        specs.append(spec)
        other = next((taken[name] for name in spec.fields if name in taken), None)
        if other is not None:
            problems.append((f"{at}.as", f"its values would overwrite those of {other}: give one of them another `as`"))
        taken |= dict.fromkeys(spec.fields, at)
    if problems:
        raise InvalidRequest("; ".join(f"{name}: {message}" for name, message in problems[:3]), problems)
    return tuple(specs)


def _resolve_one(at: str, item: object, problems: Problems) -> IndicatorSpec | None:
    """The spec of one requested item, or None with the reasons added to `problems`."""
    if not isinstance(item, Mapping):
        problems.append((at, "must be an object with name, and optionally params and as"))
        return None
    count_before = len(problems)
    problems.extend((f"{at}.{key}", "unknown: only name, params and as") for key in item if key not in ("name", "params", "as"))
    function = _resolve_function(at, item.get("name"), problems)
    if function is None:
        return None
    params = _resolve_params(f"{at}.params", function, item.get("params"), problems)
    if len(problems) > count_before:
        return None
    label = item.get("as")
    if label is None:
        label = _default_label(function, params)
    if not isinstance(label, str) or not LABEL_PATTERN.fullmatch(label):
        problems.append((f"{at}.as", f"{label!r} is no name: a lower-case letter, then up to 63 of a-z, 0-9 and _"))
        return None
    fields = tuple(f"{label}_{output}" if output else label for output in function.outputs)
    spec = IndicatorSpec(function.name, tuple(params.items()), label, fields)
    if spec.warmup > HISTORY_CANDLES_MAX:
        message = f"needs {spec.warmup} candles of history, at most {HISTORY_CANDLES_MAX} are read: take shorter periods"
        problems.append((f"{at}.params", message))
        return None
    return spec


def _resolve_function(at: str, name: object, problems: Problems) -> TaFunction | None:
    function = CATALOGUE.get(name.upper()) if isinstance(name, str) else None
    if function is None:
        near = difflib.get_close_matches(name.upper(), CATALOGUE, n=3) if isinstance(name, str) else []
        hint = f"did you mean {', '.join(near)}?" if near else "take the name of a TA-Lib function, like RSI or MACD"
        problems.append((f"{at}.name", f"unknown function {name!r}: {hint}"))
        return None
    if function.kind is Kind.REFUSED:
        problems.append((f"{at}.name", f"{function.name} is not offered: {function.refusal}"))
        return None
    return function


def _resolve_params(at: str, function: TaFunction, given: object, problems: Problems) -> dict[str, Number]:
    """All parameters of the function in TA-Lib's order; each that is wrong is added to `problems`."""
    params: dict[str, Number] = {parameter.name: parameter.default for parameter in function.parameters}
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        problems.append((at, "must be an object of parameter names and numbers"))
        return params
    valid = ", ".join(params) or "none"
    problems.extend(
        (f"{at}.{name}", f"unknown parameter of {function.name}: it has {valid}") for name in given if name not in params
    )
    count_before = len(problems)
    for parameter in function.parameters:
        if parameter.name in given:
            params[parameter.name] = _checked(at, parameter, given[parameter.name], problems)
    if len(problems) == count_before:
        problems.extend((f"{at}.{name}", reason) for name, reason in matype_refusals(function, params))
    if len(problems) == count_before:
        reason = _engine_objection(function, params)
        if reason:
            problems.append((at, f"TA-Lib does not take these together: {reason}"))
    return params


def _checked(at: str, parameter: Parameter, value: object, problems: Problems) -> Number:
    """The value as the parameter's own type; whole floats pass for integers, as JSON and BSON do not tell them apart."""
    wanted = "a whole number" if parameter.is_integer else "a number"
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    if not isinstance(value, int | float) or not is_number or (parameter.is_integer and value != int(value)):
        problems.append((f"{at}.{parameter.name}", f"{value!r} is not {wanted}"))
    elif not parameter.low <= value <= parameter.high:
        bounds = f"{parameter.low:g} to {parameter.high:g}"
        problems.append((f"{at}.{parameter.name}", f"{value!r} is out of bounds: {bounds}"))
    else:
        return int(value) if parameter.is_integer else float(value)
    return parameter.default


def _engine_objection(function: TaFunction, params: Mapping[str, Number]) -> str:
    """What TA-Lib says against the parameters together; empty if nothing. It checks them before it looks at the candles."""
    try:
        getattr(talib, function.name)(*(np.ones(3) for _ in function.inputs), **params)
    except Exception as exc:
        if "TA_BAD_PARAM" not in str(exc):
            raise
        return str(exc)
    return ""


def _default_label(function: TaFunction, params: Mapping[str, Number]) -> str:
    """`macd_12_26_9`, `bbands_20_2_2`, `sar_0p02_0p2`; MA types only where they are not the default: `ma_30_ema`."""
    parts = [function.name.lower()]
    for parameter in function.parameters:
        value = params[parameter.name]
        if parameter.is_matype:
            parts += [MA_NAMES[int(value)]] if value != parameter.default else []
        else:
            parts.append(f"{value:.12g}".replace(".", "p").replace("-", "m").replace("+", ""))
    return "_".join(parts)


def _reach_of(function: TaFunction, lookback: int, warmup: int) -> Reach:
    """Cumulative functions continue from a value instead."""
    if function.kind is Kind.CUMULATIVE:
        return Reach(0)
    if warmup == lookback:
        return Reach(lookback)
    if function.kind is Kind.FIXED:
        return Reach(warmup, is_moving=True, moves=MOVES_MIN)
    # A long warm-up has more to spare than what is read besides, a short one has not.
    return Reach(max(warmup - BESIDES, min(warmup, SPARES_NOTHING_MAX)), is_moving=True)


def history_candles_usual(specs: Sequence[IndicatorSpec], grid: Timeframe, before_ms: int, extra: int) -> int:
    """How many stored candles before that time to read at first, for a page that begins `extra` candles sooner or later.

    They are enough where the market moves and candles are not missing by the dozen.
    """
    reach = max((spec.reach.candles for spec in specs), default=0)
    if not reach:
        return extra
    end = grid.number(before_ms - 1) + 1
    return reach + BLOCK + end - (end - extra) // SECTION * SECTION


def history_from(
    specs: Sequence[IndicatorSpec], grid: Timeframe, history: CandleBatch, row: int, *, is_whole: bool
) -> int | None:
    """The first row of `history` that is needed for the values of the candles from `row` on; None: one that is not here.

    `is_whole`: there is no candle before these.
    """
    if row >= len(history):
        return len(history)
    blocks = Blocks(grid, history, is_whole=is_whole)
    found = [blocks.needed_from(reach, row) for reach in {spec.reach for spec in specs}]
    if None in found:
        return None
    return min((each for each in found if each is not None), default=row)


def cumulative_fields(specs: Sequence[IndicatorSpec]) -> tuple[str, ...]:
    """Fields whose values continue from the stored one before the page, so that it has to be read."""
    return tuple(name for spec in specs if CATALOGUE[spec.name].kind is Kind.CUMULATIVE for name in spec.fields)


def indicators_hash(specs: Sequence[IndicatorSpec]) -> str:
    """16 hex digits of the names, parameters and labels, in their order."""
    documents = json.dumps([spec.to_document() for spec in specs], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(documents.encode()).hexdigest()[:16]


def compute_indicators(
    specs: Sequence[IndicatorSpec],
    grid: Timeframe,
    history: CandleBatch,
    page: CandleBatch,
    carried: Mapping[str, float] | None,
    *,
    history_is_whole: bool = False,
) -> dict[str, FloatArray]:
    """Field -> values of the page's candles (len(page) each); NaN where there is no value (yet), or no finite one.

    Args:
        specs: what to compute.
        grid: the timeframe of the candles.
        history: the stored candles directly before the page, as many as `history_from` says, or all that exist.
        page: the new candles.
        carried: stored values of the last candle of `history`, from which cumulative functions continue bit for bit.
        history_is_whole: `history` begins where the series begins.

    Raises:
        ValueError: there is not enough history; a cumulative function has neither its carried value nor the whole history
            (names the field); or a candle is not finite, which would make every later value of an average NaN (names the
            column).
    """
    if not len(page):
        return {name: np.empty(0) for spec in specs for name in spec.fields}
    series = _Series(history.then(page), len(history))
    blocks = Blocks(grid, series.candles, is_whole=history_is_whole or not len(history))
    values: dict[str, FloatArray] = {}
    for spec in specs:
        if CATALOGUE[spec.name].kind is Kind.CUMULATIVE:
            columns = _go_on(spec, series, carried, history_is_whole)
        else:
            columns = _from_starts(spec, series, blocks.spans(spec.reach, len(history)))
        values.update(zip(spec.fields, columns, strict=True))
    return values


class _Series:
    """History and page as one, each column checked when it is first asked for."""

    def __init__(self, candles: CandleBatch, history_count: int) -> None:
        self.candles = candles
        self.history_count = history_count
        self._checked: set[str] = set()

    def column(self, name: str) -> FloatArray:
        """The values of history, then the page's."""
        column: FloatArray = getattr(self.candles, name)
        if name not in self._checked:
            # One sum finds any NaN or infinity, at a fifth of the cost of looking at each value.
            if not math.isfinite(column.sum()):
                raise ValueError(f"candles hold a {name} that is not finite: repair them before computing indicators")
            self._checked.add(name)
        return column


def _from_starts(spec: IndicatorSpec, series: _Series, spans: Sequence[Span]) -> list[FloatArray]:
    """The page's values of each output, span by span."""
    function = CATALOGUE[spec.name]
    inputs = [series.column(name) for name in function.inputs]
    parts = []
    for span in spans:
        outputs = _call(spec, [column[span.start : span.end] for column in inputs])
        parts.append([_finite(output, span.first - span.start, spec.lookback) for output in outputs])
    return parts[0] if len(parts) == 1 else [np.concatenate(columns) for columns in zip(*parts, strict=True)]


def _go_on(
    spec: IndicatorSpec, series: _Series, carried: Mapping[str, float] | None, history_is_whole: bool
) -> list[FloatArray]:
    """The page's values of a cumulative function: from its value before the page, or the whole history if none is carried."""
    function = CATALOGUE[spec.name]
    (name,) = spec.fields
    value = math.nan if carried is None else carried.get(name, math.nan)
    count = series.history_count
    inputs = [series.column(column) for column in function.inputs]
    if not count or not math.isfinite(value):
        if count and not history_is_whole:
            raise ValueError(f"{name}: {spec.name} needs its value at the candle before the page, or the whole history")
        return [_finite(output, count, spec.lookback) for output in _call(spec, inputs)]
    previous_close = float(series.column("close")[count - 1])
    seeds: dict[Seed | float, float] = {
        Seed.CARRIED: value,
        Seed.PREVIOUS_CLOSE: previous_close,
        Seed.HALF_PREVIOUS_CLOSE: previous_close / 2,
    }
    seeded = [
        np.concatenate(([seeds.get(seed, seed) for seed in function.seed[name]], column[count:]))
        for name, column in zip(function.inputs, inputs, strict=True)
    ]
    return [_finite(output, len(output) - (len(inputs[0]) - count), spec.lookback) for output in _call(spec, seeded)]


def _call(spec: IndicatorSpec, inputs: Sequence[FloatArray]) -> "tuple[FloatArray | NDArray[np.int32], ...]":
    outputs = getattr(talib, spec.name)(*inputs, **dict(spec.params))
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _finite(output: "FloatArray | NDArray[np.int32]", first: int, lookback: int) -> FloatArray:
    """The values from row `first` on as floats, NaN where the function has none."""
    values = output[first:].astype(np.float64)
    if output.dtype.kind == "i":
        # Integers cannot be NaN, so TA-Lib leaves 0 before its first value.
        values[: max(0, lookback - first)] = np.nan
    values[~np.isfinite(values)] = np.nan
    return values


DEFAULT_INDICATORS: Final = resolve_indicators(
    [
        {"name": "SMA", "params": {"timeperiod": 20}},
        {"name": "EMA", "params": {"timeperiod": 20}},
        {"name": "EMA", "params": {"timeperiod": 50}},
        {"name": "RSI", "params": {"timeperiod": 14}},
        {"name": "MACD", "params": {"fastperiod": 12, "slowperiod": 26, "signalperiod": 9}},
        {"name": "BBANDS", "params": {"timeperiod": 20, "nbdevup": 2.0, "nbdevdn": 2.0, "matype": 0}},
        {"name": "ATR", "params": {"timeperiod": 14}},
        {"name": "ADX", "params": {"timeperiod": 14}},
        {"name": "OBV"},
    ]
)
