"""Admin paths of a job's candles: page by page, or a whole range as one stream, in several forms."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Final
from urllib.parse import urlencode

from flask import Request, Response

from functions import candle_formats
from functions.admin_call import Call, Route
from functions.admin_models import CandlesQuery, ExportQuery, parse_query
from functions.admin_views import candle_view, ms_view
from functions.gateway import respond, respond_stream
from shared.domain.candle_columns import CandleColumns
from shared.errors import NotAcceptable
from shared.usecases.authorize import Role
from shared.usecases.read_candles import LATEST_MS, CandlePage, ColumnsPage, SeriesRange

Encoder = Callable[[Iterable[CandleColumns], SeriesRange, bool], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Form:
    """A form that candles can be had in."""

    media_type: str
    extension: str
    encode: Encoder
    parameters: str = ""


def _text(encode: Callable[..., Iterator[bytes]], batches: Iterable[CandleColumns], asked: SeriesRange, is_ms: bool) -> Any:
    return encode(batches, asked.fields, is_ms=is_ms)


def _arrow(batches: Iterable[CandleColumns], asked: SeriesRange, is_ms: bool) -> Iterator[bytes]:
    from functions.arrow_formats import encode_arrow

    return encode_arrow(batches, asked.fields, _about(asked), is_ms=is_ms)


def _parquet(batches: Iterable[CandleColumns], asked: SeriesRange, is_ms: bool) -> Iterator[bytes]:
    from functions.arrow_formats import encode_parquet

    return encode_parquet(batches, asked.fields, _about(asked), is_ms=is_ms)


FORMS: Final[Mapping[str, Form]] = {
    "json": Form("application/json", "json", partial(_text, candle_formats.encode_json)),
    "csv": Form("text/csv", "csv", partial(_text, candle_formats.encode_csv), "; charset=utf-8; header=present"),
    "ndjson": Form("application/x-ndjson", "ndjson", partial(_text, candle_formats.encode_ndjson)),
    "arrow": Form("application/vnd.apache.arrow.stream", "arrows", _arrow),
    "parquet": Form("application/vnd.apache.parquet", "parquet", _parquet),
}


def _candles(call: Call) -> Response:
    query = parse_query(call.request, CandlesQuery)
    form = _form_of(call.request, query, "json")
    reader, request = call.platform.candle_reader, query.to_request()
    is_plain = query.fields is None and query.timeframe is None and query.times == "iso"
    if form is FORMS["json"] and is_plain:
        page = reader.read(call.target_id, request, query.limit)
        return _json_page(call.request, [candle_view(document) for document in page.documents], page)
    asked = reader.plan(call.target_id, request)
    columns = reader.read_columns(asked, query.limit)
    if form is FORMS["json"]:
        return _json_page(call.request, candle_formats.item_views(columns.columns, is_ms=query.times == "ms"), columns)
    batches = [columns.columns] if len(columns.columns) else []
    body = b"".join(form.encode(batches, asked, query.times == "ms"))
    return Response(body, content_type=form.media_type + form.parameters, headers=_page_headers(call.request, columns))


def _export(call: Call) -> Response:
    query = parse_query(call.request, ExportQuery)
    form = _form_of(call.request, query, "csv")
    reader = call.platform.candle_reader
    asked = reader.plan(call.target_id, query.to_request())
    headers = {"Content-Disposition": f'attachment; filename="{_file_name(asked, form)}"', "Vary": "Accept"}
    batches = reader.iterate(asked)
    # Read before the answer begins: a form may have a head that needs no candles, and would hide that there are none to be had.
    first = list(islice(batches, 1))
    chunks = form.encode(chain(first, batches), asked, query.times == "ms")
    return respond_stream(call.request, chunks, form.media_type + form.parameters, headers)


def _form_of(request: Request, query: ExportQuery, default: str) -> Form:
    """What `format` names, else the best that `Accept` takes, of equal ones the default. Raises NotAcceptable."""
    if query.format is not None:
        return FORMS[query.format]
    if not request.accept_mimetypes:
        return FORMS[default]
    offered = {FORMS[name].media_type: FORMS[name] for name in (default, *FORMS)}
    best = request.accept_mimetypes.best_match(list(offered))
    if best is None:
        raise NotAcceptable(f"candles come as {', '.join(offered)}; or name one by format={'|'.join(FORMS)}")
    return offered[best]


def _json_page(request: Request, items: Sequence[Mapping[str, Any]], page: CandlePage | ColumnsPage) -> Response:
    next_start = {} if page.next_start_ms is None else {"next_start": ms_view(page.next_start_ms)}
    return respond({"items": items, **next_start}, headers=_page_headers(request, page))


def _page_headers(request: Request, page: CandlePage | ColumnsPage) -> dict[str, str]:
    """Where the next page is (RFC 8288), for forms that cannot say so themselves. Relative: who is in front may have a path."""
    if page.next_start_ms is None:
        return {"Vary": "Accept"}
    query = {**request.args.to_dict(), "start": ms_view(page.next_start_ms)}
    return {"Vary": "Accept", "Link": f'<?{urlencode(query, safe=":,")}>; rel="next"'}


def _about(asked: SeriesRange) -> dict[str, str]:
    return {"exchange": asked.series.exchange, "symbol": asked.series.symbol, "timeframe": asked.timeframe}


def _file_name(asked: SeriesRange, form: Form) -> str:
    """Like binance_BTC-USDT_1m_20240101T000000Z_20240201T000000Z.csv; what has no end says nothing of it."""
    ends = [asked.start_ms] if asked.end_ms == LATEST_MS else [asked.start_ms, asked.end_ms]
    moments = [re.sub(r"\.\d+|[-:]", "", ms_view(at_ms)) for at_ms in ends]
    name = "_".join([asked.series.exchange, asked.series.symbol, asked.timeframe, *moments])
    return re.sub(r"[^A-Za-z0-9._]", "-", name) + f".{form.extension}"


ROUTES: Final = (
    Route("GET", "/v1/jobs/{id}/candles", Role.VIEWER, _candles),
    Route("GET", "/v1/jobs/{id}/export", Role.VIEWER, _export),
)
