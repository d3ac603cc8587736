"""Finished runs of a task: from rows of a table, and from other studies."""

import dataclasses
from collections.abc import Iterable

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import WrongStudy
from carbs_scaling.ledger.identity import flatten, study_identity
from carbs_scaling.ledger.imported import FinishedRun, Reader, require_some
from carbs_scaling.ledger.study import Study
from carbs_scaling.task import Task
from carbs_scaling.trial import Status


def reader_of(task: Task) -> Reader:
    """What turns rows of a table into finished runs of a task."""
    return Reader(task.space, task.flops, task.roles, task.details, task.project, task.loss_of)


def runs_of_studies(config: StudyConfig, names: Iterable[str], task: Task) -> list[FinishedRun]:
    """The runs of other studies, as far as they have a place in the task's space.

    Raises:
        StudyError: a study that is not there, that measures something else, or none of whose runs fits.
    """
    reader, found = dataclasses.replace(reader_of(task), loss_of=float), []
    now = flatten(study_identity(task, config.seed))
    for name in names:
        place = config.other(str(name))
        study = Study.load(place)
        before = flatten(study.identity)
        for key in ("metric", *task.comparable_by):
            if before.get(key) != now.get(key):
                raise WrongStudy(
                    f"warm_start: study {place.name} has another {key} ({before.get(key)} instead of "
                    f"{now.get(key)}), so its losses mean something else"
                )
        ended = [r for r in study.records() if r.completed or r.status is Status.DIVERGED]
        rows = [
            {**r.values, "loss": r.loss} if r.completed else {**r.values, "diverged": True} for r in ended
        ]
        runs, refused = reader.runs(rows, f"study {place.name}")
        require_some(runs, refused, f"study {place.name}")
        found += runs
    return found
