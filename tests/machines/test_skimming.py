"""Long stretches without trades on exchanges that are asked by window: passed in a few requests, and looked for again."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import pytest

from local_emulator.simulator.market import LISTED_MS
from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.truth import true_candles
from shared.domain.job_ranges import EARLIEST_MS
from shared.domain.jobs import to_ms
from shared.domain.timeframes import DAY_MS, HOUR_MS, MINUTE_MS
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.usecases.windows_ahead import AHEAD_MAX
from shared.wiring import Platform
from tests.contract.cases import CASES
from tests.factories import add_connector, add_job, make_platform, run_once, run_until_caught_up, stored_documents
from tests.limits import limiter_of, set_clock
from tests.machines.series_scene import NOW_MS, WIDE, counts
from tests.waiting import wait_until

SEED: Final = 23
BY_WINDOW: Final = [
    name for name in EXCHANGES if load_spec(name).paging.is_by_window and load_spec(name).history_of("1m") is None
]
SYMBOL: Final = CASES["coinbase"].symbol
PAGE_MS: Final = 300 * MINUTE_MS
START_MS: Final = LISTED_MS - 400 * DAY_MS
# Not at an even time of any longer timeframe.
END_MS: Final = LISTED_MS + 6 * HOUR_MS + 7 * MINUTE_MS


@pytest.fixture(scope="module")
def venue() -> Iterator[SimulatorProcess]:
    with start_simulator(freeze_at_ms=NOW_MS, seed=SEED) as running:
        yield running


@pytest.fixture
def simulator(venue: SimulatorProcess) -> SimulatorProcess:
    venue.set_faults()
    return venue


def coinbase(platform: Platform, simulator: SimulatorProcess, start_ms: int, end_ms: int = END_MS, **fields: Any) -> str:
    """A backfill there, not run yet; returns its job's id."""
    if not platform.database.collection("connectors").count_documents({}):
        simulator.configure("coinbase", WIDE)
        add_connector(platform, "coinbase", base_url=simulator.base_url("coinbase"), **{"windows": WIDE, **fields})
    return add_job(platform, SYMBOL, connector_id="coinbase", start_ms=start_ms, end_ms=end_ms, indicators=[])


def requests_of(platform: Platform, job_id: str) -> int:
    return int(platform.jobs.get(job_id)["totals"]["requests"])


def stored(platform: Platform, exchange: str = "coinbase", symbol: str = SYMBOL) -> list[int]:
    return [to_ms(document["_id"]) for document in stored_documents(platform, exchange, symbol, "1m")]


@pytest.mark.parametrize("exchange", BY_WINDOW)
def test_the_years_before_a_market_cost_a_few_requests(platform: Platform, simulator: SimulatorProcess, exchange: str) -> None:
    symbol, page = CASES[exchange].symbol, load_spec(exchange).candles.limit_of("1m")
    simulator.configure(exchange, WIDE)
    add_connector(platform, exchange, base_url=simulator.base_url(exchange), windows=WIDE)
    job_id = add_job(platform, symbol, connector_id=exchange, start_ms=START_MS, end_ms=END_MS, indicators=[])
    run_until_caught_up(platform, job_id)
    assert platform.jobs.get(job_id)["status"] == "done"
    assert requests_of(platform, job_id) <= 25 + (END_MS - LISTED_MS) // MINUTE_MS // page
    truth = true_candles(SEED, exchange, symbol, "1m", START_MS, END_MS)
    assert stored(platform, exchange, symbol) == truth.open_ms.tolist()
    # All of it has been asked for once, and nothing is lost that never was.
    total = (END_MS - START_MS) // MINUTE_MS
    assert counts(platform, job_id, END_MS) == {"stored": len(truth), "missing": total - len(truth)}
    assert platform.alerts.list_("open", 10) == []


@pytest.mark.parametrize("exchange", ["coinbase", "deribit", "htx"])
def test_so_do_all_years_since_there_are_markets(platform: Platform, simulator: SimulatorProcess, exchange: str) -> None:
    """Where the longest timeframe is a short one: a page of it after the other, and no shorter ones in between."""
    simulator.configure(exchange, WIDE)
    add_connector(platform, exchange, base_url=simulator.base_url(exchange), windows=WIDE)
    symbol = CASES[exchange].symbol
    job_id = add_job(platform, symbol, connector_id=exchange, start_ms=EARLIEST_MS, end_ms=START_MS, indicators=[])
    run_until_caught_up(platform, job_id)
    assert requests_of(platform, job_id) <= 80
    assert counts(platform, job_id, START_MS) == {"missing": (START_MS - EARLIEST_MS) // MINUTE_MS}


def test_no_request_is_sent_in_vain(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = coinbase(platform, simulator, START_MS)
    run_until_caught_up(platform, job_id)
    # An empty page; 300 days, twice since they are empty, and two pages of minutes held against them; the other hundred, with
    # the first candle behind them; and two pages of minutes with trades.
    assert requests_of(platform, job_id) == 1 + (2 + 2) + (1 + 2) + 2


def test_what_was_passed_is_looked_for_again_as_cheaply_and_then_had_no_trades(
    platform: Platform, simulator: SimulatorProcess
) -> None:
    job_id = coinbase(platform, simulator, START_MS)
    run_until_caught_up(platform, job_id)
    (repair_id,) = [job["_id"] for job in platform.jobs.list_({"kind": "repair"})]
    for _ in range(3):
        run_once(platform, repair_id)
    assert requests_of(platform, repair_id) <= 3 * requests_of(platform, job_id)
    found = counts(platform, job_id, END_MS)
    assert set(found) == {"stored", "no_trades"}
    assert sum(found.values()) == (END_MS - START_MS) // MINUTE_MS


ALL: Final = ("1d", "6h", "1h", "15m", "5m", "1m")


@pytest.mark.parametrize("hidden", [ALL[:1], ALL[:2], ALL[:-1], ALL])
def test_what_an_unwell_exchange_leaves_out_is_had_all_the_same(
    platform: Platform, simulator: SimulatorProcess, hidden: Sequence[str]
) -> None:
    """It has lost its long candles, for good, or answers nothing at all for a while. The first page is empty in any case."""
    start_ms = LISTED_MS + 3 * DAY_MS
    end_ms = start_ms + 40 * PAGE_MS
    gone = {"exchange": "coinbase", "kind": "hide", "from_ms": 0, "to_ms": NOW_MS}
    first = {**gone, "timeframe": "1m", "from_ms": start_ms, "to_ms": start_ms + PAGE_MS}
    simulator.set_faults(first, *({**gone, "timeframe": timeframe} for timeframe in hidden))
    run_until_caught_up(platform, coinbase(platform, simulator, start_ms, end_ms))
    if "1m" in hidden:
        assert stored(platform) == []
        simulator.set_faults(first)
    for job in platform.jobs.list_({"kind": "repair"}):
        for _ in range(3):
            run_until_caught_up(platform, job["_id"])
    assert stored(platform) == list(range(start_ms + PAGE_MS, end_ms, MINUTE_MS))


def test_a_long_halt_in_the_middle_is_skimmed_too(platform: Platform, simulator: SimulatorProcess) -> None:
    start_ms = LISTED_MS + 10 * DAY_MS
    halt = {"from_ms": start_ms + 2 * DAY_MS, "to_ms": start_ms + 24 * DAY_MS}
    simulator.set_faults({"exchange": "coinbase", "kind": "hide", **halt})
    end_ms = start_ms + 130 * PAGE_MS
    job_id = coinbase(platform, simulator, start_ms, end_ms)
    run_until_caught_up(platform, job_id)
    # Those ahead of the fifth empty page were under way already.
    assert requests_of(platform, job_id) <= 30 + 2 * (5 + AHEAD_MAX) + 25
    assert stored(platform) == [*range(start_ms, halt["from_ms"], MINUTE_MS), *range(halt["to_ms"], end_ms, MINUTE_MS)]


def test_a_market_that_trades_costs_no_request_more(platform: Platform, simulator: SimulatorProcess) -> None:
    start_ms = LISTED_MS + 10 * DAY_MS
    job_id = coinbase(platform, simulator, start_ms, start_ms + 30 * PAGE_MS)
    run_until_caught_up(platform, job_id)
    assert requests_of(platform, job_id) == 30


def test_where_longer_candles_are_there_nobody_skims_twice(platform: Platform, simulator: SimulatorProcess) -> None:
    """The exchange has lost ten pages of minutes, and nothing else."""
    start_ms = LISTED_MS + 10 * DAY_MS
    lost = {"kind": "hide", "timeframe": "1m", "from_ms": start_ms, "to_ms": start_ms + 10 * PAGE_MS}
    simulator.set_faults({"exchange": "coinbase", **lost})
    job_id = coinbase(platform, simulator, start_ms, start_ms + 40 * PAGE_MS)
    run_until_caught_up(platform, job_id)
    assert requests_of(platform, job_id) <= 2 * 10 + 30 + len(load_spec("coinbase").timeframe_names)


def run_an_hour_later(platform: Platform, job_id: str) -> str:
    """The outcome of a run before which all that was sent has left the limit's window, by the limiter's clock."""
    clock_ms = limiter_of(platform, "coinbase").get("clock_ms", platform.database.server_now_ms())
    set_clock(platform, clock_ms + 2 * HOUR_MS, "coinbase")
    return run_once(platform, job_id).outcome.value


def test_a_limit_of_one_request_at_a_time_lets_a_run_get_on(
    mongodb_uri: str, database_name: str, simulator: SimulatorProcess
) -> None:
    """An empty page cannot be asked for twice then."""
    impatient = make_platform(mongodb_uri, database_name, worker_wait_ms_max=0)
    try:
        job_id = coinbase(impatient, simulator, LISTED_MS - 4 * PAGE_MS, LISTED_MS, windows=[(1, HOUR_MS)])
        wait_until(lambda: run_an_hour_later(impatient, job_id) == "done")
        assert requests_of(impatient, job_id) == 4
    finally:
        impatient.close()


def test_a_short_gap_is_not_skimmed(platform: Platform, simulator: SimulatorProcess) -> None:
    job_id = coinbase(platform, simulator, LISTED_MS - 20 * PAGE_MS, LISTED_MS)
    run_until_caught_up(platform, job_id)
    # An empty page is asked for twice.
    assert requests_of(platform, job_id) == 2 * 20


@pytest.mark.parametrize("status", [451, 503])
def test_an_exchange_that_refuses_to_tell_is_asked_page_by_page(
    platform: Platform, simulator: SimulatorProcess, status: int
) -> None:
    simulator.set_faults({"exchange": "coinbase", "kind": "status", "status": status, "timeframe": "1d"})
    job_id = coinbase(platform, simulator, LISTED_MS - 25 * PAGE_MS)
    run_until_caught_up(platform, job_id)
    assert platform.jobs.get(job_id)["status"] == "done"
    assert stored(platform) == list(range(LISTED_MS, END_MS, MINUTE_MS))


def test_a_run_gets_on_however_little_the_limit_allows(
    mongodb_uri: str, database_name: str, simulator: SimulatorProcess
) -> None:
    impatient = make_platform(mongodb_uri, database_name, worker_wait_ms_max=0)
    try:
        job_id = coinbase(impatient, simulator, START_MS, windows=[(8, HOUR_MS)])
        outcomes: list[str] = []

        def is_done() -> bool:
            outcomes.append(run_an_hour_later(impatient, job_id))
            return outcomes[-1] == "done"

        wait_until(is_done)
        assert set(outcomes) == {"waiting", "done"}
        assert requests_of(impatient, job_id) <= 30
        assert stored(impatient) == list(range(LISTED_MS, END_MS, MINUTE_MS))
    finally:
        impatient.close()
