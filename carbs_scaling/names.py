"""Names of studies and models: they are typed, printed, and names of folders."""

import hashlib
import re

from carbs_scaling.errors import ConfigError

OVERRIDES = "CARBS_SCALING_OVERRIDES"  # environment variable: those of a multirun, which name its studies
LONGEST = 200  # file systems take 255 bytes, endings included
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST - 1}}}")
_HASH_DIGITS = 8


def require_name(key: str, name: str, directory_key: str) -> None:
    """Refuse what is no name.

    Args:
        key: that holds the name.
        name: what it holds.
        directory_key: where a path belongs, for the message.

    Raises:
        ConfigError: it breaks the rule, which the message states.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{key}={name!r} is no name: use letters (a-z, A-Z), digits, '.', '_' and '-', a letter or digit "
            f"first, {LONGEST} at most (a path goes into {directory_key})"
        )


def as_name(text: str) -> str:
    """A text that begins with a letter or digit as a name: hyphens for all that a name cannot hold.

    Where other texts could give the same name, a hash of the text ends it.
    """
    name = re.sub("[^A-Za-z0-9._-]", "-", text)
    if len(text) > LONGEST or re.search("[^A-Za-z0-9._=-]", text):
        digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]
        name = f"{name[: LONGEST - _HASH_DIGITS - 1]}-{digest}"
    return name
