"""The short forms in which an exchange's file of data says what is where."""

import pytest

from shared.exchanges.own_names import timeframe_names
from shared.exchanges.row_forms import MarketForm, RowForm, RowKind, TimeForm


def test_columns_of_arrays_are_counted_from_the_left_and_other_words_are_not_read() -> None:
    form = RowForm.arrays("low _ high open close quote_volume volume _ closed time", TimeForm.SECONDS, closed="yes")
    assert (form.time, form.open, form.high, form.low, form.close, form.volume) == (9, 3, 2, 0, 4, 6)
    assert (form.kind, form.closed) == (RowKind.ARRAYS, (8, "yes"))


@pytest.mark.parametrize(
    ("columns", "closed"), [("time open high low close", None), ("time open high low close volume", "yes")]
)
def test_a_column_that_is_read_and_not_named_is_an_error(columns: str, closed: str | None) -> None:
    with pytest.raises(KeyError):
        RowForm.arrays(columns, TimeForm.SECONDS, closed=closed)


def test_keys_stand_in_one_order_whatever_they_are_called() -> None:
    for form in (RowForm.objects("t o h l c v", TimeForm.ISO), RowForm.columns("t o h l c v", TimeForm.ISO)):
        assert (form.time, form.open, form.high, form.low, form.close, form.volume) == tuple("tohlcv")
    with pytest.raises(ValueError, match="not enough values"):
        RowForm.objects("t o h l c", TimeForm.ISO)


def test_markets_are_told_by_their_currencies_or_by_a_text_that_holds_both() -> None:
    form = MarketForm.objects("id base quote settle", active={"status": "on"})
    assert (form.id_key, form.base_key, form.quote_key, form.settle_key) == ("id", "base", "quote", "settle")
    assert MarketForm.objects("id base quote").settle_key == ""
    pairs = MarketForm.pairs("id name", "(?P<base>.+)/(?P<quote>.+)")
    assert (pairs.id_key, pairs.pair_key, pairs.base_key) == ("id", "name", "")
    assert MarketForm.pairs("id", "(?P<base>.+)-(?P<quote>.+)").pair_key == "id"


def test_a_timeframe_that_stands_alone_is_called_the_same_by_both() -> None:
    assert timeframe_names("1m 1h=60m 1d=D") == {"1m": "1m", "1h": "60m", "1d": "D"}
