"""Indicators of a page of candles, by TA-Lib: specs, how much history they need, and their values.

The law: values do not depend on how the history was paged. For every split of a series into pages, what is stored page by
page equals one TA-Lib pass over the whole series to 1e-9 of max(|value|, 1e-3 rms of the output).
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
from shared.domain.ta_lib import abstract, talib
from shared.errors import InvalidRequest

# (field, message) pairs, as InvalidRequest takes them.
Problems: TypeAlias = list[tuple[str, str]]

# Stored values carry it: TA-Lib's results move between releases (STDDEV by 4e-7 in 0.8).
ENGINE_VERSION: Final = f"talib-{talib.__version__}"

# The rule's factor for illiquid markets was measured on markets with runs of so many candles without a move.
UNMOVED_CANDLES_COVERED: Final = 100
# SAR needs up to 256 moving candles until a reversal that both starts share.
MOVES_MIN: Final = 400
# A market that stood still for longer is read no further: its old ratio is worth no more reads. No spec may need more.
HISTORY_CANDLES_MAX: Final = 20_000
INDICATORS_MAX: Final = 50
LABEL_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class IndicatorSpec:
    """One indicator: TA-Lib's function, all its parameters, and the names under which `ind` holds its outputs.

    `label` is the document's `as`; `fields` is the label itself for one output, else label + "_" + output.
    `lookback` and `warmup` (candles) follow from the rest and are worked out once, here.
    """

    name: str
    params: tuple[tuple[str, Number], ...]
    label: str
    fields: tuple[str, ...]
    lookback: int = field(init=False, compare=False, repr=False)
    warmup: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        params = dict(self.params)
        # The stubs of talib.abstract leave Function out.
        lookback = int(abstract.Function(self.name, **params).lookback)  # type: ignore[attr-defined]
        object.__setattr__(self, "lookback", lookback)
        object.__setattr__(self, "warmup", warmup_candles_of(CATALOGUE[self.name], params, lookback))

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


def warmup_candles(specs: Sequence[IndicatorSpec]) -> int:
    """How many stored candles before a page have to be read so that the page's values are right; 0 for none."""
    return max((spec.warmup for spec in specs), default=0)


def history_candles_needed(specs: Sequence[IndicatorSpec], history: CandleBatch) -> int:
    """How many candles before the page are needed, given the stored ones nearest to it: `warmup_candles` or more.

    Averages of ratios (RSI, ADX, TSI ...) forget nothing while nothing moves: without a move in its warm-up RSI is 0 where
    one pass still has the old ratio. So a long run of unmoved candles counts for nothing, and functions that forget at a
    reversal need so many moves. While the answer is more than `len(history)` and older candles exist, read that many and
    ask again; it is at most 20,000.
    """
    needed = warmup_candles(specs)
    if len(history) and any(_is_recursive(spec) for spec in specs):
        moves = [np.flatnonzero(column[1:] != column[:-1]) for column in (history.high, history.low, history.close)]
        run = max(int(np.diff(at, prepend=-1, append=len(history) - 1).max()) - 1 for at in moves)
        needed = max(needed, min(needed + run - UNMOVED_CANDLES_COVERED, HISTORY_CANDLES_MAX))
        if min(len(at) for at in moves) < MOVES_MIN and any(_forgets_at_reversals(spec) for spec in specs):
            needed = max(needed, min(2 * len(history), HISTORY_CANDLES_MAX))
    return needed


def cumulative_fields(specs: Sequence[IndicatorSpec]) -> tuple[str, ...]:
    """Fields whose values continue from the stored one before the page, so that it has to be read."""
    return tuple(name for spec in specs if CATALOGUE[spec.name].kind is Kind.CUMULATIVE for name in spec.fields)


def indicators_hash(specs: Sequence[IndicatorSpec]) -> str:
    """16 hex digits of the names, parameters and labels, in their order."""
    documents = json.dumps([spec.to_document() for spec in specs], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(documents.encode()).hexdigest()[:16]


def compute_indicators(
    specs: Sequence[IndicatorSpec],
    history: CandleBatch,
    page: CandleBatch,
    carried: Mapping[str, float] | None,
    *,
    history_is_whole: bool = False,
) -> dict[str, FloatArray]:
    """Field -> values of the page's candles (len(page) each); NaN where there is no value (yet), or no finite one.

    Args:
        specs: what to compute.
        history: the stored candles directly before the page: `warmup_candles(specs)` of them, or all that exist.
        page: the new candles.
        carried: stored values of the last candle of `history`, from which cumulative functions continue bit for bit.
        history_is_whole: `history` begins where the series begins, so cumulative functions can do without `carried`.

    Raises:
        ValueError: a cumulative function has neither its carried value nor the whole history (names the field); or a
            candle is not finite, which would make every later value of an average NaN (names the column).
    """
    if not len(page):
        return {name: np.empty(0) for spec in specs for name in spec.fields}
    series = _Series(history, page)
    values: dict[str, FloatArray] = {}
    for spec in specs:
        function = CATALOGUE[spec.name]
        if function.kind is Kind.CUMULATIVE and len(history):
            inputs, start = _continued(spec, series, carried, history_is_whole)
        else:
            # A longer history makes recursive functions only better; for the others it is work for nothing.
            start = 0 if _is_recursive(spec) else max(0, len(history) - spec.lookback)
            inputs = [series.column(column)[start:] for column in function.inputs]
        outputs = getattr(talib, spec.name)(*inputs, **dict(spec.params))
        for name, output in zip(spec.fields, outputs if isinstance(outputs, tuple) else (outputs,), strict=True):
            values[name] = _page_values(output, len(page), spec.lookback)
    return values


def _is_recursive(spec: IndicatorSpec) -> bool:
    return spec.warmup > spec.lookback and CATALOGUE[spec.name].kind is not Kind.CUMULATIVE


def _forgets_at_reversals(spec: IndicatorSpec) -> bool:
    return CATALOGUE[spec.name].kind is Kind.FIXED


class _Series:
    """History and page as one, each column joined and checked when first asked for."""

    def __init__(self, history: CandleBatch, page: CandleBatch) -> None:
        self.history_count = len(history)
        self._history = history
        self._page = page
        self._columns: dict[str, FloatArray] = {}

    def column(self, name: str) -> FloatArray:
        """The values of history, then the page's."""
        if name not in self._columns:
            joined: FloatArray = np.concatenate((getattr(self._history, name), getattr(self._page, name)))
            # One sum finds any NaN or infinity, at a fifth of the cost of looking at each value.
            if not math.isfinite(joined.sum()):
                raise ValueError(f"candles hold a {name} that is not finite: repair them before computing indicators")
            self._columns[name] = joined
        return self._columns[name]


def _continued(
    spec: IndicatorSpec, series: _Series, carried: Mapping[str, float] | None, history_is_whole: bool
) -> tuple[list[FloatArray], int]:
    """Inputs of a cumulative function: its seed candles before the page, or the whole history where nothing is carried."""
    function = CATALOGUE[spec.name]
    (name,) = spec.fields
    value = math.nan if carried is None else carried.get(name, math.nan)
    if not math.isfinite(value):
        if not history_is_whole:
            raise ValueError(f"{name}: {spec.name} needs its value at the candle before the page, or the whole history")
        return [series.column(column) for column in function.inputs], 0
    count = series.history_count
    previous_close = float(series.column("close")[count - 1])
    seeds: dict[Seed | float, float] = {
        Seed.CARRIED: value,
        Seed.PREVIOUS_CLOSE: previous_close,
        Seed.HALF_PREVIOUS_CLOSE: previous_close / 2,
    }
    return [
        np.concatenate(([seeds.get(seed, seed) for seed in function.seed[column]], series.column(column)[count:]))
        for column in function.inputs
    ], count


def _page_values(output: "FloatArray | np.ndarray[tuple[int], np.dtype[np.int32]]", count: int, lookback: int) -> FloatArray:
    """The last `count` values as floats, NaN where the function has none."""
    values = output[-count:].astype(np.float64)
    if output.dtype.kind == "i":
        # Integers cannot be NaN, so TA-Lib leaves 0 before its first value.
        values[: max(0, lookback - (len(output) - count))] = np.nan
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
