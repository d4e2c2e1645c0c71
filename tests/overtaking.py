"""A named pause point: what others do between the moment at which a run has read and computed everything, and a write of it."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from shared.wiring import Platform

Overtake: TypeAlias = Callable[..., None]


def overtake_write(platform: Platform, monkeypatch: pytest.MonkeyPatch, what: Callable[[], object], number: int = 1) -> None:
    """The platform's next transaction, or a later one, begins when `what` has been done."""
    transact, left = platform.database.transact, number

    def overtaken(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            monkeypatch.setattr(platform.database, "transact", transact)
            what()
        return transact(*args, **options)

    monkeypatch.setattr(platform.database, "transact", overtaken)
