"""What tests of backfills by the admin API share: three days of minutes of 2024, ordered for the live job of a series."""

from typing import Any, Final

from local_emulator.simulator.config import SEED_DEFAULT
from local_emulator.simulator.process import SimulatorProcess
from local_emulator.simulator.truth import true_candles
from shared.domain.timeframes import MINUTE_MS
from tests.e2e.admin_api import AdminApi
from tests.factories import stored_documents
from tests.replay import assert_series_equals

START_MS: Final = 1_704_067_200_000  # 2024-01-01
DAY: Final = 1_440
LIVE_ID: Final = "binance:BTC-USDT:1m"
PATH: Final = f"/v1/jobs/{LIVE_ID}/backfill"
ORDER: Final = {"from": "2024-01-01T00:00:00Z", "to": "2024-01-04T00:00:00Z"}
ID: Final = f"{LIVE_ID}:backfill:20240101T0000-20240104T0000"


def order(api: AdminApi, **fields: Any) -> dict[str, Any]:
    response = api.call("POST", PATH, {**ORDER, **fields}, role="operator")
    assert response.status_code == 201, response.text
    assert response.headers["Location"] == f"/v1/backfills/{response.json['id']}"
    return dict(response.json)


def chunk_ids(api: AdminApi, backfill_id: str = ID) -> list[str]:
    return [chunk["job_id"] for chunk in api.get(f"/v1/backfills/{backfill_id}")["chunks"]]


def requests_total(simulator: SimulatorProcess) -> int:
    return int(simulator.report()["binance"]["requests_total"])


def assert_truth(api: AdminApi, specs: Any, days: int = 3) -> None:
    expected = true_candles(SEED_DEFAULT, "binance", "BTC/USDT", "1m", START_MS, START_MS + days * DAY * MINUTE_MS)
    stored = [d for d in stored_documents(api.platform, "binance", "BTC/USDT", "1m") if d["_id"].year == 2024]
    assert_series_equals(stored, expected, specs)
