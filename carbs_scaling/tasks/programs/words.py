"""The words of a command with their placeholders: split once, as a shell would, and filled for each trial."""

import re
import shlex
from collections.abc import Mapping, Set

from carbs_scaling.errors import ConfigError
from carbs_scaling.formula import Formula, Value

MOST_CHARACTERS = 20_000
# A placeholder stands in the text as these characters around its number while the text is split.
OPEN, CLOSE = "\ue000", "\ue001"
BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
MARK = re.compile(f"{OPEN}(\\d+){CLOSE}")


class Words:
    """The words of a command. A placeholder is a formula in braces; `{{` and `}}` are braces.

    Args:
        text: of the command.
        key: of the configuration, for messages.
        known: names that placeholders may read.

    Raises:
        ConfigError: the text has no words, a quote that is not closed, or a placeholder that cannot be.
    """

    def __init__(self, text: str, key: str, known: frozenset[str]) -> None:
        if len(text) > MOST_CHARACTERS or OPEN in text or CLOSE in text or "\0" in text:
            raise ConfigError(f"{key} is longer than {MOST_CHARACTERS} characters, or holds odd ones")
        self.formulas: list[Formula] = []

        def marked(found: re.Match[str]) -> str:
            if found[0] in ("{{", "}}"):
                return found[0][0]
            if found[1] is None:
                raise ConfigError(f"{key}: a brace without its other one; a plain brace is written twice")
            self.formulas.append(Formula(found[1], f"{key}: the placeholder").require_names(known))
            return f"{OPEN}{len(self.formulas) - 1}{CLOSE}"

        try:
            self.words = shlex.split(BRACES.sub(marked, text))
        except ValueError as error:
            raise ConfigError(f"{key} cannot be split into words: {error}") from None
        if not self.words:
            raise ConfigError(f"{key} has no words: write the program and its arguments")

    def filled(self, values: Mapping[str, Value], absent: Set[str] = frozenset()) -> list[str]:
        """The words of a trial.

        A word that reads an absent name is left out. So is the option before it, a word that begins with a
        minus, where the word is nothing but its placeholder.

        Raises:
            ConfigError: a placeholder without a value there.
        """
        words: list[str] = []
        for word in self.words:
            marks = [int(number) for number in MARK.findall(word)]
            if any(self.formulas[i].names & absent for i in marks):
                if MARK.fullmatch(word) and words and words[-1].startswith("-"):
                    words.pop()
                continue
            filled = MARK.sub(lambda found: str(self.formulas[int(found[1])](values)), word)
            words.append(filled.replace("\0", ""))
        return words
