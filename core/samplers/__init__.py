"""Samplers by name. All run on any geometry, except where a sampler says that it needs a flat one."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from core.errors import ConfigError
from core.samplers.base import Callback, OneStep, Sampler, Step
from core.samplers.mixed import Mixed, Segment, run_segments
from core.samplers.ode import DPMSolver2M, Euler, Heun
from core.samplers.sde import DDPM, Churn, EulerMaruyama, LowTemperature, Restart

NUMERIC = (float, float | Mapping[str, float])  # types of plain options
SAMPLERS: dict[str, type[Sampler]] = {
    "euler": Euler,
    "heun": Heun,
    "dpmpp-2m": DPMSolver2M,
    "churn": Churn,
    "euler-maruyama": EulerMaruyama,
    "ddpm": DDPM,
    "restart-623": Restart,
    "low-temperature": LowTemperature,
    "mixed": Mixed,
}


Named = Mapping[str, tuple[str, Mapping[str, Any]]]


def make_sampler(name: str, options: Mapping[str, Any] | None = None, named: Named | None = None) -> Sampler:
    """Sampler by name, with options of its dataclass; options that are samplers are given by name.

    named: further names, each for a sampler of the core with options (``Domain.samplers``).
    Raises ConfigError for an unknown name, an unknown option or a value of the wrong type.
    """
    named = named or {}
    if name in named:
        name, preset = named[name]
        options = {**preset, **(options or {})}
    if name not in SAMPLERS:
        raise ConfigError(f"unknown sampler '{name}'; known: {', '.join([*SAMPLERS, *named])}")
    fields = {f.name: f.type for f in dataclasses.fields(SAMPLERS[name])}  # type: ignore[arg-type]
    known = {key: kind for key, kind in fields.items() if kind in NUMERIC or kind in (Sampler, OneStep)}
    resolved = {}
    for key, value in (options or {}).items():
        if key not in known:
            raise ConfigError(f"sampler '{name}' has no option '{key}'; it has: {', '.join(known) or 'none'}")
        resolved[key] = _option(f"option '{key}' of sampler '{name}'", known[key], value)
    return SAMPLERS[name](**resolved)


def _option(where: str, kind: Any, value: Any) -> Any:
    """A checked option: a number, a mapping from field to number where that is allowed, or a sampler by its name."""
    if kind is not float and kind in NUMERIC and isinstance(value, Mapping):
        return {field: _number(where, number) for field, number in value.items()}
    if kind in NUMERIC:
        return _number(where, value)
    if not isinstance(value, str):
        raise ConfigError(f"{where} must be the name of a sampler, not {value!r}")
    sampler = make_sampler(value)
    if not isinstance(sampler, kind):
        raise ConfigError(f"{where} must be a sampler that takes single steps, such as heun, and {value} does not")
    return sampler


def _number(where: str, value: Any) -> float:
    try:
        number = float(value)  # also "1e3", which YAML takes for text
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} must be a number, not {value!r}") from error
    if isinstance(value, bool) or not math.isfinite(number):
        raise ConfigError(f"{where} must be a number, not {value!r}")
    return number


__all__ = [
    "DDPM", "SAMPLERS", "Callback", "Churn", "DPMSolver2M", "Euler", "EulerMaruyama", "Heun", "LowTemperature",
    "Mixed", "OneStep", "Restart", "Sampler", "Segment", "Step", "make_sampler", "run_segments",
]  # fmt: skip
