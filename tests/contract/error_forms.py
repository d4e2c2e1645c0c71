"""How an error answer of each exchange looks, and how a row of error_answers.py says what it means."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from shared.errors import ExchangeError, ExchangeRejected, ExchangeThrottled, ExchangeUnavailable


@dataclass(frozen=True)
class Meaning:
    """The error that an answer is; `wait_ms`: for how long to stay away where no header says (None: as for any answer)."""

    error: type[ExchangeError]
    wait_ms: int | None = None
    is_symbol_in_doubt: bool = False


# (status, JSON or text, meaning)
ErrorAnswer: TypeAlias = tuple[int, Any, Meaning]

Rejected, Unavailable, Throttled = Meaning(ExchangeRejected), Meaning(ExchangeUnavailable), Meaning(ExchangeThrottled)
InDoubt = Meaning(ExchangeUnavailable, is_symbol_in_doubt=True)


def throttled(wait_ms: int) -> Meaning:
    return Meaning(ExchangeThrottled, wait_ms)


def each(said: Callable[[str], Any], codes: str, meaning: Meaning) -> tuple[ErrorAnswer, ...]:
    """An answer for each code, under a status that by itself would be taken for something else."""
    return tuple((400 if meaning == Unavailable else 200, said(code), meaning) for code in codes.split())


def body_of(said: Any) -> bytes:
    """A text as it is, all else as JSON."""
    return said.encode() if isinstance(said, str) else json.dumps(said).encode()


# What stands in front of an exchange that does not serve a country.
CLOUDFRONT_COUNTRY = """<HTML><HEAD><TITLE>ERROR: The request could not be satisfied</TITLE></HEAD><BODY><H1>403 ERROR</H1>
The Amazon CloudFront distribution is configured to block access from your country.
We can't connect to the server for this app or website at this time.</BODY></HTML>"""


def binance_error(code: str) -> Any:
    return {"code": int(code), "msg": "..."}


def bitget_error(code: str) -> Any:
    return {"code": code, "msg": "...", "requestTime": 1748721720474, "data": None}


def bitstamp_error(code: str) -> Any:
    return {"response_code": code, "response_explanation": "..."}


def bybit_error(code: str) -> Any:
    return {"retCode": int(code), "retMsg": "...", "result": {}, "retExtInfo": {}, "time": 1672053548579}


def cryptocom_error(code: str) -> Any:
    return {"id": -1, "method": "public/get-candlestick", "code": int(code), "message": "..."}


def deribit_error(code: int | str, message: str = "...", **data: str) -> Any:
    error = {"message": message, "code": int(code), **({"data": data} if data else {})}
    return {"jsonrpc": "2.0", "error": error, "testnet": False, "usIn": 1, "usOut": 2, "usDiff": 1}


def gate_error(label: str) -> Any:
    return {"label": label, "message": "..."}


def gemini_error(reason: str, message: str = "...") -> Any:
    return {"result": "error", "reason": reason, "message": message}


def htx_error(code: str) -> Any:
    return {"status": "error", "err-code": code, "err-msg": "...", "data": None}


def kraken_error(text: str) -> Any:
    return {"error": [text]}


def kucoin_error(code: str) -> Any:
    return {"code": code, "msg": "..."}


def mexc_error(code: str) -> Any:
    return {"code": int(code), "msg": "..."}


def okx_error(code: str) -> Any:
    return {"code": code, "msg": "...", "data": []}


def poloniex_error(code: str) -> Any:
    return {"code": int(code), "message": "..."}


def upbit_error(name: str) -> Any:
    return {"error": {"name": int(name) if name.isdigit() else name, "message": "..."}}
