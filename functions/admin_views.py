"""Documents as the API shows them: `id`, dates in ISO 8601 with Z and ms, nothing that functions keep for themselves."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from bson import ObjectId

from shared.domain.connectors import Caution, blocked_until_ms
from shared.domain.jobs import JobKind, lag_ms
from shared.domain.rates import SHARE_PERMILLE_ALL
from shared.domain.slots import counts_view, ledger_of
from shared.domain.timeframes import TIMEFRAMES
from shared.exchanges.client import RateLimitInfo
from shared.exchanges.spec import ExchangeSpec
from shared.stores.database import Document
from shared.usecases.ask_exchange import SymbolList
from shared.usecases.read_coverage import Coverage
from shared.usecases.record_changes import without_internals
from shared.usecases.verify_series import Verification

View = dict[str, Any]

# A weight that grows row by row has hundreds of steps; the first ones tell how.
WEIGHT_STEPS_SHOWN: Final = 5


def document_view(document: Document) -> View:
    """Any document: connector, run, audit entry, alert."""
    shown = without_internals(document) or {}
    return {"id": to_json(shown.pop("_id")), **to_json(shown)}


def job_view(document: Document, now_ms: int) -> View:
    """A job, with its lease and how long the oldest interval it lacks has been closed (`lag_ms`; None: it is not live).

    `slots`: what became of the closes since `since`, and how many are still open (`pending`); None if it has no slots.
    """
    lock = document["lock"]
    lag = None
    if document["status"] != "done" and document["kind"] == JobKind.LIVE:
        lag = lag_ms(document["timeframe"], document["cursor"]["last_ts"], document["start_at"], now_ms)
    lease = {"fence": lock["fence"], "expires_at": to_json(lock.get("expires_at"))}
    return {**document_view(document), "lease": lease, "lag_ms": lag, "slots": _slots_view(document, now_ms)}


def _slots_view(document: Document, now_ms: int) -> View | None:
    ledger = ledger_of(document)
    if ledger is None:
        return None
    pending = ledger.pending(TIMEFRAMES[document["timeframe"]], now_ms)
    return {**counts_view(ledger.totals), "pending": pending, "since": ms_view(ledger.since_ms)}


def candle_view(document: Document) -> View:
    """A candle under its open time."""
    values = dict(document)
    return {"open_at": to_json(values.pop("_id")), **to_json(values)}


def coverage_view(coverage: Coverage) -> View:
    """The sums by state, and runs of intervals that are in the same state."""
    grid, runs = coverage.timeframe, coverage.runs
    begins = moments_view([grid.open_at(run.first) for run in runs])
    ends = moments_view([grid.open_at(run.end) for run in runs])
    return {
        "job_id": coverage.job_id,
        "timeframe": grid.name,
        "from": ms_view(coverage.start_ms),
        "to": ms_view(coverage.end_ms),
        "intervals": sum(coverage.counts.values()),
        "counts": {state.value: count for state, count in coverage.counts.items()},
        "runs": [
            {"from": begin, "to": end, "state": run.state.value, "intervals": run.end - run.first}
            for run, begin, end in zip(runs, begins, ends, strict=True)
        ],
        **({} if coverage.next_start_ms is None else {"next_start": ms_view(coverage.next_start_ms)}),
    }


def verification_view(found: Verification) -> View:
    """What was held against the candles, and what is not as it should be."""
    return {
        "from": ms_view(found.start_ms),
        "to": ms_view(found.end_ms),
        "is_sound": found.ledger_differences_count + found.value_differences_count == 0,
        "candles": found.candles_count,
        "values": found.values_count,
        "stale_candles": found.stale_count,
        "ledger_differences": {
            "count": found.ledger_differences_count,
            "items": [
                {
                    "from": ms_view(each.start_ms),
                    "to": ms_view(each.end_ms),
                    "said": each.said.value,
                    "is_stored": each.is_stored,
                }
                for each in found.ledger_differences
            ],
        },
        "value_differences": {
            "count": found.value_differences_count,
            "items": [
                {"open_at": ms_view(each.open_ms), "field": each.field, "stored": each.stored, "computed": each.computed}
                for each in found.value_differences
            ],
        },
        **({} if found.next_start_ms is None else {"next_start": ms_view(found.next_start_ms)}),
    }


def exchange_view(spec: ExchangeSpec) -> View:
    """What an exchange offers and allows, as it documents it."""
    archive = None
    if spec.archive is not None:
        archive = {"page_size": spec.archive.page_limit, "after_candles": spec.archive_after_candles}
    history = {name: kept for name in spec.timeframes if (kept := spec.history_of(name)) is not None}
    return {
        "name": spec.name,
        "symbols": spec.symbol_form.kinds,
        "timeframes": spec.timeframe_names,
        "paging": spec.paging.value,
        "page_size": spec.page_limit,
        "page_sizes": dict(spec.candles.page_limits),
        "archive": archive,
        "history_candles_max": history or None,
        "empty_intervals": spec.empty_intervals.value,
        "limits": [window.to_document() for window in spec.windows],
        "weights": {
            "candles": spec.candles_weight,
            "candles_up_to": [{"rows": rows, "weight": weight} for rows, weight in spec.weight_steps[:WEIGHT_STEPS_SHOWN]],
            "symbols": spec.symbols_weight,
            "ping": spec.ping_weight,
        },
        "usage_headers": [header.name for header in spec.usage_headers],
        "settle_delay_ms": spec.settle_delay_ms,
        "publish_grace_ms": spec.publish_grace_ms,
        "quirks": list(spec.quirks),
        "docs_url": spec.docs_url,
    }


def symbols_view(symbols: SymbolList) -> View:
    """An exchange's symbols, and when it was asked for them."""
    items = [
        {"symbol": market.symbol, "exchange_symbol": market.exchange_symbol, "is_active": market.is_active}
        for market in symbols.markets.values()
    ]
    return {"fetched_at": ms_view(symbols.fetched_ms), "items": items}


def rate_limit_view(connector: Document, usage: Document, info: RateLimitInfo, now_ms: int) -> View:
    """What the connector may use now, what of it is used, why it is blocked if it is, and what the exchange documents."""
    caution: Caution = usage["caution"]
    is_blocked = blocked_until_ms(connector) > now_ms
    return {
        "connector_id": connector["_id"],
        "windows": [
            {
                **{name: window[name] for name in ("rate_limit", "rate_limit_period_ms")},
                # As the limiter cuts it, which leaves enough for one request.
                "usable": max(1, window["rate_limit"] * caution.share_permille // SHARE_PERMILLE_ALL),
                "usage": window["used"],
            }
            for window in usage["windows"]
        ],
        "share": caution.share_permille / SHARE_PERMILLE_ALL,
        "requests_under_way_max": caution.requests_max,
        "refused_total": caution.refused_total,
        "refused_after_total": caution.after_total,
        "blocked_until": to_json(connector["blocked_until"]) if is_blocked else None,
        "blocked_reason": connector.get("blocked_reason") if is_blocked else None,
        "documented": {
            "limits": [window.to_document() for window in info.windows],
            "weights": {"candles": info.candles_weight, "symbols": info.symbols_weight, "ping": info.ping_weight},
            "usage_headers": list(info.usage_headers),
        },
    }


def ms_view(at_ms: int) -> str:
    """A moment in UTC ms."""
    return _iso(datetime.fromtimestamp(at_ms / 1000, UTC))


def moments_view(times_ms: Sequence[int]) -> list[str]:
    """Many moments in UTC ms at once."""
    texts: list[str] = np.datetime_as_string(np.array(times_ms, "datetime64[ms]"), unit="ms").tolist()
    return [f"{text}Z" for text in texts]


def to_json(value: Any) -> Any:
    """A BSON value as JSON knows it."""
    if isinstance(value, datetime):
        return _iso(value)
    if isinstance(value, ObjectId):
        return str(value)
    if isinstance(value, Mapping):
        return {"id" if name == "_id" else name: to_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    return value


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
