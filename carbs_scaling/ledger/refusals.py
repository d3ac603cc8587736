"""Which ledgers are refused: none there, of another format, or begun with another identity."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import StudyError, WrongStudy
from carbs_scaling.ledger.identity import differences

# The format of what is written into user attributes; a ledger of another one is refused, not misread.
LEDGER_FORMAT = 2


def require_ledger(config: StudyConfig) -> None:
    """Refuse a study whose ledger is a file that is not there.

    Raises:
        StudyError: there is none of this name.
    """
    file = config.folder / "study.db"
    if config.storage is None and not file.is_file():
        folder = Path(config.directory)
        names = sorted(p.parent.name for p in folder.glob("*/study.db"))
        there = f"there are {', '.join(names)}" if names else "there are none yet"
        raise WrongStudy(
            f"no study {config.name!r} in {folder}/ ({there}): set study.name and study.directory"
        )


def check_identity(config: StudyConfig, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a study that was begun with another identity.

    Raises:
        WrongStudy: names the first difference.
    """
    # Of studies that were begun before fine-tuning had rates of its own; both follow from model and space.
    later = ("rates.adapters: (not there) ->", "rates.finetuned_width: (not there) ->")
    changed = [line for line in differences(before, now) if not line.startswith(later)]
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise WrongStudy(
            f"study {config.name!r} was begun with another {changed[0]}{more}: "
            "undo the change, or take another study.name"
        )


def check_format(config: StudyConfig, attributes: Mapping[str, Any]) -> None:
    """Refuse a ledger that another version wrote.

    Raises:
        StudyError: names both formats.
    """
    found = attributes.get("ledger_format")
    if found != LEDGER_FORMAT:
        raise StudyError(
            f"study {config.name!r} has ledger format {found}, this program writes {LEDGER_FORMAT}: "
            "use the version that made it, or take another study.name"
        )
