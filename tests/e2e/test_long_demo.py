"""The whole platform for some minutes, judged by the demo's own comparison with the exchange."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.waiting import HANG_S

ROOT: Final = Path(__file__).resolve().parents[2]
SECONDS: Final = 200


@pytest.mark.soak
@pytest.mark.parametrize("seed", [2, 3])
def test_minutes_of_following_the_market_leave_nothing_missing_and_no_limit_broken(seed: int) -> None:
    command = [sys.executable, "-m", "local_emulator", "demo", "--seconds", str(SECONDS), "--seed", str(seed)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + HANG_S)
    result = json.loads(ended.stdout.splitlines()[-1])
    assert ended.returncode == 0, result
    assert result["jobs"] == result["caught_up"]
    assert result["errors"] == result["over_limit"] == result["missing"] == result["duplicates"] == 0
