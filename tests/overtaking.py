"""A named pause point: what others do between the moment at which a run has read and computed everything, and its write."""

from collections.abc import Callable
from typing import Any

import pytest

from shared.wiring import Platform


def overtake_next_write(platform: Platform, monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """The next transaction of the platform begins when `what` has been done."""
    transact = platform.database.transact

    def overtaken(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(platform.database, "transact", transact)
        what()
        return transact(*args, **options)

    monkeypatch.setattr(platform.database, "transact", overtaken)
