"""An export's memory does not grow with its length, in any form."""

from pathlib import Path

import pytest

from benchmarks import read

# A batch or two of what the allocator has not given back; ten times the candles would be ten times that, and more.
GROWTH_MB_MAX = 30


@pytest.mark.soak
def test_ten_times_the_candles_take_no_more_memory(mongodb_uri: str, tmp_path: Path) -> None:
    read.fill(mongodb_uri)
    exports = read.export_in_every_form(mongodb_uri, tmp_path, read.FORMS, is_quiet=True)
    grown = {form: row["peak_mb_whole"] - row["peak_mb_tenth"] for form, row in exports.items()}
    assert max(grown.values()) <= GROWTH_MB_MAX, exports
