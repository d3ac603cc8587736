"""Lines of Python's standard library, labelled as code, comment or docstring: on every machine."""

import ast
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from carbs_scaling.data.sources import stdlib_files

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("code", "comment", "docstring")
LINES_A_KIND = 4000
LEAST_CHARACTERS = 12  # shorter lines are mostly brackets, names and rulers
MARKS = "#\"' "  # what gives a comment or docstring away at its ends


def stdlib_lines() -> "pd.DataFrame":
    """Table of `sentence` and `label`: `LINES_A_KIND` lines of each of `KINDS`, without indents and marks.

    Files are read in the order of hashes of their names, until there are enough. A line that occurs twice
    counts once, under its first kind.

    Raises:
        DataError: this Python comes without its sources.
    """
    import pandas as pd

    found: dict[str, str] = {}
    left = dict.fromkeys(KINDS, LINES_A_KIND)
    for file in sorted(stdlib_files(), key=lambda file: sha256(file.name.encode()).hexdigest()):
        if not any(left.values()):
            break
        for text, kind in _lines(file):
            if left[kind] and text not in found:
                found[text] = kind
                left[kind] -= 1
    return pd.DataFrame({"sentence": list(found), "label": list(found.values())})


def _lines(file: Path) -> list[tuple[str, str]]:
    """Lines of a file with their kinds; none of a file that this Python cannot parse."""
    source = file.read_text(encoding="utf-8", errors="replace")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    in_docstring: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, False):
            docstring = node.body[0]
            in_docstring |= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    lines = []
    for number, line in enumerate(source.split("\n"), start=1):
        text, kind = line.strip(), "code"
        if number in in_docstring:
            text, kind = text.strip(MARKS), "docstring"
        elif text.startswith("#"):
            text, kind = text.strip(MARKS), "comment"
        if len(text) >= LEAST_CHARACTERS and any(character.isalpha() for character in text):
            lines.append((text, kind))
    return lines
