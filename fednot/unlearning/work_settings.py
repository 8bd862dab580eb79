"""Settings of the works: numbers of a run's config by name, with defaults and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fednot.training import TrainContext


@dataclass(frozen=True)
class Setting:
    """A number from `low` to `high`; without a default the server must send it."""

    default: float | None
    low: float = 0.0
    high: float = 1e9


def values(work: str, context: TrainContext, settings: Mapping[str, Setting]) -> dict[str, float]:
    """Each setting's value: the run's, else the default. Raises ValueError if one is out of place.

    What else the config holds is not looked at, since it overrides the Task's hyper-parameters.
    """
    return {name: _value(work, context, name, setting) for name, setting in settings.items()}


def _value(work: str, context: TrainContext, name: str, setting: Setting) -> float:
    value = context.config.get(name, setting.default)
    if value is None:
        raise ValueError(f"{work} needs {name} in the work's config; the server must send it")
    if not setting.low <= value <= setting.high:  # NaN is not in any range
        raise ValueError(
            f"{name} of {work} is {value}; give a number from {setting.low:g} to {setting.high:g}"
        )
    return float(value)
