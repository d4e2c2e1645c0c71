"""What a cold start loads does not grow with the number of exchanges: an adapter is loaded when a connector first needs it."""

import json
import subprocess
import sys

import pytest

from main import ENTRY_POINTS
from shared.exchanges.catalog import EXCHANGES
from tests.upload import REPOSITORY

LOADED = """
import json, sys
import main
{work}
print(json.dumps(sorted(name for name in sys.modules if name.startswith("shared.exchanges.") or name == "ccxt")))
"""


def modules_after(work: str) -> set[str]:
    """Those of exchanges that a fresh process has loaded after that."""
    command = [sys.executable, "-c", LOADED.format(work=work)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return {name.removeprefix("shared.exchanges.") for name in json.loads(done.stdout)}


@pytest.mark.parametrize("function", ENTRY_POINTS)
def test_a_function_starts_without_any_exchange(function: str) -> None:
    loaded = modules_after(f"import functions.{function}, shared.wiring")
    assert "catalog" in loaded
    assert not loaded & {*EXCHANGES, "ccxt", "ccxt_bridge"}


def test_one_exchange_loads_itself_only() -> None:
    loaded = modules_after("from shared.exchanges.catalog import load_spec; load_spec('kraken')")
    assert loaded & {*EXCHANGES, "ccxt", "ccxt_bridge"} == {"kraken"}
