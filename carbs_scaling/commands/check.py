"""`carbs-scaling check`: whether a ledger is whole, and what cannot be read set aside."""

from omegaconf import DictConfig

from carbs_scaling.config_loading import load_config
from carbs_scaling.errors import StudyError
from carbs_scaling.verb_config import CheckConfig


def run(composed: DictConfig) -> None:
    """Reads every trial of a study; exit code 1 where something is wrong and stays so."""
    config = load_config(CheckConfig, composed)

    from carbs_scaling.ledger.checking import check_ledger
    from carbs_scaling.ledger.presence import is_searched
    from carbs_scaling.ledger.study import require_ledger

    require_ledger(config.study)
    if config.mend and is_searched(config.study.folder):
        raise StudyError(f"study {config.study.name!r} is being searched: stop it before mend=true")
    checked = check_ledger(config.study, config.mend)
    name = config.study.name
    for fault in checked.faults:
        print(f"trial {fault.number}: {fault.what}{': set aside' if config.mend else ''}")
    for remark in checked.remarks:
        print(remark)
    wrong = len(checked.faults)
    print(f"{name}: {checked.trials} trials, {checked.open} of them open, {wrong} with a fault")
    if wrong and not config.mend:
        raise StudyError(
            f"mend=true sets {'it' if wrong == 1 else 'them'} aside, and keeps the rest as it is"
        )
