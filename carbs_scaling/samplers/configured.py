"""The options of `CarbsSampler` as a configuration gives them: checked, and each mistake one line."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from math import inf
from typing import Any

from omegaconf import OmegaConf

from carbs_scaling.config import load_section
from carbs_scaling.errors import ConfigError
from carbs_scaling.samplers.options import SamplerOptions

# Options of `CarbsSampler` under names of their own in `conf/sampler/`.
PRESETS: dict[str, dict[str, Any]] = {
    "carbs": {},
    "ei_per_cost": {"acquisition": "ei_per_cost", "law_mean": False},
}


def carbs_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `CarbsSampler`: those of a preset, and over them what is given.

    Args:
        name: one of `PRESETS`.
        given: fields of `SamplerOptions`, and `target`, (params, tokens) of a larger model.

    Raises:
        ConfigError: an option that there is not, or a value that it cannot have.
    """
    known = [field.name for field in fields(SamplerOptions)]
    unknown = [option for option in given if option not in (*known, "target")]
    if unknown:
        raise ConfigError(
            f"sampler.{unknown[0]} is not an option of {name}, which has target, {', '.join(known)}"
        )
    values = {option: value for option, value in given.items() if option != "target"}
    try:
        options = load_section("sampler", SamplerOptions, OmegaConf.create({**PRESETS[name], **values}))
    except ValueError as error:
        raise ConfigError(f"sampler.{error}") from error
    return {**asdict(options), "target": _target(given.get("target"))}


def _target(value: Any) -> tuple[float, float] | None:
    """(params, tokens), both positive, or None for the front itself."""
    if value is None:
        return None
    pair = value if isinstance(value, (list, tuple)) else [value]
    try:
        numbers = [float("nan") if isinstance(part, bool) else float(part) for part in pair]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 2 or not all(0 < number < inf for number in numbers):
        raise ConfigError(
            f"sampler.target={value} must be parameters and tokens of the model to learn for, "
            "such as [1e8,2e9], or null"
        )
    return numbers[0], numbers[1]
