"""Lists of indicators as specs, each list worked out once an instance: hundreds of series share a few lists."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from shared.domain.indicators import IndicatorSpec, resolve_indicators
from shared.stores.candles import Series
from shared.stores.database import Document
from shared.stores.series import SeriesStore

# A list is a few kilobytes; who has more different ones than this works some out again.
LISTS_MAX: Final = 256
# Jobs of which one instance keeps in mind which list their series had; 100 bytes each.
JOBS_MAX: Final = 20_000

Specs: TypeAlias = tuple[IndicatorSpec, ...]


class SpecLists:
    """Keeps what it has resolved. The same list always gives the same specs, so it may be lost at any time."""

    def __init__(self) -> None:
        self._known: dict[str, Specs] = {}

    def resolve(self, documents: Sequence[Mapping[str, Any]]) -> Specs:
        """See resolve_indicators; raises what it raises."""
        key = json.dumps(documents)
        specs = self._known.get(key)
        if specs is None:
            specs = resolve_indicators(documents)
            if len(self._known) >= LISTS_MAX:
                self._known.clear()
            self._known[key] = specs
        return specs


@dataclass(slots=True)
class SeriesSpecs:
    """What the candles of a series have values of. Of use to a run, and lost at any time."""

    series: SeriesStore
    lists: SpecLists
    _known: dict[tuple[Any, ...], Specs] = field(default_factory=dict)

    def read(self, series: Series) -> Specs:
        """As it is now."""
        return self.lists.resolve(self.series.read_list(series))

    def of_run(self, job: Document, series: Series) -> Specs:
        """That or a newer one than the job's `epoch` speaks of, which goes up with every change of the list.

        So it is read once for each epoch, and a page that was computed with an older one does not land (PageWriter.land).
        A job that is made again under its id begins with the epoch 0 again, but is of another time.
        """
        key = (job["_id"], job.get("created_at"), job.get("epoch", 0))
        specs = self._known.get(key)
        if specs is None:
            specs = self.read(series)
            if len(self._known) >= JOBS_MAX:
                self._known.clear()
            self._known[key] = specs
        return specs
