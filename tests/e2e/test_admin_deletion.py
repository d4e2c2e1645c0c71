"""A job that is deleted by the admin API: what stays, what goes with it, and in which order, whoever else is at work."""

import pytest

from local_emulator.simulator.process import SimulatorProcess
from shared.deadline import Deadline
from shared.domain.jobs import to_datetime
from shared.errors import LeaseLost
from shared.stores.candles import Series
from shared.usecases.record_changes import Author
from tests.e2e.admin_api import JOB, AdminApi, fields_of, set_fields
from tests.factories import claim, run_once
from tests.overtaking import overtake_write

JOB_ID = "binance:BTC-USDT:1m"
PATH = f"/v1/jobs/{JOB_ID}"
RANGE = {"start_at": "2024-01-01T00:00:00Z", "end_at": "2024-01-01T02:00:00+00:00"}
BACKFILL_ID = f"{JOB_ID}:1704067200000-1704074400000"


def test_deleting_a_job_keeps_its_candles_unless_they_are_to_go(api: AdminApi) -> None:
    api.add_connector()
    api.add_job()
    api.add_job(**RANGE)
    series = Series("binance", "BTC/USDT", "1m")
    run_once(api.platform, BACKFILL_ID)
    assert api.call("DELETE", f"/v1/jobs/{BACKFILL_ID}?candles=delete").status_code == 409
    assert fields_of(api.call("DELETE", f"/v1/jobs/{BACKFILL_ID}?candles=all")) == ["candles"]
    assert api.call("DELETE", f"/v1/jobs/{BACKFILL_ID}").status_code == 204
    collection = api.platform.database.candles_collection("binance", series.collection_name)
    assert collection.count_documents({}) == 120
    assert api.call("DELETE", f"{PATH}?candles=delete", headers={"If-Match": "7"}).status_code == 412
    assert api.call("DELETE", f"{PATH}?candles=delete").status_code == 204
    assert collection.count_documents({}) == 0
    assert "clusteredIndex" in collection.options()
    assert api.call("DELETE", PATH).status_code == 404
    assert api.actions(f"jobs/{JOB_ID}") == ["job.create", "job.delete_with_candles"]


def test_a_deleted_job_s_run_writes_nothing_more(api: AdminApi) -> None:
    api.add_connector()
    api.add_job()
    claimed = claim(api.platform, JOB_ID)
    assert api.call("DELETE", PATH).status_code == 204
    with pytest.raises(LeaseLost):
        api.platform.runner.run(JOB_ID, claimed.fence, "test", Deadline.after(60))
    assert api.count("job_runs") == 0


def test_candles_are_gone_before_their_job_is(api: AdminApi, exchange_simulator: SimulatorProcess) -> None:
    """Who is cut off in between leaves a paused job that begins anew; nobody makes another one of the series meanwhile."""
    api.add_connector()
    api.add_job(indicators=[])
    run_once(api.platform, JOB_ID)
    stored = count_candles(api)
    assert stored >= 500
    held = claim_due(api)
    manager = api.platform.job_manager
    manager._drop_candles(JOB_ID, None, Author("me", "admin", "test"))
    with pytest.raises(LeaseLost):
        api.platform.leases.begin(JOB_ID, held, f"{JOB_ID}#late", 60_000)
    job = api.get(PATH)
    assert (job["status"], job["cursor"]["last_ts"]) == ("paused", None)
    refused = api.call("POST", "/v1/jobs", {**JOB, **RANGE})
    assert refused.status_code == 409
    assert "being deleted" in refused.text
    assert api.call("POST", f"{PATH}/resume").status_code == 200
    run_once(api.platform, JOB_ID)
    assert count_candles(api) >= stored
    assert api.call("DELETE", f"{PATH}?candles=delete").status_code == 204
    assert count_candles(api) == 0
    assert api.call("POST", "/v1/jobs", JOB).status_code == 201


def test_a_run_on_its_way_writes_nothing_more_once_its_candles_are_dropped(
    api: AdminApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.add_connector()
    api.add_job(indicators=[])
    drop = api.platform.job_manager._drop_candles
    overtake_write(api.platform, monkeypatch, lambda: drop(JOB_ID, None, Author("me", "admin", "test")))
    with pytest.raises(LeaseLost):
        run_once(api.platform, JOB_ID)
    assert (count_candles(api), api.count("job_runs")) == (0, 0)
    assert api.platform.jobs.get(JOB_ID)["cursor"]["last_ts"] is None
    assert api.call("DELETE", f"{PATH}?candles=delete").status_code == 204


def test_candles_are_not_dropped_while_another_connector_of_the_exchange_gets_a_job_for_them(api: AdminApi) -> None:
    for connector_id in ("binance", "binance-2"):
        api.add_connector(id=connector_id)
    api.add_job(indicators=[])
    run_once(api.platform, JOB_ID)
    other = {**api.platform.jobs.get(JOB_ID), "_id": "binance-2:BTC-USDT:1m:0-60000", "kind": "backfill"}
    other |= {"connector_id": "binance-2", "lock": {"fence": 0}}
    with api.platform.database.open_session() as session, session.start_transaction():
        # As the creation of a job does, in a transaction that has not ended yet.
        api.platform.connector_holds.share("binance-2", session)
        api.platform.jobs.insert(other, session)
        assert api.call("DELETE", f"{PATH}?candles=delete").status_code == 503
    assert api.call("DELETE", f"{PATH}?candles=delete").status_code == 409
    assert count_candles(api) >= 500


def count_candles(api: AdminApi) -> int:
    series = Series("binance", "BTC/USDT", "1m")
    return api.platform.database.candles_collection("binance", series.collection_name).count_documents({})


def claim_due(api: AdminApi) -> int:
    """The fence of a claim that no worker has begun."""
    set_fields(api, JOB_ID, next_run_at=to_datetime(0))
    return claim(api.platform, JOB_ID).fence
