"""Somebody's process dies at a call of an edit: either nothing was decided, or what was decided is carried out by others."""

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

import numpy as np
import pytest
from pymongo import MongoClient

from local_emulator.simulator.process import SimulatorProcess, start_simulator
from shared.domain.indicators import DEFAULT_INDICATORS, resolve_indicators
from shared.errors import Conflict, NotFound
from shared.wiring import Platform
from tests.factories import make_platform
from tests.faults.edits import AT_WORK_ID, EDITS, LIVE, NEW_LIST, SECOND, SERIES, pass_time, run_all, set_up
from tests.faults.fault_scene import through
from tests.faults.one_run import ENDED, Nursery
from tests.faults.wire_proxy import Call, Fate, MongoProtocol, Proxy, Tap
from tests.machines.series_scene import NOW_MS
from tests.waiting import HANG_S, SOAK_HANG_S

SEED: Final = 57
KILLS: Final = (Fate.KILL_BEFORE, Fate.KILL_AFTER)
CALLS_OF_A_KIND_MAX: Final = 50
DEFAULT: Final = [spec.to_document() for spec in DEFAULT_INDICATORS]
# The list in the end, and the entry that the edit leaves in the audit log.
ENDS: Final = {
    "change the list": ([spec.to_document() for spec in resolve_indicators(NEW_LIST)], "job.patch"),
    "backfill before the start": (DEFAULT, "backfill.create"),
    "second job": ([*DEFAULT, *(spec.to_document() for spec in resolve_indicators(SECOND))], "job.create"),
    "cancel": (DEFAULT, "backfill.cancel"),
    "delete with candles": ([], "job.delete_with_candles"),
}


class EditScene:
    """A series to which the same edit is made again and again, each time by a process of its own."""

    def __init__(
        self, platform: Platform, client: MongoClient[dict[str, Any]], simulator: SimulatorProcess, nursery: Nursery, uri: str
    ) -> None:
        self.platform, self.simulator = platform, simulator
        self._client, self._nursery = client, nursery
        self._database = client[platform.settings.database]
        self._address = client.address
        self._uri = uri
        set_up(platform, simulator)
        names = [name for name in self._database.list_collection_names() if not name.startswith("system.")]
        self._start = {name: list(self._database[name].find()) for name in names}
        self.edit = ""

    def strike(self, call: Call, fate: Fate) -> bool:
        """The edit from the start, with that fate of that call, and all that others do then. Returns whether it came."""
        self._restore()
        tap, is_born, pid = Tap(), threading.Event(), [0]

        def kill() -> None:
            assert is_born.wait(HANG_S)
            os.kill(pid[0], signal.SIGKILL)

        tap.kill = kill
        assert self._address is not None
        with Proxy(tap, self._address, MongoProtocol) as proxy:
            tap.arm(call, fate)
            worker = self._nursery.start_edit(through(self._uri, proxy.port), self.platform.settings.database, self.edit)
            pid[0] = worker.pid
            is_born.set()
            status = worker.wait()
            self.calls = tap.disarm()
        is_struck = tap.is_struck.is_set()
        assert status == (-signal.SIGKILL if is_struck else ENDED), (call, status)
        # The server ends what a dead process has left open after a minute.
        self._client.admin.command("killAllSessions", [])
        self._repeat()
        self._assert_as_decided(call)
        return is_struck

    def _repeat(self) -> None:
        """Ticks come by, and whoever got no answer asks once more."""
        pass_time(self.platform)
        with suppress(Conflict, NotFound):
            if self.edit != "change the list" or self.platform.series_store.read_list(SERIES) == DEFAULT:
                EDITS[self.edit](self.platform)
        pass_time(self.platform)
        run_all(self.platform, self.simulator)

    def _assert_as_decided(self, call: Call) -> None:
        platform, (listed, action) = self.platform, ENDS[self.edit]
        known = [entry["_id"] for entry in self._start["audit_log"]]
        made = platform.database.collection("audit_log").find({"_id": {"$nin": known}})
        assert [entry["action"] for entry in made].count(action) == 1, call
        assert platform.jobs.count({"is_retiring": True}) == 0
        assert platform.series_store.read_list(SERIES) == listed
        assert platform.helpers.count_stale(SERIES) == 0
        if self.edit == "delete with candles":
            assert platform.jobs.count({}) == 0
            assert self._database["backfills"].count_documents({}) == 0
            assert self._database["coverage"].count_documents({}) == 0
            assert self._database[SERIES.collection_name].count_documents({}) == 0
            return
        found = platform.series_verifier.verify(LIVE, None, None)
        assert (found.value_differences_count, found.ledger_differences_count) == (0, 0), call
        backfills = {each["_id"]: each for each in self._database["backfills"].find()}
        assert all(each["is_carried_out"] for each in backfills.values())
        assert {each["status"] for each in backfills.values()} <= {"done", "cancelled"}
        assert backfills[AT_WORK_ID]["status"] == ("cancelled" if self.edit == "cancel" else "done")
        assert set(platform.database.collection("jobs").distinct("backfill_id")) <= set(backfills)
        opens = platform.candles.read_open_times(SERIES, 0, 2**45)
        assert len(np.unique(opens)) == len(opens)

    def _restore(self) -> None:
        self.simulator.clock(now_ms=NOW_MS)
        self.platform.candles.ensure_collection(SERIES)
        for name in self._database.list_collection_names():
            if not name.startswith("system."):
                self._database[name].delete_many({})
        for name, documents in self._start.items():
            if documents:
                self._database[name].insert_many(documents)


@contextmanager
def open_edits(mongodb_uri: str, client: MongoClient[dict[str, Any]]) -> Iterator[EditScene]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    with ExitStack() as stack:
        nursery = stack.enter_context(Nursery())
        simulator = stack.enter_context(start_simulator(freeze_at_ms=NOW_MS, seed=SEED))
        stack.callback(client.drop_database, name)
        platform = make_platform(mongodb_uri, name)
        stack.callback(platform.close)
        yield EditScene(platform, client, simulator, nursery, mongodb_uri)


@pytest.fixture(scope="module")
def edits(mongodb_uri: str, mongo_client: MongoClient[dict[str, Any]]) -> Iterator[EditScene]:
    with open_edits(mongodb_uri, mongo_client) as scene:
        yield scene


@pytest.mark.parametrize("fate", KILLS, ids=lambda fate: fate.name)
@pytest.mark.parametrize("edit", EDITS)
def test_who_dies_around_the_first_commit_has_decided_all_or_nothing(edits: EditScene, edit: str, fate: Fate) -> None:
    edits.edit = edit
    assert not edits.strike(Call("none", 0), fate)
    commit = next(call for call in edits.calls if call.kind.startswith("commitTransaction"))
    assert edits.strike(commit, fate)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_HANG_S)
@pytest.mark.parametrize("fate", KILLS, ids=lambda fate: fate.name)
@pytest.mark.parametrize("edit", EDITS)
def test_who_dies_at_any_call_of_an_edit_has_decided_all_or_nothing(edits: EditScene, edit: str, fate: Fate) -> None:
    edits.edit = edit
    assert not edits.strike(Call("none", 0), fate)
    for kind in dict.fromkeys(call.kind for call in edits.calls):
        assert edits.strike(Call(kind, 1), fate)
        number = 2
        while edits.strike(Call(kind, number), fate):
            number += 1
            assert number <= CALLS_OF_A_KIND_MAX
