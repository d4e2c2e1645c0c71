"""Candles read back from BSON column by column are what reading document by document gives."""

from typing import Any

import bson
import numpy as np
import pytest
from bson.codec_options import DEFAULT_CODEC_OPTIONS
from pymongo.message import _op_msg

from shared.domain.candles import PRICE_COLUMNS, CandleBatch
from shared.domain.jobs import to_datetime
from shared.domain.timeframes import MINUTE_MS
from shared.stores.candle_documents import LAYOUTS_MAX, decode_candles, decode_columns, encode_candles, encode_runs

FIRST_MS = 1_760_000_040_000
COUNT = 50


def make_candles(count: int = COUNT) -> CandleBatch:
    rng = np.random.default_rng(3)
    return CandleBatch(FIRST_MS + np.arange(count) * MINUTE_MS, *(rng.normal(100, 1, count) for _ in PRICE_COLUMNS))


def make_document(number: int, **changes: Any) -> dict[str, Any]:
    prices = {name: 10.0 * number + place for place, name in enumerate(PRICE_COLUMNS)}
    return {"_id": to_datetime(FIRST_MS + number * MINUTE_MS), **prices, "ind": {"obv": 5.0 + number}, **changes}


def as_bytes(documents: list[Any]) -> bytes:
    return b"".join(document.raw if hasattr(document, "raw") else bson.encode(document) for document in documents)


@pytest.mark.parametrize("fields", [(), ("obv",), ("obv", "ad")])
@pytest.mark.parametrize("is_descending", [False, True])
def test_what_was_written_is_read_back_in_the_order_of_time(fields: tuple[str, ...], is_descending: bool) -> None:
    candles = make_candles()
    values = {name: np.random.default_rng(len(name)).normal(0, 1e6, COUNT) for name in fields}
    documents = encode_candles(candles, values)
    read, columns = decode_candles(as_bytes(documents[::-1] if is_descending else documents), fields)
    assert read.open_ms.tolist() == candles.open_ms.tolist()
    for name in PRICE_COLUMNS:
        assert getattr(read, name).tolist() == getattr(candles, name).tolist()
    assert {name: column.tolist() for name, column in columns.items()} == {
        name: column.tolist() for name, column in values.items()
    }


@pytest.mark.parametrize("absent_count", [0, 1, 20, COUNT])
@pytest.mark.parametrize("bytes_max", [1, 1_000, 10**6])
def test_documents_end_to_end_are_the_same_documents(absent_count: int, bytes_max: int) -> None:
    candles, values = make_candles(), {"obv": np.arange(COUNT, dtype=float), "ad": np.ones(COUNT)}
    values["ad"][:absent_count] = np.nan
    documents = encode_candles(candles, values)
    runs = encode_runs(candles, values, bytes_max)
    assert b"".join(run.raw for run in runs) == as_bytes(documents)
    assert sum(run.count for run in runs) == COUNT
    assert all(len(run.raw) <= max(bytes_max, len(documents[-1].raw)) for run in runs)
    assert [len(bson.decode_all(run.raw)) for run in runs] == [run.count for run in runs]


def test_the_driver_writes_documents_end_to_end_as_they_are() -> None:
    candles = make_candles()
    (run,) = encode_runs(candles, {"obv": np.arange(COUNT, dtype=float)}, 10**6)
    command = {"insert": "candles", "ordered": True, "documents": [run]}
    _, message, _, largest = _op_msg(0, command, "test", None, DEFAULT_CODEC_OPTIONS)
    assert message.endswith(b"documents\x00" + run.raw)
    assert largest == len(run.raw)


def test_nothing_is_written_for_nothing() -> None:
    assert encode_runs(CandleBatch.empty(), {}, 1_000) == []


def test_nothing_is_read_from_nothing() -> None:
    read, columns = decode_candles(b"", ("obv",))
    assert (len(read), columns["obv"].tolist()) == (0, [])


SWAPPED = {name: make_document(7)[name] for name in ("_id", "high", "open", "low", "close", "volume", "ind")}
OTHERWISE = {
    "a value that is not there": make_document(7, ind={}),
    "no indicators at all": {name: value for name, value in make_document(7).items() if name != "ind"},
    "another indicator of a name as long": make_document(7, ind={"abc": 1.0}),
    "fields in another order": SWAPPED,
    "a whole number": make_document(7, open=70),
    "a field more": make_document(7, note="x"),
}


@pytest.mark.parametrize("document", OTHERWISE.values(), ids=OTHERWISE.keys())
@pytest.mark.parametrize("is_alone", [True, False])
def test_a_document_laid_out_otherwise_is_read_by_its_names(document: dict[str, Any], is_alone: bool) -> None:
    documents = [document] if is_alone else [make_document(6), document, make_document(8)]
    read, columns = decode_candles(as_bytes(documents), ("obv",))
    assert read.open_ms.tolist() == [int(one["_id"].timestamp() * 1000) for one in documents]
    for name in PRICE_COLUMNS:
        assert getattr(read, name).tolist() == [one[name] for one in documents]
    expected = [one.get("ind", {}).get("obv", np.nan) for one in documents]
    assert np.array_equal(columns["obv"], expected, equal_nan=True)


@pytest.mark.parametrize("layouts_count", [2, 7, 3 * LAYOUTS_MAX])
def test_many_layouts_in_one_page_are_each_read_by_their_names(layouts_count: int) -> None:
    rng = np.random.default_rng(layouts_count)
    kinds = [
        *OTHERWISE.values(),
        *(make_document(7, ind={"obv": 0.5, f"more_{number}": 1.0}) for number in range(layouts_count)),
    ]
    documents = [{**kinds[kind], "_id": make_document(row)["_id"]} for row, kind in enumerate(rng.integers(0, len(kinds), 400))]
    opens, (close, obv) = decode_columns(as_bytes(documents), ["close"], ["obv"])
    assert opens.tolist() == [FIRST_MS + row * MINUTE_MS for row in range(400)]
    assert close.tolist() == [document["close"] for document in documents]
    expected = [document.get("ind", {}).get("obv", np.nan) for document in documents]
    assert np.array_equal(obv, expected, equal_nan=True)
