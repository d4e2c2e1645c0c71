"""A database whose values are of an earlier version: they are computed again, once, and the API says how far that is."""

from typing import Any

import pytest
from pymongo import UpdateOne

from local_emulator.simulator.process import SimulatorProcess
from local_emulator.simulator.truth import true_candles
from shared.domain.indicators import DEFAULT_INDICATORS, VALUES_VERSION
from shared.domain.jobs import Job
from shared.stores.candles import Series
from shared.stores.upgrades import Upgrade
from shared.usecases import renew_values
from shared.wiring import Platform
from tests.factories import add_job, run_until_caught_up, stored_documents
from tests.machines.series_scene import CLOSED_MS, back
from tests.machines.test_series_upkeep import SEED
from tests.properties.indicator_markets import compute_in_one_pass
from tests.replay import assert_series_equals

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")


def make_old(platform: Platform, symbol: str) -> None:
    """Values as version 0.1.0 left them: those of one pass, up to the last digits; and nothing is known of a version."""
    candles = true_candles(SEED, "binance", symbol, "1m", back(2_000), CLOSED_MS)
    columns = compute_in_one_pass(DEFAULT_INDICATORS, candles)
    documents = stored_documents(platform, "binance", symbol, "1m")
    updates: list[UpdateOne] = [
        UpdateOne({"_id": document["_id"]}, {"$set": {"ind": {name: columns[name][row] for name in document["ind"]}}})
        for row, document in enumerate(documents)
        if "ind" in document
    ]
    name = f"candles_binance_{symbol.replace('/', '-')}_1m"
    platform.database.candles_collection("binance", name).bulk_write(updates)
    platform.database.collection("upgrades").delete_many({})


def enrich_jobs(platform: Platform) -> list[dict[str, Any]]:
    return platform.jobs.list_({"kind": "enrich", "status": "active"})


def test_values_of_an_earlier_version_are_computed_again_and_the_rest_is_counted(
    platform: Platform, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renew_values, "STEP", 2)
    job_ids = [add_job(platform, symbol, start_ms=back(2_000)) for symbol in SYMBOLS]
    for job_id, symbol in zip(job_ids, SYMBOLS, strict=True):
        run_until_caught_up(platform, job_id)
        make_old(platform, symbol)
    live_id = job_ids[0]
    assert platform.series_verifier.verify(live_id, None, None).value_differences_count > 1_000
    requests = simulator.report()["binance"]["requests_total"]
    # Two series at a time; another instance begins where this one has ended.
    assert [platform.values_renewal.step() for _ in range(2)] == [False, True]
    assert len(enrich_jobs(platform)) == len(SYMBOLS)
    assert platform.helpers.count_stale(Series.of(Job.from_document(platform.jobs.get(live_id)))) == 2_000
    for job in enrich_jobs(platform):
        run_until_caught_up(platform, job["_id"])
    for symbol in SYMBOLS:
        expected = true_candles(SEED, "binance", symbol, "1m", back(2_000), CLOSED_MS)
        assert_series_equals(stored_documents(platform, "binance", symbol, "1m"), expected, DEFAULT_INDICATORS)
    assert platform.helpers.count_stale(Series.of(Job.from_document(platform.jobs.get(live_id)))) == 0
    assert platform.series_verifier.verify(live_id, None, None).value_differences_count == 0
    assert simulator.report()["binance"]["requests_total"] == requests
    # Once.
    assert platform.values_renewal.step()
    assert enrich_jobs(platform) == []


def test_a_new_database_has_nothing_to_renew_and_one_of_another_release_has(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    run_until_caught_up(platform, add_job(platform, start_ms=back(300)))
    assert platform.upgrade_store.read(renew_values.NAME) == Upgrade(VALUES_VERSION, "", is_done=True)
    assert platform.values_renewal.step()
    assert enrich_jobs(platform) == []
    platform.upgrade_store.write(renew_values.NAME, Upgrade("talib-0.7", "", is_done=True))
    assert platform.values_renewal.step()
    assert len(enrich_jobs(platform)) == 1
    platform.prepare()
    assert platform.upgrade_store.read(renew_values.NAME) == Upgrade(VALUES_VERSION, "binance:BTC-USDT:1m", is_done=True)
