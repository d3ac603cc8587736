"""From what Hydra composed to the checked, frozen dataclasses of `config`."""

from dataclasses import is_dataclass
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from carbs_scaling.config import require
from carbs_scaling.errors import ConfigError

T = TypeVar("T")

LISTS = (list[str], list[str] | None)  # one text stands for a list of it


def _plain(values: DictConfig, section_type: type) -> dict[str, Any]:
    """What people write and OmegaConf refuses: 1e6 for a whole number, one path for a list of them."""
    plain: dict[str, Any] = OmegaConf.to_container(values, resolve=True)  # type: ignore[assignment]
    for name, kind in get_type_hints(section_type).items():
        value = plain.get(name)
        if isinstance(value, float) and value.is_integer() and kind in (int, int | None):
            plain[name] = int(value)
        if isinstance(value, str) and kind in LISTS:
            plain[name] = [value]
    return plain


def _schema(section_type: type) -> DictConfig:
    """A dataclass as OmegaConf's schema; a frozen one makes its node read-only, also for the merge."""
    schema: DictConfig = OmegaConf.structured(section_type)
    OmegaConf.set_readonly(schema, False)
    for name, kind in get_type_hints(section_type).items():
        if isinstance(kind, type) and is_dataclass(kind):
            schema[name] = _schema(kind)
    return schema


def load_section(name: str, section_type: type[T], values: DictConfig) -> T:
    """One group of the configuration, `name`, as the checked dataclass `section_type`.

    A section type whose keys depend on a value reads them itself, by a class method `from_section`.

    Raises:
        ConfigError: a key that it does not have, or a value that cannot be.
    """
    own = getattr(section_type, "from_section", None)
    if own is not None:
        section: T = own(values)
        return section
    schema = _schema(section_type)
    try:
        section = OmegaConf.to_object(  # type: ignore[assignment]
            OmegaConf.merge(schema, _plain(values, section_type))
        )
    except MissingMandatoryValue as error:
        absent = min(str(key) for key in OmegaConf.missing_keys(OmegaConf.merge(schema, values)))
        raise ConfigError(f"{name}.{absent} is missing: add {name}.{absent}=...") from error
    except OmegaConfBaseException as error:
        key = f"{name}.{error.full_key}" if error.full_key else name
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from error
    return section


def load_config(config_type: type[T], composed: DictConfig, **section_types: type) -> T:
    """The composed Hydra configuration of a verb, or of a task, as its checked, frozen dataclass.

    Args:
        config_type: a dataclass; a field that is a dataclass too is a group.
        composed: what Hydra composed.
        section_types: for a field, a dataclass that extends its type.

    Raises:
        ConfigError: a key that the schema does not have or that is missing, or a value that cannot be.
    """
    kinds = {**get_type_hints(config_type), **section_types}
    for name in composed:
        require(name in kinds, f"unknown key {name!r}; there are {', '.join(kinds)}")
    values = {}
    for name, kind in kinds.items():
        require(name in composed, f"the configuration has no {name!r}")
        value = composed[name]
        if isinstance(kind, type) and is_dataclass(kind):
            if not isinstance(value, DictConfig):
                raise ConfigError(f"{name}={value} must be a group, such as {name}=NAME")
            value = load_section(name, kind, value)
        elif isinstance(value, DictConfig | ListConfig):
            value = OmegaConf.to_container(value, resolve=True)
        if isinstance(value, str) and kind in LISTS:
            value = [value]
        if kind in (str, bool, str | None, float):
            # Any number is a float to people.
            fits = isinstance(value, (int, float) if kind is float else kind)
            require(fits, f"{name}={value!r} is not what {name} can be")
        if kind == dict[str, Any]:
            require(isinstance(value, dict), f"{name}={value} must be a group, such as {name}=NAME")
        values[name] = value
    return config_type(**values)
