"""Reports that are due are made, also where no thread could be had at first."""

import threading

import pytest

from shared.usecases.settlement_reporter import SettlementReporter
from tests.waiting import wait_until


def test_what_is_due_sooner_comes_first_and_each_once() -> None:
    reported: list[str] = []
    reporter = SettlementReporter(reported.append)
    reporter.make_due_within("later", 3_600_000)
    reporter.make_due_within("later", 7_200_000)
    for name in ("soon", "sooner"):
        reporter.make_due_within(name, 0)
    wait_until(lambda: sorted(reported) == ["soon", "sooner"])
    reporter.stop()
    assert reported[2:] == ["later"], "what is left is reported at the end"
    reporter.make_due_within("after the end", 0)
    assert len(reported) == 3


def test_a_thread_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    reported: list[str] = []
    reporter = SettlementReporter(reported.append)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        reporter.make_due_within("first", 0)
    reporter.make_due_within("second", 0)
    wait_until(lambda: sorted(reported) == ["first", "second"])
    reporter.stop()


def test_one_that_never_had_anything_to_report_stops() -> None:
    SettlementReporter(lambda _: None).stop()
