"""Rows of data by exchange that say what to write where one is missing."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class ByExchange(dict[str, T]):
    """A row for each exchange; `missing` says where to put that of the exchange named by `{}`."""

    def __init__(self, missing: str, rows: Mapping[str, T]) -> None:
        super().__init__(rows)
        self._missing = missing

    def __missing__(self, exchange: str) -> T:
        raise LookupError(self._missing.format(exchange))
