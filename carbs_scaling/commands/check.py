"""`carbs-scaling check`: whether a ledger is whole, and what is not mended."""

from contextlib import nullcontext

from omegaconf import DictConfig

from carbs_scaling.config_loading import load_config
from carbs_scaling.errors import StudyError
from carbs_scaling.verb_config import CheckConfig


def run(composed: DictConfig) -> None:
    """Reads every trial of a study; exit code 1 where something is wrong and stays so."""
    config = load_config(CheckConfig, composed)

    from carbs_scaling.ledger.checking import check_ledger
    from carbs_scaling.ledger.lease import sole_coordinator, who_searches
    from carbs_scaling.ledger.refusals import require_ledger

    require_ledger(config.study)
    name = config.study.name
    checked = check_ledger(config.study, mend=False)
    # A whole ledger is not written to, and may be searched meanwhile.
    with sole_coordinator(config.study) if config.mend and checked.wrong else nullcontext() as lease:
        if lease is not None:
            checked = check_ledger(config.study, mend=True)
    for number, what in checked.faults:
        print(f"trial {number}: {what}{': set aside' if config.mend else ''}")
    for remark in checked.remarks:
        print(f"{remark}{': mended' if config.mend else ''}")
    print(f"{name}: {checked.trials} trials, {checked.open} of them open, {checked.wrong} with a fault")
    if checked.open and who_searches(config.study) is None:
        print("nobody searches it: the next search runs the open trials again, under their numbers")
    if checked.wrong and not config.mend:
        raise StudyError(
            f"mend=true sets {'it' if checked.wrong == 1 else 'them'} aside, and keeps the rest as it is"
        )
