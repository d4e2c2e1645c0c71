"""The simulator's configuration as JSON, in the file given by --config and in the bodies of the control requests."""

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from local_emulator.simulator.arrivals import Limit
from local_emulator.simulator.faults import Fault
from shared.errors import ConfigurationError

SEED_DEFAULT: Final = 1


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WindowConfig(_Model):
    """At most `limit` weight in any `period_ms`."""

    limit: int = Field(ge=1)
    period_ms: int = Field(ge=1, le=86_400_000)


class LimitsConfig(_Model):
    """The limits of an exchange, in place of the documented ones; none at all is allowed. `punish`: answer as they would."""

    exchange: str
    windows: tuple[WindowConfig, ...] | None = Field(default=None, description="None keeps the limits in force")
    punish: bool = True
    keeps_counts: bool = Field(default=False, description="the windows go on with what they hold; their periods stay")
    history: tuple[tuple[int, int], ...] = Field(default=(), description="(age in ms, weight) of what has arrived before")

    def limits(self) -> tuple[Limit, ...] | None:
        """As the counter takes them."""
        return None if self.windows is None else tuple(Limit(window.limit, window.period_ms) for window in self.windows)


class ClockChange(_Model):
    """Any of: jump to `now_ms`, jump by `advance_ms`, be `offset_ms` ahead of the host, stand still or run (`freeze`)."""

    now_ms: int | None = Field(default=None, ge=0)
    advance_ms: int | None = None
    offset_ms: int | None = None
    freeze: bool | None = None


class SimulatorConfig(_Model):
    """Everything. `recordings` maps `exchange:BASE/QUOTE:timeframe` to CSV files, relative to the configuration file."""

    seed: int = SEED_DEFAULT
    clock_offset_ms: int = 0
    freeze_at_ms: int | None = None
    recordings: dict[str, str] = {}
    limits: tuple[LimitsConfig, ...] = ()
    faults: tuple[Fault, ...] = ()


def load_config(path: Path | None) -> SimulatorConfig:
    """From a JSON file; no file gives the defaults.

    Raises:
        ConfigurationError: the file is missing, no JSON, or says something unknown.
    """
    if path is None:
        return SimulatorConfig()
    try:
        return SimulatorConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise ConfigurationError(f"simulator configuration {path.name}: {exc}") from exc
