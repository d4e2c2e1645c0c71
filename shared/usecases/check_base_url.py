"""A `base_url` leads to an exchange on the internet, or to a host that a setting names: never into the network we run in."""

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final
from urllib.parse import SplitResult, urlsplit

from shared.errors import InvalidRequest

FIELD: Final = "base_url"
PORTS: Final = {"http": 80, "https": 443}
# Addresses that carry an IPv4 address inside: NAT64 (RFC 6052) and 6to4 (RFC 3056) would lead to it.
NAT64: Final = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_base_url(base_url: str, hosts_allowed: Sequence[str]) -> None:
    """Look the host up and judge every address it has. `hosts_allowed` are `host` or `host:port`, taken as they are.

    Raises:
        InvalidRequest: no http(s) URL, one with user, password, query or fragment, an unknown host, or a host with a
            private, loopback, link-local or otherwise not public address.
    """
    parts, port = _split(base_url)
    check_host(parts.hostname or "", port, hosts_allowed)


def check_host(host: str, port: int, hosts_allowed: Sequence[str]) -> None:
    """Judge every address that the host has. Raises InvalidRequest like `check_base_url`."""
    host = host.lower()
    named = f"[{host}]" if ":" in host else host
    if {host, named, f"{named}:{port}"} & {allowed.lower() for allowed in hosts_allowed}:
        return
    for text in _addresses_of(host, port):
        if not is_public(text):
            raise InvalidRequest.for_field(
                FIELD, f"{host} is {text}, which is no public address; CHANDLER_HOSTS_ALLOWED can allow {named}:{port}"
            )


def is_public(text: str) -> bool:
    """Whether an address is of the internet: not private, loopback, link-local, multicast, or such a one wrapped in IPv6."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    return address.is_global and not address.is_multicast


def _split(base_url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError as exc:
        raise InvalidRequest.for_field(FIELD, "is not a URL") from exc
    if parts.scheme not in PORTS or not parts.hostname:
        raise InvalidRequest.for_field(FIELD, "has to be an http or https URL with a host")
    if "@" in parts.netloc:
        raise InvalidRequest.for_field(FIELD, "may not carry a user or password")
    if parts.query or parts.fragment or any(character in base_url for character in "?#\\ ") or not base_url.isprintable():
        raise InvalidRequest.for_field(FIELD, "may have a path, but no query, fragment, backslash, space or control character")
    return parts, PORTS[parts.scheme] if port is None else port


def _addresses_of(host: str, port: int) -> set[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise InvalidRequest.for_field(FIELD, f"the host {host[:100]} cannot be found") from exc
    return {str(address[4][0]) for address in found}
