"""Limits of a search beside its FLOPs: hours, GPU hours and trials."""

import math
import time
from collections.abc import Sequence

from carbs_scaling.config import SearchConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.executors.memory import gpus_in_use
from carbs_scaling.ledger.record import TrialRecord
from carbs_scaling.ledger.study import Study
from carbs_scaling.ledger.time_limit import speed_of

HOUR_SECONDS = 3600.0


class SearchLimits:
    """What `budget.hours`, `budget.gpu_hours` and `budget.trials` leave.

    Args:
        config: of the search.

    Raises:
        ConfigError: `budget.gpu_hours` without a GPU.
    """

    def __init__(self, config: SearchConfig) -> None:
        budget = config.budget
        self._trials = budget.trials
        self._hours: dict[str, float] = {} if budget.hours is None else {"hours": budget.hours}
        self._gpus = 0
        if budget.gpu_hours is not None:
            self._gpus = gpus_in_use(config.executor)
            if self._gpus == 0:
                raise ConfigError(
                    f"budget.gpu_hours={budget.gpu_hours}: trials use no GPU here; use budget.hours"
                )
            self._hours["gpu_hours"] = budget.gpu_hours / self._gpus
        self._before, self._begun = 0.0, time.monotonic()

    def begin(self, study: Study) -> None:
        """Counts on from what earlier searches of the study took."""
        self._before, self._begun = study.wall_seconds, time.monotonic()

    @property
    def wall_seconds(self) -> float:
        """Wall time of the study until now."""
        return self._before + time.monotonic() - self._begun

    @property
    def _remaining_seconds(self) -> float:
        return min(self._hours.values(), default=math.inf) * HOUR_SECONDS - self.wall_seconds

    def next_trial_flops(self, records: Sequence[TrialRecord]) -> float:
        """FLOPs of the dearest run that the remaining time pays for; infinite where that is not known."""
        speed = speed_of(records) if self._hours else None
        return math.inf if speed is None else speed.flops(self._remaining_seconds)

    def reached(self, records: Sequence[TrialRecord], lowest_flops: float) -> str:
        """Which limit is reached and why, on one line; empty where none is.

        Args:
            records: of the study.
            lowest_flops: of the cheapest run.
        """
        if self._trials is not None and sum(not record.imported for record in records) >= self._trials:
            return f"budget.trials={self._trials} were run"
        if not self._hours:
            return ""
        name = min(self._hours, key=lambda key: self._hours[key])
        at_once, unit = (self._gpus, "GPU hours") if name == "gpu_hours" else (1, "hours")
        hours = self.wall_seconds / HOUR_SECONDS
        passed = f"{hours * at_once:.3g} of {self._hours[name] * at_once:.3g} {unit}"
        said = f"budget.{name}: {passed} have passed"
        if self._remaining_seconds <= 0:
            return said
        speed = speed_of(records)
        if speed is not None and speed.seconds(lowest_flops) > self._remaining_seconds:
            return f"{said}, and the cheapest run takes about {speed.seconds(lowest_flops):.3g} seconds"
        return ""
