"""Faults: which requests they hit, and what they do to rows."""

import random

import numpy as np
import pytest
from pydantic import ValidationError

from local_emulator.simulator.clock import SimulatorClock
from local_emulator.simulator.faults import Fault, FaultBook
from local_emulator.simulator.row_faults import Page, spoil
from local_emulator.simulator.rows import Rows
from local_emulator.simulator.truth import true_candles
from local_emulator.simulator.wire import Span, period_in_words, texts
from local_emulator.simulator.wires import WIRES
from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES
from tests.waiting import wait_until

START_MS = 1_794_398_400_000
MINUTE = TIMEFRAMES["1m"]
SPAN = Span(WIRES["binance"].markets[0], MINUTE)
ROWS = Rows.of_batch(true_candles(7, "binance", "BTC/USDT", "1m", START_MS, START_MS + 20 * MINUTE_MS))


def spoiled(now_ms: int = START_MS + 20 * MINUTE_MS, **fault: object) -> Rows:
    return spoil(Page(ROWS, MINUTE, now_ms, random.Random(1)), Fault.model_validate(fault))


def test_a_counted_fault_hits_so_many_requests_that_it_fits() -> None:
    book = FaultBook(seed=1)
    book.add(Fault(exchange="binance", kind="drop", count=2, timeframe="1m"))
    book.add(Fault(kind="status", count=1))
    book.add(Fault(kind="nan"))
    assert book.take("kraken", None) == []
    kinds = [[fault.kind for fault in book.take("binance", SPAN)] for _ in range(4)]
    assert kinds == [["drop", "nan"], ["drop", "nan"], ["status", "nan"], ["nan"]]
    assert [listed["applied"] for listed in book.list_()] == [2, 1, 4]
    book.clear("binance")
    assert len(book.list_()) == 2
    book.clear()
    assert book.list_() == []


def test_a_rate_is_drawn_from_the_seed() -> None:
    def drawn(seed: int) -> list[int]:
        book = FaultBook(seed)
        book.add(Fault(kind="status", rate=0.3, everywhere=True))
        return [len(book.take("binance", None)) for _ in range(500)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 100 < sum(drawn(1)) < 200


def test_an_unknown_fault_is_refused() -> None:
    for wrong in ({"kind": "unheard_of"}, {"kind": "drop", "counts": 1}, {"kind": "drop", "rate": 2}):
        with pytest.raises(ValidationError):
            Fault.model_validate(wrong)


def test_rows_are_spoiled_as_named() -> None:
    opens = ROWS.open_ms.tolist()
    assert spoiled(kind="cut_rows", rows=3).open_ms.tolist() == opens[:-3]
    assert len(spoiled(kind="cut_rows", rows=99)) == 0
    shuffled = spoiled(kind="shuffle").open_ms.tolist()
    assert shuffled != opens
    assert sorted(shuffled) == opens
    doubled = spoiled(kind="double", rows=2)
    assert len(doubled) == 22
    assert len(set(doubled.open_ms.tolist())) == 20
    conflict = spoiled(kind="conflict")
    place = int(np.flatnonzero(np.diff(conflict.open_ms) == 0)[0])
    assert conflict.volume[place] != conflict.volume[place + 1]
    within = spoiled(kind="conflict", from_ms=opens[3], to_ms=opens[5]).open_ms.tolist()
    assert within == sorted([*opens, opens[3], opens[4]])
    assert spoiled(kind="double", from_ms=opens[-1] + 1, to_ms=opens[-1] + 2).open_ms.tolist() == opens
    assert np.isnan(spoiled(kind="nan").close).sum() == 1
    assert spoiled(kind="wrong_unit").open_ms.tolist() == [open_ms * 1_000 for open_ms in opens]
    assert (spoiled(kind="off_grid").open_ms % MINUTE_MS != 0).sum() == 1


def test_late_and_revised_candles_come_right_after_their_delay() -> None:
    now_ms = START_MS + 19 * MINUTE_MS + 2_000
    assert spoiled(now_ms, kind="late", delay_ms=3_000).open_ms.tolist() == ROWS.open_ms[:-2].tolist()
    kept = spoiled(now_ms, kind="late", delay_ms=3_000, keeps_running=True).open_ms.tolist()
    assert kept == [*ROWS.open_ms[:-2].tolist(), int(ROWS.open_ms[-1])]
    assert spoiled(now_ms, kind="late", delay_ms=2_000).open_ms.tolist() == ROWS.open_ms.tolist()
    revised = spoiled(now_ms, kind="revise", delay_ms=3_000)
    assert np.flatnonzero(revised.volume != ROWS.volume).tolist() == [18]
    assert spoiled(now_ms, kind="revise", delay_ms=2_000).volume.tolist() == ROWS.volume.tolist()


def test_the_clock_can_be_set_moved_and_stopped() -> None:
    clock = SimulatorClock(freeze_at_ms=1_000)
    assert clock.now_ms() == 1_000
    clock.advance(500)
    assert (clock.now_ms(), clock.is_frozen) == (1_500, True)
    clock.run()
    assert not clock.is_frozen
    assert clock.now_ms() >= 1_500
    wait_until(lambda: clock.now_ms() > 1_500)
    clock.freeze()
    assert clock.now_ms() == clock.now_ms()


def test_numbers_become_text_without_loss_and_without_exponents() -> None:
    values = np.array([0.1, 1e-7, 123456789.125, 1e-12, 3.0, 0.0, 2.5e17])
    assert [float(text) for text in texts(values, None)] == values.tolist()
    assert not any("e" in text for text in texts(values, None))
    assert texts(np.array([1.5, 2.25]), 2, 6) == ["1.50000000", "2.25000000"]
    assert texts(np.array([7.0]), 0, 8) == ["7.00000000"]


def test_periods_are_named_in_the_largest_unit() -> None:
    assert [period_in_words(ms)[:2] for ms in (60_000, 1_000, 10_000, 300_000, 86_400_000)] == [
        (1, "M"),
        (1, "S"),
        (10, "S"),
        (5, "M"),
        (1, "D"),
    ]
