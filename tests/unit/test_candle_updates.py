"""How many statements it takes to write values into candles, and how large they are."""

import numpy as np
import pytest

from shared.domain.timeframes import MINUTE_MS
from shared.stores.candle_updates import COMMAND_BYTES_MAX, GAP_MAX, SHARED_FROM, value_updates

FIRST_MS = 1_760_000_040_000


def statements_count(*numbers: int) -> int:
    opens_ms = FIRST_MS + np.array(numbers, np.int64) * MINUTE_MS
    return len(value_updates(opens_ms, {"obv": np.arange(float(len(opens_ms)))}))


def test_candles_that_lie_close_to_each_other_share_a_statement() -> None:
    near, far = range(100), range(100 + GAP_MAX, 200 + GAP_MAX)
    assert statements_count() == 0
    assert statements_count(*near) == 1
    assert statements_count(*near, *(number - 1 for number in far)) == 1
    assert statements_count(*near, *far) == 2
    assert statements_count(*range(0, 100 * GAP_MAX, GAP_MAX), 100 * GAP_MAX - 1) == 1


def test_a_few_candles_have_one_each() -> None:
    few = range(SHARED_FROM - 1)
    assert statements_count(*few) == len(few)
    assert statements_count(*few, *range(1_000, 1_100)) == len(few) + 1


@pytest.mark.parametrize(("candles_count", "fields_count", "apart"), [(20_000, 40, 1), (20_000, 1, GAP_MAX), (5_000, 200, 1)])
def test_no_statement_is_larger_than_a_command_may_be(candles_count: int, fields_count: int, apart: int) -> None:
    # The first two are a minute apart, which makes that the step, however far apart the others are.
    opens_ms = FIRST_MS + np.append(0, 1 + np.arange(candles_count) * apart) * MINUTE_MS
    column = np.full(len(opens_ms), 0.5)
    statements = value_updates(opens_ms, {f"field_{number}": column for number in range(fields_count)})
    assert max(len(statement.raw) for statement in statements) <= COMMAND_BYTES_MAX
    assert len(statements) < candles_count / 2
