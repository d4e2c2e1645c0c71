"""What a connection to an exchange says of a request: when it may leave, that it has arrived, and that it cannot any more."""

import contextlib
import gzip
import multiprocessing
import socket
from typing import Any

import pytest

from shared.domain.rates import ANSWER_MS_MAX
from shared.errors import ExchangeError, ExchangeUnavailable
from shared.exchanges.gated_http import USER_TIMEOUT, Passage
from shared.exchanges.http_session import open_session
from tests.contract.conftest import Connect
from tests.contract.loopback_venue import START_MS, Venue, page_of
from tests.waiting import HANG_S, wait_until

Order = list[str]


def noting(order: Order) -> Any:
    """A gate that notes when it is passed and when the answer begins."""

    def before_send() -> Passage:
        order.append("may leave")
        return Passage(lambda: order.append("answered"), lambda: order.append("not sent"))

    return before_send


@pytest.mark.parametrize(
    "answer",
    [
        {"value": page_of("binance", [START_MS])},
        {"value": {"code": -1003, "msg": "too fast"}, "status": 429},
        {"value": b"<html>", "status": 503},
        {"value": b"not json"},
        {"value": page_of("binance", [START_MS]), "send_bytes": 10},
        {"value": gzip.compress(b"[]")[:-4], "headers": {"Content-Encoding": "gzip"}},
    ],
    ids=["page", "refusal", "maintenance", "nonsense", "cut off", "broken gzip"],
)
def test_the_head_of_any_answer_says_that_the_request_has_arrived(
    venue: Venue, connect: Connect, answer: dict[str, Any]
) -> None:
    """Whatever comes of it afterwards."""
    venue.says(**answer)
    order: Order = []
    try:
        connect().fetch_ohlcv("BTC/USDT", "1m", START_MS, START_MS + 60_000, before_send=noting(order))
    except ExchangeError as exc:
        order.append(type(exc).__name__)
    assert order[:2] == ["may leave", "answered"]


def test_a_request_without_an_answer_has_not_arrived_as_far_as_anybody_knows(venue: Venue, connect: Connect) -> None:
    venue.says([], delay_s=60)
    order: Order = []
    with pytest.raises(ExchangeUnavailable, match="ReadTimeout"):
        connect(timeout_s=(5.0, 0.2)).ping(before_send=noting(order))
    assert order == ["may leave"]


def test_each_request_of_a_question_is_answered_for_itself(venue: Venue, connect: Connect) -> None:
    venue.says({})
    order: Order = []
    client = connect()
    for _ in range(3):
        client.ping(before_send=noting(order))
    assert order == ["may leave", "answered"] * 3
    client.ping()
    assert len(order) == 6, "the gate of an earlier request is not asked again"


def test_a_kept_connection_that_is_closed_while_a_request_waits_for_its_moment_has_sent_nothing(
    venue: Venue, connect: Connect
) -> None:
    """Exchanges close idle connections; the weight of what was never sent is given back."""
    venue.says({})
    client = connect()
    client.ping()
    asked = len(venue.asked)
    order: Order = []

    def wait_until_closed() -> Passage:
        venue.close_connections()
        return noting(order)()

    with pytest.raises(ExchangeUnavailable, match="closed the connection while the request waited"):
        client.ping(before_send=wait_until_closed)
    assert order == ["may leave", "not sent"]
    assert len(venue.asked) == asked
    client.ping(before_send=noting(order))
    assert order == ["may leave", "not sent", "may leave", "answered"]


@pytest.mark.skipif(USER_TIMEOUT is None, reason="the option is Linux's")
def test_the_kernel_gives_up_what_is_not_acknowledged_for_as_long_as_an_answer_may_take(venue: Venue) -> None:
    venue.says([])
    with open_session() as session, session.get(venue.url, timeout=HANG_S, stream=True) as response:
        connection = response.raw.connection
        assert connection is not None
        assert connection.sock.getsockopt(socket.IPPROTO_TCP, USER_TIMEOUT) == ANSWER_MS_MAX


@pytest.mark.skipif(USER_TIMEOUT is None, reason="the option is Linux's")
def test_what_a_killed_process_had_not_got_through_never_arrives() -> None:
    """Its peer takes nothing for longer than that: by then the kernel has dropped what was still to be sent."""
    with socket.socket() as listener:
        # A window of a few kB, so that most of the request waits in the sender's kernel.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        context = multiprocessing.get_context("spawn")
        sender = context.Process(target=_send_much, args=(listener.getsockname()[1],), daemon=True)
        sender.start()
        accepted, _ = listener.accept()
        with accepted:
            accepted.setblocking(False)
            wait_until(lambda: len(_peek(accepted)) > 1_000)
            sender.kill()
            sender.join()
            wait_until(lambda: _is_dropped(listener.getsockname()[1]))
            assert _take_all(accepted) < MUCH_BYTES


MUCH_BYTES = 3_000_000


def _send_much(port: int) -> None:
    """One request through the session that all exchanges are asked by; its body does not fit into the peer's window."""
    with open_session() as session:
        session.post(f"http://127.0.0.1:{port}/", data=b"x" * MUCH_BYTES, timeout=HANG_S)


def _take_all(accepted: socket.socket) -> int:
    """How much has come through; the connection ends in an error, or nothing more is there."""
    received = 0
    with contextlib.suppress(ConnectionError, BlockingIOError):
        while chunk := accepted.recv(65_536):
            received += len(chunk)
    return received


def _peek(accepted: socket.socket) -> bytes:
    try:
        return accepted.recv(65_536, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


def _is_dropped(port: int) -> bool:
    """No socket of this machine is connected to that port any more, by /proc/net/tcp (proc(5)): the sender's is gone."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return not any(row[2].endswith(f":{port:04X}") and row[3] in ("01", "04", "05", "06", "09", "0B") for row in rows)
