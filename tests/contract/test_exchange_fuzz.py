"""Pages that are damaged on their way: whatever the damage, either MalformedPage or clean candles, never a wrong one.

Where only rows of one candle disagree, that candle is left out and told as disputed.
"""

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES
from shared.errors import ExchangeError, MalformedPage
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.exchanges.pages import AskedRange, read_page
from shared.exchanges.row_forms import RowKind, TimeForm
from shared.exchanges.rows import decode_open_times
from shared.exchanges.spec import CandlesRequest, ExchangeSpec
from shared.exchanges.tables import find_in, find_rows
from shared.exchanges.transport import Answer
from tests.contract.bench import Bench
from tests.contract.cases import CASES
from tests.contract.ccxt_peer import rows_of
from tests.contract.frozen_market import NOW_MS, truth

GRID = TIMEFRAMES["1m"]
SPAN_MS = 30 * MINUTE_MS
# So many intervals before the last that is not in an archive.
BEYOND = 150
# A page of a market that trades all the time, of one that does not, and of an archive where there is one.
PAGES = ("liquid", "quiet", "archive")
# None of them can stand for a value. A number that could be one cannot be told from the true one.
WORDS = ("nan", "", "inf", "-inf", "1e999", "one", "1_0", None, True, [], {}, -1.0, 1e400)


@dataclass(frozen=True)
class Page:
    """Half an hour as the exchange sends it (and more, if it cannot be told), and the true candles of all that it spans."""

    body: bytes
    request: CandlesRequest
    asked: AskedRange
    expected: list[list[float]]


@cache
def whole(exchange: str, kind: str) -> Page:
    bench, spec = Bench(exchange), load_spec(exchange)
    symbol = CASES[exchange].quiet if kind == "quiet" else CASES[exchange].symbol
    back = spec.archive_after_candles + BEYOND if kind == "archive" else 0
    end_ms = GRID.shift(GRID.floor(NOW_MS), -back)
    bench.client().fetch_ohlcv(symbol, "1m", end_ms - SPAN_MS, end_ms)
    body = bench.newest.body
    start_ms = min(end_ms - SPAN_MS, int(decode_open_times(find_rows(json.loads(body), spec), spec, GRID).min()))
    asked = AskedRange(GRID, start_ms, start_ms, end_ms)
    request = spec.archive if kind == "archive" and spec.archive is not None else spec.candles
    assert kind != "archive" or bench.newest.path == request.path
    return Page(body, request, asked, truth(exchange, symbol, "1m", start_ms, end_ms))


def pages() -> list[tuple[str, str]]:
    names = sorted(EXCHANGES)
    return [(name, kind) for name in names for kind in PAGES if kind != "archive" or load_spec(name).archive is not None]


def rows_in(payload: Any, spec: ExchangeSpec) -> list[Any]:
    """The list of rows inside a payload, or columns as rows: to be damaged in place."""
    if spec.rows.kind is RowKind.COLUMNS:
        return list(find_rows(payload, spec).rows)
    rows = find_in(payload, spec.rows.path)
    assert isinstance(rows, list)
    return rows


def put_back(payload: Any, rows: list[Any], spec: ExchangeSpec) -> Any:
    if spec.rows.kind is not RowKind.COLUMNS:
        return payload
    form = spec.rows
    columns = find_in(payload, form.path)
    assert isinstance(columns, dict)
    for place, name in enumerate((form.time, form.open, form.high, form.low, form.close, form.volume)):
        columns[name] = [row[place] for row in rows]
    return payload


def keys_of(spec: ExchangeSpec) -> list[Any]:
    form = spec.rows
    if form.kind is RowKind.COLUMNS:
        return [0, 1, 2, 3, 4, 5]
    return [form.time, form.open, form.high, form.low, form.close, form.volume]


def moved(value: Any, spec: ExchangeSpec, change: Callable[[int], int]) -> Any:
    """A time with another number in it, in the exchange's own form."""
    if spec.rows.time_form is TimeForm.ISO:
        return f"{str(value)[:17]}{change(0) % 60:02d}"
    return type(value)(change(int(value)))


def damage(rows: list[Any], spec: ExchangeSpec, kind: str, rng: random.Random) -> None:
    """Damage the rows in place."""
    keys = keys_of(spec)
    row = rows[rng.randrange(len(rows))]
    if kind == "shuffled":
        rng.shuffle(rows)
    elif kind == "doubled":
        rows.insert(rng.randrange(len(rows)), copy.deepcopy(row))
    elif kind == "conflict":
        other = copy.deepcopy(row)
        other[keys[5]] = type(row[keys[5]])(float(row[keys[5]]) + 1)
        rows.insert(rng.randrange(len(rows)), other)
    elif kind == "cut":
        del rows[rng.randrange(len(rows)) :]
    elif kind == "type":
        row[keys[rng.randrange(6)]] = rng.choice(WORDS)
    elif kind == "negative":
        key = keys[rng.randrange(1, 6)]
        row[key] = type(row[key])(-float(row[key]))
    elif kind == "crossed":
        row[keys[2]], row[keys[3]] = row[keys[3]], row[keys[2]]
    elif kind == "off_grid":
        row[keys[0]] = moved(row[keys[0]], spec, lambda number: number + 7)
    elif kind == "unit":
        factor = rng.choice((1_000, 1_000_000))
        for each in rows:
            each[keys[0]] = moved(each[keys[0]], spec, lambda number: number * factor)
    elif kind == "short" and spec.rows.kind is RowKind.ARRAYS:
        del row[rng.randrange(len(row)) :]


# In this order, so that each finds what it can damage.
DAMAGES = ("unit", "off_grid", "negative", "crossed", "conflict", "type", "shuffled", "doubled", "cut", "short")


@pytest.mark.parametrize(("exchange", "kind"), pages())
@settings(max_examples=60, deadline=None, derandomize=True)
@given(damages=st.sets(st.sampled_from(DAMAGES), min_size=1, max_size=3), seed=st.integers(0, 2**32))
def test_a_damaged_page_is_refused_or_read_right(exchange: str, kind: str, damages: set[str], seed: int) -> None:
    spec, rng, whole_page = load_spec(exchange), random.Random(seed), whole(exchange, kind)
    payload = json.loads(whole_page.body)
    rows = rows_in(payload, spec)
    # Of two rows that disagree, cut so that one is left, nobody can tell which.
    for each in sorted(damages - {"cut"} if "conflict" in damages else damages, key=DAMAGES.index):
        if rows:
            damage(rows, spec, each, rng)
    # As it would arrive: Python writes NaN and Infinity, which is no JSON, but some do send it.
    payload = json.loads(json.dumps(put_back(payload, rows, spec)))
    try:
        page = read_page(Answer(payload, 200, {}, 1), spec, whole_page.request, whole_page.asked)
    except MalformedPage:
        return
    read = rows_of(page.candles)
    by_time = {row[0]: row for row in whole_page.expected}
    assert [row for row in read if row != by_time.get(row[0])] == []
    assert [row[0] for row in read] == sorted({row[0] for row in read})


@pytest.mark.parametrize(("exchange", "kind"), pages())
def test_an_undamaged_page_is_read_whole(exchange: str, kind: str) -> None:
    page = whole(exchange, kind)
    payload = json.loads(page.body)
    read = rows_of(read_page(Answer(payload, 200, {}, 1), load_spec(exchange), page.request, page.asked).candles)
    assert read == page.expected
    assert len(read) >= 10


@pytest.mark.parametrize("done", ["type", "negative", "crossed", "conflict", "off_grid", "short"])
@pytest.mark.parametrize(("exchange", "kind"), [(exchange, kind) for exchange, kind in pages() if kind != "quiet"])
def test_damage_that_makes_a_candle_wrong_is_seen(exchange: str, kind: str, done: str) -> None:
    """So that the test above cannot pass by never damaging anything: most of these must be refused, or the candle left out."""
    spec, whole_page = load_spec(exchange), whole(exchange, kind)
    if done == "short" and spec.rows.kind is not RowKind.ARRAYS:
        return
    seen = 0
    for seed in range(40):
        payload = json.loads(whole_page.body)
        rows = rows_in(payload, spec)
        damage(rows, spec, done, random.Random(seed))
        answer = Answer(put_back(payload, rows, spec), 200, {}, 1)
        try:
            page = read_page(answer, spec, whole_page.request, whole_page.asked)
        except ExchangeError:
            seen += 1
        else:
            assert all(row in whole_page.expected for row in rows_of(page.candles))
            opens_ms = page.candles.open_ms.tolist()
            assert not set(page.disputed_ms.tolist()) & set(opens_ms)
            seen += done == "conflict" and len(page.disputed_ms) == 1
    assert seen >= 10
