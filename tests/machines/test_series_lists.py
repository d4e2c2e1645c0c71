"""A series has one list of indicators, whichever of its jobs names some; what others have computed meanwhile does not stay."""

from typing import Any, Final

import pytest

from local_emulator.simulator.process import SimulatorProcess
from local_emulator.simulator.truth import true_candles
from shared.domain.indicators import DEFAULT_INDICATORS, resolve_indicators
from shared.domain.timeframes import MINUTE_MS
from shared.errors import Conflict, InvalidRequest
from shared.stores.candles import Series
from shared.stores.series import SeriesStore
from shared.usecases import store_pages
from shared.usecases.manage_jobs import JobChanges
from shared.usecases.plan_jobs import NewJob
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import add_job, make_platform, run_once, run_until_caught_up, stored_documents
from tests.machines.series_scene import CLOSED_MS, back
from tests.machines.test_series_upkeep import AUTHOR, SEED, assert_truth
from tests.replay import assert_series_equals

SERIES: Final = Series("binance", "BTC/USDT", "1m")
EMA, RSI, OBV = ({"name": name} for name in ("EMA", "RSI", "OBV"))


def documents_of(*asked: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec.to_document() for spec in resolve_indicators(asked)]


def create(platform: Platform, *asked: dict[str, Any], start: int = 1_000, end: int | None = None) -> str:
    end_ms = None if end is None else back(end)
    new = NewJob("binance", "BTC/USDT", "1m", overlap=2, start_ms=back(start), end_ms=end_ms, indicators=asked or None)
    return str(platform.job_manager.create(new, AUTHOR)["_id"])


def changes(platform: Platform) -> int:
    return platform.series_store.read_stale(SERIES).changes


def test_the_first_job_sets_the_list_and_another_one_adds_to_it(platform: Platform, simulator: SimulatorProcess) -> None:
    first_id = create(platform, start=2_000, end=1_000)
    assert platform.series_store.read_list(SERIES) == [spec.to_document() for spec in DEFAULT_INDICATORS]
    platform.job_manager.patch(first_id, JobChanges(indicators=(EMA,)), None, AUTHOR)
    create(platform, OBV)
    assert platform.series_store.read_list(SERIES) == documents_of(EMA, OBV)
    # One that names none takes what there is, and so does one that names less.
    create(platform, start=2_500, end=2_000)
    create(platform, EMA, start=2_900, end=2_500)
    assert platform.series_store.read_list(SERIES) == documents_of(EMA, OBV)
    assert all("indicators" not in job for job in platform.jobs.list_({}))


def test_the_list_of_a_series_that_no_job_keeps_any_more_is_that_of_the_next_one(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    job_id = create(platform, EMA, RSI)
    run_until_caught_up(platform, job_id)
    platform.job_manager.delete(job_id, None, AUTHOR, with_candles=False)
    run_until_caught_up(platform, create(platform, OBV))
    run_until_caught_up(platform, f"{job_id}:enrich")
    assert platform.series_store.read_list(SERIES) == documents_of(OBV)
    assert_truth(platform, back(1_000), resolve_indicators([OBV]))


@pytest.mark.parametrize(
    ("asked", "field", "said"),
    [
        ({"name": "EMA", "params": {"timeperiod": 9}, "as": "ema"}, "indicators.0.as", "computes ema already"),
        ({"name": "RSI", "as": "macd_signal"}, "indicators.0.as", "computes macd already"),
    ],
)
def test_a_second_job_cannot_make_a_label_mean_something_else(
    platform: Platform, simulator: SimulatorProcess, asked: dict[str, Any], field: str, said: str
) -> None:
    listed = ({"name": "EMA", "params": {"timeperiod": 20}, "as": "ema"}, {"name": "MACD", "as": "macd"})
    create(platform, *listed)
    with pytest.raises(InvalidRequest, match=said) as refused:
        create(platform, asked, start=2_000, end=1_000)
    assert [name for name, _ in refused.value.errors] == [field]
    assert platform.series_store.read_list(SERIES) == documents_of(*listed)
    assert platform.jobs.count({}) == 1


def test_a_second_job_cannot_make_the_list_too_long(platform: Platform, simulator: SimulatorProcess) -> None:
    fifty = [{"name": "SMA", "params": {"timeperiod": period}} for period in range(2, 52)]
    create(platform, *fifty[:49])
    with pytest.raises(InvalidRequest, match="49 already, at most 50 are computed: 2 more are too many"):
        create(platform, *fifty[48:], OBV, start=2_000, end=1_000)
    create(platform, *fifty[48:], start=2_000, end=1_000)
    assert platform.series_store.read_list(SERIES) == documents_of(*fifty)


def test_a_label_that_has_stood_for_something_else_in_the_candles_is_refused_later_too(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    job_id = create(platform, {**EMA, "as": "x"})
    # Without candles it has not stood for anything yet.
    platform.job_manager.patch(job_id, JobChanges(indicators=({**OBV, "as": "x"},)), None, AUTHOR)
    platform.job_manager.patch(job_id, JobChanges(indicators=({**EMA, "as": "x"},)), None, AUTHOR)
    run_until_caught_up(platform, job_id)
    platform.job_manager.patch(job_id, JobChanges(indicators=()), None, AUTHOR)
    with pytest.raises(InvalidRequest, match="in this series' candles"):
        platform.job_manager.patch(job_id, JobChanges(indicators=({**RSI, "as": "x"},)), None, AUTHOR)
    # Its candles gone, it may.
    platform.job_manager.delete(job_id, None, AUTHOR, with_candles=True)
    create(platform, {**RSI, "as": "x"})


def test_a_task_of_the_series_has_no_list_to_be_changed(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = create(platform, EMA)
    run_until_caught_up(platform, job_id)
    platform.job_manager.patch(job_id, JobChanges(indicators=(RSI,)), None, AUTHOR)
    with pytest.raises(Conflict, match="task of its series"):
        platform.job_manager.patch(f"{job_id}:enrich", JobChanges(indicators=(OBV,)), None, AUTHOR)


def test_a_change_of_the_list_is_in_the_audit_log_with_what_was_and_what_is(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    job_id = create(platform, EMA)
    platform.job_manager.patch(job_id, JobChanges(indicators=(RSI,)), None, AUTHOR)
    platform.job_manager.delete(job_id, None, AUTHOR, with_candles=True)
    entries = {entry["action"]: entry for entry in platform.audit_log.list_(f"jobs/{job_id}", None, 10)}
    assert entries["job.create"]["after"]["indicators"] == documents_of(EMA)
    patched = entries["job.patch"]
    assert (patched["before"]["indicators"], patched["after"]["indicators"]) == (documents_of(EMA), documents_of(RSI))
    assert entries["job.delete_with_candles"]["before"]["indicators"] == documents_of(RSI)


@pytest.mark.parametrize("tries", [1, store_pages.STORE_TRIES_MAX + 1])
def test_a_page_that_was_computed_for_the_old_list_does_not_stay_so(
    platform: Platform, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    """The list is changed between reading it and the page's transaction: once, and as often as the page is tried at all."""
    job_id = create(platform, EMA)
    run_until_caught_up(platform, job_id)
    lists = [(RSI,), (OBV,), (RSI, OBV), (EMA, RSI)]
    compute, left = store_pages.PageWriter._enrich, [tries]

    def overtaken(self: store_pages.PageWriter, *args: Any) -> Any:
        values = compute(self, *args)
        if left[0]:
            left[0] -= 1
            platform.job_manager.patch(job_id, JobChanges(indicators=lists[left[0]]), None, AUTHOR)
            # All that is stored has its new values before the page lands: nobody looks at it again but for its own sake.
            run_until_caught_up(platform, f"{job_id}:enrich")
        return values

    monkeypatch.setattr(store_pages.PageWriter, "_enrich", overtaken)
    simulator.clock(advance_ms=MINUTE_MS)
    run_once(platform, job_id)
    assert left == [0]
    monkeypatch.undo()
    if platform.helpers.count_stale(SERIES):
        run_until_caught_up(platform, f"{job_id}:enrich")
    assert_truth(platform, back(1_000), resolve_indicators(lists[0]), CLOSED_MS + MINUTE_MS)
    assert platform.helpers.count_stale(SERIES) == 0


def test_a_long_page_that_was_given_up_gets_all_of_its_values(
    platform: Platform, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lands as it is, computed for an old list, and is longer than what is computed again at a time."""
    monkeypatch.setattr("shared.usecases.enrich_series.CHUNK", 100)
    job_id = create(platform, EMA)
    lists, compute = [(RSI,), (OBV,), (RSI, OBV), (EMA, RSI)], store_pages.PageWriter._enrich

    def overtaken(self: store_pages.PageWriter, *args: Any) -> Any:
        values = compute(self, *args)
        if lists:
            platform.job_manager.patch(job_id, JobChanges(indicators=lists.pop()), None, AUTHOR)
        return values

    monkeypatch.setattr(store_pages.PageWriter, "_enrich", overtaken)
    run_once(platform, job_id)
    assert lists == []
    run_until_caught_up(platform, f"{job_id}:enrich")
    assert_truth(platform, back(1_000), resolve_indicators([RSI]))


def test_a_job_that_is_made_while_the_list_is_changed_learns_of_it(
    platform: Platform, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change does not see the job, which has a list from before it: one of the two has to begin again."""
    job_id = create(platform, EMA)
    run_until_caught_up(platform, job_id)
    made: list[str] = []
    write_list = SeriesStore.write_list

    def late(*args: Any, **options: Any) -> None:
        if not made:
            made.append(create(platform, start=2_000, end=1_000))
            # Its run begins, and knows the old list.
            platform.specs.of_run(platform.jobs.get(made[0]), SERIES)
        write_list(*args, **options)

    monkeypatch.setattr(SeriesStore, "write_list", late)
    platform.job_manager.patch(job_id, JobChanges(indicators=(RSI,)), None, AUTHOR)
    run_until_caught_up(platform, f"{job_id}:enrich")
    run_until_caught_up(platform, made[0])
    if platform.helpers.count_stale(SERIES):
        run_until_caught_up(platform, f"{job_id}:enrich")
    assert_truth(platform, back(2_000), resolve_indicators([RSI]))


def test_a_backfill_that_runs_is_told_of_the_list_and_what_it_has_stored_until_then_is_computed_again(
    platform: Platform, simulator: SimulatorProcess, mongodb_uri: str, database_name: str
) -> None:
    """Its candles lie before all that were there when the list was changed."""
    by_page = make_platform(mongodb_uri, database_name, worker_pages_max=1)
    job_id = create(platform, EMA)
    run_until_caught_up(platform, job_id)
    part = create(platform, start=4_000, end=1_000)
    run_once(by_page, part)
    platform.job_manager.patch(job_id, JobChanges(indicators=(RSI,)), None, AUTHOR)
    # Not told yet: of the old list, as its instance knows no other one.
    run_once(by_page, part)
    assert platform.series_store.read_stale(SERIES).is_list_untold
    run_until_caught_up(platform, f"{job_id}:enrich")
    assert not platform.series_store.read_stale(SERIES).is_list_untold
    run_until_caught_up(by_page, part)
    by_page.close()
    run_until_caught_up(platform, f"{job_id}:enrich")
    assert_truth(platform, back(4_000), resolve_indicators([RSI]))


def test_an_instance_that_knows_the_old_list_computes_the_new_one(
    platform: Platform, simulator: SimulatorProcess, mongodb_uri: str, database_name: str
) -> None:
    other = make_platform(mongodb_uri, database_name)
    job_id = create(platform, EMA)
    run_until_caught_up(other, job_id)
    platform.job_manager.patch(job_id, JobChanges(indicators=(RSI,)), None, AUTHOR)
    simulator.clock(advance_ms=MINUTE_MS)
    run_until_caught_up(other, job_id)
    assert set(stored_documents(other, "binance", "BTC/USDT", "1m")[-1]["ind"]) == {"rsi_14"}
    # A job that is made again under the same id counts its epochs from 0 again.
    platform.job_manager.delete(job_id, None, AUTHOR, with_candles=True)
    create(platform, OBV)
    run_until_caught_up(other, job_id)
    assert set(stored_documents(other, "binance", "BTC/USDT", "1m")[-1]["ind"]) == {"obv"}
    other.close()


def test_a_run_that_follows_the_market_does_not_write_to_the_series(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = create(platform)
    run_until_caught_up(platform, job_id)
    before = changes(platform), platform.database.collection("series").find_one({})
    simulator.clock(advance_ms=MINUTE_MS)
    run_until_caught_up(platform, job_id)
    assert (changes(platform), platform.database.collection("series").find_one({})) == before


def make_old(platform: Platform, lists: dict[str, list[dict[str, Any]]], stale: list[dict[str, Any]]) -> None:
    """As version 0.1.0 has left it: lists at the jobs, what is stale at the enrich job, and nothing at the series."""
    jobs, series = platform.database.collection("jobs"), platform.database.collection("series")
    for job_id, listed in lists.items():
        fields = {item["as"]: {"name": item["name"], "params": item["params"]} for item in listed}
        changed = {"$set": {"indicators": listed, "indicator_fields": fields}}
        assert jobs.update_one({"_id": job_id}, changed).matched_count == 1
    jobs.update_many({"kind": {"$in": ["enrich", "repair"]}}, {"$set": {"indicators": [], "stale": stale, "stale_seq": 7}})
    known = [name for document in series.find({}) for name in document if name not in ("_id", "asked", "begins_at")]
    series.update_many({}, {"$unset": dict.fromkeys(known, ""), "$set": {"turns": 5}})
    platform.database.collection("upgrades").delete_many({})


def test_a_database_of_version_0_1_0_gets_one_list_a_series(platform: Platform, simulator: SimulatorProcess) -> None:
    """Of two that mean different things by a label, that of the live job; what was stale is still to be computed."""
    live_id = create(platform, EMA)
    run_until_caught_up(platform, live_id)
    other_id = create(platform, start=2_000, end=1_000)
    run_until_caught_up(platform, other_id)
    (old_ema,) = documents_of({"name": "EMA", "params": {"timeperiod": 20}, "as": "ema"})
    (other_ema,) = documents_of({"name": "EMA", "params": {"timeperiod": 9}, "as": "ema"})
    (rsi,) = documents_of(RSI)
    # Of a release that had others.
    nosuch = {"name": "NOSUCH", "params": {}, "as": "nosuch"}
    stale = platform.database.collection("series").find_one({"_id": SERIES.series_id}, {"stale": 1})
    assert stale is not None
    assert stale["stale"]
    platform.database.collection("jobs").update_one({"_id": f"{live_id}:enrich"}, {"$set": {"status": "done"}})
    make_old(platform, {live_id: [old_ema], other_id: [rsi, other_ema, nosuch]}, stale["stale"])
    platform.prepare()
    found = platform.database.collection("series").find_one({"_id": SERIES.series_id})
    assert found is not None
    assert (found["indicators"], found["stale"], found["exchange"]) == ([old_ema, rsi], stale["stale"], "binance")
    meanings = {name: found["indicator_fields"][name] for name in ("ema", "rsi_14")}
    assert meanings == {item["as"]: {"name": item["name"], "params": item["params"]} for item in (old_ema, rsi)}
    # A worker of this version that came first has found nothing stale, and ended the job for it.
    assert platform.jobs.get(f"{live_id}:enrich")["status"] == "active"
    assert "turns" not in found
    assert platform.jobs.count({"$or": [{name: {"$exists": True}} for name in ("indicators", "stale", "stale_seq")]}) == 0
    # Once, and what was decided since then stays. The list that there is can be set again.
    platform.job_manager.patch(live_id, JobChanges(indicators=(old_ema, rsi)), None, AUTHOR)
    platform.job_manager.patch(live_id, JobChanges(indicators=(OBV,)), None, AUTHOR)
    platform.prepare()
    assert platform.series_store.read_list(SERIES) == documents_of(OBV)
    run_until_caught_up(platform, f"{live_id}:enrich")
    assert_truth(platform, back(2_000), resolve_indicators([OBV]))


def test_a_job_that_a_function_of_version_0_1_0_makes_after_that_is_run_with_its_list(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    """While one release goes and the other comes, for seconds, both may be at work."""
    job_id = create(platform, EMA)
    make_old(platform, {job_id: documents_of(RSI)}, [])
    platform.database.collection("series").delete_many({})
    run_until_caught_up(platform, job_id)
    expected = true_candles(SEED, "binance", "BTC/USDT", "1m", back(1_000), CLOSED_MS)
    assert_series_equals(stored_documents(platform, "binance", "BTC/USDT", "1m"), expected, resolve_indicators([RSI]))
    platform.job_manager.patch(job_id, JobChanges(indicators=(RSI, OBV)), None, Author("me", "admin", "test"))
    run_until_caught_up(platform, f"{job_id}:enrich")
    assert_truth(platform, back(1_000), resolve_indicators([RSI, OBV]))


def test_what_is_still_to_be_computed_is_in_the_metrics(platform: Platform, simulator: SimulatorProcess) -> None:
    def shown() -> dict[str, float]:
        families = {family.name: family for family in platform.metrics.collect()}
        names = ("chandler_series_stale", "chandler_stale_candles")
        return {name: sample.value for name in names for sample in families[name].samples if sample.labels["exchange"]}

    job_id = add_job(platform, start_ms=back(1_000))
    run_until_caught_up(platform, job_id)
    assert shown() == {}
    platform.job_manager.patch(job_id, JobChanges(indicators=(OBV,)), None, AUTHOR)
    assert shown() == {"chandler_series_stale": 1, "chandler_stale_candles": 1_000}
    assert platform.series_verifier.verify(job_id, None, None).stale_count == 1_000
    run_until_caught_up(platform, f"{job_id}:enrich")
    assert shown() == {}
    # Of a series that nobody keeps any more nothing is computed, so nothing is left.
    platform.job_manager.patch(job_id, JobChanges(indicators=(RSI,)), None, AUTHOR)
    platform.job_manager.delete(job_id, None, AUTHOR, with_candles=False)
    assert shown() == {}
