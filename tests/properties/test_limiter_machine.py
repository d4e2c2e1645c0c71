"""The real limiter on a real mongod against an exact model, by random histories.

Time passes by moving the limiter's stored clock, which lies in the far future: it is never behind the server's, so the
limiter follows it, every history is exact and repeatable, and nobody sleeps. What became of a grant is told with the next
question or without one: part by part, again, too late, lost, and of grants that never were; refusals come in between.
"""

import itertools
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from shared.domain.rates import IN_DOUBT_MS, UNSETTLED_MAX, USE_BY_MS, Ask, RateWindow, Settlement
from shared.errors import ConfigurationError
from shared.stores.rate_limits import windows_document
from shared.wiring import Platform
from tests.factories import add_connector
from tests.properties.limiter_model import Answer, LimiterModel, Told
from tests.waiting import SOAK_HANG_S

# 2100-01-01 and a bit, so that it is on no grain.
ORIGIN_MS: Final = 4_102_444_800_777
# Shorter than the grains, odd, as exchanges have them, and long.
PERIODS_MS: Final = (7, 100, 333, 1_000, 1_200, 3_001, 10_000, 60_000)
WITHOUT_LIMITS: Final[dict[str, Any]] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}

windows_drawn = st.lists(
    st.tuples(st.integers(1, 30), st.sampled_from(PERIODS_MS)), min_size=1, max_size=3, unique_by=lambda window: window[1]
).map(lambda drawn: tuple(RateWindow(limit, period_ms) for limit, period_ms in drawn))
weights = st.integers(1, 6)
thousandths = st.sampled_from([0, 1000, 1000]) | st.integers(0, 1000)
# Of the way to a grant's last moment; beyond it the answer came later than anybody thought.
arrivals = st.sampled_from([0, 500, 1000, 1200, 3000]) | st.integers(0, 3000)
waits = st.sampled_from([0, 5_000, 30_000, 120_000]) | st.integers(0, 70_000)
# How long after its moment a grant may arrive: None is what is so in the platform.
charges = st.none() | st.integers(0, 3_000)
# How much is unsettled when a history begins: nothing, or nearly as much or just as much as there can be.
crowds = st.sampled_from([0, 0, 0, UNSETTLED_MAX - 1, UNSETTLED_MAX])


def make_machine(platform: Platform) -> type[RuleBasedStateMachine]:
    """The machine, on that platform's database."""
    collection = platform.database.collection("connectors")
    numbers = itertools.count()

    class LimiterMachine(RuleBasedStateMachine):
        @initialize(windows=windows_drawn, crowd=crowds, charge=st.integers(1, 20_000))
        def connect(self, windows: tuple[RateWindow, ...], crowd: int, charge: int) -> None:
            windows = tuple(RateWindow(window.limit + crowd, window.period_ms) for window in windows)
            limits = [(window.limit, window.period_ms) for window in windows]
            self.model = LimiterModel(windows, ORIGIN_MS)
            # The id of each booking; of what was charged without a grant there is none.
            self.ids: dict[int, str] = {}
            for number in range(crowd):
                # As if made long ago; their last moments lie apart, and not in the order of booking.
                self.model.book(ORIGIN_MS, charge + number * 7919 % 5_000, 1)
                self.ids[number] = f"crowd-{number}"
            unsettled = [
                {
                    "reservation_id": self.ids[number],
                    "at": booking.first_ms,
                    "t": booking.last_ms,
                    "w": 1,
                }
                for number, booking in enumerate(self.model.bookings)
            ]
            limiter = {"clock_ms": ORIGIN_MS, "last_at_ms": 0, "logs": [], "unsettled": unsettled}
            self.name = add_connector(platform, connector_id=f"machine-{next(numbers)}", windows=limits, limiter=limiter)
            self.notes: list[Told] = []

        def reserve(self, ask: Ask, use_permille: int = 1000) -> None:
            told, self.notes = self.notes, []
            try:
                reply = platform.limits.reserve(self.name, ask, [self.settlement(each) for each in told])
            except ConfigurationError:
                self.model.check_answer(ask, Answer(0, None, self.model.clock_ms, None), told)
            else:
                assert reply.is_paused == (self.model.is_paused and ask.is_for_job)
                assert reply.wait_ms == max(0, reply.at_ms - reply.clock_ms)
                answer = Answer(reply.granted, reply.at_ms, reply.clock_ms, reply.used)
                self.model.check_answer(ask, answer, told, use_permille)
                if reply.granted:
                    self.ids[len(self.model.bookings) - 1] = reply.reservation_id
                    assert reply.charged_ms == self.model.bookings[-1].last_ms
            self.check_unsettled()

        def settlement(self, told: Told) -> Settlement:
            last_ms = self.model.bookings[told.number].last_ms
            return Settlement(self.ids[told.number], told.before, told.after, told.arrived, told.by_ms, last_ms)

        def check_unsettled(self) -> None:
            """Neither kept nor charged for good when it should not be."""
            document = collection.find_one({"_id": self.name}) or {}
            kept = {grant["reservation_id"]: grant["w"] for grant in document["limiter"]["unsettled"]}
            assert kept == {self.ids[number]: self.model.bookings[number].weight for number in self.model.unsettled}
            assert len(kept) <= UNSETTLED_MAX
            assert "scratch" not in document
            for log in document["limiter"]["logs"]:
                moments = [entry["t"] for entry in log["entries"]]
                assert len(moments) == len(set(moments)), "a grain has two entries"

        def ask(self, need: int, want: int, wait_ms: int, charge: int | None, **options: Any) -> Ask:
            use_by_ms, in_doubt_ms = (USE_BY_MS, IN_DOUBT_MS) if charge is None else (charge // 2, charge - charge // 2)
            return Ask(need, want, wait_ms, use_by_ms=use_by_ms, in_doubt_ms=in_doubt_ms, **options)

        def limit(self) -> int:
            return min(window.limit for window in self.model.windows)

        def set_fields(self, **fields: object) -> None:
            collection.update_one({"_id": self.name}, {"$set": fields})

        def pass_until(self, moment_ms: int) -> None:
            self.model.clock_ms = moment_ms
            self.set_fields(**{"limiter.clock_ms": moment_ms})

        @rule(need=weights, charge=charges, use=thousandths, is_live=st.booleans())
        def ask_for_one(self, need: int, charge: int | None, use: int, is_live: bool) -> None:
            self.reserve(self.ask(min(need, self.limit()), need, 0, charge, is_live=is_live), use)

        @rule(need=weights, times=st.integers(0, 8), use=thousandths, is_for_job=st.booleans())
        def ask_for_a_batch(self, need: int, times: int, use: int, is_for_job: bool) -> None:
            self.reserve(self.ask(min(need, self.limit()), need * times, 0, None, is_for_job=is_for_job), use)

        @rule(count=st.integers(2, 6), step_ms=st.sampled_from([1, 10, 83]), charge=st.integers(0, 50))
        def ask_in_a_row(self, count: int, step_ms: int, charge: int) -> None:
            for _ in range(count):
                self.reserve(self.ask(1, 1, 0, charge))
                self.let_time_pass(step_ms=step_ms)

        @rule(need=weights, charge=charges, wait_ms=waits, use=thousandths, is_for_job=st.booleans())
        def ask_and_wait(self, need: int, charge: int | None, wait_ms: int, use: int, is_for_job: bool) -> None:
            self.reserve(self.ask(min(need, self.limit()), 3 * need, wait_ms, charge, is_for_job=is_for_job), use)

        def note(self, number: int, part: int, use: int, by: int) -> Told:
            """Of `part` thousandths of what is open, `use` thousandths had arrived by so much of the way to its last moment."""
            booking = self.model.bookings[number]
            said = max(1, booking.weight * part // 1000)
            by_ms = booking.first_ms + (booking.last_ms - booking.first_ms) * by // 1000
            return Told(number, booking.weight, booking.weight - said, said * use // 1000, by_ms)

        @rule(which=st.integers(0, 5), part=thousandths, use=thousandths, by=arrivals)
        def settle_one(self, which: int, part: int, use: int, by: int) -> None:
            if self.model.unsettled:
                number = self.model.unsettled[-1 - which % len(self.model.unsettled)]
                self.notes.append(self.note(number, part, use, by))

        @rule(count=st.integers(2, 40), use=thousandths, by=arrivals)
        def settle_the_oldest(self, count: int, use: int, by: int) -> None:
            self.notes += [self.note(number, 1000, use, by) for number in self.model.unsettled[:count]]

        @rule(which=st.integers(0, 9), use=thousandths, by=arrivals)
        def settle_again_or_too_late(self, which: int, use: int, by: int) -> None:
            over = sorted(self.ids.keys() - set(self.model.unsettled))
            if over:
                self.notes.append(self.note(over[-1 - which % len(over)], 1000, use, by))

        @rule()
        def repeat_what_is_told(self) -> None:
            self.notes += self.notes

        @rule()
        def lose_what_is_told(self) -> None:
            self.notes = []

        @rule()
        def tell_without_a_question(self) -> None:
            told, self.notes = self.notes, []
            platform.limits.settle(self.name, [self.settlement(each) for each in told])
            self.model.look(told)
            self.check_unsettled()

        @rule(used=st.integers(0, 5), late=st.booleans())
        def settle_what_never_was(self, used: int, late: bool) -> None:
            now_ms = self.model.clock_ms
            told = Settlement("never-was", used, 0, 0, now_ms, now_ms - 1 if late else now_ms)
            platform.limits.settle(self.name, [told])
            self.model.look()
            self.check_unsettled()

        @rule(over=st.integers(1, 3))
        def ask_for_more_than_is_ever_allowed(self, over: int) -> None:
            self.reserve(self.ask(self.limit() + over, 1, 1_000, None))

        @rule(step_ms=st.sampled_from([1, 10, 83, 500, 1_000, 10_000]) | st.integers(1, 70_000))
        def let_time_pass(self, step_ms: int) -> None:
            self.pass_until(self.model.clock_ms + step_ms)

        @rule(which=st.integers(0, 9), before_ms=st.sampled_from([0, 0, 1]))
        def go_to_an_edge(self, which: int, before_ms: int) -> None:
            edges_ms = self.model.edges_ms()
            if edges_ms:
                moment_ms = edges_ms[min(which, len(edges_ms) - 1)] - before_ms
                self.pass_until(max(self.model.clock_ms, moment_ms))

        @rule(wait_ms=st.integers(0, 5_000))
        def block(self, wait_ms: int) -> None:
            block = platform.limits.block(self.name, wait_ms, "418")
            assert block.until_ms == self.model.block(wait_ms)
            assert block.refused_ms == self.model.clock_ms

        @rule()
        def unblock(self) -> None:
            self.model.unblock()
            fields = {"limiter.refusal.share": 1000, "limiter.refusal.careful_until_ms": 0}
            self.set_fields(blocked_until=None, **fields)

        @rule(which=st.integers(0, 3), used=st.integers(0, 40))
        def report_usage(self, which: int, used: int) -> None:
            periods_ms = [window.period_ms for window in self.model.windows]
            period_ms = periods_ms[which] if which < len(periods_ms) else 5
            # What was booked before goes where it belongs, so that what is charged here can be seen.
            platform.limits.record_usage(self.name, 5, 0)
            before = self.live_weights()
            platform.limits.record_usage(self.name, period_ms, used)
            after = self.live_weights()
            added = [more - less for more, less in zip(after, before, strict=True)]
            assert which >= len(periods_ms) or after[which] >= used, "our count is lower than the exchange's"
            self.model.check_usage(period_ms, used, added)
            self.check_unsettled()

        def live_weights(self) -> list[int]:
            """By the connector's document: what counts now in each window."""
            limiter = (collection.find_one({"_id": self.name}) or {})["limiter"]
            logs = {log["period_ms"]: log["entries"] for log in limiter["logs"]}
            now_ms, unsettled = self.model.clock_ms, sum(grant["w"] for grant in limiter["unsettled"])
            return [
                unsettled + sum(e["w"] for e in logs[window.period_ms] if e["t"] + window.period_ms > now_ms)
                for window in self.model.windows
            ]

        @rule(windows=windows_drawn)
        def change_limits_and_periods(self, windows: tuple[RateWindow, ...]) -> None:
            self.model.windows = windows
            self.set_fields(**windows_document(windows))

        @rule(limit=st.integers(1, 30), which=st.integers(0, 2))
        def change_one_limit(self, limit: int, which: int) -> None:
            windows = list(self.model.windows)
            which %= len(windows)
            windows[which] = RateWindow(limit, windows[which].period_ms)
            self.change_limits_and_periods(windows=tuple(windows))

        @rule(more=st.integers(1, 10))
        def raise_all_limits(self, more: int) -> None:
            raised = (RateWindow(window.limit + more, window.period_ms) for window in self.model.windows)
            self.change_limits_and_periods(windows=tuple(raised))

        @rule(times=st.sampled_from([7, 60]))
        def lengthen_all_periods(self, times: int) -> None:
            longest_ms = max(PERIODS_MS)
            if all(window.period_ms * times <= longest_ms for window in self.model.windows):
                longer = (RateWindow(window.limit, window.period_ms * times) for window in self.model.windows)
                self.change_limits_and_periods(windows=tuple(longer))

        @rule(is_paused=st.booleans())
        def pause_or_resume(self, is_paused: bool) -> None:
            self.model.is_paused = is_paused
            self.set_fields(status="paused" if is_paused else "active")

    return LimiterMachine


def run_machine(platform: Platform, **profile: Any) -> None:
    run_state_machine_as_test(make_machine(platform), settings=settings(**WITHOUT_LIMITS, **profile))


def test_every_answer_of_the_limiter_is_what_the_law_allows(platform: Platform) -> None:
    run_machine(platform, max_examples=60, stateful_step_count=40, derandomize=True)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_HANG_S)
def test_every_answer_of_the_limiter_is_what_the_law_allows_in_long_histories(platform: Platform) -> None:
    run_machine(platform, max_examples=400, stateful_step_count=80, print_blob=True)
