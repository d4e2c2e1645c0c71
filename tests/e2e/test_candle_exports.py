"""A job's candles in every form: each says the same, pages or the whole range, and what breaks off is seen to have."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import requests
from pyarrow import parquet
from pymongo import MongoClient
from werkzeug.test import TestResponse

from shared.domain.candles import PRICE_COLUMNS, CandleBatch
from shared.domain.jobs import to_datetime
from shared.stores.candles import Series
from tests.e2e.admin_api import AdminApi, fields_of
from tests.factories import add_candles, add_connector, add_job, make_candles, make_platform
from tests.serving import ServedAdmin, serve_admin
from tests.waiting import wait_until

START_MS = 1_704_067_200_000
COUNT = 130
SERIES = Series("binance", "BTC/USDT", "1m")
INDICATORS = [{"name": "EMA", "params": {"timeperiod": 20}, "as": "ema_20"}, {"name": "OBV", "params": {}, "as": "close"}]
PATH = "/v1/jobs/binance:BTC-USDT:1m"
COLUMNS = ["open_at", *PRICE_COLUMNS, "ema_20", "ind_close"]
MEDIA_TYPES = {
    "csv": "text/csv",
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}


def values_of(candles: CandleBatch) -> dict[str, Any]:
    """Indicators as runs store them: the first ones do not exist yet."""
    ema = candles.close + 0.125
    ema[:19] = np.nan
    return {"ema_20": ema, "close": np.cumsum(candles.volume)}


@pytest.fixture
def candles() -> CandleBatch:
    return make_candles(START_MS, COUNT)


@pytest.fixture
def filled(api: AdminApi, candles: CandleBatch) -> AdminApi:
    """A live job that has asked for everything up to its newest candle."""
    api.platform.prepare()
    add_connector(api.platform)
    cursor = {"last_ts": to_datetime(int(candles.open_ms[-1]))}
    add_job(api.platform, start_ms=START_MS, indicators=INDICATORS, cursor=cursor)
    add_candles(api.platform, SERIES, candles, values_of(candles))
    return api


def read_rows(form: str, body: bytes) -> list[dict[str, Any]]:
    """Flat rows without what is absent, whatever form they came in."""
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(body.decode(), newline="")))
        return [{name: text if name == "open_at" else float(text) for name, text in row.items() if text} for row in rows]
    if form in ("json", "ndjson"):
        items = json.loads(body)["items"] if form == "json" else [json.loads(line) for line in body.splitlines()]
        taken = {"close"}
        return [
            {
                **{name: value for name, value in item.items() if name != "ind"},
                **{f"ind_{name}" if name in taken else name: value for name, value in item.get("ind", {}).items()},
            }
            for item in items
        ]
    table = pa.ipc.open_stream(body).read_all() if form == "arrow" else parquet.read_table(io.BytesIO(body))
    rows = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
    return [{**row, "open_at": row["open_at"].isoformat(timespec="milliseconds").replace("+00:00", "Z")} for row in rows]


def expected_rows(candles: CandleBatch) -> list[dict[str, Any]]:
    values = values_of(candles)
    columns = [getattr(candles, name).tolist() for name in PRICE_COLUMNS] + [column.tolist() for column in values.values()]
    times = [str(time) + "Z" for time in candles.open_ms.astype("datetime64[ms]")]
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in zip(times, *columns, strict=True)]
    return [{name: value for name, value in row.items() if value == value} for row in rows]


def body_of(response: TestResponse) -> bytes:
    assert response.status_code == 200, response.text
    return response.data


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_every_form_says_the_same(filled: AdminApi, candles: CandleBatch, form: str) -> None:
    by_name = filled.call("GET", f"{PATH}/export?format={form}", role="viewer")
    assert read_rows(form, body_of(by_name)) == expected_rows(candles)
    by_header = filled.call("GET", f"{PATH}/export", headers={"Accept": f"{MEDIA_TYPES[form]}, */*;q=0.1"})
    for response in (by_name, by_header):
        assert response.mimetype == MEDIA_TYPES[form]
        ending = "arrows" if form == "arrow" else form
        file_name = f"binance_BTC-USDT_1m_20240101T000000Z.{ending}"
        assert response.headers["Content-Disposition"] == f'attachment; filename="{file_name}"'
    assert body_of(by_header) == by_name.data
    page = filled.call("GET", f"{PATH}/candles?format={form}&limit=50&start=2024-01-01T00:10:00Z")
    assert read_rows(form, body_of(page)) == expected_rows(candles)[10:60]
    assert "start=2024-01-01T01:00:00.000Z" in page.headers["Link"]
    following = filled.call("GET", f"{PATH}/candles{page.headers['Link'].split('>')[0][1:]}")
    assert read_rows(form, body_of(following)) == expected_rows(candles)[60:110]


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_an_empty_range_is_a_valid_file(filled: AdminApi, form: str) -> None:
    response = filled.call("GET", f"{PATH}/export?format={form}&start=2030-01-01T00:00:00Z&end=2031-01-01T00:00:00Z")
    assert read_rows(form, body_of(response)) == []
    if form == "csv":
        assert response.text == ",".join(COLUMNS) + "\r\n"


def test_fields_come_in_the_order_they_are_asked_for(filled: AdminApi, candles: CandleBatch) -> None:
    text = body_of(filled.call("GET", f"{PATH}/export?fields=ind_close,close,ema_20&times=ms")).decode()
    lines = text.split("\r\n")
    assert lines[0] == "open_ms,ind_close,close,ema_20"
    assert lines[1] == f"{START_MS},{float(candles.volume[0])!r},{float(candles.close[0])!r},"
    assert lines[-1] == ""
    assert len(lines) == COUNT + 2
    page = filled.get(f"{PATH}/candles?fields=close,ema_20&limit=20")
    assert page["items"][0] == {"open_at": "2024-01-01T00:00:00.000Z", "close": candles.close[0]}
    assert page["items"][19]["ind"] == {"ema_20": candles.close[19] + 0.125}
    assert page["next_start"] == "2024-01-01T00:20:00.000Z"
    assert filled.get(f"{PATH}/candles?times=ms&limit=1")["items"][0]["open_ms"] == START_MS


def test_a_higher_timeframe_is_put_together(filled: AdminApi, candles: CandleBatch) -> None:
    items = filled.get(f"{PATH}/candles?timeframe=1h")["items"]
    # The third hour has ten minutes so far.
    assert [(item["open_at"][11:16], item["source_count"]) for item in items] == [("00:00", 60), ("01:00", 60)]
    hour = candles[60:120]
    first, last = hour.open[0], hour.close[-1]
    assert [items[1][name] for name in PRICE_COLUMNS[:4]] == [first, hour.high.max(), hour.low.min(), last]
    assert items[1]["volume"] == pytest.approx(hour.volume.sum(), 1e-9)
    page = filled.get(f"{PATH}/candles?timeframe=5m&start=2024-01-01T00:02:00Z&end=2024-01-01T00:13:00Z&fields=close&limit=1")
    assert page == {
        "items": [{"open_at": "2024-01-01T00:05:00.000Z", "close": candles.close[9]}],
        "next_start": "2024-01-01T00:10:00.000Z",
    }
    text = body_of(filled.call("GET", f"{PATH}/export?timeframe=1h&fields=volume,source_count")).decode()
    assert text.splitlines()[0] == "open_at,volume,source_count"
    assert text.splitlines()[1].endswith(",60")
    assert filled.get(f"{PATH}/candles?timeframe=1M")["items"] == []


@pytest.mark.parametrize(
    ("query", "field", "named"),
    [
        ("fields=close,ema_21", "fields", "ema_21: no field here; there are open, high, low, close, volume, ema_20, ind_close"),
        ("fields=", "fields", "names nothing; leave it away for all"),
        ("timeframe=1h&fields=ema_20", "fields", "there are open, high, low, close, volume, source_count"),
        ("timeframe=90s", "timeframe", "there are 1m, 3m, 5m"),
        ("format=xlsx", "format", "'csv'"),
        ("times=ns", "times", "'ms'"),
        ("start=2024-01-02T00:00:00Z&end=2024-01-01T00:00:00Z", "start", "before end"),
        ("color=red", "color", "there are start, end, fields, timeframe, format, times"),
    ],
)
def test_what_is_wrong_is_named_with_what_there_is(filled: AdminApi, query: str, field: str, named: str) -> None:
    for path in ("candles", "export"):
        response = filled.call("GET", f"{PATH}/{path}?{query}")
        assert (response.status_code, fields_of(response)) == (400, [field])
        assert named in response.json["detail"]


def test_forms_that_there_are_not(filled: AdminApi) -> None:
    response = filled.call("GET", f"{PATH}/export", headers={"Accept": "image/png"})
    assert (response.status_code, response.json["type"]) == (406, "urn:chandler:problem:not_acceptable")
    assert "text/csv" in response.json["detail"]
    assert filled.call("GET", "/v1/jobs/nobody:A-B:1m/export").status_code == 404
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    assert filled.call("GET", f"{PATH}/export", headers=browser).mimetype == "text/csv"
    assert filled.call("GET", f"{PATH}/candles", headers=browser).mimetype == "application/json"


def test_without_pyarrow_the_answer_says_what_to_install(filled: AdminApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for form in ("arrow", "parquet"):
        for path in ("candles", "export"):
            response = filled.call("GET", f"{PATH}/{path}?format={form}")
            assert (response.status_code, response.json["type"]) == (501, "urn:chandler:problem:not_installed")
            assert "requirements-export.txt" in response.json["detail"]
    assert filled.call("GET", f"{PATH}/export").status_code == 200


LONG = 50_000


@pytest.fixture(scope="module")
def served(
    mongodb_uri: str, mongo_client: MongoClient[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedAdmin]:
    """The function over HTTP, with more candles than one batch holds."""
    database = "test_candle_exports"
    mongo_client.drop_database(database)
    platform = make_platform(mongodb_uri, database)
    add_connector(platform)
    add_job(platform, start_ms=START_MS, indicators=INDICATORS)
    candles = make_candles(START_MS, LONG)
    add_candles(platform, SERIES, candles, values_of(candles))
    platform.close()
    with serve_admin(mongodb_uri, database, tmp_path_factory.mktemp("logs")) as running:
        yield running
    mongo_client.drop_database(database)


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_a_long_range_is_streamed_whole(served: ServedAdmin, form: str) -> None:
    response = served.get(f"{PATH}/export?format={form}")
    assert response.headers["Transfer-Encoding"] == "chunked"
    rows = read_rows(form, response.content)
    assert len(rows) == LONG
    assert rows[::997] == expected_rows(make_candles(START_MS, LONG))[::997]


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_a_stream_that_breaks_off_is_not_taken_for_a_whole_one(
    served: ServedAdmin, mongo_client: MongoClient[dict[str, Any]], form: str
) -> None:
    # The first batch comes; then MongoDB says that the time is up, which the driver does not try again.
    fail = {"failCommands": ["find"], "errorCode": 50, "namespace": f"test_candle_exports.{SERIES.collection_name}"}
    mongo_client.admin.command("configureFailPoint", "failCommand", mode={"skip": 1}, data=fail)
    try:
        response = served.get(f"{PATH}/export?format={form}&start={START_MS}")
        # Parquet has sent nothing then but its first bytes: a row group is more than a batch.
        if response.status_code == 200:
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                _ = response.content
            wait_until(lambda: "stream_broken" in served.log_path.read_text())
        else:
            assert (form, response.status_code) == ("parquet", 503)
            assert response.json()["type"] == "urn:chandler:problem:storage_unavailable"
    finally:
        mongo_client.admin.command("configureFailPoint", "failCommand", mode="off")
    assert len(served.get(f"{PATH}/export?format={form}").content) > LONG


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_what_fails_at_once_is_a_problem(served: ServedAdmin, mongo_client: MongoClient[dict[str, Any]], form: str) -> None:
    fail = {"failCommands": ["find"], "errorCode": 50, "namespace": f"test_candle_exports.{SERIES.collection_name}"}
    mongo_client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=fail)
    try:
        response = served.get(f"{PATH}/export?format={form}")
    finally:
        mongo_client.admin.command("configureFailPoint", "failCommand", mode="off")
    assert (response.status_code, response.json()["type"]) == (503, "urn:chandler:problem:storage_unavailable")
    assert response.headers["Content-Type"] == "application/problem+json"


def test_a_short_trouble_of_the_database_is_not_seen(served: ServedAdmin, mongo_client: MongoClient[dict[str, Any]]) -> None:
    fail = {"failCommands": ["find"], "closeConnection": True, "namespace": f"test_candle_exports.{SERIES.collection_name}"}
    mongo_client.admin.command("configureFailPoint", "failCommand", mode={"times": 2}, data=fail)
    try:
        assert served.get(f"{PATH}/export?fields=close").content.count(b"\r\n") == LONG + 1
    finally:
        mongo_client.admin.command("configureFailPoint", "failCommand", mode="off")


def test_who_goes_away_leaves_nothing_behind(served: ServedAdmin, tmp_path: Path) -> None:
    for _ in range(6):
        with served.get(f"{PATH}/export?format=ndjson") as response:
            next(response.iter_content(100))
    assert served.get(f"{PATH}/candles?limit=1").json()["items"]
