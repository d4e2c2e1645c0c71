"""Runs of one instance that want weight at the same time ask the limiter together: one command for all of them.

When many series close together, every run of a connector writes the same document. While one run's question is on its way,
the others' questions wait and then go as one, so the limiter is asked as often as it can answer and no oftener. Alone, a run
asks at once.

The limiter's promise holds as before: shares add up to no more than was granted, and each carries the grant's own use-by.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from shared.domain.rates import Ask, Reservation

Reserve: TypeAlias = Callable[[str, Ask, str | None], Reservation]
GiveBack: TypeAlias = Callable[[str, Reservation, int], None]


@dataclass(frozen=True, slots=True)
class _Terms:
    """Questions on the same terms can be answered together: the same need has the same earliest moment."""

    connector_id: str
    ask: Ask  # its `want` is 0
    version: str | None


@dataclass(slots=True)
class _Question:
    """One run's question. One that the grant did not reach stays in line."""

    want: int
    is_served: bool = False
    answer: Reservation | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Line:
    """Questions that wait to be asked, in the order they came."""

    is_asking: bool = False
    questions: list[_Question] = field(default_factory=list)


class SharedQuestions:
    """Puts questions together, asks them by `reserve`, and shares the answer out. Safe between threads.

    `give_back` gets what was granted and nobody had asked for.
    """

    def __init__(self, reserve: Reserve, give_back: GiveBack) -> None:
        self._reserve = reserve
        self._give_back = give_back
        self._changed = threading.Condition()
        self._lines: dict[_Terms, _Line] = {}

    @property
    def waiting_count(self) -> int:
        """Questions that wait for the one on its way."""
        with self._changed:
            return sum(len(line.questions) for line in self._lines.values())

    def ask(self, connector_id: str, ask: Ask, version: str | None) -> Reservation:
        """This question's part of the answer. What goes wrong with a question goes wrong for all who asked it."""
        terms = _Terms(connector_id, replace(ask, want=0), version)
        question = _Question(max(ask.need, ask.want))
        with self._changed:
            line = self._lines.setdefault(terms, _Line())
            line.questions.append(question)
        # Every round serves at least the first in line, and a question that was not served stays in front.
        while not question.is_served:
            questions = self._take_turn(line, question)
            if questions:
                self._ask_for(terms, line, questions)
        if question.error is not None:
            raise question.error
        assert question.answer is not None
        return question.answer

    def _take_turn(self, line: _Line, question: _Question) -> list[_Question]:
        """Wait until another thread has asked for this one, or for the turn to ask: then for all in line."""
        with self._changed:
            self._changed.wait_for(lambda: question.is_served or not line.is_asking)
            if question.is_served:
                return []
            line.is_asking, questions = True, line.questions
            line.questions = []
            return questions

    def _ask_for(self, terms: _Terms, line: _Line, questions: list[_Question]) -> None:
        """One question for all of them; the answer is shared out in the order they came."""
        try:
            together = replace(terms.ask, want=sum(question.want for question in questions))
            reservation = self._reserve(terms.connector_id, together, terms.version)
            left = _share_out(reservation, together.need, questions)
            if left:
                self._give_back(terms.connector_id, reservation, left)
        except BaseException as exc:
            for question in questions:
                question.error = exc
            raise
        finally:
            with self._changed:
                for question in questions:
                    question.is_served = question.answer is not None or question.error is not None
                line.questions[:0] = [question for question in questions if not question.is_served]
                line.is_asking = False
                if not line.questions:
                    del self._lines[terms]
                self._changed.notify_all()


def _share_out(reservation: Reservation, need: int, questions: list[_Question]) -> int:
    """What each needs, in the order they came; then what is left, up to what each wants. Returns what remains.

    A refusal is everybody's: all need the same.
    """
    if not reservation.granted:
        for question in questions:
            question.answer = reservation
        return 0
    served = questions[: reservation.granted // need]
    left = reservation.granted - need * len(served)
    for question in served:
        more = min(question.want - need, left)
        question.answer = replace(reservation, granted=need + more)
        left -= more
    return left
