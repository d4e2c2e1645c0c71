"""What an emulator starts with: three connectors that point at the simulator and a dozen jobs, made by the admin API."""

import time
from dataclasses import dataclass
from typing import Any, Final

import requests

from local_emulator.processes import StartFailed
from shared.domain.jobs import to_datetime
from shared.domain.timeframes import TIMEFRAMES

EXCHANGES: Final = ("binance", "coinbase", "kraken")
TIMEOUT_S: Final = 20.0
INDICATORS: Final[tuple[dict[str, Any], ...]] = (
    {"name": "EMA", "params": {"timeperiod": 20}},
    {"name": "RSI", "params": {"timeperiod": 14}},
)


@dataclass(frozen=True, slots=True)
class DemoJob:
    """A series and how many candles back it starts."""

    connector_id: str
    symbol: str
    timeframe: str
    candles_back: int
    has_indicators: bool = False

    def to_body(self, now_ms: int) -> dict[str, Any]:
        """The request that creates it."""
        timeframe = TIMEFRAMES[self.timeframe]
        start_at = to_datetime(timeframe.shift(timeframe.floor(now_ms), -self.candles_back))
        body: dict[str, Any] = {
            "connector_id": self.connector_id,
            "symbol": self.symbol,
            "timeframe": self.timeframe,
            "start_at": start_at.isoformat(),
        }
        return {**body, "indicators": list(INDICATORS)} if self.has_indicators else body


# Kraken serves the last 720 candles only, so its jobs start within those.
DEMO_JOBS: Final = (
    DemoJob("binance", "BTC/USDT", "1m", 5000, has_indicators=True),
    DemoJob("binance", "ETH/USDT", "1m", 3000),
    DemoJob("binance", "SOL/USDT", "5m", 3000),
    DemoJob("binance", "DOGE/USDT", "15m", 2000),
    DemoJob("binance", "BTC/USDT", "1h", 4000, has_indicators=True),
    DemoJob("binance", "ETH/BTC", "1d", 1000),
    DemoJob("coinbase", "BTC/USD", "1m", 2000, has_indicators=True),
    DemoJob("coinbase", "ETH/USD", "5m", 1500),
    DemoJob("coinbase", "SOL/USD", "1h", 1200),
    DemoJob("kraken", "BTC/USD", "1m", 600, has_indicators=True),
    DemoJob("kraken", "ETH/USD", "15m", 600),
    DemoJob("kraken", "BTC/USD", "1d", 500),
)


class AdminClient:
    """The few calls of the admin API that the emulator makes."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._session = requests.Session()
        # A proxy in the environment is for the exchanges, not for loopback.
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def ensure_connector(self, exchange: str, base_url: str | None) -> None:
        """A connector named like its exchange, at that address (None: the exchange's own), whether it exists or not."""
        answer = self._call("GET", f"/v1/connectors/{exchange}", accepted=(200, 404))
        if answer.status_code == 404:
            body = {"id": exchange, "exchange": exchange}
            self._call(
                "POST", "/v1/connectors", body if base_url is None else {**body, "base_url": base_url}, accepted=(201, 200)
            )
            return
        connector = answer.json()
        if connector.get("base_url") != base_url:
            headers = {"If-Match": f'"{connector["revision"]}"'}
            self._call("PATCH", f"/v1/connectors/{exchange}", {"base_url": base_url}, headers)

    def ensure_job(self, job: DemoJob) -> None:
        """The job, if it is not there already."""
        self._call("POST", "/v1/jobs", job.to_body(int(time.time() * 1000)), accepted=(201, 200, 409))

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        accepted: tuple[int, ...] = (200,),
    ) -> requests.Response:
        try:
            answer = self._session.request(method, self._url + path, json=body, headers=headers, timeout=TIMEOUT_S)
        except requests.RequestException as exc:
            raise StartFailed(f"{method} {path}: admin did not answer ({type(exc).__name__})") from exc
        if answer.status_code not in accepted:
            raise StartFailed(f"{method} {path}: status {answer.status_code}: {answer.text[:500]}")
        return answer
