"""Which addresses a base_url may lead to. Only literal addresses here: they are looked up without a network."""

import pytest

from shared.errors import InvalidRequest
from shared.usecases.check_base_url import check_base_url, is_public


@pytest.mark.parametrize("address", ["1.1.1.1", "203.0.114.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
    ],
)
def test_addresses_of_the_own_network(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "base_url",
    [
        *("", "api.example.com", "//1.1.1.1", "file:///etc/passwd", "http://", "https://:443", "http://1.1.1.1:port"),
        *("http://user@1.1.1.1", "http://:pw@1.1.1.1", "http://1.1.1.1?", "http://1.1.1.1/#a", "http://1.1.1.1\\@127.0.0.1"),
        *("http://1.1.1.1/a b", "http://1.1.1.1/\n", "http://127.1", "http://0x7f000001", "http://[::1]", "http://[::1"),
    ],
)
def test_what_is_no_address_on_the_internet_is_refused(base_url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_base_url(base_url, [])
    assert [field for field, _ in caught.value.errors] == ["base_url"]


def test_what_may_be() -> None:
    check_base_url("https://1.1.1.1/api", [])
    check_base_url("http://[2606:4700:4700::1111]:8080", [])


@pytest.mark.parametrize("allowed", ["127.0.0.1", "127.0.0.1:8080"])
def test_a_setting_can_allow_a_host_or_one_port_of_it(allowed: str) -> None:
    check_base_url("http://127.0.0.1:8080/binance", [allowed])
    with pytest.raises(InvalidRequest):
        check_base_url("http://127.0.0.2:8080", [allowed])


def test_an_allowed_port_is_that_port_only() -> None:
    check_base_url("https://[::1]", ["[::1]:443"])
    for other in ("http://127.0.0.1", "http://127.0.0.1:8081", "https://127.0.0.1"):
        with pytest.raises(InvalidRequest):
            check_base_url(other, ["127.0.0.1:8080"])
