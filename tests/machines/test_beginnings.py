"""Backfills from before a market began: where it began is found in a few requests, and the years before are not asked for."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pytest

from local_emulator.simulator.market import LISTED_MS
from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.truth import true_candles
from shared.domain.jobs import to_ms
from shared.domain.timeframes import DAY_MS, HOUR_MS, MINUTE_MS
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.wiring import Platform
from tests.contract.cases import CASES
from tests.factories import add_connector, add_job, make_platform, run_once, run_until_caught_up, stored_documents
from tests.machines.series_scene import NOW_MS, WIDE, counts

SEED: Final = 23
BY_WINDOW: Final = [
    name
    for name in EXCHANGES
    if (spec := load_spec(name)).paging.is_by_window and spec.history_of("1m") is None and len(spec.timeframe_names) > 1
]
# Deribit's longest timeframe are two hours: 4,000 of them a page, from 2009 on.
REQUESTS_MAX: Final = 45
SYMBOL: Final = CASES["coinbase"].symbol
PAGE_MS: Final = 300 * MINUTE_MS
START_MS: Final = LISTED_MS - 400 * DAY_MS
END_MS: Final = LISTED_MS + 6 * HOUR_MS


@pytest.fixture(scope="module")
def venue() -> Iterator[SimulatorProcess]:
    with start_simulator(freeze_at_ms=NOW_MS, seed=SEED) as running:
        yield running


@pytest.fixture
def simulator(venue: SimulatorProcess) -> SimulatorProcess:
    venue.set_faults()
    return venue


def requests_of(platform: Platform, job_id: str) -> int:
    return int(platform.jobs.get(job_id)["totals"]["requests"])


def begins_ms(platform: Platform) -> int | None:
    return platform.ledger.asked.read_begins_ms(f"coinbase:{SYMBOL.replace('/', '-')}:1m")


@pytest.mark.parametrize("exchange", BY_WINDOW)
def test_the_years_before_a_market_are_not_asked_for(platform: Platform, simulator: SimulatorProcess, exchange: str) -> None:
    symbol = CASES[exchange].symbol
    simulator.configure(exchange, WIDE)
    add_connector(platform, exchange, base_url=simulator.base_url(exchange), windows=WIDE)
    job_id = add_job(platform, symbol, connector_id=exchange, start_ms=START_MS, end_ms=END_MS, indicators=[])
    run_until_caught_up(platform, job_id)
    assert platform.jobs.get(job_id)["status"] == "done"
    pages = -(-(END_MS - LISTED_MS) // MINUTE_MS // load_spec(exchange).candles.limit_of("1m"))
    assert requests_of(platform, job_id) <= REQUESTS_MAX + pages
    truth = true_candles(SEED, exchange, symbol, "1m", START_MS, END_MS)
    stored = [to_ms(document["_id"]) for document in stored_documents(platform, exchange, symbol, "1m")]
    assert stored == truth.open_ms.tolist()
    # Where a page of minutes may begin before the listing, some are asked for and not there.
    found = counts(platform, job_id, END_MS)
    beyond = found.pop("beyond_history")
    assert beyond + sum(found.values()) == (END_MS - START_MS) // MINUTE_MS
    page = load_spec(exchange).candles.limit_of("1m")
    assert (LISTED_MS - START_MS) // MINUTE_MS - page <= beyond <= (LISTED_MS - START_MS) // MINUTE_MS
    # Nothing is lost that never was.
    assert platform.alerts.list_("open", 10) == []


def coinbase(platform: Platform, simulator: SimulatorProcess, start_ms: int, end_ms: int = END_MS, **fields: Any) -> str:
    """A backfill there, not run yet; returns its job's id."""
    if not platform.database.collection("connectors").count_documents({}):
        simulator.configure("coinbase", WIDE)
        add_connector(platform, "coinbase", base_url=simulator.base_url("coinbase"), **{"windows": WIDE, **fields})
    return add_job(platform, SYMBOL, connector_id="coinbase", start_ms=start_ms, end_ms=end_ms, indicators=[])


def stored_of_coinbase(platform: Platform) -> list[int]:
    return [to_ms(document["_id"]) for document in stored_documents(platform, "coinbase", SYMBOL, "1m")]


def test_a_market_that_began_before_the_job_costs_one_request_more(platform: Platform, simulator: SimulatorProcess) -> None:
    start_ms = LISTED_MS + 10 * DAY_MS
    job_id = coinbase(platform, simulator, start_ms, start_ms + 30 * PAGE_MS)
    run_until_caught_up(platform, job_id)
    assert requests_of(platform, job_id) == 1 + 30
    assert begins_ms(platform) is None


def test_a_short_backfill_is_not_worth_a_search(platform: Platform, simulator: SimulatorProcess) -> None:
    start_ms = LISTED_MS + 10 * DAY_MS
    job_id = coinbase(platform, simulator, start_ms, start_ms + 20 * PAGE_MS)
    run_until_caught_up(platform, job_id)
    assert requests_of(platform, job_id) == 20


def test_what_was_found_is_not_looked_for_again(platform: Platform, simulator: SimulatorProcess) -> None:
    run_until_caught_up(platform, coinbase(platform, simulator, START_MS))
    again = coinbase(platform, simulator, START_MS - 400 * DAY_MS, START_MS)
    run_until_caught_up(platform, again)
    assert requests_of(platform, again) == 0
    assert counts(platform, again, START_MS) == {"beyond_history": 400 * 1440}


def test_a_search_that_the_limit_interrupts_goes_on_from_where_it_was(
    mongodb_uri: str, database_name: str, simulator: SimulatorProcess
) -> None:
    impatient = make_platform(mongodb_uri, database_name, worker_wait_ms_max=0)
    try:
        job_id = coinbase(impatient, simulator, START_MS, windows=[(8, 1_000)])
        outcomes = []
        deadline = time.monotonic() + 30
        while (outcome := run_once(impatient, job_id).outcome.value) != "done" and time.monotonic() < deadline:
            outcomes.append(outcome)
            time.sleep(0.05)
        assert set(outcomes) == {"waiting"}
        assert begins_ms(impatient) == LISTED_MS
        assert requests_of(impatient, job_id) <= REQUESTS_MAX
    finally:
        impatient.close()


@pytest.mark.parametrize("status", [451, 503])
def test_an_exchange_that_refuses_to_tell_is_asked_for_all_of_it(
    platform: Platform, simulator: SimulatorProcess, status: int
) -> None:
    """Whatever goes wrong with the search, the backfill is as it would be without."""
    simulator.set_faults({"exchange": "coinbase", "kind": "status", "status": status, "timeframe": "1d"})
    job_id = coinbase(platform, simulator, LISTED_MS - 25 * PAGE_MS)
    run_until_caught_up(platform, job_id)
    assert platform.jobs.get(job_id)["status"] == "done"
    assert begins_ms(platform) is None
    assert stored_of_coinbase(platform) == list(range(LISTED_MS, END_MS, MINUTE_MS))


@pytest.mark.parametrize("timeframes", [("1d",), ("1d", "6h"), ("1d", "6h", "1h")])
def test_a_beginning_that_shorter_candles_contradict_is_not_believed(
    platform: Platform, simulator: SimulatorProcess, timeframes: Sequence[str]
) -> None:
    """The exchange has forgotten the first days of its long candles, but not of its minutes."""
    hidden = {"exchange": "coinbase", "kind": "hide", "from_ms": 0, "to_ms": LISTED_MS + 3 * DAY_MS}
    simulator.set_faults(*({**hidden, "timeframe": timeframe} for timeframe in timeframes))
    job_id = coinbase(platform, simulator, LISTED_MS - 25 * PAGE_MS)
    run_until_caught_up(platform, job_id)
    assert begins_ms(platform) is None
    assert stored_of_coinbase(platform) == list(range(LISTED_MS, END_MS, MINUTE_MS))


def test_what_is_stored_already_bounds_the_search(platform: Platform, simulator: SimulatorProcess) -> None:
    """A series with candles before the job's start has begun: nobody looks for it."""
    run_until_caught_up(platform, coinbase(platform, simulator, LISTED_MS, LISTED_MS + PAGE_MS))
    start_ms = LISTED_MS + 2 * PAGE_MS
    job_id = coinbase(platform, simulator, start_ms, start_ms + 25 * PAGE_MS)
    run_until_caught_up(platform, job_id)
    assert requests_of(platform, job_id) == 25
