"""Recorded candles, served over HTTP in the exchange's own format, land in MongoDB exactly, with their indicators."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pytest

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from local_emulator.simulator.truth import true_candles
from shared.domain.coverage import TRIES_MAX, IntervalState
from shared.domain.indicators import DEFAULT_INDICATORS
from shared.domain.job_ranges import format_ms
from shared.domain.jobs import to_ms
from shared.domain.timeframes import TIMEFRAMES
from shared.wiring import Platform
from tests.factories import add_connector, add_job, run_until_caught_up, run_until_settled, stored_documents
from tests.replay import DATA_DIR, assert_series_equals, closed_at, read_recording

BINANCE_TIMEFRAMES: Final = ["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M"]
# Requests are not what is tested here: a limit that does not slow the replay down.
WIDE: Final = [(100_000, 60_000)]
SEED: Final = 7
NOW_MS: Final = 1_760_000_042_000

needs_recordings = pytest.mark.skipif(not DATA_DIR.exists(), reason="the recordings are not part of the project")


@dataclass(frozen=True)
class Recorded:
    """One series, and where it is recorded."""

    exchange: str
    symbol: str
    timeframe: str
    name: str

    @property
    def config(self) -> dict[str, str]:
        return {f"{self.exchange}:{self.symbol}:{self.timeframe}": str(DATA_DIR / self.name)}


BINANCE: Final = {
    timeframe: Recorded("binance", "ETH/BTC", timeframe, f"BINANCE_ETH-BTC_{timeframe.replace('1M', '1mo')}.csv.gz")
    for timeframe in BINANCE_TIMEFRAMES
}
COINBASE: Final = Recorded("coinbase", "BTC/USD", "1h", "COINBASE_BTC-USD_1h.csv.gz")
KRAKEN: Final = Recorded("kraken", "BTC/USDT", "1m", "KRAKEN_XBT-USDT_1m.csv.gz")
BITFINEX: Final = Recorded("binance", "BTC/USDT", "1m", "BITFINEX_BTC-USD_1m_2016.csv.gz")


@pytest.fixture(scope="module")
def recordings() -> Iterator[SimulatorProcess]:
    """A simulator of all recordings but the large one."""
    named: dict[str, object] = {}
    for recorded in (*BINANCE.values(), COINBASE, KRAKEN):
        named.update(recorded.config)
    with start_simulator(freeze_at_ms=NOW_MS, config={"recordings": named}) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def generated() -> Iterator[SimulatorProcess]:
    """One without recordings."""
    with start_simulator(freeze_at_ms=NOW_MS, seed=SEED) as simulator:
        yield simulator


def replay(
    platform: Platform, simulator: SimulatorProcess, recorded: Recorded, is_last_running: bool, end_ms: int = 2**62
) -> None:
    """All of the recording, or what of it opens before `end_ms`, as the exchange has it a moment after the last candle."""
    exchange, symbol, timeframe = recorded.exchange, recorded.symbol, recorded.timeframe
    recording = read_recording(DATA_DIR / recorded.name)
    recording = recording[recording.open_ms < end_ms]
    last_ms = int(recording.open_ms[-1])
    grid = TIMEFRAMES[timeframe]
    now_ms = last_ms + (grid.close(last_ms) - last_ms) // 2 if is_last_running else grid.close(last_ms) + 1_000
    simulator.clock(now_ms=now_ms)
    simulator.configure(exchange, WIDE)
    add_connector(platform, exchange, base_url=simulator.base_url(exchange), windows=WIDE)
    job_id = add_job(platform, symbol, timeframe, connector_id=exchange, start_ms=int(recording.open_ms[0]))
    run_until_settled(platform, job_id)
    expected = closed_at(recording, timeframe, now_ms)
    assert len(expected) == len(recording) - int(is_last_running)
    assert_series_equals(stored_documents(platform, exchange, symbol, timeframe), expected, DEFAULT_INDICATORS, timeframe)


@needs_recordings
def test_two_years_of_hours_from_coinbase(platform: Platform, recordings: SimulatorProcess) -> None:
    replay(platform, recordings, COINBASE, is_last_running=False)


@needs_recordings
@pytest.mark.parametrize(
    "end", [pytest.param("2016-06-15T00:00Z", id="april"), pytest.param("2017-01-01T00:00Z", id="year", marks=pytest.mark.soak)]
)
def test_minutes_with_tens_of_thousands_of_holes(platform: Platform, end: str) -> None:
    """Of the year's holes the longest, April and May, lies before the middle of June."""
    with start_simulator(freeze_at_ms=NOW_MS, config={"recordings": BITFINEX.config}) as simulator:
        replay(platform, simulator, BITFINEX, is_last_running=False, end_ms=to_ms(datetime.fromisoformat(end)))


@needs_recordings
@pytest.mark.soak
def test_the_ledger_of_a_year_with_sixty_thousand_holes_is_exact(platform: Platform) -> None:
    """Bitfinex in 2016: minutes without trades, the outage of August, and April and May missing at the source."""
    recording, grid = read_recording(DATA_DIR / BITFINEX.name), TIMEFRAMES["1m"]
    start_ms, end_ms = int(recording.open_ms[0]), grid.close(int(recording.open_ms[-1]))
    holes = np.flatnonzero(np.diff(recording.open_ms) > grid.step_ms)
    stretches = [(int(recording.open_ms[at]) + grid.step_ms, int(recording.open_ms[at + 1])) for at in holes.tolist()]
    absent = sum(end - start for start, end in stretches) // grid.step_ms
    assert (len(stretches), absent, len(recording)) == (63_912, 233_809, 293_230)

    def runs_in(state: IntervalState) -> list[tuple[int, int]]:
        found = platform.coverage_reader.read(job_id, start_ms, end_ms, frozenset({state}), 1_000_000)
        kept = {IntervalState.STORED: len(recording), state: absent}
        assert {each: count for each, count in found.counts.items() if count} == kept
        return [(grid.open_at(run.first), grid.open_at(run.end)) for run in found.runs]

    with start_simulator(freeze_at_ms=end_ms + 1_000, config={"recordings": BITFINEX.config}) as simulator:
        simulator.configure("binance", WIDE)
        add_connector(platform, base_url=simulator.base_url("binance"), windows=WIDE)
        job_id = add_job(platform, start_ms=start_ms, indicators=[])
        run_until_settled(platform, job_id)
        assert runs_in(IntervalState.MISSING) == stretches
        for _ in range(TRIES_MAX - 1):
            run_until_caught_up(platform, f"{job_id}:repair")
    believed = runs_in(IntervalState.NO_TRADES)
    assert believed == stretches
    by_length = sorted(believed, key=lambda stretch: stretch[0] - stretch[1])
    # The longest two, as they are: April and May, and the outage after the theft of August 2nd.
    assert [(format_ms(first)[:16], format_ms(end)[:16]) for first, end in sorted(by_length[:2])] == [
        ("2016-04-01T00:01", "2016-06-01T00:00"),
        ("2016-08-02T18:03", "2016-08-10T15:53"),
    ]
    assert platform.jobs.get(f"{job_id}:repair")["totals"].get("candles", 0) == 0


@needs_recordings
@pytest.mark.parametrize("timeframe", BINANCE_TIMEFRAMES)
def test_every_timeframe_of_one_pair_without_its_running_candle(
    platform: Platform, recordings: SimulatorProcess, timeframe: str
) -> None:
    replay(platform, recordings, BINANCE[timeframe], is_last_running=True)


@needs_recordings
def test_a_recording_of_kraken_that_fills_its_whole_history(platform: Platform, recordings: SimulatorProcess) -> None:
    replay(platform, recordings, KRAKEN, is_last_running=True)


@pytest.mark.parametrize(
    ("exchange", "symbol", "timeframe", "intervals"),
    [
        ("binance", "BTC/USDT", "1m", 3_500),
        ("binance", "ETH/BTC", "1w", 300),
        ("binance", "ETH/BTC", "1M", 60),
        ("coinbase", "BTC/USD", "5m", 1_900),
        ("kraken", "BTC/USD", "15m", 700),
    ],
)
def test_generated_candles_land_exactly(
    platform: Platform, generated: SimulatorProcess, exchange: str, symbol: str, timeframe: str, intervals: int
) -> None:
    grid = TIMEFRAMES[timeframe]
    start_ms = grid.shift(grid.floor(NOW_MS), -intervals)
    generated.configure(exchange, WIDE)
    add_connector(platform, exchange, base_url=generated.base_url(exchange), windows=WIDE)
    job_id = add_job(platform, symbol, timeframe, connector_id=exchange, start_ms=start_ms)
    run_until_settled(platform, job_id)
    expected = true_candles(SEED, exchange, symbol, timeframe, start_ms, grid.floor(NOW_MS))
    assert len(expected) > 40
    assert_series_equals(stored_documents(platform, exchange, symbol, timeframe), expected, DEFAULT_INDICATORS, timeframe)
