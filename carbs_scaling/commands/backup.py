"""`carbs-scaling backup`: a whole study as one file."""

from pathlib import Path

from omegaconf import DictConfig

from carbs_scaling.config_loading import load_config
from carbs_scaling.verb_config import BackupConfig


def run(composed: DictConfig) -> None:
    """Writes the file."""
    config = load_config(BackupConfig, composed)

    from carbs_scaling.ledger.backup import back_up
    from carbs_scaling.ledger.refusals import require_ledger

    require_ledger(config.study)
    output = Path(str(config.output)).expanduser()
    trials = back_up(config.study, output)
    print(f"study {config.study.name} with {trials} trials is in {output}")
