"""Options of the sweeper, registered as `hydra/sweeper=carbs_scaling`."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

ROLES = ("params", "tokens", "learning_rate", "batch_tokens")


@dataclass
class CarbsScalingSweeperConf:
    """What `hydra.sweeper` holds. Names that other sweepers have too mean the same here.

    `budget_flops`: of the whole study; with `flops`, what one job costs, an interpolation of the app's own
    configuration or a formula of some. Without both each job costs 1, and `n_trials` is the budget. `roles`:
    those of params, tokens, learning_rate and batch_tokens that the app has, likewise. `n_jobs`: in a batch
    of the launcher. `study_name`: goes on where that study was, in `directory` or `storage`; null for a study
    in the sweep's own folder. `max_failure_rate`: of a batch; more jobs that raised end the sweep.
    """

    _target_: str = "hydra_plugins.carbs_scaling_sweeper.carbs_scaling_sweeper.CarbsScalingSweeper"
    params: dict[str, Any] | None = None
    budget_flops: float | None = None
    flops: Any = None
    roles: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(ROLES))
    n_trials: int | None = 20
    n_jobs: int = 1
    direction: Any = "minimize"
    study_name: str | None = None
    directory: str = "studies"
    storage: str | None = None
    seed: int = 0
    sampler: Any = "carbs"
    max_trial_fraction: float = 0.18
    max_failure_rate: float = 0.0


ConfigStore.instance().store(
    group="hydra/sweeper", name="carbs_scaling", node=CarbsScalingSweeperConf, provider="carbs_scaling"
)
