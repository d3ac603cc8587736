"""Small and large models of one plan on one text: what is run, once each, and kept in a file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from carbs_scaling.compute.flops import flops_per_token
from carbs_scaling.data.prepared import PreparedText
from carbs_scaling.files import write_atomically
from carbs_scaling.models.family import ModelShape
from carbs_scaling.tasks.pretraining_config import PretrainingConfig
from carbs_scaling.training.job import TrainingJob
from carbs_scaling.training.loop import train
from carbs_scaling.training.recipe import Recipe
from carbs_scaling.trial import Completed, Diverged

SEQUENCE_LENGTH = 64  # short, so that a batch can be as small as the smallest models want it


@dataclass(frozen=True)
class Plan:
    """What is searched and what it is for; N are non-embedding parameters.

    Args:
        optimizer: `adamw` or `sgd` (with momentum).
        search: `target` or `design`.
        seed: of the proposals and of the searched runs.
        share: of the grid's FLOPs that search and recommended run may cost together.
        repeats: seeds of each repeated cell.
        head_size: of every model.
        widths, depths: of the searched models, each with each.
        tokens_per_parameter: range of the search.
        target_width, target_depth, target_tokens_per_parameter: the large model.
    """

    optimizer: str
    search: str
    seed: int
    share: float
    repeats: int
    head_size: int = 8
    widths: tuple[int, ...] = (8, 16, 24)
    depths: tuple[int, ...] = (1, 2)
    tokens_per_parameter: tuple[float, float] = (3.0, 30.0)
    target_width: int = 72
    target_depth: int = 2
    target_tokens_per_parameter: float = 4.0

    def __post_init__(self) -> None:
        largest = self.shape(max(self.widths), max(self.depths), 256).params
        if 8 * largest > self.target(256).params:
            raise ValueError(f"the target must be 8 times larger than {largest:,} parameters")

    def shape(self, width: int, depth: int, vocabulary_size: int) -> ModelShape:
        """A GPT-2 of this plan."""
        return ModelShape("gpt2", width, depth, self.head_size, vocabulary_size, SEQUENCE_LENGTH)

    def target(self, vocabulary_size: int) -> ModelShape:
        """The large model."""
        return self.shape(self.target_width, self.target_depth, vocabulary_size)


# Three times larger throughout: 3,072 to 38,400 parameters for 345,600.
LARGER = {"widths": (16, 24, 32, 40), "target_width": 120}
SMOKE = {
    "widths": (8, 16),
    "depths": (1,),
    "tokens_per_parameter": (3.0, 10.0),
    "target_width": 32,
    "target_depth": 2,
    "target_tokens_per_parameter": 3.0,
    "repeats": 2,
}


@dataclass
class Laboratory:
    """Trains recipes, once each, and keeps what came out in a file.

    Args:
        plan: what it is for; a file of another plan is refused.
        path: of the JSON.
        config: constants of the runs.
        text: that they train on.
    """

    plan: Plan
    path: Path
    config: PretrainingConfig
    text: PreparedText

    def __post_init__(self) -> None:
        self.runs: list[dict] = []
        self.result: dict = {}
        if not self.path.exists():
            return
        kept = json.loads(self.path.read_text())
        if kept["plan"] != self._plan_as_json():
            raise SystemExit(f"{self.path} holds the runs of another plan: give another --out")
        self.runs, self.result = kept["runs"], kept["result"]

    def train(self, recipe: Recipe, stage: str, point: dict | None = None) -> dict:
        """The run of a recipe, from the file or made now."""
        fields = json.loads(json.dumps(recipe.to_dict()))
        for run in self.runs:
            if run["recipe"] == fields:
                return run
        outcome = train(
            TrainingJob(
                recipe=recipe,
                text=self.text,
                optimizer=self.config.optimizer,
                schedule=self.config.schedule,
                objective=self.config.objective,
                device="cpu",
                compile=False,
                micro_batch_tokens=None,
                curve_path=None,
            )
        )
        run = {
            "stage": stage,
            "params": recipe.params,
            "tokens": recipe.tokens,
            "learning_rate": recipe.learning_rate,
            "batch_tokens": recipe.batch_tokens,
            "loss": outcome.loss if isinstance(outcome, Completed) else None,
            "diverged": isinstance(outcome, Diverged),
            "depth": recipe.shape.depth,
            "width": recipe.shape.width,
            "seed": recipe.seed,
            "optimizer": self.plan.optimizer,
            "flops": outcome.progress * recipe.tokens * self.flops_per_token(recipe.shape),
            "seconds": outcome.seconds,
            "point": point,
            "recipe": fields,
        }
        self.runs.append(run)
        self.save()
        print(f"{len(self.runs):4d} {stage:7}{line(run)}", flush=True)
        return run

    def flops_per_token(self, shape: ModelShape) -> float:
        """In the convention that the runs are charged in."""
        return flops_per_token(shape, self.config.model.flops_convention)

    def searched(self) -> list[dict]:
        """Runs of small models, in order."""
        return [run for run in self.runs if run["stage"] in ("sweep", "search")]

    def save(self) -> None:
        """Writes everything."""
        content = {"plan": self._plan_as_json(), "runs": self.runs, "result": self.result}
        write_atomically(self.path, (json.dumps(content, indent=1) + "\n").encode())

    def _plan_as_json(self) -> dict:
        return json.loads(json.dumps({**asdict(self.plan), "text": self.text.sha256}))


def line(run: dict) -> str:
    """One run for people."""
    loss = "diverged" if run["diverged"] else f"{run['loss']:.4f}"
    return (
        f"N {run['params']:8,} D {run['tokens']:9,} lr {run['learning_rate']:9.3e} "
        f"B {run['batch_tokens']:6,} "
        f"seed {run['seed']} loss {loss}  {run['flops']:.2e} FLOPs {run['seconds']:5.1f} s"
    )
