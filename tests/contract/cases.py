"""What the one contract suite has to know of each exchange: a row each. Everything else is read from the spec."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.errors import ExchangeError, ExchangeRejected, ExchangeThrottled, ExchangeUnavailable

Unavailable, Throttled, Rejected = ExchangeUnavailable, ExchangeThrottled, ExchangeRejected


@dataclass(frozen=True)
class Case:
    """One exchange.

    `ccxt_id` and `ccxt_options` are the class and options that make ccxt read the same kind of market. `symbol` is traded
    all the time, `quiet` has intervals without trades, `unknown` does not exist. `errors` are answers as the exchange gives
    them, (status, JSON or text), and what they mean. `ccxt_has` switches off what ccxt would ask for and a reader of
    candles does not need (`{"fetchCurrencies": False}`). `ccxt_timeframes_off` are those that ccxt reads otherwise, with
    the reason. `ccxt_needs_end`: ccxt tells the exchange no end, and so gets the newest unless the caller names one.
    `hides_delisted`: its list of symbols names only what trades now.
    """

    exchange: str
    ccxt_id: str
    errors: tuple[tuple[int, Any, type[ExchangeError]], ...]
    symbol: str = "BTC/USDT"
    quiet: str = "ZEC/USDT"
    unknown: str = "NOPE/USDT"
    ccxt_options: Mapping[str, Any] = field(default_factory=dict)
    ccxt_has: Mapping[str, bool] = field(default_factory=dict)
    ccxt_timeframes_off: Mapping[str, str] = field(default_factory=dict)
    ccxt_needs_end: bool = False
    hides_delisted: bool = False


# What stands in front of an exchange that does not serve a country.
CLOUDFRONT_COUNTRY = """<HTML><HEAD><TITLE>ERROR: The request could not be satisfied</TITLE></HEAD><BODY><H1>403 ERROR</H1>
The Amazon CloudFront distribution is configured to block access from your country.
We can't connect to the server for this app or website at this time.</BODY></HTML>"""

BYBIT_ERRORS = (
    (200, {"retCode": 10001, "retMsg": "Not supported symbols", "result": {}}, Rejected),
    (200, {"retCode": 10001, "retMsg": "Invalid period!", "result": {}}, Rejected),
    (200, {"retCode": 10024, "retMsg": "Compliance rules triggered", "result": {}}, Rejected),
    (403, CLOUDFRONT_COUNTRY, Rejected),
    (403, "access too frequent", Throttled),
    (403, {"retCode": 10018, "retMsg": "Exceeded the IP Rate Limit.", "result": {}}, Throttled),
    (200, {"retCode": 10006, "retMsg": "Too many visits!", "result": {}}, Throttled),
    (429, "<html>Too Many Requests</html>", Throttled),
    (200, {"retCode": 10016, "retMsg": "System error. Please try again later.", "result": {}}, Unavailable),
    (200, {"retCode": 10000, "retMsg": "Server Timeout", "result": {}}, Unavailable),
    (502, "<html>Bad gateway</html>", Unavailable),
)


def deribit_error(code: int, message: str, **data: str) -> dict[str, Any]:
    error = {"message": message, "code": code, **({"data": data} if data else {})}
    return {"jsonrpc": "2.0", "error": error, "testnet": False, "usIn": 1, "usOut": 2, "usDiff": 1}


def gemini_error(reason: str, message: str) -> dict[str, str]:
    return {"result": "error", "reason": reason, "message": message}


CASES = {
    case.exchange: case
    for case in (
        Case(
            "binance",
            "binance",
            ccxt_options={"fetchMarkets": ["spot"]},
            errors=(
                (400, {"code": -1121, "msg": "Invalid symbol."}, Rejected),
                (400, {"code": -1120, "msg": "Invalid interval."}, Rejected),
                (429, {"code": -1003, "msg": "Too much request weight used."}, Throttled),
                (418, {"code": -1003, "msg": "Way too much request weight used; IP banned."}, Throttled),
                (403, "<html>Forbidden</html>", Throttled),
                (451, {"code": 0, "msg": "Service unavailable from a restricted location"}, Rejected),
                (500, {"code": -1000, "msg": "An unknown error occurred while processing the request."}, Unavailable),
                (503, {"code": -1008, "msg": "Server is currently overloaded."}, Unavailable),
                (400, {"code": -1007, "msg": "Timeout waiting for response from backend server."}, Unavailable),
            ),
        ),
        Case(
            "binanceus",
            "binanceus",
            errors=(
                (400, {"code": -1121, "msg": "Invalid symbol."}, Rejected),
                (400, {"code": -1120, "msg": "Invalid interval."}, Rejected),
                (403, CLOUDFRONT_COUNTRY, Rejected),
                (429, {"code": -1003, "msg": "Too much request weight used."}, Throttled),
                (418, {"code": -1003, "msg": "Way too much request weight used; IP banned."}, Throttled),
                (403, "<html>Forbidden</html>", Throttled),
                (500, {"code": -1000, "msg": "An unknown error occurred while processing the request."}, Unavailable),
                (400, {"code": -1016, "msg": "This service is no longer available."}, Unavailable),
                (502, "<html>Bad gateway</html>", Unavailable),
            ),
        ),
        Case(
            "binanceusdm",
            "binanceusdm",
            symbol="BTC/USDT:USDT",
            quiet="ZEC/USDC:USDC",
            unknown="NOPE/USDT:USDT",
            ccxt_has={"fetchCurrencies": False},
            errors=(
                (400, {"code": -1121, "msg": "Invalid symbol."}, Rejected),
                (400, {"code": -1120, "msg": "Invalid interval."}, Rejected),
                (400, {"code": -1122, "msg": "Invalid symbol status."}, Rejected),
                (451, {"code": 0, "msg": "Service unavailable from a restricted location"}, Rejected),
                (429, {"code": -1003, "msg": "Too many requests; current limit is 2400 requests per minute."}, Throttled),
                (418, {"code": -1003, "msg": "Way too many requests; IP banned until 1764072000000."}, Throttled),
                (403, "<html>Forbidden</html>", Throttled),
                (408, {"code": -1007, "msg": "Timeout waiting for response from backend server."}, Unavailable),
                (503, {"code": -1008, "msg": "Request throttled by system-level protection."}, Unavailable),
                (503, {"code": -1001, "msg": "Internal error; unable to process your request."}, Unavailable),
                (400, {"code": -1004, "msg": "Server is busy, please wait and try again"}, Unavailable),
            ),
        ),
        Case(
            "bitfinex",
            "bitfinex",
            symbol="BTC/USD",
            quiet="ZEC/USD",
            unknown="NOPE/USD",
            ccxt_has={"fetchCurrencies": False},
            hides_delisted=True,
            errors=(
                (500, ["error", 10020, "time_interval: invalid"], Rejected),
                (500, ["error", 10020, "symbol: invalid"], Rejected),
                (500, ["error", 10020, "limit: invalid"], Rejected),
                (429, ["error", 11010, "ratelimit: error"], Throttled),
                (200, ["error", 11010, "ratelimit: error"], Throttled),
                (429, {"error": "ERR_RATE_LIMIT"}, Throttled),
                (500, ["error", 20060, "maintenance"], Unavailable),
                (500, ["error", 10000, "unknown"], Unavailable),
                (503, {"code": 503, "error": "temporarily_unavailable", "error_description": "Sorry."}, Unavailable),
                (502, "<html>Bad gateway</html>", Unavailable),
            ),
        ),
        Case(
            "bitget",
            "bitget",
            ccxt_options={"fetchMarkets": {"types": ["spot"]}},
            ccxt_has={"fetchCurrencies": False},
            errors=(
                (400, {"code": "40034", "msg": "Parameter NOPEUSDT does not exist", "data": None}, Rejected),
                (200, {"code": "40034", "msg": "Parameter does not exist", "data": None}, Rejected),
                (400, {"code": "400172", "msg": "Parameter verification failed", "data": None}, Rejected),
                (400, {"code": "40020", "msg": "Parameter limit error", "data": None}, Rejected),
                (200, {"code": "40309", "msg": "The contract has been removed", "data": None}, Rejected),
                (429, {"code": "429", "msg": "Too Many Requests", "requestTime": 1748721720474, "data": None}, Throttled),
                (200, {"code": "429", "msg": "Too Many Requests", "data": None}, Throttled),
                (403, "<html>Attention Required! | Cloudflare</html>", Throttled),
                (400, {"code": "40200", "msg": "Server upgrade, please try again later", "data": None}, Unavailable),
                (200, {"code": "40015", "msg": "System is abnormal, please try again later", "data": None}, Unavailable),
                (400, {"code": "41114", "msg": "The current trading pair is under maintenance", "data": None}, Unavailable),
                (500, {"code": "40725", "msg": "service return an error", "data": None}, Unavailable),
                (200, {"status": "fail", "err_code": "01001", "err_msg": "Please try again later"}, Unavailable),
            ),
        ),
        Case(
            "bitstamp",
            "bitstamp",
            symbol="BTC/USD",
            quiet="ZEC/USD",
            unknown="NOPE/USD",
            errors=(
                (404, {"response_code": "404.003", "response_explanation": "Currency pair not found."}, Rejected),
                (404, "<html>Page not found</html>", Rejected),
                (
                    400,
                    {"code": "validation-error", "errors": [{"field": "step", "message": "Invalid.", "code": "invalid"}]},
                    Rejected,
                ),
                (200, {"code": "validation-error", "errors": [{"field": "limit", "message": "Invalid."}]}, Rejected),
                (400, {"status": "error", "reason": "Too fast.", "response_code": "400.002"}, Throttled),
                (400, {"response_code": "400.067", "response_explanation": "Exceeded client rate limit."}, Throttled),
                (429, "<html>Too Many Requests</html>", Throttled),
                (200, {"error": "Bitstamp.net is under scheduled maintenance. We'll be back soon."}, Unavailable),
                (500, {"response_code": "500.002", "response_explanation": "An internal service failed."}, Unavailable),
                (502, "<html>Bad gateway</html>", Unavailable),
            ),
        ),
        Case(
            "bybit",
            "bybit",
            ccxt_options={"fetchMarkets": {"types": ["spot"]}},
            ccxt_has={"fetchCurrencies": False},
            hides_delisted=True,
            errors=BYBIT_ERRORS,
        ),
        Case(
            "bybitlinear",
            "bybit",
            symbol="BTC/USDC:USDC",
            quiet="ZEC/USDT:USDT",
            unknown="NOPE/USDC:USDC",
            ccxt_options={"fetchMarkets": {"types": ["linear"]}, "defaultType": "swap"},
            ccxt_has={"fetchCurrencies": False},
            hides_delisted=True,
            errors=BYBIT_ERRORS,
        ),
        Case(
            "coinbase",
            "coinbaseexchange",
            errors=(
                (404, {"message": "NotFound"}, Rejected),
                (400, {"message": "Unsupported granularity"}, Rejected),
                (429, {"message": "Public rate limit exceeded"}, Throttled),
                (500, {"message": "Internal server error"}, Unavailable),
                (503, "<html>busy</html>", Unavailable),
            ),
        ),
        Case(
            "cryptocom",
            "cryptocom",
            hides_delisted=True,
            errors=(
                (400, {"code": 40004, "message": "Invalid instrument_name"}, Rejected),
                (400, {"code": 40004, "message": "Missing instrument_name param"}, Rejected),
                (400, {"code": 40003, "message": "INVALID_REQUEST"}, Rejected),
                (200, {"id": -1, "method": "public/get-candlestick", "code": 40401, "message": "NOT_FOUND"}, Rejected),
                (404, {"timestamp": "2026-09-22T21:43:19.938+00:00", "status": 404, "error": "Not Found"}, Rejected),
                (429, {"code": 42901, "message": "TOO_MANY_REQUESTS"}, Throttled),
                (200, {"code": "42901", "message": "TOO_MANY_REQUESTS"}, Throttled),
                (429, "error code: 1015", Throttled),
                (400, {"code": 50001, "message": "ERR_INTERNAL"}, Unavailable),
                (408, {"code": 40801, "message": "REQUEST_TIMEOUT"}, Unavailable),
                (200, {"code": 9010001, "message": "SYSTEM_MAINTENANCE"}, Unavailable),
                (200, {"code": "10001", "msg": "SYS_ERROR"}, Unavailable),
                (502, "<html>Bad gateway</html>", Unavailable),
            ),
        ),
        Case(
            "deribit",
            "deribit",
            # All three forms: an inverse and a linear perpetual, and spot.
            symbol="BTC/USD:BTC",
            quiet="ZEC/USDC:USDC",
            unknown="NOPE/USDC",
            ccxt_has={"fetchCurrencies": False},
            errors=(
                (400, deribit_error(-32602, "Invalid params", reason="wrong format", param="instrument_name"), Rejected),
                (400, deribit_error(13020, "not_found"), Rejected),
                (400, deribit_error(10020, "invalid_or_unsupported_instrument"), Rejected),
                (200, deribit_error(11050, "bad_request"), Rejected),
                (429, deribit_error(10028, "too_many_requests"), Throttled),
                (200, deribit_error(10028, "too_many_requests"), Throttled),
                (400, deribit_error(10066, "too_many_concurrent_requests"), Throttled),
                (429, "<html>Too Many Requests</html>", Throttled),
                (400, deribit_error(11051, "system_maintenance"), Unavailable),
                (400, deribit_error(10041, "settlement_in_progress"), Unavailable),
                (400, deribit_error(10040, "retry"), Unavailable),
                (400, deribit_error(13888, "timed_out"), Unavailable),
                (503, "<html>maintenance</html>", Unavailable),
            ),
        ),
        Case(
            "gate",
            "gate",
            ccxt_options={"fetchMarkets": {"types": ["spot"]}},
            ccxt_has={"fetchCurrencies": False},
            ccxt_timeframes_off={"1M": "ccxt has no months here, and would send its own name for them"},
            errors=(
                (400, {"label": "INVALID_CURRENCY", "message": "Invalid currency NOPE"}, Rejected),
                (400, {"label": "INVALID_CURRENCY_PAIR", "message": "Invalid currency pair BTCUSDT"}, Rejected),
                (
                    400,
                    {
                        "label": "INVALID_PARAM_VALUE",
                        "message": "Candlestick too long ago. Maximum 10000 points ago are allowed",
                    },
                    Rejected,
                ),
                (403, {"label": "IP_FORBIDDEN", "message": "Request forbidden from this location"}, Rejected),
                (429, {"label": "TOO_MANY_REQUESTS", "message": "Request Rate limit Exceeded"}, Throttled),
                (200, {"label": "TOO_MANY_REQUESTS", "message": "Request Rate limit Exceeded"}, Throttled),
                (500, {"label": "INTERNAL", "message": "Internal server error"}, Unavailable),
                (400, {"label": "TOO_BUSY", "message": "System is busy"}, Unavailable),
                (502, "<html>Bad gateway</html>", Unavailable),
            ),
        ),
        Case(
            "gemini",
            "gemini",
            symbol="BTC/USD",
            quiet="ZEC/GUSD",
            unknown="NOPE/USD",
            ccxt_has={"fetchCurrencies": False},
            errors=(
                (400, "Supplied value 'nopeusd' is not a valid symbol", Rejected),
                (400, gemini_error("InvalidParameterValue", "time_frame expects one of the following: [1m, 5m]"), Rejected),
                (404, gemini_error("EndpointNotFound", "API entry point not found"), Rejected),
                (429, gemini_error("RateLimit", "Requests were made too frequently"), Throttled),
                (200, gemini_error("RateLimit", "Requests were made too frequently"), Throttled),
                (429, "Too Many Requests", Throttled),
                (503, gemini_error("Maintenance", "The Gemini Exchange is currently undergoing maintenance."), Unavailable),
                (500, gemini_error("System", "We are experiencing technical issues"), Unavailable),
                (502, "<html>Bad Gateway</html>", Unavailable),
            ),
        ),
        Case(
            "htx",
            "htx",
            ccxt_options={"fetchMarkets": {"types": {"spot": True, "linear": False, "inverse": False}}},
            ccxt_has={"fetchCurrencies": False},
            errors=(
                (200, {"status": "error", "err-code": "invalid-parameter", "err-msg": "invalid symbol"}, Rejected),
                (200, {"status": "error", "err-code": "bad-request", "err-msg": "invalid period"}, Rejected),
                (200, {"status": "error", "err-code": "base-symbol-error", "err-msg": "The symbol is invalid"}, Rejected),
                (200, {"status": "error", "err-code": "bad-request", "err-msg": "429 too many request"}, Throttled),
                (200, {"status": "error", "err-code": "invalid-parameter", "err-msg": "request limit"}, Throttled),
                (200, {"code": 1006, "message": "exceededratelimit"}, Throttled),
                (429, "<html>Too Many Requests</html>", Throttled),
                (
                    200,
                    {"status": "error", "err-code": "system-maintenance", "err-msg": "System is in maintenance!"},
                    Unavailable,
                ),
                (200, {"status": "error", "err-code": "gateway-internal-error", "err-msg": "Try again later."}, Unavailable),
                (200, {"ts": 1, "status": "error", "err-code": "timeout", "err-msg": "Request Timeout"}, Unavailable),
                (502, "<html>Bad gateway</html>", Unavailable),
            ),
        ),
        Case(
            "hyperliquid",
            "hyperliquid",
            symbol="BTC/USDC:USDC",
            quiet="ZEC/USDC:USDC",
            unknown="NOPE/USDC:USDC",
            ccxt_options={"fetchMarkets": {"types": ["swap"]}},
            ccxt_has={"fetchCurrencies": False},
            errors=(
                (422, "Failed to deserialize the JSON body into the target type", Rejected),
                (451, "<html>unavailable for legal reasons</html>", Rejected),
                (429, None, Throttled),
                (403, "<html>Request blocked</html>", Throttled),
                # Said of an unknown coin too, but then the list of symbols is there to tell.
                (500, None, Unavailable),
                (200, None, Unavailable),
                (502, "<html>Bad Gateway</html>", Unavailable),
                (200, {"status": "err", "response": "temporarily unavailable"}, Unavailable),
            ),
        ),
        Case(
            "kraken",
            "kraken",
            errors=(
                (200, {"error": ["EQuery:Unknown asset pair"]}, Rejected),
                (200, {"error": ["EGeneral:Invalid arguments"]}, Rejected),
                (200, {"error": ["EGeneral:Too many requests"]}, Throttled),
                (200, {"error": ["EAPI:Rate limit exceeded"]}, Throttled),
                (200, {"error": ["EGeneral:Temporary lockout"]}, Throttled),
                (200, {"error": ["EService:Unavailable"]}, Unavailable),
                (200, {"error": ["EService:Busy"]}, Unavailable),
                (520, "<html>origin error</html>", Unavailable),
            ),
        ),
        Case(
            "kucoin",
            "kucoin",
            ccxt_options={"fetchMarkets": {"types": ["spot"], "fetchTickersFees": False}},
            ccxt_has={"fetchCurrencies": False},
            ccxt_timeframes_off={"1M": "ccxt counts a month as thirty days, so its range holds fewer months"},
            errors=(
                (200, {"code": "400100", "msg": "This pair is not provided at present."}, Rejected),
                (200, {"code": "400100", "msg": "Unsupported trading pair."}, Rejected),
                (200, {"code": "400100", "msg": "Incorrect candlestick type."}, Rejected),
                (200, {"code": "400302", "msg": "Our services are currently unavailable in the U.S."}, Rejected),
                (429, {"code": "429000", "msg": "Too many requests. System-level rate limit exceeded."}, Throttled),
                (200, {"code": "429000", "msg": "Too Many Requests"}, Throttled),
                (200, {"code": "200002", "msg": "Too many requests in a short period of time, please retry later"}, Throttled),
                (429, "error code: 1015", Throttled),
                (200, {"code": "500000", "msg": "Internal Server Error"}, Unavailable),
                (503, "<html>Service unavailable</html>", Unavailable),
            ),
        ),
        Case(
            "mexc",
            "mexc",
            errors=(
                (400, {"code": -1121, "msg": "Invalid symbol."}, Rejected),
                (400, {"code": -1121, "msg": "Invalid interval."}, Rejected),
                (200, {"code": 10007, "msg": "bad symbol"}, Rejected),
                (200, {"code": -1128, "msg": "Combination of optional parameters invalid.", "_extend": None}, Rejected),
                (429, {"code": 429, "msg": "Too Many Requests"}, Throttled),
                (418, "<html>banned</html>", Throttled),
                (200, {"code": 510, "msg": "Requests are too frequent, please try again later"}, Throttled),
                (200, {"code": 500, "message": "Under maintenance, please try again later"}, Unavailable),
                (400, {"code": 501, "msg": "System busy, try again later"}, Unavailable),
                (200, {"code": 801, "msg": "System under maintenance"}, Unavailable),
                (504, "<html>Gateway Time-out</html>", Unavailable),
            ),
        ),
        Case(
            "okx",
            "okx",
            ccxt_options={"fetchMarkets": {"types": ["spot"]}},
            ccxt_has={"fetchCurrencies": False},
            errors=(
                (200, {"code": "51001", "msg": "Instrument ID doesn't exist.", "data": []}, Rejected),
                (200, {"code": "51000", "msg": "Parameter bar error", "data": []}, Rejected),
                (200, {"code": "50011", "msg": "Too Many Requests", "data": []}, Throttled),
                (429, {"code": "50011", "msg": "Too Many Requests", "data": []}, Throttled),
                (200, {"code": "50001", "msg": "Service temporarily unavailable", "data": []}, Unavailable),
                (200, {"code": "50026", "msg": "System error", "data": []}, Unavailable),
                (503, {"code": "50013", "msg": "Systems are busy.", "data": []}, Unavailable),
            ),
        ),
        Case(
            "poloniex",
            "poloniex",
            ccxt_has={"fetchCurrencies": False},
            ccxt_needs_end=True,
            errors=(
                (400, {"code": 24101, "message": "Invalid symbol"}, Rejected),
                (400, {"code": 24102, "message": "Invalid K-line type"}, Rejected),
                (200, {"code": 601, "message": "Invalid Parameter"}, Rejected),
                (404, {"code": 404, "message": "Not Found"}, Rejected),
                (429, {"code": 429, "message": "Too many requests"}, Throttled),
                (200, {"code": 429, "msg": "TOO_MANY_REQUEST"}, Throttled),
                (403, "<html>Attention Required!</html>", Throttled),
                (500, {"code": 500, "message": "Internal System Error"}, Unavailable),
                (400, {"code": 603, "message": "Internal Request Timeout"}, Unavailable),
                (400, {"code": 24201, "message": "Service busy. Try again later"}, Unavailable),
                (200, {"code": 1002, "msg": "SYSTEM_MAINTENANCE"}, Unavailable),
                (502, "<html>Bad gateway</html>", Unavailable),
            ),
        ),
        Case(
            "upbit",
            "upbit",
            symbol="BTC/KRW",
            quiet="ZEC/KRW",
            unknown="NOPE/KRW",
            hides_delisted=True,
            errors=(
                (404, {"error": {"name": 404, "message": "Code not found"}}, Rejected),
                (400, {"error": {"name": 400, "message": "Invalid parameter. Check the given value!"}}, Rejected),
                (400, {"error": {"name": "validation_error", "message": "count does not have a valid value"}}, Rejected),
                (429, {"error": {"name": "too_many_requests", "message": "Too many requests"}}, Throttled),
                (200, {"error": {"name": 429, "message": "Too many requests"}}, Throttled),
                (429, "Too Many Requests", Throttled),
                (418, {"error": {"name": "too_many_requests", "message": "Blocked."}}, Throttled),
                (418, "I'm a teapot", Throttled),
                (500, {"error": {"name": "server_error", "message": "Server error"}}, Unavailable),
                (200, {"error": {"name": "server_error", "message": "Server error"}}, Unavailable),
                (502, "<html>Bad gateway</html>", Unavailable),
            ),
        ),
    )
}
