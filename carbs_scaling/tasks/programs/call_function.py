"""The process in which `task.function` is called: light at import, for it is started once a trial.

    python -m carbs_scaling.tasks.programs.call_function MODULE:FUNCTION POINT_AS_JSON

Where the call ends it leaves `result.json` in the trial's folder; what it reports goes to `reports.jsonl`.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

REPORTS, RESULT = "reports.jsonl", "result.json"


@dataclass
class Context:
    """What a function is given beside its point.

    Args:
        trial: number of the trial.
        seed: of everything random in it.
        device: `cpu` or `cuda`.
        folder: the trial's own, there already.
        tokens: that an earlier attempt of this trial has reported, where `task.continues=true` kept its
            folder; else 0.
        parent_folder: of the trial that this one goes on from (`trials=continued`); None: it begins anew.
    """

    trial: int
    seed: int
    device: str
    folder: Path
    tokens: float = 0.0
    parent_folder: Path | None = None

    def report(self, step: int, loss: float, **more: float) -> None:
        """Adds a point to the trial's loss curve.

        Args:
            step: of the training; with `task.steps`, or roles for tokens and batch, it gives the progress.
            loss: of the training; NaN ends the trial as diverged.
            more: `tokens` so far, `validation_loss`, `learning_rate`.
        """
        self.tokens = float(more.get("tokens", self.tokens))
        row = {"step": step, "loss": float(loss), **{name: float(value) for name, value in more.items()}}
        with (self.folder / REPORTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def reported_tokens(file: Path) -> float:
    """Tokens in the last whole report of an earlier attempt."""
    if not file.is_file():
        return 0.0
    tokens = 0.0
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            tokens = float(json.loads(line).get("tokens", tokens))
        except ValueError:
            continue
    return tokens


def main(function: str, point: dict[str, Any]) -> None:
    """Calls the function and writes what it gives: a number, or a mapping that has a `loss`."""
    module, _, name = function.partition(":")
    environment = {key: os.environ[f"CARBS_SCALING_{key.upper()}"] for key in ("trial", "seed", "device")}
    folder = Path(os.environ["CARBS_SCALING_FOLDER"])
    parent = os.environ.get("CARBS_SCALING_PARENT_FOLDER")
    context = Context(
        int(environment["trial"]),
        int(environment["seed"]),
        environment["device"],
        folder,
        reported_tokens(folder / REPORTS),
        Path(parent) if parent else None,
    )
    result = getattr(import_module(module), name)(point, context)
    values = dict(result) if isinstance(result, Mapping) else {"loss": result}
    numbers = {str(key): float(value) for key, value in values.items()}
    (folder / RESULT).write_text(json.dumps(numbers), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
