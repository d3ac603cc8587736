"""Errors meant for people: each message is one line that says what is wrong and what to do."""

import os
import sys
from typing import NoReturn


class CarbsScalingError(Exception):
    """Base of every error that the command line prints as one line instead of a traceback."""


class ConfigError(CarbsScalingError):
    """An override or a preset asks for something that cannot be."""


class DataError(CarbsScalingError):
    """Training or validation text is missing, unreadable, empty or too short."""


class StudyError(CarbsScalingError):
    """The ledger cannot be opened, is in use, or belongs to another search."""


class BudgetSpent(CarbsScalingError):
    """What remains of the budget pays for no legal run."""


def end_at_once(code: int) -> NoReturn:
    """End a process of `torchrun`: Python's ordinary end may wait for messages to processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
