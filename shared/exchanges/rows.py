"""From an exchange's answer to candles: pure, checked, and fast (a page of 1,000 rows takes a quarter of a millisecond).

Whole columns are taken at a time, by code that is not Python's own loop (tables.py, cells.py). Row by row is only looked for
what is wrong.

Trusted is nothing: not the order, not the uniqueness, not the bounds, not the types. What does not make sense as a whole is
refused with the row's index, since a wrong candle is worse than none. Rows that disagree about one candle are left out, and its
interval is named apart: nothing here can tell which of them is right, and the other candles of the page are none the worse.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from shared.domain.candles import PRICE_COLUMNS, CandleBatch, FloatArray
from shared.domain.timeframes import IntArray, Timeframe
from shared.exchanges.cells import OPEN_MS_MAX, OPEN_MS_MIN, parse_numbers, parse_times
from shared.exchanges.spec import ExchangeSpec
from shared.exchanges.tables import Key, Rows, Table, excerpt, find_in, refuse

# Rows that disagree about more candles than this are no slip of the exchange: two series have got into one answer, or the
# columns are not what they were.
DISPUTED_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class Market:
    """One tradable pair: unified name, the exchange's own, and whether it trades now."""

    symbol: str
    exchange_symbol: str
    is_active: bool


def decode_open_times(table: Table, spec: ExchangeSpec, timeframe: Timeframe) -> IntArray:
    """Open times of all rows in UTC ms, in the order of the rows.

    Raises:
        MalformedPage: a time is missing, of a wrong type or unit, or off the timeframe's grid.
    """
    key = spec.rows.time
    times_ms = parse_times(table.columns((key,))[0] if table.count else (), spec, key)
    if len(times_ms) and not (times_ms.min() >= OPEN_MS_MIN and times_ms.max() <= OPEN_MS_MAX):
        is_bad = (times_ms < OPEN_MS_MIN) | (times_ms > OPEN_MS_MAX)
        _refuse_time(table, key, is_bad, "is no time of a candle, perhaps in a wrong unit", spec)
    is_on_grid = timeframe.are_open_times(times_ms)
    if not is_on_grid.all():
        _refuse_time(table, key, ~is_on_grid, f"is off the {timeframe.name} grid", spec)
    return times_ms


def _refuse_time(table: Table, key: Key, is_bad: NDArray[np.bool_], problem: str, spec: ExchangeSpec) -> NoReturn:
    index = int(is_bad.argmax())
    refuse(spec, f"row {index}: open time {excerpt(table.cell(index, key))} {problem}")


def decode(
    rows: Table | Rows,
    spec: ExchangeSpec,
    timeframe: Timeframe,
    start_ms: int,
    end_ms: int,
    *,
    opens_ms: IntArray | None = None,
) -> tuple[CandleBatch, IntArray]:
    """The candles with start_ms <= open time < end_ms among the rows, and the open times (UTC ms) that rows disagree about.

    The candles are sorted, unique, on the grid, every value checked; of a disputed one there is none among them. Rows outside
    the range are dropped unseen but for their times: exchanges snap bounds, and a running candle (keep it out by `end_ms`) may
    hold anything. Identical repeats are dropped. `opens_ms` are the times if `decode_open_times` has run already.

    Raises:
        MalformedPage: names the row's index and what is wrong with it: shape, type, time, a value that is not finite, a price
            not above zero, a volume below zero, high or low that do not enclose open and close, or rows that disagree about
            more than DISPUTED_MAX candles.
    """
    table = rows if isinstance(rows, Table) else Table(rows, spec)
    if opens_ms is None:
        opens_ms = decode_open_times(table, spec, timeframe)
    kept = np.flatnonzero((opens_ms >= start_ms) & (opens_ms < end_ms))
    disputed_ms = np.empty(0, np.int64)
    if not len(kept):
        return CandleBatch.empty(), disputed_ms
    if len(kept) < len(opens_ms):
        opens_ms = opens_ms[kept]
    form = spec.rows
    keys = (form.open, form.high, form.low, form.close, form.volume)
    columns = [parse_numbers(column, key, spec, kept) for key, column in zip(keys, table.columns(keys, kept), strict=True)]
    _check_values(columns, spec, kept)
    if not bool((opens_ms[1:] > opens_ms[:-1]).all()):
        if bool((opens_ms[1:] < opens_ms[:-1]).all()):
            order: NDArray[np.int64] | slice = slice(None, None, -1)
        else:
            order, disputed_ms = _unique_order(opens_ms, columns, spec, kept)
        opens_ms, columns = opens_ms[order], [column[order] for column in columns]
    return CandleBatch(opens_ms, *columns), disputed_ms


def find_open_flags(table: Table, spec: ExchangeSpec) -> NDArray[np.bool_]:
    """For each row whether it says of itself that it is not final.

    Raises:
        MalformedPage: a row has no word on it.
    """
    assert spec.rows.closed is not None, "for exchanges whose rows say so"
    key, word = spec.rows.closed
    column = table.columns((key,))[0]
    if column.count(word) == len(column):
        return np.zeros(len(column), np.bool_)
    return np.array([value != word for value in column], np.bool_)


def decode_markets(payload: object, spec: ExchangeSpec) -> list[Market]:
    """The pairs of a list of symbols, ordered by unified name; rows that name no pair are left out.

    Raises:
        MalformedPage: there is no list (or object of objects) where it should be.
    """
    form = spec.market_rows
    found = find_in(payload, form.path)
    rows = list(found.values()) if isinstance(found, dict) else found
    if not isinstance(rows, list):
        refuse(spec, f"no list of symbols at {form.path or 'the top'}: {excerpt(payload)}")
    markets: dict[str, Market] = {}
    for row in rows:
        market = _decode_market({form.id_key: row, form.pair_key: row} if isinstance(row, str) else row, spec)
        # Where two pairs have the same unified name, the one that trades is meant.
        if market is not None and (market.is_active or market.symbol not in markets):
            markets[market.symbol] = market
    return sorted(markets.values(), key=lambda market: market.symbol)


def _decode_market(row: Any, spec: ExchangeSpec) -> Market | None:
    form = spec.market_rows
    if not isinstance(row, dict) or any(row.get(key) != value for key, value in form.only.items()):
        return None
    exchange_symbol = row.get(form.id_key)
    if not isinstance(exchange_symbol, str) or (form.id_pattern and not re.fullmatch(form.id_pattern, exchange_symbol)):
        return None
    base, quote, settle = row.get(form.base_key), row.get(form.quote_key) or form.quote, row.get(form.settle_key)
    if form.pair_pattern:
        match = re.fullmatch(form.pair_pattern, str(row.get(form.pair_key, "")))
        base, quote = (match["base"], match["quote"]) if match else (None, None)
        settle = match.groupdict().get("settle") if match else None
    settle = settle or form.settle
    if form.settle_key and not settle and not re.fullmatch(form.spot_pattern, exchange_symbol):
        # In a list of contracts one without its settlement would pass for a spot pair.
        return None
    if not (isinstance(base, str) and isinstance(quote, str) and isinstance(settle, str) and base and quote):
        return None
    # A field that is absent or null says nothing against the market.
    is_active = all(row.get(key) in (None, value) for key, value in form.active.items())
    unified = [spec.symbol_form.unify(currency) for currency in (base, quote, *((settle,) if settle else ()))]
    return Market("/".join(unified[:2]) + "".join(f":{currency}" for currency in unified[2:]), exchange_symbol, is_active)


def _check_values(columns: list[FloatArray], spec: ExchangeSpec, kept: IntArray) -> None:
    open_, high, low, close, volume = columns
    # One pass for the usual case: comparisons with NaN are false, and what is below an infinite high still has to be finite.
    is_good = (low > 0) & (low <= open_) & (low <= close) & (high >= open_) & (high >= close) & (volume >= 0)
    is_good &= np.isfinite(high) & np.isfinite(volume)
    if is_good.all():
        return
    first = int((~is_good).argmax())
    row = dict(zip(PRICE_COLUMNS, (float(column[first]) for column in columns), strict=True))
    if not all(np.isfinite(list(row.values()))):
        problem = "a value is not finite"
    elif min(row["open"], row["high"], row["low"], row["close"]) <= 0:
        problem = "a price is not above zero"
    elif row["volume"] < 0:
        problem = "the volume is negative"
    else:
        problem = "high and low do not enclose open and close"
    refuse(spec, f"row {kept[first]}: {problem}: {row}")


def _unique_order(
    opens_ms: IntArray, columns: list[FloatArray], spec: ExchangeSpec, kept: IntArray
) -> tuple[IntArray, IntArray]:
    """Indices that sort the candles and leave one of each open time but those that rows disagree about; these times too."""
    order = np.argsort(opens_ms, kind="stable")
    is_repeat = np.diff(opens_ms[order]) == 0
    differs = np.zeros(len(is_repeat), np.bool_)
    for column in columns:
        differs |= np.diff(column[order]) != 0
    disagrees = is_repeat & differs
    unique: IntArray = order[np.concatenate(([True], ~is_repeat))]
    if not disagrees.any():
        return unique, np.empty(0, np.int64)
    disputed_ms: IntArray = np.unique(opens_ms[order[1:][disagrees]])
    if len(disputed_ms) > DISPUTED_MAX:
        at = int(disagrees.argmax())
        first, second = sorted((int(kept[order[at]]), int(kept[order[at + 1]])))
        refuse(spec, f"rows disagree about {len(disputed_ms)} candles, first {first} and {second} about {disputed_ms[0]}")
    return unique[~np.isin(opens_ms[unique], disputed_ms)], disputed_ms
