"""One real mongod for the whole test session, and a database of its own for each test that wants one."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from local_emulator.mongod import start_mongod
from shared.wiring import Platform
from tests.factories import make_platform


@pytest.fixture(scope="session")
def mongodb_uri() -> Iterator[str]:
    """A replica set that takes fail points: `MONGODB_URI` if it is set, else a temporary mongod."""
    data_dir = Path(tempfile.mkdtemp(prefix="chandler-mongod-"))
    mongod = start_mongod(data_dir, set_parameters={"enableTestCommands": 1})
    try:
        yield mongod.uri
    finally:
        mongod.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def mongo_client(mongodb_uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client whose dates are aware (UTC) and whose writes wait for the majority."""
    with MongoClient[dict[str, Any]](mongodb_uri, tz_aware=True, w="majority", retryWrites=True) as client:
        yield client


@pytest.fixture
def database_name(mongo_client: MongoClient[dict[str, Any]]) -> Iterator[str]:
    """A name that no other test has; every database whose name begins with it is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield name
    for database in mongo_client.list_database_names():
        if database.startswith(name):
            mongo_client.drop_database(database)


@pytest.fixture
def platform(mongodb_uri: str, database_name: str) -> Iterator[Platform]:
    """A platform on a database of its own, with its indexes and connections enough for many threads."""
    made = make_platform(mongodb_uri, database_name, mongodb_pool_size=45)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_platform(mongodb_uri: str, mongo_client: MongoClient[dict[str, Any]]) -> Iterator[Platform]:
    """One for all tests of a module, which empty it themselves: where scenes are short, and making a database is not."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    made = make_platform(mongodb_uri, name)
    yield made
    made.close()
    mongo_client.drop_database(name)
