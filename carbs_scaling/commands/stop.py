"""`carbs-scaling stop`: ends the search of a study from another terminal."""

from omegaconf import DictConfig

from carbs_scaling.config_loading import load_config
from carbs_scaling.errors import StudyError
from carbs_scaling.verb_config import StopConfig


def run(composed: DictConfig) -> None:
    """Asks the search of the study to end."""
    config = load_config(StopConfig, composed)

    from carbs_scaling.ledger.lease import ask_to_stop, who_searches
    from carbs_scaling.ledger.refusals import require_ledger

    require_ledger(config.study)
    if who_searches(config.study) is None:
        raise StudyError(f"no search of study {config.study.name!r} is running")
    ask_to_stop(config.study, config.now)
    when = "now; its running trials stay open" if config.now else "when its running trials have ended"
    print(f"the search of {config.study.name} ends {when}")
