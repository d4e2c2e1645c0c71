"""TA-Lib, kept from importing pandas and polars.

It looks for both at its import, to wrap its functions for their series. We hand it numpy only; where they are installed (as for
shared/load_series.py) that would cost every start 0.3 s and 70 MB. Who has imported them before finds it wrapped as usual.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Inside the block these modules are not found, unless they are loaded already."""
    absent = [name for name in names if name not in sys.modules]
    # None is how Python itself marks a module that is not to be looked for.
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


with _hidden("pandas", "polars"):
    import talib
    from talib import abstract

__all__ = ["abstract", "talib"]
