"""Pages that are damaged on their way: whatever the damage, either MalformedPage or clean candles, never a wrong one."""

import copy
import json
import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES
from shared.errors import ExchangeError, MalformedPage
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.exchanges.pages import AskedRange, read_page
from shared.exchanges.rows import decode_open_times
from shared.exchanges.spec import ExchangeSpec, RowKind, TimeForm
from shared.exchanges.tables import find_in, find_rows
from shared.exchanges.transport import Answer
from tests.contract.bench import Bench
from tests.contract.cases import CASES
from tests.contract.ccxt_peer import rows_of
from tests.contract.frozen_market import NOW_MS, truth

GRID = TIMEFRAMES["1m"]
END_MS = GRID.floor(NOW_MS)
START_MS = END_MS - 30 * MINUTE_MS
# None of them can stand for a value. A number that could be one cannot be told from the true one.
WORDS = ("nan", "", "inf", "-inf", "1e999", "one", "1_0", None, True, [], {}, -1.0, 1e400)


@cache
def whole(exchange: str) -> tuple[bytes, list[list[float]], AskedRange]:
    """The last half hour as the exchange sends it (and more, if it cannot be told), as it is, and all that it spans."""
    bench, spec = Bench(exchange), load_spec(exchange)
    bench.client().fetch_ohlcv(CASES[exchange].symbol, "1m", START_MS, NOW_MS)
    body = bench.newest.body
    start_ms = min(START_MS, int(decode_open_times(find_rows(json.loads(body), spec), spec, GRID).min()))
    asked = AskedRange(GRID, start_ms, start_ms, END_MS)
    return body, truth(exchange, CASES[exchange].symbol, "1m", start_ms, END_MS), asked


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
KINDS = ("unit", "off_grid", "negative", "crossed", "conflict", "type", "shuffled", "doubled", "cut", "short")


@pytest.mark.parametrize("exchange", sorted(EXCHANGES))
@settings(max_examples=60, deadline=None, derandomize=True)
@given(kinds=st.sets(st.sampled_from(KINDS), min_size=1, max_size=3), seed=st.integers(0, 2**32))
def test_a_damaged_page_is_refused_or_read_right(exchange: str, kinds: set[str], seed: int) -> None:
    spec, rng = load_spec(exchange), random.Random(seed)
    body, expected, asked = whole(exchange)
    payload = json.loads(body)
    rows = rows_in(payload, spec)
    # Of two rows that disagree, cut so that one is left, nobody can tell which.
    for kind in sorted(kinds - {"cut"} if "conflict" in kinds else kinds, key=KINDS.index):
        if rows:
            damage(rows, spec, kind, rng)
    # As it would arrive: Python writes NaN and Infinity, which is no JSON, but some do send it.
    payload = json.loads(json.dumps(put_back(payload, rows, spec)))
    try:
        page = read_page(Answer(payload, 200, {}, 1), spec, spec.candles, asked)
    except MalformedPage:
        return
    read = rows_of(page.candles)
    by_time = {row[0]: row for row in expected}
    assert [row for row in read if row != by_time.get(row[0])] == []
    assert [row[0] for row in read] == sorted({row[0] for row in read})


@pytest.mark.parametrize("kind", ["type", "negative", "crossed", "conflict", "off_grid", "short"])
@pytest.mark.parametrize("exchange", sorted(EXCHANGES))
def test_damage_that_makes_a_candle_wrong_is_seen(exchange: str, kind: str) -> None:
    """So that the test above cannot pass by never damaging anything: most of these must be refused."""
    spec = load_spec(exchange)
    body, expected, asked = whole(exchange)
    if kind == "short" and spec.rows.kind is not RowKind.ARRAYS:
        return
    refused = 0
    for seed in range(40):
        payload = json.loads(body)
        rows = rows_in(payload, spec)
        damage(rows, spec, kind, random.Random(seed))
        try:
            page = read_page(Answer(put_back(payload, rows, spec), 200, {}, 1), spec, spec.candles, asked)
        except ExchangeError:
            refused += 1
        else:
            assert all(row in expected for row in rows_of(page.candles))
    assert refused >= 10
