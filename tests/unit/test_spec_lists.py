"""Indicator lists are worked out once, and different lists never share their specs."""

import pytest

from shared.domain.indicators import DEFAULT_INDICATORS, resolve_indicators
from shared.errors import InvalidRequest
from shared.usecases.resolve_specs import LISTS_MAX, SpecLists


def test_a_list_gives_what_resolving_it_gives_however_often() -> None:
    lists = SpecLists()
    for documents in ([spec.to_document() for spec in DEFAULT_INDICATORS], [{"name": "RSI"}], [], [{"name": "RSI"}]):
        assert lists.resolve(documents) == resolve_indicators(documents)
    assert lists.resolve([{"name": "RSI"}]) is lists.resolve([{"name": "RSI"}])


def test_lists_that_differ_in_a_parameter_or_in_order_are_different() -> None:
    lists = SpecLists()
    short, long = ({"name": "SMA", "params": {"timeperiod": period}} for period in (5, 50))
    assert [spec.fields for spec in lists.resolve([short])] != [spec.fields for spec in lists.resolve([long])]
    assert lists.resolve([short, long]) == lists.resolve([long, short])[::-1]


def test_more_lists_than_are_kept_are_right_too() -> None:
    lists = SpecLists()
    for period in range(2, LISTS_MAX + 5):
        (spec,) = lists.resolve([{"name": "SMA", "params": {"timeperiod": period}}])
        assert spec == resolve_indicators([{"name": "SMA", "params": {"timeperiod": period}}])[0]


def test_what_cannot_be_resolved_is_refused_each_time() -> None:
    lists = SpecLists()
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            lists.resolve([{"name": "RSJ"}])
