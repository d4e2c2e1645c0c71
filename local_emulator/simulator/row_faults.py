"""Faults inside a page: rows that are valid to write but wrong to believe."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from local_emulator.simulator.faults import Fault
from local_emulator.simulator.rows import COLUMNS, Rows
from shared.domain.timeframes import IntArray, Timeframe

OFF_GRID_MS: Final = 7_000
WRONG_UNIT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Page:
    """Rows with what a fault has to know about them."""

    rows: Rows
    timeframe: Timeframe
    now_ms: int
    random: random.Random


def spoil(page: Page, fault: Fault) -> Rows:
    """The rows as this fault leaves them; no rows stay none."""
    return SPOILERS[fault.kind](page, fault) if len(page.rows) else page.rows


def _cut_rows(page: Page, fault: Fault) -> Rows:
    return page.rows.at(slice(0, max(0, len(page.rows) - fault.rows)))


def _gap(page: Page, _fault: Fault) -> Rows:
    return page.rows.at(np.delete(np.arange(len(page.rows)), len(page.rows) // 2))


def _shuffle(page: Page, _fault: Fault) -> Rows:
    places = list(range(len(page.rows)))
    page.random.shuffle(places)
    return page.rows.at(np.array(places))


def _double(page: Page, fault: Fault) -> Rows:
    return page.rows.at(_places_with_doubles(page, fault))


def _conflict(page: Page, fault: Fault) -> Rows:
    places = _places_with_doubles(page, fault)
    return _with_other_values(page.rows.at(places), np.flatnonzero(np.diff(places, prepend=-1) == 0))


def _places_with_doubles(page: Page, fault: Fault) -> IntArray:
    count = len(page.rows)
    drawn = page.random.sample(range(count), min(fault.rows, count))
    doubled = np.flatnonzero(_is_within(page, fault)) if fault.to_ms else np.array(drawn, np.int64)
    return np.sort(np.concatenate((np.arange(count), doubled)))


def _nan(page: Page, _fault: Fault) -> Rows:
    close = page.rows.close.copy()
    close[len(close) // 2] = np.nan
    return _replaced(page.rows, close=close)


def _wrong_unit(page: Page, _fault: Fault) -> Rows:
    return _replaced(page.rows, open_ms=page.rows.open_ms * WRONG_UNIT)


def _off_grid(page: Page, _fault: Fault) -> Rows:
    open_ms = page.rows.open_ms.copy()
    open_ms[len(open_ms) // 2] += OFF_GRID_MS
    return _replaced(page.rows, open_ms=open_ms)


def _late(page: Page, fault: Fault) -> Rows:
    is_fresh = _is_fresh(page, fault)
    is_running = page.rows.open_ms >= page.timeframe.closed_end(page.now_ms)
    hidden = is_fresh if fault.keeps_running or not is_fresh.any() else is_fresh | is_running
    return page.rows.at(np.flatnonzero(~hidden))


def _revise(page: Page, fault: Fault) -> Rows:
    return _with_other_values(page.rows, np.flatnonzero(_is_fresh(page, fault) | _is_within(page, fault)))


def _hide(page: Page, fault: Fault) -> Rows:
    return page.rows.at(np.flatnonzero(~_is_within(page, fault)))


def _is_within(page: Page, fault: Fault) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Which rows open in the fault's range and belong to its share: drawn by their time, so that it is always the same."""
    opens = page.rows.open_ms
    drawn = np.array([random.Random(open_ms).random() < fault.share for open_ms in opens.tolist()], np.bool_)
    return (opens >= fault.from_ms) & (opens < fault.to_ms) & drawn


def _is_fresh(page: Page, fault: Fault) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Which rows closed less than `delay_ms` ago."""
    closes = np.array([page.timeframe.close(open_ms) for open_ms in page.rows.open_ms.tolist()])
    return (closes <= page.now_ms) & (page.now_ms < closes + fault.delay_ms)


def _with_other_values(rows: Rows, places: IntArray) -> Rows:
    close, volume = rows.close.copy(), rows.volume.copy()
    close[places] = rows.open[places]
    volume[places] = np.round(volume[places] * 0.75 + 0.001, 8)
    return _replaced(rows, close=close, volume=volume)


def _replaced(rows: Rows, **columns: object) -> Rows:
    # Changed values need more decimals than the market has.
    kept = {name: columns.get(name, getattr(rows, name)) for name in COLUMNS}
    return Rows(**kept, has_ticks=False)  # type: ignore[arg-type]


SPOILERS: Final[dict[str, Callable[[Page, Fault], Rows]]] = {
    "cut_rows": _cut_rows,
    "gap": _gap,
    "shuffle": _shuffle,
    "double": _double,
    "conflict": _conflict,
    "nan": _nan,
    "wrong_unit": _wrong_unit,
    "off_grid": _off_grid,
    "late": _late,
    "revise": _revise,
    "hide": _hide,
}
