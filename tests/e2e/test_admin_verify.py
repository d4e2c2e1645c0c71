"""`verify`: a series as the platform keeps it is sound, and whatever somebody changes behind its back is told."""

from typing import Any

import pytest

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.jobs import to_datetime
from shared.domain.timeframes import MINUTE_MS
from shared.stores.candles import Series
from shared.usecases import verify_series
from shared.usecases.read_coverage import CoverageReader
from tests.e2e.admin_api import AdminApi
from tests.factories import run_once

START_MS = 1_704_067_200_000
RANGE = {"start_at": START_MS, "end_at": START_MS + 600 * MINUTE_MS}
JOB_ID = f"binance:BTC-USDT:1m:{START_MS}-{START_MS + 600 * MINUTE_MS}"
PATH = f"/v1/jobs/{JOB_ID}/verify"


@pytest.fixture
def kept(api: AdminApi, exchange_simulator: SimulatorProcess) -> AdminApi:
    """Ten hours of minutes, of which ten are missing."""
    api.add_connector()
    api.add_job(**RANGE)
    hole = {"from_ms": START_MS + 30 * MINUTE_MS, "to_ms": START_MS + 40 * MINUTE_MS}
    exchange_simulator.set_faults({"exchange": "binance", "kind": "hide", **hole})
    run_once(api.platform, JOB_ID)
    exchange_simulator.set_faults()
    return api


def test_what_stands_in_a_body_is_refused_and_not_left_out(kept: AdminApi) -> None:
    refused = kept.call("POST", PATH, {"start": START_MS}, role="operator")
    assert (refused.status_code, "query" in refused.json["detail"]) == (400, True)


def candles(api: AdminApi) -> Any:
    series = Series("binance", "BTC/USDT", "1m")
    return api.platform.database.candles_collection("binance", series.collection_name)


def verified(api: AdminApi, query: str = "") -> Any:
    response = api.call("POST", f"{PATH}{query}", role="operator")
    assert response.status_code == 200, response.text
    return response.json


def at(minute: int) -> Any:
    return to_datetime(START_MS + minute * MINUTE_MS)


def test_a_page_that_lands_while_it_is_verified_is_no_difference(
    api: AdminApi, exchange_simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is read before the candles, and says of them that they are pending."""
    api.add_connector()
    api.add_job(**RANGE)
    read = CoverageReader.read

    def overtaken(self: CoverageReader, *args: Any) -> Any:
        found = read(self, *args)
        monkeypatch.setattr(CoverageReader, "read", read)
        run_once(api.platform, JOB_ID)
        return found

    monkeypatch.setattr(CoverageReader, "read", overtaken)
    found = verified(api)
    assert (found["candles"], found["ledger_differences"]) == (600, {"count": 0, "items": []})


def test_what_the_platform_keeps_is_sound(api: AdminApi, kept: AdminApi) -> None:
    found = verified(api)
    assert found["is_sound"]
    fields = sum(len(names) for names in ([1] * 6, [1] * 3, [1] * 3)) + 1
    assert (found["candles"], found["values"]) == (590, 590 * fields)
    assert found["ledger_differences"] == found["value_differences"] == {"count": 0, "items": []}


def test_a_candle_that_is_gone_and_one_that_came_are_told(api: AdminApi, kept: AdminApi) -> None:
    candles(api).delete_one({"_id": at(599)})
    document = candles(api).find_one({"_id": at(29)})
    candles(api).insert_one({**document, "_id": at(35)})
    found = verified(api)
    assert not found["is_sound"]
    assert [(item["from"], item["said"], item["is_stored"]) for item in found["ledger_differences"]["items"]] == [
        ("2024-01-01T00:35:00.000Z", "missing", True),
        ("2024-01-01T09:59:00.000Z", "stored", False),
    ]
    # Everything behind it would have been computed with it.
    assert found["value_differences"]["items"][0]["open_at"] == "2024-01-01T00:35:00.000Z"
    assert found["value_differences"]["count"] > 1_000


def test_a_value_that_was_changed_or_removed_is_told(api: AdminApi, kept: AdminApi) -> None:
    right = candles(api).find_one({"_id": at(500)})["ind"]["sma_20"]
    candles(api).update_one({"_id": at(500)}, {"$set": {"ind.sma_20": right * 1.000001}})
    candles(api).update_one({"_id": at(550)}, {"$unset": {"ind.rsi_14": ""}})
    one, other = verified(api)["value_differences"]["items"]
    assert (one["open_at"], one["field"], one["stored"]) == ("2024-01-01T08:20:00.000Z", "sma_20", right * 1.000001)
    assert one["computed"] == pytest.approx(right, rel=1e-12)
    assert (other["field"], other["stored"]) == ("rsi_14", None)


def test_a_long_series_is_verified_call_by_call(api: AdminApi, kept: AdminApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_series, "CHUNK", 100)
    monkeypatch.setattr(verify_series, "CANDLES_MAX", 200)
    candles(api).delete_one({"_id": at(599)})
    sounds, counted, query = [], 0, ""
    for _ in range(4):
        found = verified(api, query)
        sounds.append(found["is_sound"])
        counted += found["candles"]
        if "next_start" not in found:
            break
        query = f"?start={found['next_start']}"
    assert (sounds, counted) == ([True, True, False], 589)


def test_a_viewer_may_not_start_it(api: AdminApi, kept: AdminApi) -> None:
    assert api.call("POST", PATH, role="viewer").status_code == 403
