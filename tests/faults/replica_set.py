"""Three real mongods as one replica set on loopback, whose members can be stepped down, killed, frozen and started again."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from pymongo import MongoClient
from pymongo.errors import AutoReconnect, PyMongoError

from local_emulator.mongod import REPLICA_SET, Parameters, find_mongod, launch
from local_emulator.processes import HOST, free_port, log_tail, stop
from tests.waiting import wait_until

MEMBERS: Final = 3
# A member that hears nothing of the primary for this long stands for election. MongoDB's own default, and longer than our
# driver waits for a primary: so the loss of one is felt, as it is in production.
ELECTION_TIMEOUT_MS: Final = 10_000
HEARTBEAT_MS: Final = 500
STEP_DOWN_S: Final = 5
PROBE_TIMEOUT_MS: Final = 2_000
STOP_LIMIT_S: Final = 10.0
PARAMETERS: Final[Parameters] = {"enableTestCommands": 1}

Client = MongoClient[dict[str, Any]]


class Member:
    """One mongod. Its data and its port stay when it is killed and started again."""

    def __init__(self, binary: Path, data_dir: Path, environment: Mapping[str, str] | None) -> None:
        self._binary = binary
        self._data_dir = data_dir
        self._environment = environment
        self._client: Client | None = None
        self.port = free_port()
        self.process = self._launch()

    @property
    def address(self) -> str:
        """host:port, as it stands in the replica set's configuration."""
        return f"{HOST}:{self.port}"

    def start_again(self) -> None:
        """Start a member that was killed, on the same data and port."""
        assert self.process.poll() is not None
        self.process = self._launch()

    def kill(self) -> None:
        """kill -9: what it had not written to its journal is gone."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP: it answers nobody, but its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def command(self, command: str, value: object = 1, **options: Any) -> dict[str, Any]:
        """An admin command to this member and no other."""
        if self._client is None:
            self._client = Client(
                HOST,
                self.port,
                directConnection=True,
                tz_aware=True,
                serverSelectionTimeoutMS=PROBE_TIMEOUT_MS,
                socketTimeoutMS=10 * PROBE_TIMEOUT_MS,
            )
        answer: dict[str, Any] = self._client.admin.command(command, value, **options)
        return answer

    def state(self) -> str:
        """`primary`, `secondary`, `other` (recovering, starting) or `away`."""
        if self.process.poll() is not None:
            return "away"
        try:
            hello = self.command("hello")
        except PyMongoError:
            return "away"
        return "primary" if hello["isWritablePrimary"] else "secondary" if hello["secondary"] else "other"

    def end(self) -> None:
        """Stop it for good."""
        if self._client is not None:
            self._client.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGCONT)
        stop(self.process, STOP_LIMIT_S)

    def log(self) -> str:
        """The end of its log."""
        return log_tail(self._data_dir / "mongod.log")

    def _launch(self) -> "subprocess.Popen[bytes]":
        return launch(self._binary, self._data_dir, self.port, PARAMETERS, self._environment)


class ReplicaSet:
    """The members, in the order in which they were made. `uri` names all of them, as a user's would."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        addresses = ",".join(member.address for member in members)
        self.uri = f"mongodb://{addresses}/?replicaSet={REPLICA_SET}"

    def initiate(self) -> None:
        """Make them one set, the first of them primary, and wait until all are in."""
        first = self.members[0]
        for member in self.members:
            wait_until(partial(_has_come_up, member), member.log)
        first.command(
            "replSetInitiate",
            {
                "_id": REPLICA_SET,
                "members": [{"_id": index, "host": member.address} for index, member in enumerate(self.members)],
                "settings": {"electionTimeoutMillis": ELECTION_TIMEOUT_MS, "heartbeatIntervalMillis": HEARTBEAT_MS},
            },
        )
        self.wait_whole()
        self.make_primary(first)

    def primary(self) -> Member:
        """Who can be written to, as soon as somebody can."""
        return wait_until(lambda: next((member for member in self.members if member.state() == "primary"), None), self.states)

    def wait_whole(self) -> None:
        """Until one is primary and all others follow it."""
        wait_until(lambda: sorted(self.states()) == ["primary", *["secondary"] * (len(self.members) - 1)], self.states)

    def states(self) -> list[str]:
        """Of each member."""
        return [member.state() for member in self.members]

    def step_down(self) -> None:
        """The primary steps down, and for a while does not stand again."""
        with contextlib.suppress(AutoReconnect):
            self.primary().command("replSetStepDown", STEP_DOWN_S, secondaryCatchUpPeriodSecs=STEP_DOWN_S - 1)

    def kill_primary(self) -> Member:
        """kill -9 of the primary; returns it when another one has taken its place."""
        member = self.primary()
        member.kill()
        self.primary()
        return member

    def make_primary(self, member: Member) -> None:
        """Let that member be elected."""

        def is_elected() -> bool:
            if member.state() == "primary":
                return True
            with contextlib.suppress(PyMongoError):
                member.command("replSetStepUp")
            return False

        wait_until(is_elected, self.states)


@contextmanager
def start_replica_set(
    folder: Path, environments: Sequence[Mapping[str, str] | None] = (None,) * MEMBERS
) -> Iterator[ReplicaSet]:
    """A replica set with its data below `folder`, stopped with the block; one member for each environment.

    Raises:
        ConfigurationError: there is no mongod here. It is never the one that MONGODB_URI names: this one is maltreated.
    """
    binary = find_mongod()
    members: list[Member] = []
    try:
        for index, environment in enumerate(environments):
            data_dir = folder / f"member{index}"
            data_dir.mkdir()
            members.append(Member(binary, data_dir, environment))
        replica_set = ReplicaSet(members)
        replica_set.initiate()
        yield replica_set
    finally:
        for member in members:
            member.end()


def _has_come_up(member: Member) -> bool:
    return member.state() != "away"
