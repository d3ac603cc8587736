"""`carbs-scaling status`: what a study holds and what its search is doing."""

import json
import logging
import math
from datetime import datetime
from typing import Any

from omegaconf import DictConfig

from carbs_scaling.config_loading import load_config
from carbs_scaling.trial import Status
from carbs_scaling.verb_config import StatusConfig


def run(composed: DictConfig) -> None:
    """Tells, from the ledger and the curves alone; writes nothing."""
    config = load_config(StatusConfig, composed)

    import optuna

    from carbs_scaling.ledger.lease import who_searches
    from carbs_scaling.ledger.study import Study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("carbs_scaling").addHandler(logging.NullHandler())
    study, folder = Study.load(config.study), config.study.folder
    found = who_searches(config.study)
    status = {
        "study": study.name,
        "searched": found is not None,
        "searched_by": None if found is None else str(found[0]),
        "stops": None if found is None else found[1],
        **study_status(study, folder),
    }
    if config.format == "json":
        print(json.dumps(status, indent=1))
    else:
        print("\n".join(status_lines(status)))


def study_status(study: Any, folder: Any) -> dict[str, Any]:
    """Trials, budget, time and open trials of a study, as plain values."""
    from carbs_scaling.ledger.curves import curve_path, last_point
    from carbs_scaling.ledger.study import spent_flops

    records = study.records()
    completed = [record for record in records if record.completed]
    best = min(completed, key=lambda record: record.loss, default=None)
    endings = study.endings()
    running = []
    for record in records:
        if record.running:
            point = last_point(curve_path(folder / "curves", record.number)) or {}
            measured = {name: point.get(name) for name in ("progress", "seconds", "train_loss")}
            running.append({"trial": record.number, "flops": record.flops, **measured})
    stopped = sum(record.status is Status.STOPPED for record in records)
    return {
        "completed": len(completed),
        "stopped": stopped,
        "failed": sum(not record.running and not record.completed for record in records) - stopped,
        "spent_flops": spent_flops(records),
        "budget_flops": study.budget_flops if math.isfinite(study.budget_flops) else None,
        "wall_seconds": study.wall_seconds,
        "seconds_since_last_trial": (datetime.now() - endings[-1][0]).total_seconds() if endings else None,
        "metric": study.metric,
        "lowest_loss": None if best is None else best.loss,
        "lowest_loss_trial": None if best is None else best.number,
        "running": running,
    }


def status_lines(status: dict[str, Any]) -> list[str]:
    """A status for people."""
    from carbs_scaling.numbers import rough_duration, scientific, spent_text

    by = status["searched_by"]
    doing = f"a search is running ({by})" if status["searched"] else "no search is running"
    if status["stops"]:
        doing += f", asked to stop {status['stops']}"
    budget = math.inf if status["budget_flops"] is None else status["budget_flops"]
    spent = spent_text(status["spent_flops"], budget, 3)
    stopped = f"{status['stopped']} stopped, " if status["stopped"] else ""
    lines = [
        f"{status['study']}: {doing}",
        f"trials: {status['completed']} completed, {stopped}{status['failed']} failed, "
        f"{len(status['running'])} open",
        f"{'budget' if math.isfinite(budget) else 'spent'}: {spent} in "
        f"{rough_duration(status['wall_seconds'])}",
    ]
    if status["lowest_loss"] is not None:
        loss, trial = status["lowest_loss"], status["lowest_loss_trial"]
        lines.append(f"lowest loss: {loss:.4f} {status['metric']}, trial {trial}")
    if status["seconds_since_last_trial"] is not None:
        lines.append(f"the last trial ended {rough_duration(status['seconds_since_last_trial'])} ago")
    for run in status["running"]:
        line = f"trial {run['trial']}: {scientific(run['flops'], 3)} FLOPs"
        if run["progress"]:
            line += f", {run['progress']:.0%} done"
            if run["seconds"]:
                left = run["seconds"] * (1 / run["progress"] - 1)
                line += f", {rough_duration(left)} left"
        lines.append(line)
    return lines
