"""Registries: one module a task, executor, sampler, model family or optimizer, found by its file's name."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any

from carbs_scaling.errors import ConfigError


@dataclass(frozen=True)
class Registry:
    """The modules of a package that each define one entry, so that adding one touches one file.

    Nothing is imported before it is asked for: some entries need libraries that are slow or optional.

    Args:
        package: dotted name of the package, such as `carbs_scaling.tasks`.
        attribute: the name under which each module holds its entry, such as `TASK`.
        key: the configuration key that names an entry, for messages, such as `task.name`.
        shared: modules of the package that hold no entry.
    """

    package: str
    attribute: str
    key: str
    shared: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all entries, sorted."""
        spec = find_spec(self.package)
        places = [] if spec is None else spec.submodule_search_locations or []
        modules = {module.name for module in iter_modules(places) if not module.name.startswith("_")}
        return tuple(sorted(modules - self.shared))

    def load(self, name: str) -> Any:
        """The entry called `name`.

        Raises:
            ConfigError: there is none of this name.
        """
        if name not in self.names:
            raise ConfigError(f"{self.key}={name} is not one of {', '.join(self.names)}")
        return getattr(import_module(f"{self.package}.{name}"), self.attribute)
