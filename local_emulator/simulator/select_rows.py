"""From what was asked for to rows: the same for every exchange."""

from typing import Final

from local_emulator.simulator.rows import Rows
from local_emulator.simulator.series import Series
from local_emulator.simulator.wire import Span

# Where intervals are missing, the search for `limit` rows widens by this factor, so often.
WIDEN: Final = 4
STEPS_MAX: Final = 12


def select_rows(series: Series, span: Span, now_ms: int) -> Rows:
    """The rows of a span as they are at `now_ms`, ascending, the running candle included."""
    frame = span.timeframe
    first_ms = frame.floor(series.first_ms)
    start_ms = first_ms if span.start_ms is None else max(first_ms, frame.ceil(span.start_ms))
    end_ms = now_ms + 1 if span.end_ms is None else min(now_ms + 1, span.end_ms)
    if end_ms <= start_ms:
        return Rows.joined([])
    end_ms = frame.ceil(end_ms)
    if span.limit is None:
        return series.rows(frame, start_ms, end_ms, now_ms)
    parts: list[Rows] = []
    count, width = 0, span.limit
    for _ in range(STEPS_MAX):
        if count >= span.limit or end_ms <= start_ms:
            break
        if span.keeps_oldest:
            edge_ms = min(frame.shift(start_ms, width), end_ms)
            parts.append(series.rows(frame, start_ms, edge_ms, now_ms))
            start_ms = edge_ms
        else:
            edge_ms = max(frame.shift(end_ms, -width), start_ms)
            parts.insert(0, series.rows(frame, edge_ms, end_ms, now_ms))
            end_ms = edge_ms
        count, width = count + len(parts[0 if not span.keeps_oldest else -1]), width * WIDEN
    rows = Rows.joined(parts)
    return rows.at(slice(0, span.limit) if span.keeps_oldest else slice(max(0, len(rows) - span.limit), None))
