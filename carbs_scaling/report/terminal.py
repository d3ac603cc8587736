"""Where lines go: consoles that print text as it is, and streams that print on every terminal."""

import codecs
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# What stands for a character that a terminal's encoding does not have.
LOOK_ALIKES = {
    "─": "-", "━": "=", "│": "|", "·": ".", "…": "...", "\u2013": "-", "\u2014": "-", "\u2212": "-",
    "\u00d7": "x", "²": "^2", "³": "^3", "≤": "<=", "≥": ">=", "±": "+-", "→": "->", "≈": "~",
    "▁": "_", "▂": ".", "▃": ":", "▄": "=", "▅": "+", "▆": "*", "▇": "%", "█": "#",
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
}  # fmt: skip
ERRORS = "carbs_scaling.look_alikes"


def _look_alike(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    escaped = (LOOK_ALIKES.get(c, c.encode("ascii", "backslashreplace").decode()) for c in text)
    return "".join(escaped), error.end


def ready_streams() -> None:
    """Make standard output and error print every text, whatever their encoding."""
    codecs.register_error(ERRORS, _look_alike)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a program or a test has put another one
            stream.reconfigure(errors=ERRORS)


def console(
    file: TextIO | None = None, *, stderr: bool = False, width: int | None = None, quiet: bool = False
) -> "Console":
    """A console that takes names, paths and messages as they are: no `[markup]`, no `:emoji:`."""
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich's own way out has the exit code of a failure

    return PlainConsole(
        file=file, stderr=stderr, width=width, quiet=quiet, markup=False, emoji=False, highlight=False
    )


@contextmanager
def working(text: str) -> Iterator[None]:
    """Shows on standard error what takes its time, while it does; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    with console(stderr=True).status(text, spinner="line"):
        yield
