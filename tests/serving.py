"""The admin function in a process of its own, as the emulator and the platform start it: over real HTTP."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from local_emulator.processes import HOST, Service, Supervisor, free_port
from local_emulator.tokens import admin_token
from tests.upload import REPOSITORY
from tests.waiting import HANG_S

JWT_SECRET = "a secret for one process of the admin function, longer than 32 bytes"


@dataclass(frozen=True)
class ServedAdmin:
    """Where it serves, who may read there, and what it logs."""

    url: str
    log_path: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {admin_token(JWT_SECRET, 'viewer')}"}

    def get(self, path: str, **headers: str) -> requests.Response:
        """A response whose body has yet to be read."""
        with requests.Session() as session:
            session.trust_env = False
            return session.get(self.url + path, headers={**self.headers, **headers}, timeout=HANG_S, stream=True)

    def process_id(self) -> int:
        """Of the process that answers: gunicorn's worker, the only child of the one that was started."""
        (child,) = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_worker(entry)]
        return child

    def _is_worker(self, entry: Path) -> bool:
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            parent_command = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return self.url.rsplit(":", 1)[1].encode() in command and command == parent_command


@contextmanager
def serve_admin(mongodb_uri: str, database: str, folder: Path, **environment: str) -> Iterator[ServedAdmin]:
    """Start it on the database, and stop it afterwards."""
    port = free_port()
    argv = (
        str(Path(sys.executable).with_name("functions-framework")),
        "--target",
        "admin",
        "--host",
        HOST,
        "--port",
        str(port),
    )
    settings = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "MONGODB_URI": mongodb_uri,
        "CHANDLER_DATABASE": database,
        "CHANDLER_CANDLES_DATABASE": database,
        "CHANDLER_JWT_SECRET": JWT_SECRET,
        "THREADS": "4",
        **environment,
    }
    service = Service("admin", argv, port, settings, folder / "admin.log", REPOSITORY)
    supervisor = Supervisor()
    try:
        supervisor.start([service], HANG_S)
        yield ServedAdmin(service.url, service.log_path)
    finally:
        supervisor.stop()
