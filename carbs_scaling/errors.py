"""Errors meant for people: each message is one line that says what is wrong and what to do."""

import os
import sys
from typing import NoReturn


class CarbsScalingError(Exception):
    """Base of every error that the command line prints as one line instead of a traceback.

    Attributes:
        exit_code: of the command line: 1 where a command failed, 2 where the command itself is wrong.
    """

    exit_code = 1


class ConfigError(CarbsScalingError):
    """A command asks for something that cannot be, or names something that is not there."""

    exit_code = 2


class DataError(CarbsScalingError):
    """Training or validation text is missing, unreadable, empty or too short."""


class NoSuchText(DataError, ConfigError):
    """The configuration names a text, a column or a tokenizer that is not there."""


class StudyError(CarbsScalingError):
    """The ledger cannot be opened, is in use, or belongs to another search."""


class WrongStudy(StudyError, ConfigError):
    """The study that is named is not there, or does not go with the rest of the command."""


class BudgetSpent(CarbsScalingError):
    """What remains of the budget pays for no legal run."""


def warn(line: str) -> None:
    """Print a warning to the person: one line on standard error, which no output of a verb is mixed with."""
    print(f"carbs-scaling: warning: {line}", file=sys.stderr)


def end_at_once(code: int) -> NoReturn:
    """End a process of `torchrun`: Python's ordinary end may wait for messages to processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
