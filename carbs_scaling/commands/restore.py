"""`carbs-scaling restore`: a study from the file of a backup."""

from pathlib import Path

from omegaconf import DictConfig

from carbs_scaling.config_loading import load_config
from carbs_scaling.verb_config import RestoreConfig


def run(composed: DictConfig) -> None:
    """Writes the study."""
    config = load_config(RestoreConfig, composed)

    from carbs_scaling.ledger.backup import restore

    place, trials = restore(Path(str(config.input)).expanduser(), config.rename, config.study)
    print(f"study {place.name} with {trials} trials is restored in {place.folder}/")
