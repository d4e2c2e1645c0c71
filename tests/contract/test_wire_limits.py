"""What an exchange tells of its limit: what is used of it, for how long to stay away, how long it shuts out."""

import pytest
from requests.structures import CaseInsensitiveDict

from local_emulator.simulator.arrivals import Limit, Verdict, Window
from local_emulator.simulator.wire_upbit import UPBIT
from local_emulator.simulator.wires import WIRES
from shared.exchanges.catalog import load_spec
from shared.exchanges.headers import read_usage, read_wait_ms
from tests.contract.frozen_market import NOW_MS


def test_bybit_shuts_an_address_out_for_ten_minutes() -> None:
    wire = WIRES["bybit"]
    refused = wire.refusal(Verdict("banned", 600_000), NOW_MS)
    assert (refused.status, refused.body, dict(refused.headers)) == (403, b"access too frequent", {})
    assert (wire.punishment.bans_at_once, wire.punishment.ban_ms) == (True, 600_000)


def test_upbit_tells_what_remains_of_the_second_and_how_long_a_ban_lasts() -> None:
    window = Window(Limit(10, 1_000))
    for at_ms in (0, 100, 200):
        window.add(at_ms * 1_000_000, 1)
    assert read_usage(UPBIT.usage_headers(window), load_spec("upbit")) == ((1_000, 3),)
    # Symbols and tickers have a limit of their own.
    assert read_usage({"Remaining-Req": "group=market; min=600; sec=1"}, load_spec("upbit")) == ()
    banned = UPBIT.refusal(Verdict("banned", 60_001), NOW_MS)
    assert banned.status == 418
    assert b"61 seconds" in banned.body


@pytest.mark.parametrize("exchange", [name for name in WIRES if load_spec(name).usage_headers])
def test_the_usage_that_an_exchange_tells_is_read(exchange: str) -> None:
    spec, headers = load_spec(exchange), CaseInsensitiveDict[str]()
    for rule in WIRES[exchange].limits:
        window = Window(rule)
        window.add(0, 1)
        window.add(1_000_000, 2)
        headers.update(WIRES[exchange].usage_headers(window))
    assert read_usage(headers, spec) == tuple((header.period_ms, 3) for header in spec.usage_headers)


@pytest.mark.parametrize("exchange", WIRES)
def test_the_wait_that_an_exchange_tells_is_read(exchange: str) -> None:
    spec = load_spec(exchange)
    headers = CaseInsensitiveDict(WIRES[exchange].refusal(Verdict("throttled", 7_500), NOW_MS).headers)
    told = any(header.name in headers for header in spec.wait_headers)
    wait_ms = read_wait_ms(headers, spec, NOW_MS)
    assert all(header.name in headers for header in spec.wait_headers if header.name != "Retry-After")
    assert (7_500 <= wait_ms <= 8_999) if told and wait_ms is not None else (wait_ms is None and not told)
