"""What docs/series.md and docs/state_machine.md show of MongoDB is what lies there: every field, and no other."""

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from local_emulator.simulator.process import SimulatorProcess
from shared.domain.timeframes import MINUTE_MS
from shared.usecases.manage_jobs import JobChanges
from shared.usecases.plan_backfills import BackfillOrder
from shared.usecases.plan_jobs import NewJob
from shared.wiring import Platform
from tests.factories import run_until_caught_up
from tests.machines.series_scene import back
from tests.machines.test_series_upkeep import AUTHOR

SEED: Final = 91
DOCS: Final = Path(__file__).parents[2] / "docs"
ID: Final = "binance:BTC-USDT:1m"
# Inside of these any name may stand.
FREE: Final = frozenset({"indicator_fields", "params", "ind", "totals", "carried", "skipped"})


def examples(page: str) -> list[dict[str, Any]]:
    """The documents that a page shows."""
    found = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", (DOCS / page).read_text(), re.S)]
    return [document for document in found if "_id" in document]


def shape(value: Any, name: str = "") -> Any:
    """Names and kinds of a document's fields; a list is what its first item is."""
    if isinstance(value, dict):
        return "free" if name in FREE else {key: shape(each, key) for key, each in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int | float):
        return "number"
    return "nothing" if value is None else "text"


@pytest.fixture
def scene(platform: Platform, simulator: SimulatorProcess) -> Platform:
    """A series of which something was corrected, something is missing, and something is still to be computed."""
    hidden = {"exchange": "binance", "kind": "hide", "from_ms": back(700), "to_ms": back(690)}
    simulator.set_faults(hidden, {"exchange": "binance", "kind": "revise", "from_ms": back(2), "to_ms": back(0), "share": 1.0})
    manager = platform.job_manager
    new = NewJob("binance", "BTC/USDT", "1m", overlap=2, start_ms=back(520))
    assert manager.create(new, AUTHOR)["_id"] == ID
    run_until_caught_up(platform, ID)
    other = NewJob("binance", "BTC/USDT", "1m", overlap=2, start_ms=back(1_020), end_ms=back(520))
    other_id = manager.create(other, AUTHOR)["_id"]
    run_until_caught_up(platform, other_id)
    manager.delete(other_id, None, AUTHOR, with_candles=False)
    simulator.set_faults(hidden)
    simulator.clock(advance_ms=MINUTE_MS)
    run_until_caught_up(platform, ID)
    manager.patch(ID, JobChanges(indicators=({"name": "RSI"},)), None, AUTHOR)
    plan = platform.backfills.create(ID, BackfillOrder(back(3_000), back(2_000), 1), AUTHOR)
    platform.backfills.pause(plan.backfill_id, AUTHOR)
    return platform


def test_the_pages_show_documents_as_they_lie_in_mongodb(scene: Platform) -> None:
    database = scene.database
    jobs = database.collection("jobs")
    stored = [
        database.collection("series").find_one({"_id": ID}),
        jobs.find_one({"_id": ID}),
        jobs.find_one({"_id": f"{ID}:repair"}),
        jobs.find_one({"backfill_id": {"$exists": True}}),
        database.candles_collection("binance", "candles_binance_BTC-USDT_1m").find_one({}, sort=[("_id", -1)]),
        database.collection("coverage").find_one({}),
        database.collection("revisions").find_one({}),
        database.collection("job_runs").find_one({"job_id": ID, "revised": {"$gt": 0}}),
    ]
    for shown, document in zip(examples("series.md"), stored, strict=True):
        assert shape(shown) == shape(document)
    (shown,) = examples("state_machine.md")
    ordered = database.collection("backfills").find_one({})
    assert ordered is not None
    # Its range leaves no hole, that of the scene does.
    ordered["plan"]["holes"] = []
    assert shape(shown) == shape(ordered)
