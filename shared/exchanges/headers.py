"""What an answer's headers say: the exchange's clock, the weight it has counted, and how long to stay away."""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

from shared.exchanges.header_forms import WaitForm
from shared.exchanges.spec import ExchangeSpec

# The Date header is cut to whole seconds, so the exchange's clock may be up to this much further.
DATE_CUT_MS: Final = 999
# The longest ban any exchange documents is three days; no header may silence a connector for longer.
WAIT_MS_MAX: Final = 3 * 24 * 3_600_000
# A header that says "now" after "too fast" is rounding.
WAIT_MS_MIN: Final = 1_000
# Longer numbers are no counts and no times.
DIGITS_MAX: Final = 15


def read_clock_ms(headers: Mapping[str, str]) -> int | None:
    """An upper bound of the exchange's clock when it answered, in UTC ms; None without a readable Date header."""
    date_ms = _http_date_ms(headers.get("Date", ""))
    return None if date_ms is None else date_ms + DATE_CUT_MS


def read_usage(headers: Mapping[str, str], spec: ExchangeSpec) -> tuple[tuple[int, int], ...]:
    """The weight used by the exchange's own count: (period_ms, used) pairs."""
    usage = []
    for header in spec.usage_headers:
        match = re.search(header.pattern, headers.get(header.name, ""))
        if match is not None and len(match[1]) <= DIGITS_MAX:
            number = int(match[1])
            used = number if header.remaining_of is None else max(0, header.remaining_of - number)
            usage.append((header.period_ms, used))
    return tuple(usage)


def read_wait_ms(headers: Mapping[str, str], spec: ExchangeSpec, now_ms: int) -> int | None:
    """How long the exchange says to stay away, in ms: the longest of its headers, within sensible bounds; None if none says.

    Moments count from the exchange's own Date where it gives one, else from `now_ms`.
    """
    date_ms = _http_date_ms(headers.get("Date", ""))
    from_ms = now_ms if date_ms is None else date_ms
    waits_ms = []
    for header in spec.wait_headers:
        wait_ms = _wait_ms(headers.get(header.name, "").strip(), header.form, from_ms)
        if wait_ms is not None:
            waits_ms.append(min(WAIT_MS_MAX, max(WAIT_MS_MIN, wait_ms)))
    return max(waits_ms, default=None)


def _wait_ms(text: str, form: WaitForm, from_ms: int) -> int | None:
    if text.isascii() and text.isdigit():
        number = int(text[:DIGITS_MAX])
        return {
            WaitForm.RETRY_AFTER: number * 1000,
            WaitForm.MILLISECONDS: number,
            WaitForm.AT_SECONDS: number * 1000 - from_ms,
            WaitForm.AT_MILLISECONDS: number - from_ms,
        }[form]
    moment_ms = _http_date_ms(text) if form is WaitForm.RETRY_AFTER else None
    return None if moment_ms is None else moment_ms - from_ms


# All answers within a second carry the same one.
@lru_cache(maxsize=32)
def _http_date_ms(text: str) -> int | None:
    """An HTTP date (RFC 9110) in UTC ms, None if it is none."""
    try:
        moment = parsedate_to_datetime(text)
        # "-0000" is UTC from a host that does not know its zone.
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
