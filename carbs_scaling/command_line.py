"""Checks the words of a command line before Hydra reads them, whose own messages say less."""

import re
from collections.abc import Iterator, Sequence

from carbs_scaling.errors import ConfigError

SWEEPING = frozenset(("-m", "--multirun"))
PRINTING = frozenset(("-c", "--cfg", "-i", "--info"))  # Hydra's flags that print a configuration
# Flags of Hydra that make sense here, and those of them that the next word belongs to.
_WITH_VALUE = frozenset(("-c", "--cfg", "-p", "--package", "-cd", "--config-dir"))
_FLAGS = SWEEPING | PRINTING | _WITH_VALUE | {"--resolve", "-r", "--run", "--hydra-help"}
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_COMPLETING = ("-sc", "--shell-completion")


def checked(words: Sequence[str]) -> list[str]:
    """The words as Hydra takes them.

    Raises:
        ConfigError: one is neither an override nor a flag; the line says what it should have been.
    """
    rest = iter(words)
    return [part for word in rest for part in _one(word, rest, list(words))]


def _one(word: str, rest: Iterator[str], words: list[str]) -> list[str]:
    """One word, with the next one where that is its value."""
    after = words[words.index(word) + 1 :][:1]
    if word.startswith("-"):
        flag, equals, value = word.partition("=")
        if flag in _WITH_VALUE and not equals:
            return [word, *([] if (value := next(rest, "")) == "" else [value])]
        if flag in ("-i", "--info") and after and after[0] in _INFO:
            return [word, next(rest)]
        if flag in _FLAGS:
            return [word]
        key = flag.lstrip("-")
        if flag in _COMPLETING:
            raise ConfigError('completion is set up by eval "$(carbs-scaling completion bash)"')
        if equals:
            raise ConfigError(f"{flag}: overrides have no dashes: write {key}={value}")
        if after and not after[0].startswith("-") and "=" not in after[0]:
            raise ConfigError(f"{flag}: overrides have no dashes: write {key}={after[0]}")
        raise ConfigError(f"unknown flag {flag}: see carbs-scaling VERB --help")
    if re.match(r"hydra\.(output_subdir|sweep\.dir)=", word.lstrip("+")):
        raise ConfigError(
            f"{word.partition('=')[0]}: Hydra writes no files here, for they would hold all values, "
            "passwords too; a study's own files are in study.directory"
        )
    if word.count("[") + word.count("{") > word.count("]") + word.count("}") and after:
        raise ConfigError(f"a list with blanks needs quotes: '{word} {after[0]}'")
    if "=" not in word and not word.startswith("~"):
        value = after[0] if after and "=" not in after[0] else "VALUE"
        raise ConfigError(f"{word} is no override: write {word}={value}")
    return [word]
