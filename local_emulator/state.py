"""The emulator's state directory: data of mongod, logs, the secret of admin tokens, and where its candles came from."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shared.errors import ConfigurationError

SECRET_BYTES: Final = 48
LIVE_ORIGIN: Final = "live exchanges"

# Relative to the folder in which the emulator is started: the checkout.
STATE_DIR_DEFAULT: Final = ".chandler"


class StateDirectory:
    """One directory of an emulator, `.chandler` unless said otherwise. Made at first use, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.mongod = self.path / "mongod"
        self.logs = self.path / "logs"

    def create(self) -> "StateDirectory":
        """Make the directories that are not there."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        return self

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Only one emulator at a time inside the block; the kernel frees the lock however the owner ends.

        Raises:
            ConfigurationError: another emulator runs on this directory.
        """
        self.create()
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationError(
                    f"an emulator runs on {self.path} already; stop it or give this one another --state-dir"
                ) from None
            yield

    def kept_port(self, name: str) -> int:
        """The port that part had at the last start, so that addresses people noted stay right; 0 if unknown."""
        try:
            return int((self.path / f"{name}.port").read_text())
        except (OSError, ValueError):
            return 0

    def keep_port(self, name: str, port: int) -> None:
        """Remember it for the next start."""
        (self.create().path / f"{name}.port").write_text(str(port))

    def jwt_secret(self) -> str:
        """HS256 key of this emulator's admin tokens: random, made once, kept in a file that only its owner reads."""
        path = self.create().path / "jwt_secret"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text().strip()
        with os.fdopen(handle, "w") as file:
            secret = secrets.token_urlsafe(SECRET_BYTES)
            file.write(secret)
        return secret

    def settle_origin(self, seed: int | None, default_seed: int, is_live: bool) -> int:
        """The market's seed for this directory. Candles of two markets in one collection would be no market's candles.

        Raises:
            ConfigurationError: what is stored here came from another market than the one asked for.
        """
        path = self.create().path / "origin.json"
        stored = json.loads(path.read_text()) if path.exists() else None
        chosen_seed = (
            seed if seed is not None else int(stored["seed"]) if stored and stored["seed"] is not None else default_seed
        )
        origin = {"market": LIVE_ORIGIN if is_live else "simulator", "seed": None if is_live else chosen_seed}
        if stored is not None and stored != origin:
            raise ConfigurationError(
                f"{self.path} holds candles of {_described(stored)}, not of {_described(origin)}; "
                "give another --state-dir or remove this one"
            )
        path.write_text(json.dumps(origin))
        return chosen_seed


def _described(origin: dict[str, str | int | None]) -> str:
    return str(origin["market"]) if origin["seed"] is None else f"the {origin['market']} with seed {origin['seed']}"
