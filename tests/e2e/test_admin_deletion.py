"""A job that is deleted by the admin API: what stays, what goes with it, and in which order, whoever else is at work."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from werkzeug.test import TestResponse

from local_emulator.simulator.process import SimulatorProcess
from shared.deadline import Deadline
from shared.domain.jobs import to_datetime
from shared.errors import LeaseLost
from shared.stores.candles import Series
from shared.usecases.record_changes import Author
from tests.e2e.admin_api import JOB, AdminApi, fields_of, set_fields
from tests.factories import claim, run_once
from tests.overtaking import overtake_write
from tests.waiting import wait_until

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


def retire(api: AdminApi) -> None:
    """The decision, and no more: whoever made it has died."""
    manager, author = api.platform.job_manager, Author("me", "admin", "test")
    api.platform.database.transact(lambda session: manager._retire(JOB_ID, None, 0, author, session))


def test_a_deletion_whose_author_has_died_is_finished_by_a_tick_and_nothing_comes_between(
    api: AdminApi, exchange_simulator: SimulatorProcess
) -> None:
    api.add_connector()
    api.add_job(indicators=[])
    run_once(api.platform, JOB_ID)
    before = api.get(PATH)
    held = claim_due(api)
    retire(api)
    with pytest.raises(LeaseLost):
        api.platform.leases.begin(JOB_ID, held, f"{JOB_ID}#late", 60_000)
    assert api.call("POST", "/v1/jobs", {**JOB, **RANGE}).status_code == 409
    for method, path, body in (
        ("PATCH", PATH, {"overlap": 3}),
        ("POST", f"{PATH}/resume", None),
        ("POST", f"{PATH}/run", None),
    ):
        refused = api.call(method, path, body)
        assert (refused.status_code, "being deleted" in refused.text) == (409, True)
    api.platform.job_manager.finish_deletions_left()
    assert api.call("GET", PATH).status_code == 200
    set_fields(api, JOB_ID, updated_at=to_datetime(0))
    api.platform.job_manager.finish_deletions_left()
    assert (api.call("GET", PATH).status_code, count_candles(api)) == (404, 0)
    entry = api.get("/v1/audit")["items"][0]
    assert (entry["action"], entry["after"]) == ("job.delete_with_candles", None)
    # As it was, not as it stood while it was going.
    assert (entry["before"]["status"], entry["before"]["revision"]) == ("active", before["revision"])
    assert entry["before"]["cursor"]["last_ts"] is not None
    assert api.call("POST", "/v1/jobs", JOB).status_code == 201


def test_a_deletion_that_was_begun_is_not_done_twice(api: AdminApi) -> None:
    """Whoever has decided it may still be about to drop the candles: they must not be those of a job made again."""
    api.add_connector()
    api.add_job(indicators=[])
    run_once(api.platform, JOB_ID)
    retire(api)
    for query in ("", "?candles=delete"):
        assert api.call("DELETE", f"{PATH}{query}").status_code == 204
        assert (api.call("GET", PATH).status_code, api.call("POST", "/v1/jobs", JOB).status_code) == (200, 409)
    set_fields(api, JOB_ID, updated_at=to_datetime(0))
    taken = api.platform.jobs.take_retiring(to_datetime(1))
    assert taken is not None
    # Another tick leaves it to the one that has taken it.
    api.platform.job_manager.finish_deletions_left()
    assert api.call("GET", PATH).status_code == 200
    api.platform.job_manager._finish_deletion(taken)
    assert (api.call("GET", PATH).status_code, count_candles(api)) == (404, 0)
    assert api.call("POST", "/v1/jobs", JOB).status_code == 201
    # A tick that comes late finds another job, and leaves it alone.
    run_once(api.platform, JOB_ID)
    stored = count_candles(api)
    set_fields(api, JOB_ID, updated_at=to_datetime(0))
    api.platform.job_manager.finish_deletions_left()
    assert (api.call("GET", PATH).status_code, count_candles(api)) == (200, stored)
    assert api.actions(f"jobs/{JOB_ID}") == ["job.create", "job.delete_with_candles", "job.create"]


def test_a_deletion_with_candles_is_never_half_refused_while_others_patch(api: AdminApi) -> None:
    """Whoever patches is either before it, or is refused. It was a 412 once, with the candles gone."""
    api.add_connector()
    api.add_job(indicators=[])
    run_once(api.platform, JOB_ID)
    stop = Event()

    def patch() -> set[int]:
        seen, number = set(), 0
        while not stop.is_set():
            number += 1
            seen.add(api.call("PATCH", PATH, {"overlap": number % 5}).status_code)
        return seen

    with ThreadPoolExecutor(3) as pool:
        patching = [pool.submit(patch) for _ in range(3)]
        try:
            wait_until(lambda: api.get(PATH)["revision"] > 3)
            deleted = wait_until(lambda: _unless_busy(api.call("DELETE", f"{PATH}?candles=delete")))
        finally:
            stop.set()
        seen = set().union(*(each.result() for each in patching))
    assert deleted.status_code == 204
    assert seen <= {200, 404, 409, 503}
    assert (api.call("GET", PATH).status_code, count_candles(api)) == (404, 0)
    entry = next(each for each in api.get("/v1/audit")["items"] if each["action"] == "job.delete_with_candles")
    assert entry["before"]["status"] == "active"


def _unless_busy(response: TestResponse) -> TestResponse | None:
    """503 says that the database has others to serve and to try again; nothing was changed."""
    return None if response.status_code == 503 else response


def test_a_run_on_its_way_writes_nothing_more_once_its_job_is_to_go(api: AdminApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.add_connector()
    api.add_job(indicators=[])
    overtake_write(api.platform, monkeypatch, lambda: retire(api))
    with pytest.raises(LeaseLost):
        run_once(api.platform, JOB_ID)
    assert (count_candles(api), api.count("job_runs")) == (0, 0)


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
