"""Have all stored values computed again where they are of another version of the rule or of TA-Lib.

Each series' enrich job does that, beside everything else that it does, and tells how many candles are left. Here they are only
woken, some at each tick, so that ten thousand series are not one long call.
"""

from dataclasses import dataclass
from typing import Final

from shared.domain.indicators import VALUES_VERSION
from shared.domain.jobs import KEEPING_KINDS, Job
from shared.stores.candles import CandleStore, Series
from shared.stores.database import Database, Document
from shared.stores.jobs import JobStore
from shared.stores.upgrades import Upgrade, UpgradeStore
from shared.telemetry import event
from shared.usecases.series_jobs import SeriesHelpers

NAME: Final = "values"
# Jobs looked at in one step: a second or two.
STEP: Final = 200


@dataclass(frozen=True, slots=True)
class ValuesRenewal:
    """Steps of it, of any number of instances."""

    database: Database
    upgrades: UpgradeStore
    jobs: JobStore
    candles: CandleStore
    helpers: SeriesHelpers

    def begin(self) -> None:
        """A database without jobs has nothing that is old."""
        if self.upgrades.read(NAME) is None and not self.jobs.list_({}, limit=1):
            self.upgrades.write(NAME, Upgrade(VALUES_VERSION, "", is_done=True))

    def step(self) -> bool:
        """Wake the enrich jobs of the next series. Returns whether that was the last step; one read once it is.

        A step that is done twice only has values computed twice.
        """
        known = self.upgrades.read(NAME)
        if known is None or known.version != VALUES_VERSION:
            known = Upgrade(VALUES_VERSION, "", is_done=False)
        if known.is_done:
            return True
        documents = self.jobs.list_({"kind": {"$in": list(KEEPING_KINDS)}}, known.after, STEP)
        woken = sum(self._wake(document) for document in documents)
        is_done = len(documents) < STEP
        after = documents[-1]["_id"] if documents else known.after
        self.upgrades.write(NAME, Upgrade(VALUES_VERSION, after, is_done))
        event("values_renewed", "NOTICE", version=VALUES_VERSION, jobs=len(documents), woken=woken, is_last=is_done)
        return is_done

    def _wake(self, document: Document) -> bool:
        """Whether the job's series has values that may be old."""
        job = Job.from_document(document)
        first_ms = self.candles.find_next_open(Series.of(job), -1)
        if first_ms is None:
            return False
        self.database.transact(lambda session: self.helpers.want_enriching(job, first_ms, None, session))
        return True
