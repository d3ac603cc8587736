"""`carbs-scaling stop`: ends the search of a study from another terminal."""

from omegaconf import DictConfig

from carbs_scaling.config import StopConfig
from carbs_scaling.config_loading import load_config
from carbs_scaling.errors import StudyError


def run(composed: DictConfig) -> None:
    """Asks the search of the study to end."""
    config = load_config(StopConfig, composed)

    from carbs_scaling.ledger.presence import ask_to_stop, is_searched

    folder = config.study.folder
    if not is_searched(folder):
        raise StudyError(f"no search of study {config.study.name!r} is running in {folder}/")
    ask_to_stop(folder, config.now)
    when = "now; its running trials stay open" if config.now else "when its running trials have ended"
    print(f"the search of {config.study.name} ends {when}")
