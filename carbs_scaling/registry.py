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
        groups: sub-packages that hold entries too.
    """

    package: str
    attribute: str
    key: str
    shared: frozenset[str] = frozenset()
    groups: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all entries, sorted."""
        return tuple(sorted(self._modules()))

    def load(self, name: str) -> Any:
        """The entry called `name`.

        Raises:
            ConfigError: there is none of this name.
        """
        modules = self._modules()
        if name not in modules:
            raise ConfigError(f"{self.key}={name} is not one of {', '.join(sorted(modules))}")
        return getattr(import_module(modules[name]), self.attribute)

    def _modules(self) -> dict[str, str]:
        """Full names of the modules that hold entries, by the entries' names."""
        found: dict[str, str] = {}
        for package in (self.package, *(f"{self.package}.{group}" for group in self.groups)):
            spec = find_spec(package)
            places = [] if spec is None else spec.submodule_search_locations or []
            names = {m.name for m in iter_modules(places) if not m.name.startswith("_")}
            found |= {name: f"{package}.{name}" for name in names - self.shared - set(self.groups)}
        return found
