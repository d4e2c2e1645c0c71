"""What is said of a series is said of all that is stored of it, whoever has stored it, and in the same words everywhere."""

import csv
import io
from typing import Any

import numpy as np

from shared.load_series import load_numpy
from shared.stores.candles import Series
from tests.e2e.admin_api import AdminApi
from tests.e2e.backfill_scene import DAY, LIVE_ID, chunk_ids, order
from tests.factories import run_until_caught_up

LIST = [{"name": "EMA", "params": {"timeperiod": 7}}, {"name": "KAMA"}, {"name": "OBV"}]
SERIES = Series("binance", "BTC/USDT", "1m")


def verified(api: AdminApi, query: str = "") -> Any:
    response = api.call("POST", f"/v1/jobs/{LIVE_ID}/verify{query}", role="operator")
    assert response.status_code == 200, response.text
    return response.json


def enrich(api: AdminApi) -> None:
    run_until_caught_up(api.platform, f"{LIVE_ID}:enrich")


def backfill(api: AdminApi) -> int:
    """Three days of 2024, before all that the live job has asked for; how many candles there are then."""
    run_until_caught_up(api.platform, LIVE_ID)
    order(api)
    for job_id in chunk_ids(api):
        run_until_caught_up(api.platform, job_id)
    enrich(api)
    return api.platform.candles.count(SERIES, 0, 2**47)


def exported(api: AdminApi, query: str) -> list[dict[str, str]]:
    response = api.call("GET", f"/v1/jobs/{LIVE_ID}/export?format=csv&{query}", role="viewer")
    return list(csv.DictReader(io.StringIO(b"".join(response.response).decode())))


def test_a_changed_list_reaches_every_candle_of_the_series_and_until_then_it_is_told_how_many_are_left(live: AdminApi) -> None:
    count = backfill(live)
    assert live.get(f"/v1/jobs/{LIVE_ID}")["stale_candles"] == 0
    assert (verified(live)["is_sound"], verified(live)["candles"]) == (True, count)
    patched = live.call("PATCH", f"/v1/jobs/{LIVE_ID}", {"indicators": LIST})
    assert (patched.status_code, patched.json["stale_candles"]) == (200, count)
    found = verified(live)
    assert (found["is_sound"], found["candles"]) == (False, count)
    enrich(live)
    assert live.get(f"/v1/jobs/{LIVE_ID}")["stale_candles"] == 0
    found = verified(live)
    assert (found["is_sound"], found["candles"], found["values"]) == (True, count, 3 * count)


def test_without_bounds_all_that_is_stored_is_meant_wherever_it_is_asked(
    live: AdminApi, mongodb_uri: str, database_name: str
) -> None:
    count = backfill(live)
    loaded = load_numpy(mongodb_uri, "binance", "BTC/USDT", "1m", candles_database=database_name)
    assert len(loaded["open_at"]) == len(exported(live, "")) == count
    assert verified(live)["candles"] == live.get(f"/v1/jobs/{LIVE_ID}/coverage")["counts"]["stored"] == count
    first = live.get(f"/v1/jobs/{LIVE_ID}/candles?limit=1")["items"][0]
    assert first["open_at"] == "2024-01-01T00:00:00.000Z"


def test_a_day_is_midnight_utc_over_http_and_in_python(live: AdminApi, mongodb_uri: str, database_name: str) -> None:
    backfill(live)
    rows = exported(live, "start=2024-01-02&end=2024-01-03&times=ms")
    loaded = load_numpy(mongodb_uri, "binance", "BTC/USDT", "1m", "2024-01-02", "2024-01-03", candles_database=database_name)
    opens_ms = loaded["open_at"].astype(np.int64).tolist()
    assert [int(row["open_ms"]) for row in rows] == opens_ms
    assert (len(opens_ms), opens_ms[0]) == (DAY, 1_704_153_600_000)
