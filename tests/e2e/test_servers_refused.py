"""Databases that the platform cannot be right on are refused with a message that says how to mend it."""

import subprocess
from pathlib import Path

import pytest

from local_emulator.mongod import find_mongod
from local_emulator.processes import free_port
from shared.errors import ConfigurationError
from shared.settings import load_settings
from shared.stores.database import Database, refuse_unsuitable


def test_a_real_standalone_is_refused(tmp_path: Path) -> None:
    port = free_port()
    command = [str(find_mongod()), "--dbpath", str(tmp_path), "--bind_ip", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    database = Database.connect(load_settings(mongodb_uri=f"mongodb://127.0.0.1:{port}/"))
    try:
        with pytest.raises(ConfigurationError, match=r"standalone.*--replSet rs0.*rs.initiate"):
            database.check()
    finally:
        database.close()
        server.terminate()
        server.wait()


@pytest.mark.parametrize(("version", "is_refused"), [((5, 0, 26), True), ((6, 0, 0), False), ((8, 2, 1), False)])
def test_versions_before_six_are_refused(version: tuple[int, ...], is_refused: bool) -> None:
    hello = {"setName": "rs0"}
    if not is_refused:
        refuse_unsuitable(hello, version)
        return
    with pytest.raises(ConfigurationError, match=r"5\.0\.26 is too old.*6\.0"):
        refuse_unsuitable(hello, version)


def test_a_router_of_a_sharded_cluster_is_taken() -> None:
    refuse_unsuitable({"msg": "isdbgrid"}, (7, 0, 1))
