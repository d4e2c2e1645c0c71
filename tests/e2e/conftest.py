"""The admin function's app, on a database of its own for each test, and one simulator for all."""

from collections.abc import Iterator
from pathlib import Path

import functions_framework
import pytest
from flask import Flask

from functions import gateway
from local_emulator.simulator.process import SimulatorProcess, start_simulator
from tests.e2e.admin_api import SECRET, AdminApi

PROJECT_DIR = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def admin_app() -> Flask:
    """The function as it is deployed."""
    app: Flask = functions_framework.create_app("admin", str(PROJECT_DIR / "main.py"))
    return app


@pytest.fixture(scope="session")
def exchange_simulator() -> Iterator[SimulatorProcess]:
    """The simulated exchanges."""
    with start_simulator() as simulator:
        yield simulator


@pytest.fixture
def api(
    admin_app: Flask,
    exchange_simulator: SimulatorProcess,
    mongodb_uri: str,
    database_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[AdminApi]:
    """A fresh instance of the admin function."""
    monkeypatch.setenv("MONGODB_URI", mongodb_uri)
    monkeypatch.setenv("CHANDLER_DATABASE", database_name)
    monkeypatch.setenv("CHANDLER_CANDLES_DATABASE", database_name)
    monkeypatch.setenv("CHANDLER_JWT_SECRET", SECRET)
    monkeypatch.setenv("CHANDLER_HOSTS_ALLOWED", f"127.0.0.1:{exchange_simulator.port}")
    exchange_simulator.set_faults()
    for exchange in ("binance", "coinbase", "kraken"):
        exchange_simulator.configure(exchange)
    # A new instance: nothing is left of the one before.
    monkeypatch.setattr(gateway, "_platforms", {})
    api = AdminApi(admin_app.test_client(), f"http://127.0.0.1:{exchange_simulator.port}")
    yield api
    api.platform.close()


@pytest.fixture
def live(api: AdminApi) -> AdminApi:
    """A live job that has not run yet."""
    api.add_connector()
    api.add_job()
    return api
