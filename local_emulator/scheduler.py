"""The scheduler's clock: posts to tick at every full minute, as Cloud Scheduler does.

Its manners, after https://cloud.google.com/scheduler/docs/configuring/retry-jobs and
https://cloud.google.com/scheduler/docs/http-target-auth: an identity token of the scheduler's account; the two headers
below, which stay the same over retries; at least once per slot; an attempt that takes longer than its deadline is given
up, while the function goes on working.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import requests

JOB_NAME_HEADER: Final = "X-CloudScheduler-JobName"
SCHEDULE_TIME_HEADER: Final = "X-CloudScheduler-ScheduleTime"
JOB_NAME: Final = "chandler-tick"
ATTEMPT_DEADLINE_S: Final = 180.0
ATTEMPTS_MAX: Final = 4
BACKOFF_S: Final = 5.0
# A tick works for less than a minute; that many at once means that tick is stuck, and more would not help it.
IN_FLIGHT_MAX: Final = 8
STOP_LIMIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """When the clock fires and how patient it is. Shorter than a minute is more than Cloud Scheduler can, for demos."""

    every_s: float = 60.0
    backoff_s: float = BACKOFF_S
    attempt_deadline_s: float = ATTEMPT_DEADLINE_S


class SchedulerClock:
    """Fires at once, then at every multiple of `every_s` since the epoch, each time in a thread of its own.

    `token` makes an identity token for each attempt; `report` is told in one line of what went wrong.
    """

    def __init__(
        self,
        tick_url: str,
        token: Callable[[], str],
        report: Callable[[str], None],
        options: SchedulerOptions | None = None,
    ) -> None:
        self._tick_url = tick_url
        self._token = token
        self._report = report
        self._options = options or SchedulerOptions()
        self._is_stopping = threading.Event()
        self._in_flight = threading.Semaphore(IN_FLIGHT_MAX)
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self.fired_count = 0
        self.next_at_s = time.time()

    def start(self) -> None:
        """Begin to fire."""
        self._thread.start()

    def stop(self) -> None:
        """Fire no more. Attempts that run are left to end by themselves."""
        self._is_stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_LIMIT_S)

    def _run(self) -> None:
        every_s = self._options.every_s
        while not self._is_stopping.is_set():
            slot_s = int(time.time() // every_s) * every_s
            self._fire(slot_s)
            self.next_at_s = slot_s + every_s
            self._is_stopping.wait(max(0.0, self.next_at_s - time.time()))

    def _fire(self, slot_s: float) -> None:
        if not self._in_flight.acquire(blocking=False):
            self._report(f"scheduler: {IN_FLIGHT_MAX} ticks still run; this slot is left out")
            return
        self.fired_count += 1
        threading.Thread(target=self._deliver, args=(slot_s,), name="tick", daemon=True).start()

    def _deliver(self, slot_s: float) -> None:
        schedule_time = datetime.fromtimestamp(slot_s, UTC).isoformat().replace("+00:00", "Z")
        try:
            for attempt in range(ATTEMPTS_MAX):
                problem = self._post(schedule_time)
                if problem is None or self._is_stopping.is_set():
                    return
                self._report(f"scheduler: tick {schedule_time}: {problem}")
                if attempt < ATTEMPTS_MAX - 1 and self._is_stopping.wait(self._options.backoff_s * 2**attempt):
                    return
        finally:
            self._in_flight.release()

    def _post(self, schedule_time: str) -> str | None:
        """One attempt; what was wrong with it, or None. A client error is final on Cloud Scheduler too, yet tried again."""
        headers = {
            "Authorization": f"Bearer {self._token()}",
            "User-Agent": "Google-Cloud-Scheduler",
            "X-CloudScheduler": "true",
            JOB_NAME_HEADER: JOB_NAME,
            SCHEDULE_TIME_HEADER: schedule_time,
        }
        try:
            with requests.Session() as session:
                # A proxy in the environment is for the exchanges, not for loopback.
                session.trust_env = False
                answer = session.post(
                    self._tick_url,
                    json={},
                    headers=headers,
                    timeout=(5, self._options.attempt_deadline_s),
                    allow_redirects=False,
                )
        except requests.RequestException as exc:
            return type(exc).__name__
        return None if answer.ok else f"status {answer.status_code}"
