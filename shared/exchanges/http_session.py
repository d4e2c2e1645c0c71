"""The HTTP session that all clients of an instance send through."""

import os
from typing import Final

import requests

from shared.exchanges.gated_http import GatedAdapter

USER_AGENT: Final = "chandler/0.2.0"
# Connections kept to one host: as many as four backfills at once have requests under way. Those above it would be opened
# anew, handshake and all; idle ones cost nothing.
POOL_SIZE: Final = 64


def open_session() -> requests.Session:
    """A session for ExchangeClient: pooled connections, no retries, our name as User-Agent.

    Proxies and certificates come from the environment as requests has them, but are looked up once a client, not at each
    request.
    """
    session = requests.Session()
    session.trust_env = False
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    adapter = GatedAdapter(pool_connections=POOL_SIZE, pool_maxsize=POOL_SIZE, max_retries=0)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.headers["User-Agent"] = USER_AGENT
    return session


def proxies_for(base_url: str) -> dict[str, str]:
    """What the environment says of proxies for that host (`HTTPS_PROXY`, `NO_PROXY`, ...), as requests wants it."""
    return dict(requests.utils.get_environ_proxies(base_url))
