"""A series has one list of indicators: what becomes of it when jobs name others, and what its labels stand for."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from shared.domain.indicators import INDICATORS_MAX, resolve_indicators
from shared.errors import InvalidRequest

# Indicators as they are stored: {name, params, as}.
IndicatorList: TypeAlias = list[dict[str, Any]]


def join_lists(lists: Sequence[IndicatorList]) -> IndicatorList:
    """All that is in any of them, as far as there is room. Of two that would write the same field the first one stays.

    One that cannot be computed (any more) stays too: a run then says so, and which it is.
    """
    joined: IndicatorList = []
    taken: set[str] = set()
    for item in (item for documents in lists for item in documents):
        fields = _fields_of(item)
        if taken.isdisjoint(fields) and len(joined) < INDICATORS_MAX:
            joined.append(item)
            taken.update(fields)
    return joined


def is_computable(item: Mapping[str, Any]) -> bool:
    """Whether there is such an indicator (any more)."""
    try:
        resolve_indicators([item])
    except InvalidRequest:
        return False
    return True


def _fields_of(item: Mapping[str, Any]) -> tuple[str, ...]:
    return resolve_indicators([item])[0].fields if is_computable(item) else (item["as"],)


def extend_list(documents: IndicatorList, asked: IndicatorList) -> IndicatorList:
    """The list, and behind it what of the one asked for is not in it.

    Raises:
        InvalidRequest: one would write the field of another indicator of the list, or there would be too many.
    """
    added = [item for item in asked if item not in documents]
    if len(documents) + len(added) > INDICATORS_MAX:
        known = f"the series computes {len(documents)} already, at most {INDICATORS_MAX} are computed"
        raise InvalidRequest.for_field("indicators", f"{known}: {len(added)} more are too many")
    extended = join_lists([documents, added])
    for at, item in enumerate(asked):
        if item not in extended:
            (other, *_) = (each for each in documents if set(_fields_of(each)) & set(_fields_of(item)))
            told = f"the series computes {other['as']} already, which is another indicator: take another `as`"
            raise InvalidRequest.for_field(f"indicators.{at}.as", told)
    return extended


def extend_fields(known: Mapping[str, Any], documents: IndicatorList) -> dict[str, Any]:
    """What each label of a series' candles means: the indicator that has written it ever since, label -> {name, params}.

    Those of the list that there is say so best.
    """
    return {**known, **{item["as"]: _meaning_of(item) for item in documents}}


def give_meanings(fields: Mapping[str, Any], wanted: IndicatorList, asked: IndicatorList) -> dict[str, Any]:
    """The same once the list is `wanted`, of which a caller has named those in `asked`.

    Raises:
        InvalidRequest: a label has stood for another indicator. Its old values are in the candles, and would be continued.
    """
    meanings = dict(fields)
    for item in wanted:
        meaning = meanings.setdefault(item["as"], _meaning_of(item))
        if meaning != _meaning_of(item):
            was = ", ".join(f"{name}={value}" for name, value in meaning["params"].items())
            told = f"{item['as']!r} has been {meaning['name']}({was}) in this series' candles"
            if item in asked:
                raise InvalidRequest.for_field(f"indicators.{asked.index(item)}.as", f"{told}; take another name")
            raise InvalidRequest.for_field("indicators", f"{told}; name the indicators that you want, and this one otherwise")
    return meanings


def _meaning_of(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": item["name"], "params": item["params"]}
