"""Keeps the password of a database URL out of all that is printed.

URLs are remembered as they are met. What goes to a person (messages, tracebacks, printed configurations) is
then cleaned of all that in them may be a password, and of whatever looks like one.
"""

import re
from urllib.parse import unquote_plus

HIDDEN = "***"
# Shorter ones would blot out ordinary text; where they stand in a URL, the patterns below find them.
_SHORTEST = 3
_LOGIN = re.compile(r"(\w[\w+.-]*://)[^\s'\"]*@")
_FIELD = re.compile(r"((?:password|passwd|passphrase|pwd)\s*[=:]\s*)([^\s&;,'\"]+)", re.IGNORECASE)
_remembered: set[str] = set()


def remember(url: str) -> None:
    """Note what may be a password in a URL, well-formed or not: its login, also in parts, and its query."""
    for text in (url, unquote_plus(url)):
        login, at, _ = text.partition("://")[2].rpartition("@")
        password = login.partition(":")[2] if at else ""
        found = [password, *re.split("[@:/?#&=]", password), *(match[2] for match in _FIELD.finditer(text))]
        _remembered.update(part for part in found if len(part) >= _SHORTEST)


def cleaned(text: str) -> str:
    """The text with `***` for every password."""
    for secret in sorted(_remembered, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _FIELD.sub(rf"\1{HIDDEN}", _LOGIN.sub(rf"\1{HIDDEN}@", text))
