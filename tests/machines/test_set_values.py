"""Values that are put into stored candles: exactly those, into exactly these candles, in the caller's transaction."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pytest
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from shared.domain.candles import PRICE_COLUMNS, CandleBatch, FloatArray
from shared.domain.jobs import to_datetime
from shared.domain.timeframes import MINUTE_MS, TIMEFRAMES, IntArray
from shared.stores.candle_updates import GAP_MAX, SHARED_FROM
from shared.stores.candles import Series
from shared.wiring import Platform
from tests.factories import add_candles, make_candles

START_MS: Final = 1_759_968_000_000
COUNT: Final = 600
SERIES: Final = Series("binance", "BTC/USDT", "1m")
# Other jobs' is a field of which the one that writes knows nothing.
OWN: Final = ("sma_20", "obv")
OTHERS: Final = "kama_10"


def collection_of(platform: Platform) -> "Collection[dict[str, Any]]":
    return platform.database.candles_collection(SERIES.exchange_slug, SERIES.collection_name)


def store(platform: Platform, candles: CandleBatch) -> None:
    fields = {name: np.arange(len(candles)) + place / 7 for place, name in enumerate((*OWN, OTHERS))}
    add_candles(platform, SERIES, candles, fields)


def write(platform: Platform, opens_ms: IntArray, values: Mapping[str, FloatArray]) -> None:
    platform.database.transact(lambda session: platform.candles.set_values(SERIES, opens_ms, values, session))


def stored(platform: Platform) -> dict[Any, dict[str, Any]]:
    return {document["_id"]: document for document in collection_of(platform).find()}


def as_told(
    before: Mapping[Any, dict[str, Any]], opens_ms: IntArray, values: Mapping[str, FloatArray]
) -> dict[Any, dict[str, Any]]:
    """What has to be stored afterwards, candle by candle."""
    after = {at: {**document, "ind": dict(document["ind"])} for at, document in before.items()}
    for row, open_ms in enumerate(opens_ms.tolist()):
        found = after.get(to_datetime(open_ms), {"ind": {}})["ind"]
        for name, column in values.items():
            found.pop(name, None)
            if not np.isnan(column[row]):
                found[name] = column[row]
    return after


def new_values(count: int, nan_share: float = 0.0) -> dict[str, FloatArray]:
    rng = np.random.default_rng(count)
    return {name: np.where(rng.random(count) < nan_share, np.nan, rng.normal(1e5, 1, count)) for name in (*OWN, "new_field")}


def only(share: float) -> Callable[[IntArray], IntArray]:
    return lambda opens_ms: opens_ms[np.random.default_rng(4).random(len(opens_ms)) < share]


CHOSEN: Final[dict[str, Callable[[IntArray], IntArray]]] = {
    "all": lambda opens_ms: opens_ms,
    "none": lambda opens_ms: opens_ms[:0],
    "one": lambda opens_ms: opens_ms[7:8],
    "as many as share a statement": lambda opens_ms: opens_ms[:SHARED_FROM],
    "one fewer": lambda opens_ms: opens_ms[: SHARED_FROM - 1],
    "every second": lambda opens_ms: opens_ms[::2],
    "most": only(0.9),
    "some": only(0.3),
    "few": only(0.02),
    "two stretches": lambda opens_ms: np.concatenate((opens_ms[:40], opens_ms[41 + GAP_MAX : 300])),
}


@pytest.mark.parametrize("nan_share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("choose", CHOSEN.values(), ids=CHOSEN.keys())
def test_the_candles_get_the_values_and_no_other_field_or_candle_is_touched(
    platform: Platform, choose: Callable[[IntArray], IntArray], nan_share: float
) -> None:
    store(platform, make_candles(START_MS, COUNT))
    opens_ms = choose(START_MS + np.arange(COUNT) * MINUTE_MS)
    values, before = new_values(len(opens_ms), nan_share), stored(platform)
    write(platform, opens_ms, values)
    assert stored(platform) == as_told(before, opens_ms, values)


@pytest.mark.parametrize("holes_share", [0.1, 0.9, 0.98])
def test_holes_in_a_series_shift_no_value_to_another_candle(platform: Platform, holes_share: float) -> None:
    candles = make_candles(START_MS, 4_000)
    candles = candles[np.random.default_rng(9).random(len(candles)) >= holes_share]
    store(platform, candles)
    values, before = new_values(len(candles)), stored(platform)
    write(platform, candles.open_ms, values)
    assert stored(platform) == as_told(before, candles.open_ms, values)


def test_months_which_are_not_of_one_length_get_their_own_values(platform: Platform) -> None:
    opens_ms = TIMEFRAMES["1M"].open_times(1_000_000_000_000, START_MS)
    prices = make_candles(0, len(opens_ms))
    store(platform, CandleBatch(opens_ms, *(getattr(prices, name) for name in PRICE_COLUMNS)))
    values, before = new_values(len(opens_ms)), stored(platform)
    write(platform, opens_ms, values)
    assert stored(platform) == as_told(before, opens_ms, values)


def test_what_is_no_value_stays_bit_for_bit(platform: Platform) -> None:
    """Whatever another hand has put there: a whole number, a negative zero, a field that we do not know."""
    odd = {"open": 7, "high": -0.0, "low": 5e-324, "close": 0.1 + 0.2, "volume": float("inf"), "note": "by hand", "ind": {}}
    platform.candles.ensure_collection(SERIES)
    opens_ms = START_MS + np.arange(50) * MINUTE_MS
    collection_of(platform).insert_many([{"_id": to_datetime(open_ms), **odd} for open_ms in opens_ms.tolist()])

    def heads() -> list[bytes]:
        """The documents' bytes after their length and before their values, which come last."""
        options = collection_of(platform).codec_options.with_options(document_class=RawBSONDocument)
        found = collection_of(platform).with_options(codec_options=options).find().sort("_id", 1)
        return [document.raw[4 : document.raw.index(b"\x03ind\x00")] for document in found]

    before, values = heads(), new_values(50)
    write(platform, opens_ms, values)
    assert heads() == before
    for row, document in enumerate(stored(platform).values()):
        assert document["ind"] == {name: column[row] for name, column in values.items()}


def test_a_candle_that_has_vanished_stays_away_and_one_that_has_come_keeps_its_values(platform: Platform) -> None:
    candles = make_candles(START_MS, 100)
    late = np.zeros(100, np.bool_)
    late[[30, 60]] = True
    store(platform, candles[~late])
    opens_ms = candles[~late].open_ms
    collection_of(platform).delete_one({"_id": to_datetime(int(opens_ms[50]))})
    store(platform, candles[late])
    # And one that no exchange has sent: it lies between two of the grid.
    stranger = {"_id": to_datetime(START_MS + 20 * MINUTE_MS + 1), "open": 1.0, "ind": {"obv": 1.0}}
    collection_of(platform).insert_one(stranger)
    values, before = new_values(len(opens_ms)), stored(platform)
    write(platform, opens_ms, values)
    assert stored(platform) == as_told(before, opens_ms, values)
    assert len(stored(platform)) == 100


def test_until_the_transaction_ends_others_see_what_was_there(platform: Platform) -> None:
    candles = make_candles(START_MS, 100)
    store(platform, candles)
    values, before = new_values(100), stored(platform)

    def look(session: Any) -> None:
        platform.candles.set_values(SERIES, candles.open_ms, values, session)
        assert stored(platform) == before

    platform.database.transact(look)
    assert stored(platform) == as_told(before, candles.open_ms, values)


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_candle_that_somebody_writes_after_the_transaction_began_ends_it(
    platform: Platform, count: int, is_deleted: bool
) -> None:
    candles = make_candles(START_MS, 100)
    store(platform, candles)
    touched, left = {"_id": to_datetime(START_MS)}, dict[Any, dict[str, Any]]()

    def overtaken(session: Any) -> None:
        collection_of(platform).find_one(touched, session=session)
        if is_deleted:
            collection_of(platform).delete_one(touched)
        else:
            collection_of(platform).update_one(touched, {"$set": {"close": 1.0}})
        left.update(stored(platform))
        platform.candles.set_values(SERIES, candles.open_ms[:count], new_values(count), session)

    assert_is_ended(platform, overtaken)
    assert stored(platform) == left


def test_of_two_transactions_that_write_the_same_candle_the_second_one_is_ended(platform: Platform) -> None:
    candles = make_candles(START_MS, 100)
    store(platform, candles)
    values, before = new_values(100), stored(platform)

    def overtake(session: Any) -> None:
        platform.candles.set_values(SERIES, candles.open_ms, values, session)
        second = candles.open_ms[40:]
        assert_is_ended(platform, lambda other: platform.candles.set_values(SERIES, second, new_values(60), other))

    platform.database.transact(overtake)
    assert stored(platform) == as_told(before, candles.open_ms, values)


def assert_is_ended(platform: Platform, work: Callable[[Any], None]) -> None:
    """The work's transaction is refused as one to try again; here it is not."""
    with (
        pytest.raises(OperationFailure) as refused,
        platform.database.open_session() as session,
        session.start_transaction(),
    ):
        work(session)
    assert refused.value.has_error_label("TransientTransactionError")
