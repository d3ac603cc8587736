"""Keys, defaults and groups of a verb with their comments, for help and completion: `conf/` without Hydra."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from carbs_scaling.errors import CarbsScalingError

_KEY = re.compile(r"( *)([\w-]+):(?: |$)")
_COMMENT = re.compile(r"(?:^|\s)#\s?(.*)$")
_RANGE = {"low", "high", "log"}  # a dimension of the space is one key, not three
PRESETS = "experiment"  # the group whose options are added with a plus


@dataclass(frozen=True)
class Key:
    """One key that an override can set: its dotted name, its default as YAML, and its comment."""

    name: str
    default: str
    comment: str


@dataclass
class VerbKeys:
    """All that a verb can be given.

    Attributes:
        keys: the verb's own first, then those of its groups.
        options: of each group, by its name.
        chosen: the option of each group that the keys are of.
    """

    keys: list[Key] = field(default_factory=list)
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)


def configuration_folder() -> Path:
    """`conf/`: inside the package installed from a wheel, beside it in a checkout or editable install."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise CarbsScalingError(
        f"no configuration folder conf/ in or beside {package}: install the package again"
    )


def verb_keys(verb: str, chosen: Mapping[str, str] | None = None) -> VerbKeys:
    """Keys and groups of a verb.

    Args:
        verb: the name of its file in `conf/`.
        chosen: options other than the defaults, by group; one that does not exist is left to Hydra to refuse.
    """
    folder = configuration_folder()
    found = VerbKeys()
    own, comments, groups = _read(folder / f"{verb}.yaml")
    values: dict[str, Any] = {}
    group_comments: dict[str, str] = {}
    while groups:
        group = next(iter(groups))
        option = groups.pop(group)
        names = sorted(path.stem for path in (folder / group).glob("*.yaml"))
        if (chosen or {}).get(group) in names:
            option = (chosen or {})[group]
        found.options[group] = tuple(name for name in names if name != "base")
        found.chosen[group] = option
        place = _place(_text(folder / group / f"{option}.yaml"), group)
        for name in ("base", option) if "base" in names else (option,):
            more, said, needed = _read(folder / group / f"{name}.yaml")
            _merge(values, {place: more} if place else more)
            prefix = f"{place}." if place else ""
            group_comments.update({f"{prefix}{key}": comment for key, comment in said.items() if comment})
            groups.update(needed)
    if verb == "search":
        found.options[PRESETS] = tuple(sorted(path.stem for path in (folder / PRESETS).glob("*.yaml")))
    _merge(values, own)
    comments = group_comments | {key: comment for key, comment in comments.items() if comment}
    first = [name for name in own if name not in found.options]
    ordered = {name: values[name] for name in (*first, *(name for name in values if name not in first))}
    found.keys = [
        Key(name, _yaml(value), comments.get(name, ""))
        for name, value in _leaves(ordered, "")
        if not _names_option(found, name, value)
    ]
    return found


def _names_option(found: VerbKeys, name: str, value: Any) -> bool:
    """Whether a key, such as `sampler.name`, only repeats the option that was chosen."""
    group = name.partition(".")[0]
    return len(found.options.get(group, ())) > 1 and value == found.chosen.get(group)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _place(text: str, group: str) -> str:
    """The key that a file's values stand under: its group, what its head names, or none."""
    head = re.match(r"# @package (\S+)", text)
    return group if head is None else head[1].replace("_global_", "")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Values of a file, comments by dotted key, and the options of the groups that it brings."""
    text = _text(path)
    values: dict[str, Any] = yaml.safe_load(text) or {}
    groups = {
        group.removeprefix("/"): str(option)
        for default in values.pop("defaults", [])
        if isinstance(default, dict)
        for group, option in default.items()
        if not group.startswith("optional ")  # other values of keys that stand elsewhere
    }
    values.pop("hydra", None)
    return values, _comments(text), groups


def _comments(text: str) -> dict[str, str]:
    """The comment of each key: at the end of its line and in the lines below, or else in the lines above."""
    comments: dict[str, str] = {}
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    last = ""  # the key whose comment at the end of its line may go on
    for line in text.splitlines():
        comment = _COMMENT.search(line)
        key = _KEY.match(line)
        if key:
            indent = len(key[1])
            parents = [parent for parent in parents if parent[0] < indent] + [(indent, key[2])]
            last = ".".join(name for _, name in parents)
            comments[last] = comment[1] if comment else " ".join(above)
            above, last = [], last if comment else ""
        elif comment and line.strip().startswith("#"):
            if last and line.startswith(" " * 8):  # below a comment at the end of a line
                comments[last] += f" {comment[1]}"
            else:
                above.append(comment[1].strip())
                last = ""
        else:
            above, last = [], ""
    return comments


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def _leaves(values: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict) and value and not set(value) <= _RANGE:
            found += _leaves(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def _yaml(value: Any) -> str:
    """One line of YAML, as an override would have it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").replace("'", "")
