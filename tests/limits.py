"""How tests ask the limiter, tell it what became of grants, and read its state."""

from typing import Any

from shared.domain.rates import GRAINS_PER_WINDOW, Ask, Reservation, Settlement
from shared.wiring import Platform


def make_ask(
    need: int = 1, want: int = 1, wait_ms_max: int = 0, use_by_ms: int = 100, in_doubt_ms: int = 0, **options: Any
) -> Ask:
    """A question whose grant is over soon after its moment, unless it is said otherwise."""
    return Ask(need, want, wait_ms_max, use_by_ms=use_by_ms, in_doubt_ms=in_doubt_ms, **options)


def settled(grant: Reservation, arrived: int, by_ms: int, returned: int | None = None) -> Settlement:
    """So much of a grant has arrived, and the rest (or so much of it) will not be sent."""
    returned = grant.granted - arrived if returned is None else returned
    after = grant.granted - arrived - returned
    return Settlement(grant.reservation_id, grant.granted, after, arrived, by_ms, grant.charged_ms)


def connector_of(platform: Platform, connector_id: str = "binance") -> dict[str, Any]:
    """The whole document, with the limiter's state."""
    document = platform.database.collection("connectors").find_one({"_id": connector_id})
    assert document is not None
    return document


def limiter_of(platform: Platform, connector_id: str = "binance") -> dict[str, Any]:
    """The limiter's state."""
    return dict(connector_of(platform, connector_id)["limiter"])


def unsettled(platform: Platform) -> dict[str, int]:
    """By reservation: the weight of which the limiter does not know yet what became of it."""
    return {grant["reservation_id"]: grant["w"] for grant in limiter_of(platform)["unsettled"]}


def logged(platform: Platform, number: int = 0) -> list[tuple[int, int]]:
    """(ms until which it counts, weight) of what is in a window's log, ascending."""
    return sorted((entry["t"], entry["w"]) for entry in limiter_of(platform)["logs"][number]["entries"])


def booked(platform: Platform) -> int:
    """All weight that counts in the first window, or has been counted there and was not looked at since."""
    logs = limiter_of(platform)["logs"]
    return sum(unsettled(platform).values()) + (sum(weight for _, weight in logged(platform)) if logs else 0)


def set_clock(platform: Platform, clock_ms: int, connector_id: str = "binance") -> None:
    """The limiter's clock may be ahead of the server's, and is then followed."""
    ahead = {"$set": {"limiter.clock_ms": clock_ms}}
    platform.database.collection("connectors").update_one({"_id": connector_id}, ahead)


def set_fields(platform: Platform, **fields: object) -> None:
    """Of the connector `binance`, past everything that edits go by."""
    platform.database.collection("connectors").update_one({"_id": "binance"}, {"$set": fields})


def grain_ms(period_ms: int) -> int:
    """How coarse a window's log is."""
    return max(1, period_ms // GRAINS_PER_WINDOW)


def grain_end_ms(at_ms: int, period_ms: int) -> int:
    """Until when something counts that has arrived then: entries count to the end of their grain."""
    grain = grain_ms(period_ms)
    return -(-at_ms // grain) * grain
