"""Give each series of version 0.1.0, where every job had a list of indicators of its own, one that is the series'."""

from typing import Final

from shared.domain.indicator_lists import extend_fields, is_computable, join_lists
from shared.stores.old_series import OldSeries
from shared.stores.upgrades import Upgrade, UpgradeStore
from shared.telemetry import event

NAME: Final = "series"
VERSION: Final = "one list"


def adopt_series(old: OldSeries, upgrades: UpgradeStore) -> None:
    """Once a database. Whoever dies in between leaves it to the next start, and two at once do the same.

    The list is all that the series' jobs compute, since that is what its candles have. Of two that write the same field that of
    the live job stays; one that cannot be computed would stop them all, and is left out.
    """
    known = upgrades.read(NAME)
    if known is not None and known.version == VERSION:
        return
    found = []
    for each in old.list_():
        lists = [[item for item in documents if is_computable(item)] for documents in each["lists"]]
        left_out = [item["as"] for documents in each["lists"] for item in documents if not is_computable(item)]
        if left_out:
            event("indicators_not_adopted", "WARNING", series=each["series"].series_id, indicators=left_out)
        indicators = join_lists(lists)
        found.append((each["series"], indicators, extend_fields(each["fields"], indicators), each["stale"]))
    # What is written first is read from the series then: from here on the jobs' own lists are not looked at.
    old.adopt(found)
    old.take_from_jobs()
    upgrades.write(NAME, Upgrade(VERSION, "", is_done=True))
    if found:
        event("series_adopted", "NOTICE", count=len(found))
