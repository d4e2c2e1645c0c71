"""What a scrape says is what the database holds, whichever instance answers."""

import time
from datetime import datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from shared.domain.jobs import lag_ms, to_datetime, to_ms
from shared.domain.timeframes import DAY_MS, MINUTE_MS, TIMEFRAMES
from shared.usecases.collect_metrics import JOB_SERIES_MAX
from shared.usecases.record_changes import Author
from shared.wiring import Platform
from tests.factories import add_connector, add_job, claim, make_platform
from tests.limits import make_ask

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def registry_of(platform: Platform) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(platform.metrics)
    return registry


def scrape(platform: Platform) -> Samples:
    text = generate_latest(registry_of(platform)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[(name, frozenset(labels.items()))]


def series_count(samples: Samples, name: str) -> int:
    return sum(found == name for found, _ in samples)


def totals(runs: int, failures: int, candles: int, requests: int) -> dict[str, int]:
    counted = {"runs": runs, "failures": failures, "candles": candles, "requests": requests}
    return {**counted, "weight": 2 * requests, "revisions": 1}


@pytest.mark.parametrize(
    ("timeframe", "cursor", "missing_closed"),
    [
        ("1m", "2024-03-31T12:33", None),  # 12:34 is open
        ("1m", "2024-03-31T12:32", "2024-03-31T12:34"),
        ("1h", "2024-03-31T11:00", None),
        ("1h", "2024-03-31T09:00", "2024-03-31T11:00"),
        ("1w", "2024-03-18T00:00", None),  # the week of Monday 25th is open
        ("1M", "2024-02-01T00:00", None),
        ("1M", "2024-01-01T00:00", "2024-03-01T00:00"),
        ("1m", "2024-03-31T12:40", None),  # ahead of the clock: never negative
    ],
)
def test_lag_counts_from_the_close_of_the_interval_after_the_cursor(
    timeframe: str, cursor: str, missing_closed: str | None
) -> None:
    now_ms = to_ms(datetime.fromisoformat("2024-03-31T12:34:56.789+00:00"))
    cursor_at = datetime.fromisoformat(f"{cursor}+00:00")
    expected = 0 if missing_closed is None else now_ms - to_ms(datetime.fromisoformat(f"{missing_closed}+00:00"))
    assert lag_ms(timeframe, cursor_at, to_datetime(0), now_ms) == expected


def test_lag_without_a_cursor_counts_from_the_first_interval_of_the_start() -> None:
    start_at = datetime.fromisoformat("2024-03-31T12:30:30+00:00")
    assert lag_ms("1m", None, start_at, to_ms(start_at) + 5 * MINUTE_MS) == 3 * MINUTE_MS + 30_000


def test_a_scrape_says_what_the_database_holds(platform: Platform) -> None:
    now_ms = platform.database.server_now_ms()
    open_ms = TIMEFRAMES["1m"].floor(now_ms)
    later = to_datetime(now_ms + DAY_MS)
    blocked_until = to_datetime(now_ms + 120_000)
    add_connector(platform, windows=[(600, 60_000), (10_000, 86_400_000)])
    add_connector(platform, "kraken", status="paused", blocked_until=blocked_until)
    add_job(platform, "BTC/USDT", cursor={"last_ts": to_datetime(open_ms - 6 * MINUTE_MS)}, totals=totals(10, 1, 500, 12))
    add_job(platform, "ETH/USDT", cursor={"last_ts": to_datetime(open_ms - MINUTE_MS)}, totals=totals(5, 0, 70, 5))
    add_job(platform, "OLD/USDT", status="paused", cursor={"last_ts": to_datetime(0)}, totals=totals(1, 1, 0, 1))
    add_job(platform, "BTC/USDT", start_ms=0, end_ms=DAY_MS, next_run_at=later)
    add_job(platform, "XBT/USD", "1h", connector_id="kraken", status="error")
    leased_id = add_job(platform, "LTC/USDT", cursor={"last_ts": to_datetime(open_ms - MINUTE_MS)})
    claim(platform, leased_id)
    platform.limits.reserve("binance", make_ask(7, 7, use_by_ms=600_000))
    _record_runs(platform, now_ms)
    _open_alerts(platform)

    began = time.monotonic()
    samples = scrape(platform)
    took_s, passed_ms = time.monotonic() - began, platform.database.server_now_ms() - now_ms

    assert value(samples, "chandler_jobs", connector="binance", status="active", kind="live") == 3
    assert value(samples, "chandler_jobs", connector="binance", status="paused", kind="live") == 1
    assert value(samples, "chandler_jobs", connector="binance", status="active", kind="backfill") == 1
    assert value(samples, "chandler_jobs", connector="kraken", status="error", kind="live") == 1
    assert value(samples, "chandler_jobs_due", connector="binance") == 2
    assert value(samples, "chandler_jobs_due", connector="kraken") == 0
    assert value(samples, "chandler_jobs_leased", connector="binance") == 1
    # Since a second before it was made.
    assert 1 <= value(samples, "chandler_due_seconds_max", connector="binance") <= 1 + passed_ms / 1000
    # The interval after the cursor opened five minutes before the open one: it closed four minutes before that.
    late_s = value(samples, "chandler_job_lag_seconds", connector="binance", job="binance:BTC-USDT:1m")
    assert 0 <= late_s * 1000 - 4 * MINUTE_MS - (now_ms - open_ms) <= passed_ms
    assert value(samples, "chandler_lag_seconds_max", connector="binance") == pytest.approx(late_s)
    assert series_count(samples, "chandler_job_lag_seconds") == 3, "of active live jobs only"
    assert value(samples, "chandler_runs_total", connector="binance", outcome="ok") == 14
    assert value(samples, "chandler_runs_total", connector="binance", outcome="failed") == 2
    assert value(samples, "chandler_candles_stored_total", connector="binance") == 570
    assert value(samples, "chandler_candles_revised_total", connector="binance") == 3
    assert value(samples, "chandler_requests_total", connector="binance") == 18
    assert value(samples, "chandler_request_weight_total", connector="binance") == 36
    assert value(samples, "chandler_rate_limit", connector="binance", period_ms="60000") == 600
    assert value(samples, "chandler_rate_limit", connector="binance", period_ms="86400000") == 10_000
    assert value(samples, "chandler_rate_limit_usage", connector="binance", period_ms="60000") == 7
    assert value(samples, "chandler_rate_limit_usage", connector="binance", period_ms="86400000") == 7
    assert value(samples, "chandler_connector_blocked_seconds", connector="binance") == 0
    assert value(samples, "chandler_rate_limit_share", connector="binance") == 1
    assert value(samples, "chandler_requests_refused_total", connector="binance") == 0
    assert value(samples, "chandler_requests_refused_after_total", connector="binance") == 0
    assert 0 <= 120 - value(samples, "chandler_connector_blocked_seconds", connector="kraken") <= passed_ms / 1000
    assert value(samples, "chandler_connector_active", connector="binance") == 1
    assert value(samples, "chandler_connector_active", connector="kraken") == 0
    assert value(samples, "chandler_runs_recent", connector="binance", outcome="caught_up") == 2
    assert value(samples, "chandler_runs_recent", connector="binance", outcome="lost") == 1
    assert series_count(samples, "chandler_runs_recent") == 2, "a run of an hour ago is not recent"
    assert value(samples, "chandler_alerts_open") == 2
    assert 0 < value(samples, "chandler_scrape_duration_seconds") <= took_s


def _record_runs(platform: Platform, now_ms: int) -> None:
    ended = ((0, "caught_up"), (1, "caught_up"), (2, "lost"), (60, "failed"))
    platform.runs.append(
        [
            {
                "_id": f"run-{minutes}",
                "connector_id": "binance",
                "outcome": outcome,
                "finished_at": to_datetime(now_ms - minutes * MINUTE_MS),
            }
            for minutes, outcome in ended
        ]
    )


def _open_alerts(platform: Platform) -> None:
    now = to_datetime(platform.database.server_now_ms())
    for subject in ("jobs/a", "jobs/b", "jobs/c"):
        platform.database.transact(
            lambda session, subject=subject: platform.alerts.open_(
                subject=subject, title="stopped", facts={}, opened_at=now, session=session
            )
        )
    platform.alerts.resolve("jobs/c")


def test_no_counter_falls_when_jobs_are_deleted(platform: Platform) -> None:
    add_connector(platform)
    live = add_job(platform, totals=totals(7, 1, 900, 9), slot_ledger={"totals": {"ran": 5, "coalesced": 2}})
    add_job(platform, "ETH/USDT", totals=totals(3, 0, 100, 3), slot_ledger={"totals": {"ran": 3}})
    add_job(platform, start_ms=0, end_ms=DAY_MS, totals=totals(2, 0, 50, 1), backfill_id="b")

    def counters() -> Samples:
        return {key: number for key, number in scrape(platform).items() if key[0].endswith("_total")}

    before, author = counters(), Author("me", "admin", "test")
    # With its backfill, and with its candles and the ledger.
    platform.job_manager.delete(live, None, author, with_candles=True)
    assert counters() == before
    assert value(before, "chandler_candles_stored_total", connector="binance") == 1_050
    platform.job_manager.delete("binance:ETH-USDT:1m", None, author, with_candles=False)
    assert counters() == before
    again = add_job(platform, totals=totals(1, 0, 10, 1))
    assert value(counters(), "chandler_candles_stored_total", connector="binance") == 1_060
    platform.job_manager.delete(again, None, author, with_candles=False)
    assert value(counters(), "chandler_candles_stored_total", connector="binance") == 1_060
    # Of a connector that is gone nothing is told.
    platform.database.collection("connectors").delete_one({"_id": "binance"})
    assert [key for key in counters() if "binance" in str(key)] == []


def test_no_counter_falls_when_a_job_is_deleted_during_a_scrape(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    add_connector(platform)
    job_id = add_job(platform, totals=totals(7, 1, 900, 9))
    summarise = platform.metrics.job_summaries.summarise

    def overtaken(*args: Any) -> Any:
        rows = summarise(*args)
        monkeypatch.undo()
        platform.job_manager.delete(job_id, None, Author("me", "admin", "test"), with_candles=False)
        return rows

    monkeypatch.setattr(platform.metrics.job_summaries, "summarise", overtaken)
    # Also where the collection of what is gone is only made by that.
    assert value(scrape(platform), "chandler_candles_stored_total", connector="binance") == 900
    assert value(scrape(platform), "chandler_candles_stored_total", connector="binance") == 900


def test_helpers_that_another_connector_takes_over_are_counted_where_they_ran(platform: Platform) -> None:
    for name, range_ in (("binance", {}), ("other", {"start_ms": 0, "end_ms": DAY_MS})):
        add_connector(platform, connector_id=name)
        add_job(platform, connector_id=name, totals=totals(1, 0, 10, 10), **range_)
    add_job(platform, connector_id="binance", kind="repair", _id="binance:BTC-USDT:1m:repair", totals=totals(4, 0, 5, 500))
    before = scrape(platform)
    platform.job_manager.delete("binance:BTC-USDT:1m", None, Author("me", "admin", "test"), with_candles=False)
    assert platform.jobs.get("binance:BTC-USDT:1m:repair")["connector_id"] == "other"
    after = scrape(platform)
    for connector in ("binance", "other"):
        requests = [value(each, "chandler_requests_total", connector=connector) for each in (before, after)]
        assert requests[0] == requests[1]


def test_two_instances_answer_the_same(platform: Platform, mongodb_uri: str, database_name: str) -> None:
    add_connector(platform)
    add_job(platform, totals=totals(3, 1, 30, 3), cursor={"last_ts": to_datetime(platform.database.server_now_ms())})
    other = make_platform(mongodb_uri, database_name)
    try:
        # What counts time differs by the time between the two scrapes.
        first, second = ({k: v for k, v in scrape(each).items() if "seconds" not in k[0]} for each in (platform, other))
    finally:
        other.close()
    assert first == second
    assert len(first) > 10


def test_an_empty_database_has_no_jobs_and_no_alerts(platform: Platform) -> None:
    samples = scrape(platform)
    assert value(samples, "chandler_alerts_open") == 0
    assert {name for name, _ in samples} == {"chandler_alerts_open", "chandler_scrape_duration_seconds"}


def test_it_is_openmetrics_too(platform: Platform) -> None:
    add_connector(platform)
    add_job(platform, totals=totals(3, 1, 30, 3))
    families = {family.name: family for family in parse_openmetrics(generate_openmetrics(registry_of(platform)).decode())}
    assert families["chandler_runs"].type == "counter"
    assert {sample.name for sample in families["chandler_candles_stored"].samples} == {"chandler_candles_stored_total"}


def test_a_scrape_counts_all_jobs_and_runs_and_lists_as_many_jobs_as_are_agreed(platform: Platform) -> None:
    jobs_count, runs_count = 2 * JOB_SERIES_MAX, 5_000
    add_connector(platform)
    now = to_datetime(platform.database.server_now_ms())
    template = platform.jobs.get(add_job(platform, totals=totals(1, 0, 10, 1), cursor={"last_ts": now}))
    jobs = [{**template, "_id": f"binance:S{i}-USDT:1m", "symbol": f"S{i}/USDT"} for i in range(1, jobs_count)]
    runs = [{"_id": i, "connector_id": "binance", "outcome": "caught_up", "finished_at": now} for i in range(runs_count)]
    platform.database.collection("jobs").insert_many(jobs, ordered=False)
    platform.database.collection("job_runs").insert_many(runs, ordered=False)
    samples = scrape(platform)
    assert value(samples, "chandler_jobs", connector="binance", status="active", kind="live") == jobs_count
    assert value(samples, "chandler_candles_stored_total", connector="binance") == 10 * jobs_count
    assert value(samples, "chandler_runs_recent", connector="binance", outcome="caught_up") == runs_count
    assert series_count(samples, "chandler_job_lag_seconds") == JOB_SERIES_MAX
